import DTLSKit
import LinuxSystem
import TestSupport
import Testing

/// Connection IDs in the library.
@Suite(.serialized) struct ConnectionIDTests {
    private func serve(
        _ identity: (certificate: String, key: String), connectionID: Int?, at host: String = "127.0.0.1"
    ) throws -> (DtlsServer, DtlsAddress) {
        let server = try Dtls.createServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key, connectionID: connectionID),
            Dtls.sockaddr(host, 0))
        return (server, try server.sockName())
    }

    @Test func `a connection goes on when the client's address changes, and the program learns of it`() async throws {
        let authority = try await TestAuthority()
        let issued = try await authority.issue("server")
        try await onThread {
            let (server, address) = try serve((issued.certificate, issued.key), connectionID: 12)
            // The client sees one address, and the server those of two sockets, one after the other.
            let relay = try MovingRelay(to: try #require(SocketAddress("127.0.0.1:\(address.port)")))
            let client = try client(of: relay.address)
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

    /// The listener is in the program, and its client's connection in the task.
    @Test(arguments: ["whole", "established"])
    func `a connection in a task goes on when the client's address changes`(_ mode: String) async throws {
        let server = try await TaskServer(mode, connectionID: 12)
        let port = server.port
        try await onThread {
            let relay = try MovingRelay(to: try #require(SocketAddress("127.0.0.1:\(port)")))
            let client = try client(of: relay.address)
            try relay.run { client.isEstablished }
            #expect(try #require(client.connectionIDs).peer.count == 12 && client.checksReturnRoutability)
            var buffer = [UInt8](repeating: 0, count: 100)
            for (number, message) in ["here", "there", "back again", "and there"].enumerated() {
                relay.present = number % 2
                for _ in 0..<3 {
                    try client.send(message)
                    var count = 0
                    try relay.run {
                        count = (try? client.recv(&buffer, timeout: 0)) ?? 0
                        return count > 0
                    }
                    #expect(Array(buffer[..<count]) == Array(message.utf8))
                }
            }
            // The server sends to where the client is, and to nowhere else.
            #expect(relay.received.allSatisfy { $0 > 3 }, "\(relay.received)")
            client.close()
            try relay.run { server.count("Task: client ended: the peer has closed the connection") == 1 }
        }
        try await server.printed("Task: the client is at another address", count: 3)
        #expect(server.count("New client") == 1, "\(server.program.output)")
    }

    /// The server's machine has forgotten nothing, and this machine has another address.
    @Test(.enabled(if: OwnNetwork.isAllowed, "a network of its own takes root"))
    func `a client goes on when this machine's address changes`() async throws {
        let authority = try await TestAuthority()
        let issued = try await authority.issue("server")
        try await onThread {
            try OwnThread.runInOwnNetwork {
                try OwnNetwork.ip("link set lo up")
                try OwnNetwork.ip("link add cable type veth peer name end")
                try OwnNetwork.ip("link set end up")
                try OwnNetwork.ip("link set cable up")
                try OwnNetwork.ip("addr add 10.77.0.2/24 dev cable")
                // What is sent to this address leaves from the first one, as it would over a cable.
                try OwnNetwork.ip("addr add 10.78.0.1/32 dev lo")
                try OwnNetwork.ip("route replace local 10.78.0.1 dev lo src 10.77.0.2 table local")
                let (server, _) = try serve((issued.certificate, issued.key), connectionID: 12, at: "10.78.0.1")
                let port = try server.sockName().port
                var served: DtlsConnection?
                server.accept { connection, _ in served = connection }
                let client = try Dtls.createClient(
                    DtlsClientOption(connectionID: 0), Dtls.sockaddr("10.78.0.1", port)
                ) { _, _ in }
                try client.setTTL(77)
                try run { served != nil && client.isEstablished }
                let connection = try #require(served)
                #expect(connection.remote.addr == "10.77.0.2")
                var changes: [DtlsAddress] = []
                connection.onAddressChange { now, _ in changes.append(now) }
                var buffer = [UInt8](repeating: 0, count: 100)

                try OwnNetwork.ip("route replace local 10.78.0.1 dev lo src 10.78.0.1 table local")
                try OwnNetwork.ip("addr del 10.77.0.2/24 dev cable")
                try OwnNetwork.ip("addr add 10.77.0.3/24 dev cable")
                try OwnNetwork.ip("route replace local 10.78.0.1 dev lo src 10.77.0.3 table local")
                try client.send("moved")
                try run { !changes.isEmpty }
                #expect(changes.map(\.addr) == ["10.77.0.3"])
                #expect(try client.sockName().addr == "10.77.0.3")
                #expect(try connection.recv(&buffer, timeout: 0) == 5)
                try connection.send("welcome")
                var count = 0
                try run {
                    count = (try? client.recv(&buffer, timeout: 0)) ?? 0
                    return count > 0
                }
                #expect(count == 7)
                // What the program has set on its socket holds for the next one.
                #expect(try OwnNetwork.timeToLive(of: client.sockFd) == 77)
                client.close()
                connection.close()
                server.close()
            }
        }
    }

    private func run(until condition: () throws -> Bool) throws {
        for _ in 0..<20_000 {
            if try condition() { return }
            try iosched.poll(timeout: 1)
        }
        Issue.record("it has not happened")
    }
}
