import ArgumentParser
import ControlProtocol

/// The exit statuses of the commands that operate a daemon. 0 is success, and 64 is the parser's, for a command line that
/// cannot be understood.
enum ToolStatus: Int32 {
    /// The daemon has refused the request, or could not do what it asks for.
    case failed = 1
    /// There is no daemon that answers.
    case unreachable = 3
    /// `status --ready`: the daemon does not serve clients at the moment.
    case notReady = 4
}

/// Why a command ends without having done what it was told to.
struct ToolFailure: Error, Equatable {
    let status: ToolStatus
    /// Whole sentences.
    let message: String
    /// Each by itself, such as those of a configuration.
    let problems: [String]

    init(_ status: ToolStatus, _ message: String, problems: [String] = []) {
        self.status = status
        self.message = message
        self.problems = problems
    }

    init(_ error: ControlError) { self.init(.failed, error.message, problems: error.problems ?? []) }
}

/// A command that operates a daemon over its control socket.
protocol OperatingCommand: ParsableCommand {
    var control: ControlOptions { get }
    func operate(_ console: Console) throws(ToolFailure)
}

extension OperatingCommand {
    func run() throws {
        let console = Console.standard
        do throws(ToolFailure) {
            try operate(console)
        } catch {
            console.note("dtls: \(error.message)")
            for problem in error.problems { console.note("  \(problem)") }
            throw ExitCode(error.status.rawValue)
        }
    }
}

/// What all commands that operate a daemon take.
struct ControlOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The path of the daemon's control socket; otherwise $\(ControlProtocol.pathVariable), otherwise \(ControlProtocol.defaultPath).",
            valueName: "path"))
    var socket: String?

    var path: String {
        if let socket { return socket }
        guard let variable = Environment[ControlProtocol.pathVariable], !variable.isEmpty else {
            return ControlProtocol.defaultPath
        }
        return variable
    }

    func connect() throws(ToolFailure) -> ControlConnection { try ControlConnection(path: path) }

    /// Connects, and asks one thing.
    func ask(_ command: ControlCommand) throws(ToolFailure) -> ControlReply { try connect().ask(command) }
}

/// `--json`.
struct OutputOptions: ParsableArguments {
    @Flag(help: "Print the daemon's answer as JSON (docs/control-protocol.md), on one line.")
    var json = false
}
