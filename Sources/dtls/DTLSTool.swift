import ArgumentParser
import Primitives

/// The tool `dtls`: it operates a running `dtlsd` by its control socket, and talks to servers as a client.
@main
struct DTLSTool: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dtls",
        abstract: "See what a dtlsd does, operate it, and talk to DTLS servers.",
        version: ProgramVersion.current,
        groupedSubcommands: [
            CommandGroup(name: "Operating dtlsd:", subcommands: OperatingCommands.all),
            CommandGroup(name: "Talking to servers:", subcommands: TalkingCommands.all),
        ]
    )
}
