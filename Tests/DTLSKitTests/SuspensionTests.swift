import Foundation
import TestSupport
import Testing

@testable import DTLSKit

/// Connections that are given up after their handshake, and go on elsewhere.
@Suite(.serialized) struct SuspensionTests {
    /// A server's thread and a client's, with a connection between them whose handshake is done.
    private func withConnection(
        ciphers: String? = nil, server serve: @escaping @Sendable (DtlsConnection) throws -> Void,
        client talk: @escaping @Sendable (DtlsConnection) throws -> Void
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let (addresses, continuation) = AsyncStream.makeStream(of: DtlsAddress.self)
        async let served: Void = onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(
                    name: "S", cert: identity.certificate, key: identity.key, renegotiate: ciphers == "renegotiate"),
                Dtls.sockaddr("127.0.0.1", 0))
            continuation.yield(try server.sockName())
            try serve(try server.accept(timeout: 60_000))
            server.close()
        }
        var iterator = addresses.makeAsyncIterator()
        let address = try #require(await iterator.next())
        try await onThread {
            let connection = try Dtls.createClient(
                DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate), address, timeout: 60_000)
            try talk(connection)
        }
        try await served
    }

    private static func receive(_ connection: DtlsConnection) throws -> String {
        var buffer = [UInt8](repeating: 0, count: 100)
        let count = try connection.recv(&buffer, timeout: 60_000)
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    private static func echo(_ connection: DtlsConnection, _ count: Int) throws {
        for _ in 0..<count { try connection.send(try receive(connection)) }
    }

    private static func talk(_ connection: DtlsConnection, _ messages: [String]) throws {
        for message in messages {
            try connection.send(message)
            #expect(try receive(connection) == message)
        }
    }

    @Test func `a server's connection goes on as another object with the same session`() async throws {
        try await withConnection(
            server: { connection in
                try Self.echo(connection, 2)
                let session = connection.session
                let suspension = try connection.suspend()
                #expect(!connection.isEstablished && connection.sockFd == -1)
                #expect(throws: DtlsError.notOpen) { try connection.send("x") }
                #expect(throws: DtlsError.notOpen) { _ = try connection.suspend() }
                let resumed = try Dtls.resume("S", suspension.sockFd, suspension.state)
                #expect(resumed.isEstablished && resumed.sockFd == suspension.sockFd)
                #expect(resumed.session?.cipher == session?.cipher && resumed.session?.version == "DTLSv1.2")
                try Self.echo(resumed, 2)
                #expect(throws: DtlsError.closed) { _ = try Self.receive(resumed) }
            },
            client: { connection in
                try Self.talk(connection, ["a", "bc", "def", "ghij"])
                connection.close()
            })
    }

    @Test func `a client's connection goes on on another thread`() async throws {
        try await withConnection(
            server: { try Self.echo($0, 4) },
            client: { connection in
                try Self.talk(connection, ["a", "bc"])
                let suspension = try connection.suspend()
                let done = DispatchSemaphore(value: 0)
                let other = Thread {
                    do {
                        let resumed = try Dtls.resume(nil, suspension.sockFd, suspension.state)
                        try Self.talk(resumed, ["def", "ghij"])
                        resumed.close()
                    } catch {
                        Issue.record("\(error)")
                    }
                    done.signal()
                }
                other.start()
                done.wait()
            })
    }

    @Test func `messages that nobody has asked for go along`() async throws {
        try await withConnection(
            server: { connection in
                #expect(try Self.receive(connection) == "one")
                // What follows is read into the object, where `pending` alone looks into the socket only if it has nothing.
                while connection.pending() < 8 { try iosched.poll(timeout: 20_000) }
                let suspension = try connection.suspend()
                let resumed = try Dtls.resume("S", suspension.sockFd, suspension.state)
                #expect(resumed.pending() == 8)
                #expect(try Self.receive(resumed) == "two")
                #expect(try Self.receive(resumed) == "three")
                try resumed.send("done")
            },
            client: { connection in
                for message in ["one", "two", "three"] { try connection.send(message) }
                #expect(try Self.receive(connection) == "done")
            })
    }

    @Test func `a connection that cannot move says why and goes on`() async throws {
        try await withConnection(
            ciphers: "renegotiate",
            server: { connection in
                try Self.echo(connection, 1)
                let error = #expect(throws: DtlsError.self) { _ = try connection.suspend() }
                #expect("\(try #require(error))".contains("cannot move"))
                #expect("\(try #require(error))".contains("renegotiation"))
                try Self.echo(connection, 1)
            }, client: { try Self.talk($0, ["a", "b"]) })
    }

    @Test func `bytes that are no state or another's are refused and leave the descriptor alone`() async throws {
        try await withConnection(
            server: { connection in
                try Self.echo(connection, 1)
                let suspension = try connection.suspend()
                let state = suspension.state
                func refusal(_ bytes: [UInt8], name: String? = "S") -> DtlsError? {
                    do throws(DtlsError) {
                        _ = try Dtls.resume(name, suspension.sockFd, bytes)
                        return nil
                    } catch {
                        return error
                    }
                }
                var later = state
                later[4] = 7
                #expect(
                    refusal(later)
                        == .invalid(
                            "the state of the suspended connection has version 7, and this program knows version 1"))
                #expect(refusal([]) == .invalid("these bytes are not the state of a suspended connection"))
                #expect(refusal(state, name: "nobody") == .unknownServer("nobody"))
                for count in 0..<state.count { #expect(refusal([UInt8](state[..<count])) != nil, "\(count)") }
                #expect(refusal(state + [0]) != nil)
                let other = try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.0.0.1", 9)) { _, _ in }
                #expect(throws: DtlsError.self) { _ = try Dtls.resume(nil, dup(other.sockFd), state) }
                #expect(fcntl(suspension.sockFd, F_GETFD) >= 0)
                try Self.echo(try Dtls.resume("S", suspension.sockFd, state), 1)
            }, client: { try Self.talk($0, ["a", "b"]) })
    }

    @Test func `whatever the bytes are a state is read or refused`() {
        var random = SeededGenerator(seed: 5)
        let beginning = Array("DTLS".utf8) + [1]
        for _ in 0..<20_000 {
            let bytes = (0..<Int(random.next() % 300)).map { _ in UInt8(truncatingIfNeeded: random.next() % 24) }
            #expect(throws: DtlsError.self) { _ = try SuspensionState(decoding: beginning + bytes) }
        }
    }

    @Test func `the asynchronous face suspends and resumes`() async throws {
        try await withConnection(
            server: { try Self.echo($0, 3) },
            client: { connection in
                try Self.talk(connection, ["a"])
                let suspension = try connection.suspend()
                let done = DispatchSemaphore(value: 0)
                Task {
                    do {
                        let first = try await AsyncDtlsConnection.resume(nil, suspension.sockFd, suspension.state)
                        try await first.send("bc")
                        #expect(try await first.receive() == Array("bc".utf8))
                        let again = try await first.suspend()
                        await #expect(throws: DtlsError.notOpen) { try await first.send("x") }
                        let second = try await AsyncDtlsConnection.resume(nil, again.sockFd, again.state)
                        try await second.send("def")
                        #expect(try await second.receive() == Array("def".utf8))
                        await second.close()
                    } catch {
                        Issue.record("\(error)")
                    }
                    done.signal()
                }
                done.wait()
            })
    }
}
