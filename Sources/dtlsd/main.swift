import ArgumentParser
import DTLSDaemon
import Glibc
import Primitives

/// The command line of the main process.
struct DTLSDaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dtlsd",
        abstract: "A DTLS server that terminates DTLS, and answers or forwards the datagrams inside.",
        discussion: """
            SIGHUP reloads the configuration and the certificates. SIGUSR2 starts the program at its path again, which takes \
            over all connections. SIGTERM and SIGINT stop the server, and so does SIGUSR1, which leaves the connections to \
            systemd for the next start; the second one stops it at once. The exit status is 78 if the configuration is invalid, and 75 if it may be valid later, for \
            example because an address is missing.
            """,
        version: ProgramVersion.current
    )

    @Option(name: [.short, .long], help: "The path of the configuration file.")
    var config = "/etc/dtlsd/dtlsd.toml"

    @Flag(help: "Check the configuration and everything that it names, and start nothing.")
    var check = false

    @Flag(help: "With --check: count warnings as errors, host names that do not resolve among them.")
    var strict = false

    func validate() throws {
        if strict, !check { throw ValidationError("--strict is for --check; expected both, or neither.") }
    }

    func run() throws {
        let status =
            check
            ? Daemon.check(configurationFile: config, isStrict: strict) : Daemon.serve(configurationFile: config)
        throw ExitCode(status)
    }
}

// The other processes of the daemon are this program, too. They have no options.
let arguments = Daemon.arguments
if let status = Daemon.runRole(arguments) { exit(status) }
DTLSDaemonCommand.main(Array(arguments.dropFirst()))
