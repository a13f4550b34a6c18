import DTLSKit
import Glibc
import LinuxSystem
import TestSupport
import Testing

/// What is known, and learned, of peers that are gone.
@Suite(.serialized) struct PeerPresenceTests {
    private func withServer(
        _ option: (TestIdentity) -> DtlsServerOption = { DtlsServerOption(cert: $0.certificate, key: $0.key) },
        _ work: @escaping @Sendable (DtlsServer, DtlsAddress) throws -> Void
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let option = option(identity)
        try await onThread {
            let server = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", 0))
            try work(server, server.sockName())
            server.close()
        }
    }

    private static func connect(
        _ server: DtlsServer, _ option: DtlsClientOption = DtlsClientOption()
    ) throws -> (client: DtlsConnection, served: DtlsConnection) {
        var outcome: Result<DtlsConnection, DtlsError>?
        try Dtls.createClient(option, server.sockName(), timeout: 20_000) { result, _ in outcome = result }
        let served = try server.accept(timeout: 20_000)
        while outcome == nil { try iosched.poll(timeout: 20_000) }
        return (try #require(try outcome?.get()), served)
    }

    @Test func `the names of a connection that the peer has ended stay known until close`() async throws {
        try await withServer { server, address in
            let (client, served) = try Self.connect(server)
            let own = try client.sockName()
            served.close()
            var buffer = [UInt8](repeating: 0, count: 10)
            #expect(throws: DtlsError.closed) { _ = try client.recv(&buffer, timeout: 20_000) }
            #expect(try client.peerName() == address)
            #expect(try client.sockName() == own)
            // The peer has ended it, and not this side.
            let error = #expect(throws: DtlsError.self) { try client.setTTL(10) }
            #expect(error == .closed && "\(error as Any)".contains("the peer has closed"))
            client.close()
            #expect(throws: DtlsError.notOpen) { _ = try client.peerName() }
            #expect(throws: DtlsError.notOpen) { _ = try client.sockName() }
            #expect(throws: DtlsError.notOpen) { _ = try served.peerName() }
            #expect(client.remote == address)
        }
    }

    @Test func `a port that refuses ends a client's attempt after its retransmission`() async throws {
        try await onThread {
            let address = try Dtls.sockaddr("127.9.9.9", 9)
            let error = #expect(throws: DtlsError.self) { _ = try Dtls.createClient(DtlsClientOption(), address) }
            #expect(error == .system(call: "connect", subject: "127.9.9.9:9", errno: ECONNREFUSED))
            // The first refusal alone is not believed. On a busy machine it may come when the time is over.
            var early: DtlsError?
            for timeout in [200, 400, 800] where early?.errno != ECONNREFUSED {
                early = #expect(throws: DtlsError.self) {
                    _ = try Dtls.createClient(DtlsClientOption(), address, timeout: timeout)
                }
            }
            #expect(early == .timedOut(waitingFor: "the handshake", errno: ECONNREFUSED))
        }
        await #expect(throws: DtlsError.system(call: "connect", subject: "127.9.9.9:9", errno: ECONNREFUSED)) {
            _ = try await AsyncDtlsConnection.connect(DtlsClientOption(), to: Dtls.sockaddr("127.9.9.9", 9))
        }
    }

    @Test func `a server that starts after a refusal is found`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            let former = try Dtls.createServer(option, Dtls.sockaddr("127.9.9.7", 0))
            let address = try former.sockName()
            former.close()
            var outcome: Result<DtlsConnection, DtlsError>?
            let client = try Dtls.createClient(DtlsClientOption(), address, timeout: 20_000) { result, _ in
                outcome = result
            }
            while client.error() != ECONNREFUSED { try iosched.poll(timeout: 20) }
            let server = try Dtls.createServer(option, address)
            while outcome == nil { try iosched.poll(timeout: 20_000) }
            _ = try outcome?.get()
            client.close()
            server.close()
        }
    }

    @Test func `an asynchronous client gives up after the time that it was given`() async throws {
        let silent = try DatagramSocket.onOwnLoopback()
        let address = try Dtls.sockaddr(silent.local.host, Int(silent.local.port))
        await #expect(throws: DtlsError.timedOut(waitingFor: "the handshake", errno: 0)) {
            _ = try await AsyncDtlsConnection.connect(DtlsClientOption(), to: address, timeout: 50)
        }
        await #expect(throws: DtlsError.self) {
            _ = try await AsyncDtlsConnection.connect(DtlsClientOption(), to: address, timeout: -1)
        }
    }

    @Test func `a connection that is silent for its idle timeout ends`() async throws {
        let idle = DtlsError.timedOut(waitingFor: "anything from the peer (idleTimeout)", errno: 0)
        try await withServer {
            DtlsServerOption(cert: $0.certificate, key: $0.key, idleTimeout: 100)
        } _: { server, _ in
            let (client, served) = try Self.connect(server)
            // As of a machine that is switched off.
            client.flyAway()
            var buffer = [UInt8](repeating: 0, count: 10)
            let error = #expect(throws: DtlsError.self) { _ = try served.recv(&buffer, timeout: 20_000) }
            guard case .timedOut("anything from the peer (idleTimeout)", _) = error else {
                Issue.record("\(error as Any)")
                return
            }
        }
        try await withServer { server, _ in
            let (client, served) = try Self.connect(server, DtlsClientOption(idleTimeout: 100))
            defer { served.close() }
            var buffer = [UInt8](repeating: 0, count: 10)
            #expect(throws: idle) { _ = try client.recv(&buffer, timeout: 20_000) }
        }
        try await onThread {
            for wrong in [0, 99, Int(Int32.max) + 1] {
                let error = #expect(throws: DtlsError.self) {
                    try Dtls.createClient(DtlsClientOption(idleTimeout: wrong), Dtls.sockaddr("127.0.0.1", 9)) { _, _ in
                    }
                }
                #expect("\(error as Any)".contains("it must be 100 to 2147483647 ms"))
            }
        }
    }

    @Test func `asynchronous code learns of the idle timeout`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await AsyncDtlsServer(
            DtlsServerOption(name: "idle", cert: identity.certificate, key: identity.key, idleTimeout: 100),
            on: Dtls.sockaddr("127.0.0.1", 0))
        let client = try await AsyncDtlsConnection.connect(DtlsClientOption(), to: server.sockName())
        var iterator = server.connections.makeAsyncIterator()
        let served = try #require(try await iterator.next())
        await #expect(throws: DtlsError.timedOut(waitingFor: "anything from the peer (idleTimeout)", errno: 0)) {
            _ = try await served.receive()
        }
        await client.close()
        await server.close()
    }

    @Test func `a peer with connection IDs answers whether it is there`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await AsyncDtlsServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, connectionID: 12),
            on: Dtls.sockaddr("127.0.0.1", 0))
        let address = try await server.sockName()
        // The server's side is on the other loop.
        try await onThread {
            let client = try Dtls.createClient(DtlsClientOption(connectionID: 8), address, timeout: 20_000)
            #expect(client.checksReturnRoutability)
            #expect(try client.isAlive(timeout: 20_000) == true)
            client.close()
            #expect(throws: DtlsError.notOpen) { _ = try client.isAlive() }
        }
        await server.close()
        try await withServer {
            DtlsServerOption(cert: $0.certificate, key: $0.key, connectionID: 12)
        } _: { server, _ in
            let (client, served) = try Self.connect(server, DtlsClientOption(connectionID: 8))
            client.flyAway()
            #expect(try served.isAlive(timeout: 300) == false)
        }
    }

    @Test func `of a peer without connection IDs is known that its port is closed, or that it speaks`() async throws {
        try await withServer { server, _ in
            let (client, served) = try Self.connect(server)
            #expect(try served.isAlive(timeout: 100) == nil)
            #expect(throws: DtlsError.self) { _ = try served.isAlive(timeout: -1) }
            try client.send("here")
            #expect(try served.isAlive(timeout: 20_000) == true)
            #expect(served.pending() == 4, "what was heard is still to be received")
            client.flyAway()
            #expect(try served.isAlive(timeout: 20_000) == false)
            #expect(served.isEstablished, "the program decides what follows")
        }
        try await withServer { server, _ in
            let (client, served) = try Self.connect(server)
            client.close()
            #expect(throws: DtlsError.self) {
                if try served.isAlive(timeout: 20_000) == false { throw DtlsError.closed }
            }
        }
    }
}
