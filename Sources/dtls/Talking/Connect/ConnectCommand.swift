import ArgumentParser
import DTLSKit
import Glibc
import LinuxSystem

/// `dtls connect`: a conversation with a server.
struct ConnectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect",
        abstract: "Connect to a DTLS server, say who it is, and talk to it.",
        discussion: """
            Each line of standard input is one message, without its newline; each message of the server is printed as a line, \
            with what a terminal must not get as \\u{…}. With --binary bytes pass as they are. What is said of the server goes \
            to standard error. Ctrl-C and the end of the input close the connection with close_notify.

            The exit status is 0 when all went well, 1 for a failure on this machine, 2 when the name has no address, 3 when \
            nobody answers, 4 when the handshake fails, 5 when the server's certificate is refused, 6 when the connection \
            breaks or a message cannot be sent, 64 for wrong arguments and 130 for a signal before there is a connection.
            """
    )

    @Argument(help: ArgumentHelp("The server.", valueName: "host:port"))
    var destination: Destination

    @OptionGroup var client: ClientOptions

    @Option(help: ArgumentHelp("Send the lines of this file in place of standard input's.", valueName: "file"))
    var file: String?

    @Flag(help: "Send and print bytes as they are: up to --message-size of them in a message.")
    var binary = false

    @Option(help: ArgumentHelp("Bytes of a message with --binary; else as many as the path takes.", valueName: "bytes"))
    var messageSize: Int?

    @Option(help: ArgumentHelp("Wait so long for answers after the last message of the input.", valueName: "seconds"))
    var wait = 1.0

    @Option(
        help: ArgumentHelp(
            "In place of a conversation: carry datagrams that come to this UDP port of 127.0.0.1 to the server and its answers"
                + " back, a connection for each sender. 0 takes any port.", valueName: "port"))
    var udpListen: UInt16?

    @Option(
        help: ArgumentHelp(
            "Resume the session in this file, if there is one that fits, and keep the new one there (mode 0600).",
            valueName: "file"))
    var session: String?

    @Flag(name: .shortAndLong, help: "Say nothing of the server.")
    var quiet = false

    func validate() throws {
        guard wait >= 0, wait <= 3_600 else { throw ValidationError("--wait must be 0 to 3600 seconds.") }
        if let messageSize, !(1...16_384).contains(messageSize) {
            throw ValidationError("--message-size must be 1 to 16384 bytes.")
        }
        if messageSize != nil, !binary { throw ValidationError("--message-size needs --binary.") }
        if udpListen != nil, file != nil || binary {
            throw ValidationError("--udp-listen excludes --file and --binary.")
        }
    }

    func run() throws {
        do throws(TalkingFailure) { try talk() } catch { throw error.report("connect") }
    }

    private func talk() throws(TalkingFailure) {
        try EndingSignals.watch()
        let addresses = try destination.resolve()
        var option = try client.dtlsOption(for: destination)
        if let session { offer(session, &option) }
        let dialer = Dialer(
            destination: destination, option: option, patience: client.patience, isCancelled: { EndingSignals.hasCome })
        let connection = try dialer.dial(addresses)
        defer { connection.close() }
        if !quiet, let report = ServerReport(connection, destination, option) {
            Standard.error(report.text(now: Int64(time(nil))))
        }
        if let session { try keep(connection.resumableSession, session) }
        if let udpListen {
            try Tunnel(connection, dialer, port: udpListen, isQuiet: quiet).run(until: { EndingSignals.hasCome })
        } else {
            let input = try InputSource(file)
            let conversation = Conversation(
                connection, input, isBinary: binary, messageSize: messageSize,
                patience: .nanoseconds(Int64(wait * 1e9)))
            try conversation.run(until: { EndingSignals.hasCome })
            if conversation.isClosedByServer, !quiet { Standard.error("The server has closed the connection.\n") }
        }
    }

    private func offer(_ path: String, _ option: inout DtlsClientOption) {
        option.keepsSession = true
        guard PrivateFile.exists(path) else { return }
        do {
            let session = try DtlsSession(decoding: TextFile.read(path, limit: 1 << 20))
            if session.fits(option) {
                option.session = session
            } else {
                Standard.error(
                    "dtls: the session in \(path) was begun with other options (trust, name, keys) and is not resumed\n"
                )
            }
        } catch {
            Standard.error("dtls: the session in \(path) is not resumed: \(error)\n")
        }
    }

    private func keep(_ session: DtlsSession?, _ path: String) throws(TalkingFailure) {
        guard let session else {
            if !quiet { Standard.error("dtls: the server has given no session to be resumed\n") }
            return
        }
        do throws(SystemError) {
            try PrivateFile.replace(path, with: session.encoded)
        } catch {
            throw .local("\(error)")
        }
    }
}
