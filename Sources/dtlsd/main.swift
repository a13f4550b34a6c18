import ArgumentParser
import DTLSDaemon
import Glibc

/// The command line of the main process.
struct DTLSDaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dtlsd",
        abstract: "A DTLS server: terminates DTLS, and serves or forwards the datagrams inside.",
        discussion: """
            SIGHUP reads the configuration and the certificates again; SIGTERM and SIGINT stop. \
            Exit status 78 says that the configuration cannot be used, 75 that it may be later: no name server answers.
            """,
        version: "0.1.0"
    )

    @Option(name: [.short, .long], help: "The configuration file.")
    var config = "/etc/dtlsd/dtlsd.toml"

    @Flag(help: "Check the configuration and all that it names, start nothing.")
    var check = false

    func run() throws {
        let status =
            check ? Daemon.check(configurationFile: config) : Daemon.serve(configurationFile: config)
        throw ExitCode(status)
    }
}

// The daemon's own processes are this program too; they take no options.
if let status = Daemon.runRole(CommandLine.arguments) { exit(status) }
DTLSDaemonCommand.main()
