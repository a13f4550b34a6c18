import Glibc
import LinuxSystem
import Primitives

/// The main process' side of the resolver: keeps the table of names, starts the process that looks them up as long as
/// there are any, and starts it again when it has ended.
final class NameResolver: TimerTarget {
    private(set) var table = NameTable()
    /// Holds the addresses that are known. The service manager has a descriptor of it, too, and a successor gets one, so
    /// the next main process begins with them, whether a name server answers or not. Not open before there are any.
    private(set) var memory: FileDescriptor
    private let loop: EventLoop
    private var servers: [SocketAddress] = []
    private let process: AuxiliaryProcess
    /// When a resolver may ask for a successor again.
    private var nextSuccessor = Instant.distantPast
    /// The work that waits for answers, and until when.
    private var waiting: Waiting?
    private struct Waiting {
        let hosts: Set<String>
        let end: Instant
        let work: () -> Void
    }
    private var isStopped = false

    /// Is called with what the table says, questions apart, and with the ends of resolver processes.
    var onAction: (NameTable.Action) -> Void = { _ in }
    var onEnded: (_ reason: String, _ pause: Duration) -> Void = { _, _ in }

    /// How long a start or a reload waits for names that were never looked up. Where a name server answers, it takes
    /// milliseconds.
    static let patience = Duration.seconds(3)

    /// - Parameter memory: what the process before this one has kept; not open when there is none.
    init(memory: consuming FileDescriptor, environment: [String: String], loop: EventLoop) {
        self.loop = loop
        process = AuxiliaryProcess(.resolver, environment: environment, loop: loop)
        if memory.isOpen, let bytes = try? MemoryFile.read(memory),
            let known = try? bytes.withUnsafeBytes({ try NameTable.decode($0) })
        {
            table.restore(known, now: loop.now)
        }
        self.memory = memory
        super.init()
        process.onMessage = { [unowned self] in receive($0) }
        process.onLost = { [unowned self] reason, pause in
            table.resolverEnded(now: loop.now)
            onEnded(reason, pause)
        }
    }

    // MARK: Configurations

    /// Begins to look the names of a configuration up, and calls `work` once each of them has been answered or has had
    /// `patience`: at once where each has addresses already.
    func prepare(_ configuration: Configuration, patience: Duration = patience, _ work: @escaping () -> Void) {
        let hosts = Set(configuration.names.map(\.host))
        ask(configuration.resolver.servers)
        table.add(hosts, now: loop.now)
        guard !table.areSettled(hosts) else { return work() }
        waiting = Waiting(hosts: hosts, end: loop.now + patience, work: work)
        update()
    }

    /// Looks after the names of a configuration from now on, and after no others.
    func activate(_ configuration: Configuration) {
        let hosts = Set(configuration.names.map(\.host))
        ask(configuration.resolver.servers)
        table.add(hosts, now: loop.now)
        table.keepOnly(hosts)
        if hosts.isEmpty { endProcess() }
        update()
    }

    private func ask(_ servers: [SocketAddress]) {
        guard servers != self.servers else { return }
        self.servers = servers
        table.serversChanged(now: loop.now)
    }

    /// All addresses of a name refuse datagrams, as a worker has seen.
    func noteRefusal(of host: String) {
        table.refused(host, now: loop.now)
        update()
    }

    /// Has another process look names up, with the user that this one has now and the files that are there now. Questions
    /// that are open are asked again.
    func restartProcess() {
        guard process.isRunning else { return }
        endProcess()
        update()
    }

    /// Ends the process. Nothing is looked up any more.
    func stop() {
        isStopped = true
        waiting = nil
        loop.timers.disarm(self)
        endProcess()
    }

    // MARK: Time and answers

    override func timerFired(now: Instant) { update() }

    private func update() {
        guard !isStopped else { return }
        if !table.names.isEmpty { process.start() }
        if process.isRunning { perform(table.advance(to: loop.now)) }
        if let waiting, loop.now >= waiting.end || table.areSettled(waiting.hosts) {
            self.waiting = nil
            waiting.work()
        }
        let next = process.isRunning ? table.deadline : table.names.isEmpty ? .distantFuture : process.nextStart
        loop.timers.disarm(self)
        loop.timers.arm(self, at: min(next, waiting?.end ?? .distantFuture))
    }

    private func perform(_ actions: [NameTable.Action]) {
        for action in actions {
            switch action {
            case .lookUp(let host):
                process.send(LookUpQuestion(host: host, servers: servers).encode())
            case .publish:
                // Without the file the next main process looks the names up before it serves them.
                try? save()
                onAction(action)
            case .logFailure, .logSuccess, .logChange:
                onAction(action)
            }
        }
    }

    private func save() throws(SystemError) {
        if !memory.isOpen { memory = try MemoryFile.makeOpen(name: StoredItem.names.name) }
        try MemoryFile.replace(memory, with: table.encode())
    }

    // MARK: The process

    private func endProcess() {
        process.end()
        table.resolverEnded(now: loop.now)
    }

    private func receive(_ message: UnsafeRawBufferPointer) -> Bool {
        if message.elementsEqual(LookUpAnswer.wantsSuccessor) {
            // One that asks without end is ended like one that crashes, and the next one starts after a growing pause.
            guard loop.now >= nextSuccessor else { return false }
            nextSuccessor = loop.now + .seconds(1)
            loop.atEndOfTurn { [weak self] in self?.restartProcess() }
            return true
        }
        // The resolver reads what name servers send, so what it says is checked as if it came from there.
        guard let answer = try? LookUpAnswer(decoding: message) else { return false }
        perform(table.answered(answer, now: loop.now))
        process.resetPause()
        update()
        return true
    }

    /// Records how a child ended; the main process reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        if process.childEnded(pid, ending) { update() }
    }
}
