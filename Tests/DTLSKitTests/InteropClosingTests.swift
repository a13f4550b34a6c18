import DTLSKit
import Foundation
import TestSupport
import Testing

/// Each end closes first, with the programs of OpenSSL and GnuTLS at the other.
@Suite(.serialized) struct InteropClosingTests {
    /// A server for one client; what it does with it runs on a thread of its own.
    private func serveOne(
        _ peer: ForeignPeer, say text: String, _ work: @escaping @Sendable (DtlsConnection) throws -> Void
    ) async throws -> (client: Program, served: Task<Void, any Error>) {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let (addresses, continuation) = AsyncStream.makeStream(of: DtlsAddress.self)
        let served = Task {
            try await onThread {
                defer { continuation.finish() }
                let server = try Dtls.createServer(
                    DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
                continuation.yield(try server.sockName())
                try work(try server.accept(timeout: 60_000))
                server.close()
            }
        }
        var iterator = addresses.makeAsyncIterator()
        let address = try #require(await iterator.next())
        let client = try peer.connect(to: address.port, trusting: authority.file, in: authority.folder)
        client.send(text)
        return (client, served)
    }

    @Test(arguments: ForeignPeer.allCases) func `our server learns that a client of another library has closed`(
        _ peer: ForeignPeer
    ) async throws {
        let (client, served) = try await serveOne(peer, say: "my last words\n") { connection in
            var buffer = [UInt8](repeating: 0, count: 100)
            #expect(try connection.recv(&buffer, timeout: 60_000) == 14)
            try connection.send("heard\n")
            #expect(throws: DtlsError.closed) { _ = try connection.recv(&buffer, timeout: 60_000) }
            #expect(throws: DtlsError.closed) { try connection.send("anybody?") }
            #expect(connection.sockFd == -1)
            connection.close()
        }
        try await eventually("it is heard", details: client.output + client.errors) { client.output.contains("heard") }
        if peer == .openSSL { client.send("Q\n") }
        client.closeInput()
        #expect(try await client.ended() == .exited(0))
        try await served.value
    }

    /// Its input stays open: nothing but our close_notify makes the client end.
    @Test(arguments: ForeignPeer.allCases) func `a client of another library learns that our server has closed`(
        _ peer: ForeignPeer
    ) async throws {
        let (client, served) = try await serveOne(peer, say: "hello\n") { connection in
            var buffer = [UInt8](repeating: 0, count: 100)
            #expect(try connection.recv(&buffer, timeout: 60_000) == 6)
            try connection.send("goodbye\n")
            connection.close()
            #expect(throws: DtlsError.notOpen) { try connection.send("x") }
        }
        #expect(try await client.ended() == .exited(0))
        #expect(client.output.contains("goodbye"), "\(client.output)")
        try await served.value
    }

    /// What is left of the first connection must not be in the way of the second: servers learn of our close.
    @Test(arguments: ForeignPeer.allCases) func `a server of another library learns that our client has closed`(
        _ peer: ForeignPeer
    ) async throws {
        let authority = try await TestAuthority()
        let port = try ForeignPeer.freePort()
        let server = try await peer.serve(authority.issue("server"), authority, port: port)
        for round in 1...(peer == .gnuTLS ? 2 : 1) {
            async let ending = onThread {
                let client = try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.0.0.1", port))
                try client.send("round \(round)\n")
                if peer == .gnuTLS {
                    var buffer = [UInt8](repeating: 0, count: 100)
                    #expect(try client.recv(&buffer, timeout: 60_000) == 8)
                }
                client.close()
                #expect(throws: DtlsError.notOpen) { try client.send("x") }
            }
            try await ending
        }
        // gnutls-serv has one client at a time: the second round shows that it has heard of the first one's end.
        guard peer == .openSSL else { return }
        try await eventually("it ends the connection", details: server.output + server.errors) {
            server.output.contains("DONE")
        }
    }
}
