import ArgumentParser
import CLinux
import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// `dtls bench`: how much a server bears.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure how many handshakes and messages a DTLS server bears.",
        discussion: """
            It loads the server with all that one processor gives. Measure servers of your own only, from another machine \
            where the figures of the server are to be right: on the same machine both share its processors.
            """,
        subcommands: [BenchHandshakeCommand.self, BenchEchoCommand.self, BenchIdleCommand.self]
    )
}

/// What all measurements have.
struct BenchOptions: ParsableArguments {
    @Argument(help: ArgumentHelp("The server.", valueName: "host:port"))
    var destination: Destination

    @OptionGroup var client: ClientOptions

    @Flag(help: "Print one JSON object in place of text.")
    var json = false

    @Option(help: ArgumentHelp("Write a drawing of latency over time and its distribution.", valueName: "file"))
    var svg: String?

    @Flag(name: .shortAndLong, help: "Show no progress.")
    var quiet = false
}

/// One measurement: a first connection that says whether the server is there at all, the load, and the report.
struct Measurement {
    let options: BenchOptions
    let load: Load
    let first: ServerReport
    private let bar: ProgressBar

    /// - Parameter resumes: whether the load resumes the session of the first connection.
    init(_ options: BenchOptions, resumes: Bool, messageSize: Int) throws(TalkingFailure) {
        self.options = options
        try EndingSignals.watch()
        Self.raiseDescriptorLimit()
        let addresses = try options.destination.resolve()
        var option = try options.client.dtlsOption(for: options.destination)
        option.keepsSession = resumes
        let connection = try Dialer(
            destination: options.destination, option: option, patience: options.client.patience,
            isCancelled: { EndingSignals.hasCome }
        ).dial(addresses)
        defer { connection.close() }
        guard let report = ServerReport(connection, options.destination, option) else {
            throw .handshake("the server has closed the connection at once", hint: nil)
        }
        if resumes, connection.resumableSession == nil {
            throw .handshake("the server has given no session that could be resumed", hint: "Its tickets may be off.")
        }
        guard messageSize <= connection.largestMessage else {
            throw .transfer("the path takes messages of at most \(connection.largestMessage) bytes", hint: nil)
        }
        first = report
        // OpenSSL would look for the issuer in the system's folder for each handshake, half a millisecond, and for nothing.
        if !option.rejectUnauthorized { option.loadDefaultCerts = false }
        load = try Load(
            connection.remote.socketAddress, option, resuming: connection.resumableSession,
            handshakeTimeout: options.client.patience, messageSize: messageSize)
        load.isCancelled = { EndingSignals.hasCome }
        bar = ProgressBar(isShown: !options.quiet && Standard.isErrorTerminal)
    }

    /// Each connection has a descriptor.
    private static func raiseDescriptorLimit() {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(UInt32(RLIMIT_NOFILE.rawValue)), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(UInt32(RLIMIT_NOFILE.rawValue)), &limit)
    }

    /// Shows how far the load is; `text` says what of it.
    func showProgress(_ text: @escaping (Load) -> String) {
        let bar = bar
        load.progress = { done, load in bar.show(done, text(load)) }
    }

    /// Runs a part of the load, and gives how long it took and the processor time that this program has used for it.
    func time(_ work: () throws(TalkingFailure) -> Void) throws(TalkingFailure) -> (seconds: Double, processor: Double)
    {
        let (started, before) = (Instant.now(), Self.processorSeconds)
        do throws(TalkingFailure) { try work() } catch {
            bar.end()
            throw error
        }
        bar.end()
        return ((Instant.now() - started).inSeconds, Self.processorSeconds - before)
    }

    private static var processorSeconds: Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    func result(
        _ scenario: BenchResult.Scenario, connections: Int, count: Int, _ time: (seconds: Double, processor: Double),
        latencies: LatencyRecord
    ) -> BenchResult {
        BenchResult(
            scenario: scenario, server: options.destination.description, address: first.address.description,
            protocolVersion: first.agreement.version, cipher: first.agreement.cipher, group: first.agreement.group,
            connections: connections, handshakesOpened: load.counts.opened, handshakesFailed: load.counts.failed,
            handshakesResumed: load.counts.resumed, connectionsBroken: load.counts.broken,
            durationSeconds: time.seconds, perSecond: Double(count) / max(time.seconds, 1e-9),
            clientProcessorShare: time.processor / max(time.seconds, 1e-9), latency: .init(latencies),
            distribution: latencies.distribution.map { .init(percentile: $0.percentile, seconds: $0.seconds) },
            timeline: latencies.slices, failures: load.failures)
    }

    /// Prints and draws a result. Throws the exit status where something has failed.
    func report(_ result: BenchResult) throws {
        if options.json {
            Standard.output(try result.json())
        } else {
            Standard.output(result.text)
        }
        if let path = options.svg {
            do throws(SystemError) {
                try PrivateFile.replace(path, with: Array(LatencyPlot(result: result).svg.utf8), mode: 0o644)
            } catch {
                throw TalkingFailure.local("\(error)").report("bench")
            }
        }
        if EndingSignals.hasCome { throw ExitCode(130) }
        if result.handshakesFailed > 0 { throw ExitCode(4) }
        if result.connectionsBroken > 0 { throw ExitCode(6) }
    }

    /// Runs a command's work, whose failures end it as those of `dtls connect` do.
    static func run(_ work: () throws -> Void) throws {
        do { try work() } catch let failure as TalkingFailure { throw failure.report("bench") }
    }
}

struct BenchHandshakeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "handshake",
        abstract: "Measure handshakes a second.",
        discussion:
            "Full handshakes, with --psk-file those with a pre-shared key, with --resume those of a resumed session.")

    @OptionGroup var options: BenchOptions

    @Option(name: [.customShort("n"), .long], help: ArgumentHelp("Do so many handshakes.", valueName: "number"))
    var count = 2_000

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("Do so many at once.", valueName: "number"))
    var connections = 64

    @Flag(help: "Resume the session of a first connection.")
    var resume = false

    func validate() throws {
        guard (1...100_000_000).contains(count) else { throw ValidationError("--count must be 1 to 100000000.") }
        guard (1...100_000).contains(connections) else { throw ValidationError("--connections must be 1 to 100000.") }
    }

    func run() throws {
        try Measurement.run {
            let measurement = try Measurement(options, resumes: resume, messageSize: 8)
            let load = measurement.load
            measurement.showProgress { "\($0.counts.opened) handshakes" }
            let time = try measurement.time { () throws(TalkingFailure) in
                try load.shakeHands(count: count, atOnce: connections)
            }
            try measurement.report(
                measurement.result(
                    .handshake, connections: connections, count: load.counts.opened, time, latencies: load.latencies))
        }
    }
}

struct BenchEchoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "echo",
        abstract: "Measure messages that the server sends back.",
        discussion: """
            With --window, each connection keeps so many messages under way: it finds how many the server bears. With --rate, \
            messages are sent at that rate whether or not the server keeps up, and a latency counts from when its message was \
            due: it finds how long they take at a load.
            """)

    @OptionGroup var options: BenchOptions

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("Over so many connections.", valueName: "number"))
    var connections = 32

    @Option(
        name: [.customShort("s"), .long], help: ArgumentHelp("Bytes of a message, 4 to 16384.", valueName: "bytes"))
    var size = 64

    @Option(
        name: [.customShort("w"), .long],
        help: ArgumentHelp("Messages under way on each connection.", valueName: "number"))
    var window: Int?

    @Option(
        name: [.customShort("r"), .long],
        help: ArgumentHelp("Messages a second, over all connections.", valueName: "number"))
    var rate: Double?

    @Option(name: [.customShort("t"), .long], help: ArgumentHelp("For so long.", valueName: "seconds"))
    var seconds = 3.0

    func validate() throws {
        guard (1...100_000).contains(connections) else { throw ValidationError("--connections must be 1 to 100000.") }
        guard (4...16_384).contains(size) else { throw ValidationError("--size must be 4 to 16384 bytes.") }
        if window != nil, rate != nil { throw ValidationError("--window and --rate exclude each other.") }
        if let window, !(1...1_024).contains(window) { throw ValidationError("--window must be 1 to 1024.") }
        if let rate, !(rate > 0 && rate <= 10_000_000) { throw ValidationError("--rate must be above 0.") }
        guard seconds > 0, seconds <= 86_400 else {
            throw ValidationError("--seconds must be above 0, and a day at most.")
        }
    }

    func run() throws {
        try Measurement.run {
            let measurement = try Measurement(options, resumes: false, messageSize: size)
            let load = measurement.load
            let window = rate == nil ? self.window ?? 8 : nil
            measurement.showProgress { "opening: \($0.counts.opened) connections" }
            // Twice the window, so that a lost message does not take the place of a newer one; and a second's messages.
            let ring = Self.powerOfTwo(
                atLeast: max(64, 2 * (window ?? 0), Int(min(65_536, (rate ?? 0) / Double(connections)))))
            _ = try measurement.time { () throws(TalkingFailure) in try load.open(connections, ring: ring) }
            measurement.showProgress { "\($0.counts.received) echoes, \($0.counts.lost) lost" }
            let duration = Duration.nanoseconds(Int64(seconds * 1e9))
            var time = try measurement.time { () throws(TalkingFailure) in
                if let window { try load.echo(window: window, for: duration) }
                if let rate { try load.echo(rate: rate, for: duration) }
            }
            if rate != nil, !EndingSignals.hasCome { time = (seconds, time.processor) }
            var result = measurement.result(
                .echo, connections: connections, count: load.counts.received, time, latencies: load.latencies)
            result.messageBytes = size
            result.window = window
            result.targetPerSecond = rate
            result.messagesSent = load.counts.sent
            result.messagesReceived = load.counts.received
            result.messagesLost = load.counts.lost
            load.closeAll()
            try measurement.report(result)
        }
    }

    private static func powerOfTwo(atLeast value: Int) -> Int {
        var power = 1
        while power < value { power *= 2 }
        return power
    }
}

struct BenchIdleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "idle",
        abstract: "Open connections, hold them without a word, and see whether they still answer.",
        discussion: "What they cost the server is to be seen there: `dtls status` has its memory and descriptors.")

    @OptionGroup var options: BenchOptions

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("Open so many connections.", valueName: "number"))
    var connections = 1_000

    @Option(name: [.customShort("t"), .long], help: ArgumentHelp("Hold them for so long.", valueName: "seconds"))
    var seconds = 10.0

    func validate() throws {
        guard (1...1_000_000).contains(connections) else {
            throw ValidationError("--connections must be 1 to 1000000.")
        }
        guard seconds > 0, seconds <= 86_400 else {
            throw ValidationError("--seconds must be above 0, and a day at most.")
        }
    }

    func run() throws {
        try Measurement.run {
            let measurement = try Measurement(options, resumes: false, messageSize: 8)
            let load = measurement.load
            measurement.showProgress { "opening: \($0.counts.opened) connections" }
            let opening = try measurement.time { () throws(TalkingFailure) in try load.open(connections, ring: 1) }
            let latencies = load.latencies
            measurement.showProgress { "holding \($0.counts.opened - $0.counts.broken) connections" }
            var alive = 0
            _ = try measurement.time { () throws(TalkingFailure) in
                alive = try load.idle(for: .nanoseconds(Int64(seconds * 1e9)))
            }
            var result = measurement.result(
                .idle, connections: connections, count: load.counts.opened, opening, latencies: latencies)
            result.durationSeconds = seconds
            result.connectionsAlive = alive
            load.closeAll()
            try measurement.report(result)
        }
    }
}
