import ArgumentParser
import Primitives

/// The tool `dtls`: it operates a running `dtlsd` by its control socket, and talks to servers as a client.
struct DTLSTool: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dtls",
        abstract: "See what a dtlsd does, operate it, and talk to DTLS servers.",
        version: ProgramVersion.current,
        groupedSubcommands: [
            CommandGroup(name: "Operating", subcommands: OperatingCommands.all),
            CommandGroup(name: "Client", subcommands: TalkingCommands.all),
        ]
    )
}

@main
enum EntryPoint {
    /// A command that is not asynchronous runs on the first thread, before there is another one: `dtls top` blocks signals,
    /// which every thread would have to.
    @MainActor static func main() async {
        do {
            var command = try DTLSTool.parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            // A monitor takes the status for wrong arguments, 64, for something else than UNKNOWN.
            if DTLSTool.exitCode(for: error) == .validationFailure {
                ProbeCommand.endIfMisused(error, CommandLine.arguments)
            }
            DTLSTool.exit(withError: error)
        }
    }
}
