import Foundation
import LinuxSystem

/// `openssl s_client` over DTLS, for as long as its input is open.
final class SecureClient: Sendable {
    let program: Program
    private let folder: TestFolder
    private let messagesName: String

    /// - Parameters:
    ///   - trust: the certificate file that the server's must be signed by; anything else ends the client.
    ///   - arguments: more of s_client's options.
    init(to server: SocketAddress, trust: String, in folder: TestFolder, _ arguments: [String] = []) throws {
        self.folder = folder
        messagesName = "\(UUID().uuidString).messages"
        program = try Program(
            ["openssl", "s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-connect", "\(server)"]
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

    /// Ends the client's input: it says close_notify and ends.
    func leave() async throws {
        program.closeInput()
        _ = try await program.ended()
    }

    /// How often it has sent a ClientHello: twice, without the cookie and with it, unless it waited for an answer too
    /// long. Complete when the client has ended.
    var clientHellos: Int { messages.count { $0.hasPrefix(">>>") && $0.contains("ClientHello") } }

    /// Whether the server has said goodbye. Known when the client has ended.
    var gotCloseNotify: Bool { messages.contains { $0.hasPrefix("<<<") && $0.contains("close_notify") } }

    private var messages: [Substring] { folder.read(messagesName).split(separator: "\n") }

    var transcript: String {
        "output: \(output)\nerrors: \(program.errors)\nmessages:\n\(messages.joined(separator: "\n"))"
    }
}
