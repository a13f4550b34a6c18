import CLinux
import DTLSKit
import Foundation
import LinuxSystem
import TestSupport
import Testing

/// A server whose clients are served by a task, in a process of its own.
@Suite(.serialized) struct TaskTests {
    @Test func `a running task learns of a new certificate`() async throws {
        let server = try await TaskServer("whole")
        _ = try await server.authority.issue("later.example", names: "DNS:later.example")
        guard case .handshake(_, let certificate?)? = try await server.failure(of: "later.example") else {
            Issue.record("there is a certificate already: \(server.program.output)")
            return
        }
        #expect(certificate.contains("ostname mismatch"))
        server.program.send("addcert later.example\n")
        try await server.printed("Done: addcert later.example")
        #expect(try await server.failure(of: "later.example") == nil)
        #expect(try await server.failure(of: "main.example") == nil)
        try await server.echo(.openSSL, name: "later.example")
        // And one that replaces it.
        _ = try await server.authority.issue("later.example", names: "DNS:elsewhere.example")
        server.program.send("addcert later.example\n")
        try await server.printed("Done: addcert later.example", count: 2)
        #expect(try await server.failure(of: "later.example") != nil)
        #expect(server.count("Task ended") == 0)
    }

    /// The number of the descriptor and nothing else: the client's next hello brings its cookie along.
    @Test(arguments: ForeignPeer.allCases) func `a bare descriptor is served by another process`(_ peer: ForeignPeer)
        async throws
    {
        let server = try await TaskServer("bare")
        try await server.echo(peer, name: "main.example")
        #expect(try await server.failure(of: "main.example") == nil)
        #expect(server.count("Task: handshake done: main.example") == 2, "\(server.program.output)")
    }

    @Test func `a task goes on with a connection whose handshake the program has done`() async throws {
        let server = try await TaskServer("established")
        let option = DtlsClientOption(
            rejectUnauthorized: true, ca: server.authority.certificate, server: "main.example")
        let port = server.port
        try await onThread {
            let client = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", port))
            var buffer = [UInt8](repeating: 0, count: 10)
            for message in ["one", "three", "seven"] {
                try client.send(message)
                #expect(try client.recv(&buffer, timeout: 60_000) == message.utf8.count)
                #expect(Array(buffer.prefix(message.utf8.count)) == Array(message.utf8))
            }
            client.close()
        }
        try await server.printed("It is the task's")
        try await server.printed("Task: handshake done: main.example")
        try await server.printed("Task: client ended: the peer has closed the connection")
    }

    // MARK: The rules of UDP, by their numbers in docs/udp-rules.md

    /// A fatal alert before any keys are agreed on: handshake_failure.
    private static let alert: [UInt8] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40]

    private func next(_ socket: RawClient) async throws -> HelloAnswer {
        var datagram: [UInt8]?
        try await eventually("the server answers") {
            datagram = socket.receive()
            return datagram != nil
        }
        return HelloAnswer(try #require(datagram))
    }

    private func cookie(for hello: ClientHelloBytes, _ socket: RawClient) async throws -> [UInt8] {
        socket.send(hello.bytes())
        guard case .helloVerifyRequest(let cookie) = try await next(socket) else {
            throw NeverHappened(description: "no cookie")
        }
        return cookie
    }

    /// Rule 4: what a client sent while the server did not look lies on the listener. Copies of a hello make no second
    /// connection, and the rest goes with the connection, or after it.
    @Test func `copies of a hello and an alert that comes late reach the task`() async throws {
        let server = try await TaskServer("whole")
        let client = try RawClient(to: server.port)
        let hello = ClientHelloBytes()
        let cookie = try await cookie(for: hello, client)
        server.program.signal(SIGSTOP)
        for _ in 0..<5 { client.send(hello.bytes(cookie: cookie, number: 1)) }
        client.send(Self.alert)
        for _ in 0..<5 { client.send(hello.bytes(cookie: cookie, number: 1)) }
        server.program.signal(SIGCONT)
        try await server.printed("Task: handshake failed")
        #expect(
            server.program.output.contains("alert"), "the task's connection has got the alert: \(server.program.output)"
        )
        // A second client after it: all before has been dealt with.
        #expect(try await server.failure(of: "main.example") == nil)
        #expect(server.count("New client") == 2, "\(server.program.output)")
    }

    /// Rules 1 and 2: a socket that is not connected yet takes other clients' datagrams. The task that reads it gives
    /// them back, and the listener answers every one.
    @Test func `misdelivered datagrams go back to the listener`() async throws {
        let server = try await TaskServer("window")
        let first = try RawClient(to: server.port)
        let hello = ClientHelloBytes()
        let cookie = try await cookie(for: hello, first)
        first.send(hello.bytes(cookie: cookie, number: 1))
        try await server.printed("New client")
        // The kernel shares these out between the listener and the open socket.
        let others = try (0..<48).map { _ in try RawClient(to: server.port) }
        for other in others { other.send(ClientHelloBytes().bytes()) }
        var answers: [Int: HelloAnswer] = [:]
        func collect() {
            for (index, other) in others.enumerated() where answers[index] == nil {
                answers[index] = other.receive().map { HelloAnswer($0) }
            }
        }
        // The main process has read all of its share once it has done this: it reads its listener in the same turn.
        server.program.send("addcert none\n")
        try await server.printed("Cannot")
        collect()
        #expect(answers.count < others.count, "some are on the open socket: otherwise this test shows nothing")
        server.program.send("go\n")
        try await server.printed("Done: go")
        try await eventually("all others are answered", details: "\(answers.count) of \(others.count)") {
            collect()
            return answers.count == others.count
        }
        #expect(answers.values.allSatisfy { if case .helloVerifyRequest = $0 { true } else { false } })
        // The connection itself goes on: the hello comes again, as from a real client.
        first.send(hello.bytes(cookie: cookie, number: 1))
        #expect(try await next(first) == .serverHello)
    }

    /// Rule 3: the client is back on its port while its old connection has not been closed yet.
    @Test func `a client that comes back before its connection is closed is served as a new one`() async throws {
        let server = try await TaskServer("whole")
        let client = try RawClient(to: server.port)
        let hello = ClientHelloBytes()
        let cookie = try await cookie(for: hello, client)
        client.send(hello.bytes(cookie: cookie, number: 1))
        #expect(try await next(client) == .serverHello)
        kill(server.task, SIGSTOP)
        client.send(Self.alert)
        client.send(ClientHelloBytes().bytes())
        kill(server.task, SIGCONT)
        try await server.printed("Task: handshake failed")
        // More of the server's flight may lie before the answer.
        try await eventually("the listener answers", details: server.program.output) {
            guard let datagram = client.receive(), case .helloVerifyRequest = HelloAnswer(datagram) else {
                return false
            }
            return true
        }
    }
}

/// A connected UDP socket and nothing more.
private final class RawClient: Sendable {
    private let descriptor: Int32

    init(to port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0, let address = SocketAddress(host: "127.0.0.1", port: UInt16(port)),
            address.withSockaddr({ connect(descriptor, $0, $1) }) == 0
        else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
    }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) { _ = Glibc.send(descriptor, bytes, bytes.count, 0) }

    /// The next datagram, if there is one.
    func receive() -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 16_384)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(bytes[..<count]) : nil
    }
}
