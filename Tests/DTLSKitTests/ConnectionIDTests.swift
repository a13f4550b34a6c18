import DTLSKit
import LinuxSystem
import TestSupport
import Testing

/// Connection IDs in the library.
@Suite(.serialized) struct ConnectionIDTests {
    private func serve(
        _ identity: (certificate: String, key: String), connectionID: Int?
    ) throws -> (DtlsServer, DtlsAddress) {
        let server = try Dtls.createServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, connectionID: connectionID),
            Dtls.sockaddr("127.0.0.1", 0))
        return (server, try server.sockName())
    }

    @Test func `a connection goes on when the client's address changes, and the program learns of it`() async throws {
        let authority = try await TestAuthority()
        let issued = try await authority.issue("server")
        try await onThread {
            let (server, address) = try serve((issued.certificate, issued.key), connectionID: 12)
            // The client sees one address, and the server those of two sockets, one after the other.
            let relay = try Relay(to: try #require(SocketAddress("127.0.0.1:\(address.port)")))
            let client = try client(of: relay.front.local)
            var served: DtlsConnection?
            server.accept { connection, _ in served = connection }
            try relay.run { served != nil && client.isEstablished }
            let connection = try #require(served)
            var changes: [(DtlsAddress, DtlsAddress)] = []
            connection.onAddressChange { changes.append(($0, $1)) }
            let first = connection.remote
            #expect(first.port == relay.sockets[0].local.port)
            let ids = try #require(connection.connectionIDs)
            #expect(ids.own.count == 12 && ids.peer.isEmpty && connection.checksReturnRoutability)
            #expect(try #require(client.connectionIDs).peer == ids.own)

            relay.present = 1
            var buffer = [UInt8](repeating: 0, count: 100)
            try client.send("moved")
            try relay.run { !changes.isEmpty }
            #expect(changes.count == 1 && changes[0].1 == first && changes[0].0 == connection.remote)
            #expect(connection.remote.port == relay.sockets[1].local.port)
            #expect(try connection.peerName() == connection.remote)
            #expect(try connection.recv(&buffer, timeout: 0) == 5)
            try connection.send("welcome")
            var count = 0
            try relay.run {
                count = (try? client.recv(&buffer, timeout: 0)) ?? 0
                return count > 0
            }
            #expect(count == 7)
            client.close()
            connection.close()
            server.close()
        }
    }

    private func client(of address: SocketAddress) throws -> DtlsConnection {
        try Dtls.createClient(
            DtlsClientOption(connectionID: 0), Dtls.sockaddr("127.0.0.1", Int(address.port))
        ) { _, _ in }
    }

    /// What a NAT does: it passes datagrams on between a client and a server, which sees the address of one of two
    /// sockets.
    private final class Relay {
        let front: DatagramSocket
        let sockets: [DatagramSocket]
        /// The index of the socket that the client's datagrams leave by.
        var present = 0
        private let server: SocketAddress
        private var client: DatagramSocket.Sender?

        init(to server: SocketAddress) throws {
            let any = try #require(SocketAddress("127.0.0.1:0"))
            self.server = server
            front = try DatagramSocket(at: any)
            sockets = [try DatagramSocket(at: any), try DatagramSocket(at: any)]
        }

        /// Runs the thread's loop and passes datagrams on until `condition` holds, for some seconds at most.
        func run(until condition: () throws -> Bool) throws {
            for _ in 0..<20_000 {
                if try condition() { return }
                try iosched.poll(timeout: 1)
                while let (bytes, sender) = front.receiveAtOnce() {
                    client = sender
                    sockets[present].send(bytes, to: server)
                }
                for socket in sockets {
                    while let (bytes, _) = socket.receiveAtOnce() { client.map { front.send(bytes, to: $0) } }
                }
            }
            Issue.record("it has not happened")
        }
    }

    @Test func `lengths that are out of range, and renegotiation, are refused`() async throws {
        let authority = try await TestAuthority()
        let issued = try await authority.issue("server")
        try await onThread {
            for length in [0, 8, 21] {
                #expect(throws: DtlsError.self) { try serve((issued.certificate, issued.key), connectionID: length) }
            }
            for length in [-1, 21] {
                #expect(throws: DtlsError.self) {
                    try Dtls.createClient(DtlsClientOption(connectionID: length), Dtls.sockaddr("127.0.0.1", 9)) {
                        _, _ in
                    }
                }
            }
            #expect(throws: DtlsError.self) {
                try Dtls.createClient(
                    DtlsClientOption(renegotiate: true, connectionID: 0), Dtls.sockaddr("127.0.0.1", 9)
                ) { _, _ in }
            }
        }
    }
}
