import DTLSKit
import Foundation
import Testing

/// createByFd, flyAway, and the connections of named servers.
@Suite(.serialized) struct DescriptorTests {
    /// A client that connects while `work` does the server's part on another thread.
    private func withClient(
        _ work: @escaping @Sendable (DtlsServer) throws -> Void, name: String = "Server1",
        client: @escaping @Sendable (DtlsConnection) throws -> Void
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let (addresses, continuation) = AsyncStream.makeStream(of: DtlsAddress.self)
        async let served: Void = onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(name: name, cert: identity.certificate, key: identity.key),
                Dtls.sockaddr("127.0.0.1", 0))
            continuation.yield(try server.sockName())
            try work(server)
            server.close()
        }
        var iterator = addresses.makeAsyncIterator()
        let address = try #require(await iterator.next())
        try await onThread {
            let connection = try Dtls.createClient(
                DtlsClientOption(rejectUnauthorized: true, ca: authority.certificate), address, timeout: 60_000)
            try client(connection)
            connection.close()
        }
        try await served
    }

    private static func echoOnce(_ connection: DtlsConnection) throws {
        var buffer = [UInt8](repeating: 0, count: 100)
        let count = try connection.recv(&buffer, timeout: 60_000)
        try connection.send(buffer, length: count)
        #expect(throws: DtlsError.closed) { _ = try connection.recv(&buffer, timeout: 60_000) }
    }

    private static func talk(_ connection: DtlsConnection) throws {
        try connection.send("hello")
        var buffer = [UInt8](repeating: 0, count: 100)
        #expect(try connection.recv(&buffer, timeout: 60_000) == 5)
    }

    @Test func `a named server's connection does its handshake at first use`() async throws {
        try await withClient(
            { server in
                let connection = try server.accept(timeout: 60_000)
                #expect(!connection.isEstablished)
                #expect(try connection.sockName() == server.sockName())
                #expect(try connection.peerName() == connection.remote)
                try Self.echoOnce(connection)
            }, client: Self.talk)
    }

    /// With the bare descriptor and nothing else: the client's next hello brings its cookie along.
    @Test(arguments: [false, true]) func `createByFd serves a client of whom only the descriptor has come`(
        _ withCallback: Bool
    ) async throws {
        try await withClient(
            { server in
                let accepted = try server.accept(timeout: 60_000)
                let descriptor = dup(accepted.sockFd)
                accepted.flyAway()
                #expect(accepted.sockFd == -1)
                #expect(throws: DtlsError.notOpen) { try accepted.send("x") }
                guard withCallback else {
                    return try Self.echoOnce(try Dtls.createByFd("Server1", descriptor, timeout: 60_000))
                }
                var outcome: Result<DtlsConnection, DtlsError>?
                try Dtls.createByFd("Server1", descriptor) { outcome = $0 }
                while outcome == nil { try iosched.poll() }
                try Self.echoOnce(try #require(try outcome?.get()))
            }, client: Self.talk)
    }

    @Test func `createByFd refuses what it cannot use`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            #expect(throws: DtlsError.unknownServer("nobody")) { _ = try Dtls.createByFd("nobody", 0) }
            let server = try Dtls.createServer(
                DtlsServerOption(name: "here", cert: identity.certificate, key: identity.key),
                Dtls.sockaddr("127.0.0.1", 0))
            var ends: [Int32] = [-1, -1]
            #expect(pipe(&ends) == 0)
            #expect(throws: DtlsError.self) { _ = try Dtls.createByFd("here", ends[0], timeout: 0) }
            #expect(fcntl(ends[0], F_GETFD) >= 0, "a descriptor that is refused stays the caller's")
            close(ends[0])
            close(ends[1])
            #expect(throws: DtlsError.self) { _ = try Dtls.createByFd("here", -1) }
            #expect(throws: DtlsError.self) { _ = try Dtls.createByFd("here", server.sockFd) }

            // A connected UDP socket on which no hello comes.
            let unheard = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = UInt16(9).bigEndian
            address.sin_addr.s_addr = UInt32(0x7f09_0907).bigEndian
            let code = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(unheard, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            #expect(code == 0)
            #expect(throws: DtlsError.timedOut(waitingFor: "the client's hello", errno: 0)) {
                _ = try Dtls.createByFd("here", unheard, timeout: 30)
            }
            #expect(throws: DtlsError.self) {
                _ = try Dtls.createServer(
                    DtlsServerOption(name: "here", cert: identity.certificate, key: identity.key),
                    Dtls.sockaddr("127.0.0.1", 0))
            }
            server.close()
            #expect(throws: DtlsError.self) { _ = try DtlsTask("none") }
            #expect(throws: DtlsError.self) { try DtlsTask.sendToParent(["a": 1]) }
        }
    }
}
