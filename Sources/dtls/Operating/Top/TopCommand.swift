import ArgumentParser
import CLinux
import ControlProtocol
import Glibc
import LinuxSystem
import Primitives

extension TopModel.Sort: ExpressibleByArgument {}

struct TopCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "top",
        abstract: "Watch rates, the busiest and newest connections, and what is refused.",
        discussion: """
            Press ? for the keys. Without a terminal, or with --once, it prints one picture as text, with the rates over one \
            interval, and ends.
            """)

    @Option(name: .shortAndLong, help: ArgumentHelp("How often dtlsd is asked: 0.5s to 1h.", valueName: "time"))
    var interval = TimeSpan(seconds: 2)
    @Option(help: "What services and workers are sorted by at first.")
    var sort = TopModel.Sort.traffic
    @Option(help: ArgumentHelp("Show this service or client alone at first.", valueName: "name"))
    var service: String?
    @Flag(help: "Print one picture and end.")
    var once = false
    @OptionGroup var control: ControlOptions

    func validate() throws {
        guard interval.seconds >= 0.5, interval.seconds <= 3_600 else {
            throw ValidationError("--interval is at least half a second and at most an hour.")
        }
    }

    func operate(_ console: Console) throws(ToolFailure) {
        // The first answer comes before the screen is cleared: who may not open the socket is told so in the ordinary way.
        let daemon = try control.connect()
        var model = TopModel()
        model.sort = sort
        model.add(try daemon.ask(.status).decoded(), at: .now())
        if let service {
            model.filter(by: service)
            if let notice = model.notice { throw ToolFailure(.failed, "\(notice)") }
        }
        guard !once, let terminal = Terminal() else { return try printOnce(model, daemon, console) }
        let session = TopSession(
            model, daemon: daemon, terminal: terminal, interval: .seconds(interval.seconds),
            usesColour: console.usesColour)
        try session.run()
    }

    private func printOnce(
        _ first: TopModel, _ daemon: ControlConnection, _ console: Console
    ) throws(ToolFailure) {
        var model = first
        func addConnections() throws(ToolFailure) {
            let queries = model.connectionQueries
            var active: [ConnectionSummary] = []
            for query in queries.active {
                active += try daemon.ask(.connections(query)).decoded(ConnectionsResult.self).connections
            }
            let newest = try daemon.ask(.connections(queries.newest)).decoded(ConnectionsResult.self).connections
            model.add(active: active, newest: newest, at: .now())
        }
        try addConnections()
        // A wait for nothing but the time: the rates are those of this interval.
        usleep(UInt32(min(interval.seconds, 3_600) * 1_000_000))
        model.add(try daemon.ask(.status).decoded(), at: .now())
        try addConnections()
        try console.print(TopScreen.snapshot(of: model, width: console.width, at: .now()))
    }
}

/// `dtls top` on a terminal: it asks the daemon, reads keys and signals, and draws.
private final class TopSession {
    private enum Question { case status, active, newest }

    private var model: TopModel
    private let path: String
    private var daemon: ControlConnection?
    private let terminal: Terminal
    private let interval: Duration
    private let usesColour: Bool
    private var keys = KeyParser()
    /// What was asked and not answered yet, in order.
    private var questions: [Question] = []
    private var active: [ConnectionSummary] = []
    private var askedAt = Instant.now()
    private var nextQuestion = Instant.now()
    /// Lists of connections are asked for so seldom that they take the daemon a tenth of its time at most.
    private var nextConnections = Instant.distantPast
    private var drawsFromScratch = true

    private static let patience = Duration.seconds(5)
    private static let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT]

    init(
        _ model: TopModel, daemon: ControlConnection, terminal: Terminal, interval: Duration, usesColour: Bool
    ) {
        self.model = model
        self.daemon = daemon
        path = daemon.path
        self.terminal = terminal
        self.interval = interval
        self.usesColour = usesColour
    }

    func run() throws(ToolFailure) {
        let signals: SignalSource
        do throws(SystemError) {
            signals = try SignalSource(Self.signals)
        } catch {
            throw ToolFailure(.failed, "\(error)")
        }
        terminal.enter()
        defer { terminal.leave() }
        while true {
            ask()
            guard draw() else { return }
            wait(signals.descriptor.rawValue)
            while let signal = try? signals.next() { if handle(signal) { return end(by: signal) } }
            receive()
            guard let bytes = terminal.read() else { return }
            for key in keys.parse(bytes) where handle(key) { return }
            if bytes.isEmpty, let key = keys.pause(), handle(key) { return }
        }
    }

    private func draw() -> Bool {
        let size = terminal.size
        model.limitScroll(to: TopScreen(model, size: size, at: .now()).mostScroll)
        defer { drawsFromScratch = false }
        return terminal.draw(
            TopScreen(model, size: size, at: .now()).lines, inColour: usesColour, fromScratch: drawsFromScratch)
    }

    private func wait(_ signals: Int32) {
        let deadline = questions.isEmpty ? (model.isPaused ? .distantFuture : nextQuestion) : askedAt + Self.patience
        // The rest of a key's sequence comes at once, or never.
        let limit = keys.isUndecided ? 50 : 1_000
        let left = max(0, min(limit, (deadline - .now()).milliseconds + 1))
        var polls = [STDIN_FILENO, signals, daemon?.descriptor ?? -1].map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        _ = poll(&polls, nfds_t(polls.count), Int32(left))
    }

    // MARK: Keys and signals

    /// - Returns: whether that was the last one.
    private func handle(_ key: Key) -> Bool {
        switch model.handle(key) {
        case .quit: return true
        case .refresh:
            nextQuestion = .now()
            nextConnections = .distantPast
        case .redraw: drawsFromScratch = true
        case nil: break
        }
        return false
    }

    /// - Returns: whether the program ends by it.
    private func handle(_ signal: Int32) -> Bool {
        switch signal {
        case SIGWINCH: drawsFromScratch = true
        case SIGTSTP:
            terminal.leave()
            // The shell goes on here. SIGTSTP itself is blocked.
            kill(getpid(), SIGSTOP)
        case SIGCONT:
            // The shell may have changed the terminal, also where this program was stopped without having been asked.
            terminal.enter()
            drawsFromScratch = true
        default: return true
        }
        return false
    }

    /// Ends as a program does that does not know the signal, so that a shell can tell.
    private func end(by signal: Int32) {
        terminal.leave()
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, signal)
        Glibc.signal(signal, SIG_DFL)
        raise(signal)
        pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }

    // MARK: The daemon

    private func ask() {
        let now = Instant.now()
        if !questions.isEmpty {
            if askedAt + Self.patience <= now { lose("\(path) is open, but nothing comes over it.") }
            return
        }
        guard now >= nextQuestion, !model.isPaused else { return }
        // There are rates soon after the start, whatever the interval is.
        nextQuestion = now + (model.hasRates ? interval : min(interval, .seconds(1)))
        do throws(ToolFailure) {
            let daemon: ControlConnection
            if let open = self.daemon { daemon = open } else { daemon = try ControlConnection(path: path) }
            self.daemon = daemon
            askedAt = now
            try daemon.send(.status, within: .zero)
            questions = [.status]
            if now >= nextConnections {
                let queries = model.connectionQueries
                active = []
                for query in queries.active {
                    try daemon.send(.connections(query), within: .zero)
                    questions.append(.active)
                }
                try daemon.send(.connections(queries.newest), within: .zero)
                questions.append(.newest)
            }
        } catch {
            lose(error.message)
        }
    }

    private func receive() {
        guard let daemon else { return }
        do throws(ToolFailure) {
            while let reply = try daemon.receive() {
                let now = Instant.now()
                guard let question = questions.first else { continue }
                questions.removeFirst()
                switch question {
                case .status: model.add(try reply.get().decoded(), at: now)
                // The daemon may know the service no more that the list was limited to.
                case .active: active += try page(of: reply)
                case .newest:
                    model.add(active: active, newest: try page(of: reply), at: now)
                    nextConnections = now + (now - askedAt) * 10
                }
            }
        } catch {
            // The daemon does not keep a connection over which nothing passes.
            guard !questions.isEmpty else {
                self.daemon = nil
                return
            }
            // A process that has taken the daemon's place listens already.
            let mayReconnect = model.link == .answering
            lose(error.message)
            if mayReconnect { nextQuestion = .now() }
        }
    }

    private func page(of reply: Result<ControlReply, ToolFailure>) throws(ToolFailure) -> [ConnectionSummary] {
        guard case .success(let reply) = reply else { return [] }
        return try reply.decoded(ConnectionsResult.self).connections
    }

    private func lose(_ reason: String) {
        daemon = nil
        questions = []
        nextConnections = .distantPast
        nextQuestion = .now() + min(interval, .seconds(1))
        model.lose(reason, at: .now())
    }
}
