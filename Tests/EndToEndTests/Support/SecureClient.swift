import Foundation
import LinuxSystem
import TestSupport

/// `openssl s_client` over DTLS, for as long as its input is open.
///
/// By default its socket blocks, and then s_client reads no more of its input once a datagram has come that OpenSSL drops,
/// until another one comes: SSL_read goes on with the next read (`dtls1_get_record`, seen with 3.0.19). On a busy machine
/// its last flight is not answered within a second, it sends that again, and gets the server's last flight twice, with the
/// same Finished. So it has `-nbio`.
final class SecureClient: Sendable {
    let program: Program
    private let folder: TestFolder
    private let messagesName: String

    /// - Parameters:
    ///   - trust: the certificate file that the server's must be signed by; anything else ends the client.
    ///   - arguments: more of s_client's options.
    ///   - version: s_client's option for the version of DTLS.
    ///   - prefix: a program that starts it, and that program's arguments.
    init(
        to server: SocketAddress, trust: String, in folder: TestFolder, _ arguments: [String] = [],
        version: String = "-dtls1_2", prefix: [String] = []
    ) throws {
        self.folder = folder
        messagesName = "\(UUID().uuidString).messages"
        program = try Program(
            prefix + ["openssl", "s_client", version, "-quiet", "-no_ign_eof", "-nbio", "-connect", "\(server)"]
                + ["-CAfile", trust, "-verify_return_error", "-msg", "-msgfile", folder.file(messagesName)] + arguments,
            in: folder)
    }

    var output: String { program.output }

    /// Sends a line. What comes back is in ``output``.
    func say(_ line: String) { program.send(line + "\n") }

    func hasHeard(_ line: String) -> Bool { output.contains(line + "\n") }

    /// Sends a line and waits until one that is, or contains, `answer` has come back.
    func exchange(_ line: String, answer: String? = nil) async throws {
        say(line)
        try await hears(answer ?? line)
    }

    func hears(_ line: String) async throws {
        try await eventually("client \(program.pid) hears '\(line)'", details: transcript) {
            guard program.ending == nil || hasHeard(line) else {
                throw NeverHappened(description: "the client ended before it heard '\(line)'\n\(transcript)")
            }
            return hasHeard(line)
        }
    }

    /// Ends the client's input: it says close_notify and ends. That takes it half a second; one that is just let go is
    /// killed, and says nothing.
    func leave() async throws {
        program.closeInput()
        _ = try await program.ended()
    }

    /// How many messages of handshakes it has sent: ClientHello without the cookie and with it, ClientKeyExchange and
    /// Finished make 4, unless it waited for an answer too long and sent one again. Known when the client has ended.
    var handshakeMessagesSent: Int { messages.count { $0.isSent && $0.isHandshake } }

    /// How many handshakes the server has done with it, by the different Finished (20) that it has sent: one that is
    /// sent again is the same. Known when the client has ended.
    var handshakesDone: Int {
        Set(messages.filter { !$0.isSent && $0.isHandshake && $0.bytes.hasPrefix("14 ") }.map(\.bytes)).count
    }

    /// Whether the server has given it a session ticket (NewSessionTicket, 4). Known when the client has ended.
    var hasGotTicket: Bool { messages.contains { !$0.isSent && $0.isHandshake && $0.bytes.hasPrefix("04 ") } }

    /// Whether the server has said goodbye (a warning, 1, of close_notify, 0). Known when the client has ended.
    var gotCloseNotify: Bool { messages.contains { !$0.isSent && $0.isAlert && $0.bytes.hasPrefix("01 00") } }

    /// One message in the file that -msg fills. OpenSSL 3.0 knows no names for those of DTLS 1.2, only numbers.
    private struct Message {
        var isSent: Bool
        var isHandshake: Bool
        var isAlert: Bool
        /// Hexadecimal, as far as the first line has them.
        var bytes: Substring
    }

    private var messages: [Message] {
        let lines = folder.read(messagesName).split(separator: "\n")
        return zip(lines, lines.dropFirst()).compactMap { head, bytes in
            guard head.hasPrefix(">>>") || head.hasPrefix("<<<") else { return nil }
            return Message(
                isSent: head.hasPrefix(">>>"),
                isHandshake: head.contains("content_type=22") || head.contains("Handshake"),
                isAlert: head.contains("content_type=21") || head.contains("Alert"),
                bytes: bytes.drop { $0 == " " })
        }
    }

    /// What helps to see why something did not happen.
    var transcript: String {
        "output: \(output)\nerrors: \(program.errors)\nlog of dtlsd:\n\(folder.read("dtlsd.errors"))"
    }
}

extension [SecureClient] {
    /// Lets all leave at once.
    func leave() async throws {
        for client in self { client.program.closeInput() }
        for client in self { try await client.leave() }
    }
}
