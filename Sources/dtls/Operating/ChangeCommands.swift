import ArgumentParser
import ControlProtocol

extension LogLevelChange.Level: ExpressibleByArgument {}

struct ReloadCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload",
        abstract: "Have dtlsd read its configuration again, and wait for the result.",
        discussion: """
            Where the new configuration is refused, the former one holds. Every problem is printed then, and the exit status \
            is 1.
            """)

    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.reload)
        if output.json { return try console.write(reply.json + "\n") }
        let result: ReloadResult = try reply.decoded()
        try console.print(StyledLine("\(result.file) is in use."))
        for warning in result.warnings { console.note("warning: \(warning)") }
    }
}

struct DrainCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain",
        abstract: "Replace workers by new processes, which go on with their connections.",
        discussion:
            "It returns when the new processes are being started. 'dtls status' shows when the old ones are gone.")

    @Option(help: ArgumentHelp("This worker only.", valueName: "number"))
    var worker: Int?
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.drain(worker: worker))
        if output.json { return try console.write(reply.json + "\n") }
        let workers = try reply.decoded(DrainResult.self).workers.sorted().map(String.init)
        let text: String? =
            switch workers.count {
            case 0: "No worker is being replaced."
            case 1: workers.first.map { "Worker \($0) is being replaced." }
            default:
                workers.last.map {
                    "Workers \(workers.dropLast().joined(separator: ", ")) and \($0) are being replaced."
                }
            }
        try console.print(StyledLine(text ?? ""))
    }
}

struct UpgradeCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade",
        abstract: "Start the program at dtlsd's path, perhaps a new version, which takes over all connections.",
        discussion:
            "It waits for the result. Where the new program cannot take over, the old one goes on, and the exit status is 1."
    )

    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.upgrade)
        if output.json { return try console.write(reply.json + "\n") }
        let result: UpgradeResult = try reply.decoded()
        try console.print(StyledLine("Process \(result.pid) serves now, with all connections."))
    }
}

struct LogLevelCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "log-level",
        abstract: "Show the level of the log, or change it for a time.",
        discussion: "The level of the configuration holds again when the time is over, or at once with --reset.")

    @Argument(help: "The least level that is logged; without it the present one is shown.")
    var level: LogLevelChange.Level?
    @Option(name: .customLong("for"), help: ArgumentHelp("For how long: 90s, 10m, 2h, 1d at most.", valueName: "time"))
    var time = TimeSpan(seconds: LogLevelChange.defaultSeconds)
    @Flag(help: "Go back to the level of the configuration.")
    var reset = false
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func validate() throws {
        guard level == nil || !reset else { throw ValidationError("Name either a level or --reset.") }
        try validateTime(time)
    }

    func operate(_ console: Console) throws(ToolFailure) {
        let daemon = try control.connect()
        let result: LogLevelResult
        if level == nil, !reset {
            let reply = try daemon.ask(.status)
            result = try reply.decoded(StatusResult.self).logLevel
            if output.json { return try console.write(reply.member("log_level") + "\n") }
        } else {
            // Without a time the daemon takes no notice of the level.
            let change = LogLevelChange(level: level ?? .info, seconds: reset ? 0 : time.seconds)
            let reply = try daemon.ask(.logLevel(change))
            if output.json { return try console.write(reply.json + "\n") }
            result = try reply.decoded()
        }
        try console.print(
            StyledLine(
                "The log level is \(result.level)"
                    + (result.untilAt.map { " until \($0)." } ?? ", as the configuration has it.")))
    }
}

struct TraceCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Log one client in detail for a time: each record, flight, retransmission and timer.",
        discussion: """
            The lines go to dtlsd's log; under systemd 'journalctl -fu dtlsd' follows them. Without an address it shows what \
            is traced at present.
            """)

    @Argument(
        help: ArgumentHelp(
            "The client's address, also with its port, or a network: 192.0.2.7, [2001:db8::7]:4711, 192.0.2.0/24.",
            valueName: "address"))
    var address: String?
    @Option(name: .customLong("for"), help: ArgumentHelp("For how long: 90s, 10m, 2h, 1d at most.", valueName: "time"))
    var time = TimeSpan(seconds: TraceChange.defaultSeconds)
    @Flag(help: "End all traces.")
    var off = false
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func validate() throws {
        guard address == nil || !off else { throw ValidationError("Name either an address or --off.") }
        try validateTime(time)
    }

    func operate(_ console: Console) throws(ToolFailure) {
        let daemon = try control.connect()
        let traces: [TraceStatus]
        if address == nil, !off {
            let reply = try daemon.ask(.status)
            if output.json { return try console.write(reply.member("traces") + "\n") }
            traces = try reply.decoded(StatusResult.self).traces
        } else {
            let reply = try daemon.ask(
                .trace(address.map { .begin(address: $0, seconds: time.seconds) } ?? .end))
            if output.json { return try console.write(reply.json + "\n") }
            traces = try reply.decoded(TraceResult.self).traces
        }
        if traces.isEmpty { return try console.print("No client is traced.") }
        for trace in traces {
            try console.print(StyledLine("\(trace.address) is traced until \(trace.untilAt)."))
        }
        if address != nil {
            console.note(
                "The lines go to dtlsd's log, in the journal under systemd: journalctl -fu dtlsd. 'dtls trace --off' ends it."
            )
        }
    }
}

/// A time that the daemon takes.
private func validateTime(_ time: TimeSpan) throws {
    guard time.seconds >= 1, time.seconds <= LogLevelChange.maximumSeconds else {
        throw ValidationError("--for is at least a second and at most a day.")
    }
}
