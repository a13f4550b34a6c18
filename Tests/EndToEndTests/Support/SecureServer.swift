import Foundation
import LinuxSystem
import TestSupport

/// `openssl s_server` over DTLS: a server that we did not write. It serves one client after the other; what a client
/// sends is its output, and what it is told goes to the client.
final class SecureServer: Sendable {
    let program: Program
    private let folder: TestFolder
    private let messagesName: String

    /// Returns when it listens. Without an identity, the arguments say what it proves itself with.
    init(at address: SocketAddress, as identity: Identity?, in folder: TestFolder, _ arguments: [String] = [])
        async throws
    {
        self.folder = folder
        messagesName = "\(UUID().uuidString).messages"
        program = try Program(
            ["openssl", "s_server", "-dtls", "-listen", "-accept", "\(address)", "-quiet"]
                + (identity.map { ["-cert", $0.certificate, "-key", $0.privateKey] } ?? [])
                + ["-msg", "-msgfile", folder.file(messagesName)] + arguments,
            in: folder)
        try await eventually("s_server listens at \(address)", details: program.errors) {
            guard program.ending == nil else { throw NeverHappened(description: "s_server: \(program.errors)") }
            return ProcessTable.localPorts(of: program.pid).contains(address.port)
        }
    }

    var output: String { program.output }

    func hears(_ text: String) async throws {
        try await eventually("the server hears '\(text)'", details: transcript) { output.contains(text) }
    }

    /// What it and its clients have said to each other, as -msg writes it.
    var messages: String { folder.read(messagesName) }

    private var transcript: String {
        "output: \(output)\nerrors: \(program.errors)\nlog of dtlsd:\n\(folder.read("dtlsd.errors"))"
    }
}

/// A plain UDP sender on this machine, in front of a client of dtlsd.
final class PlainSender: Sendable {
    private let socket: DatagramSocket
    private let client: SocketAddress

    init(to client: SocketAddress, from host: String = SocketAddress.ownLoopback) throws {
        guard let address = SocketAddress(host: host, port: 0) else { throw NoFreePort(host: host) }
        socket = try DatagramSocket(at: address)
        self.client = client
    }

    var address: SocketAddress { socket.local }

    func send(_ text: String) { socket.send(Array(text.utf8), to: client) }

    func send(_ bytes: [UInt8]) { socket.send(bytes, to: client) }

    /// The next datagram from the client's very address that has come, or `nil`.
    func receive() -> String? {
        socket.receive(from: client).map { String(decoding: $0, as: UTF8.self) }
    }

    /// Sends once, and waits for the answer.
    func exchange(_ text: String, answer: String? = nil, details: @autoclosure () -> String = "") async throws {
        send(text)
        try await hears(answer ?? text, details: details())
    }

    /// Waits for a datagram with this text; others before it are dropped.
    func hears(_ text: String, details: @autoclosure () -> String = "") async throws {
        try await eventually("the sender hears '\(text)'", details: details()) { receive() == text }
    }

    /// Sends again and again until an answer comes: what is sent to a server that is being started again may be lost.
    func exchangeWithLosses(_ text: String, answer: String? = nil, details: @autoclosure () -> String = "") async throws
    {
        try await eventually("the sender hears '\(text)' at last", details: details()) {
            send(text)
            return receive() == answer ?? text
        }
    }
}
