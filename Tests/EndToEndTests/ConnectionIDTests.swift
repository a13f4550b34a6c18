import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// Clients whose address changes, on stacks that we did not write.
    @Suite(.enabled(if: PeerProgram.areMade, .init(rawValue: PeerProgram.howToMake)))
    struct ConnectionIDTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func start(_ more: String = "", workers: Int = 2) async throws -> Daemon {
            let service = Service(listen: [address], identity: identity, more: "connection_id = 10\n\(more)")
            return try await Daemon.start("workers = \(workers)\n\(service.text)", in: folder)
        }

        private func client(_ stack: PeerProgram.Stack, to server: SocketAddress? = nil, own: String = "c0ffee")
            async throws -> PeerProgram
        {
            let client = try PeerProgram(
                stack, to: server ?? address, connectionID: own, by: .certificate, in: folder)
            try await client.prints("handshake done")
            return client
        }

        @Test(arguments: PeerProgram.Stack.allCases, ["", "c0ffee"])
        func `a port that changes in the middle of a transfer is followed`(_ stack: PeerProgram.Stack, _ own: String)
            async throws
        {
            let daemon = try await start()
            let nat = try NAT(to: address)
            let client = try await client(stack, to: nat.address, own: own)
            #expect(try await client.echo(5))
            for _ in 0..<5 {
                let outside = try await nat.move()
                #expect(try await client.echo(20, details: daemon.program.errors))
                try await daemon.logged("\(outside)")
            }
            try await client.leave()
            try await daemon.logged(
                "connection closed: closed by the peer", "CONNECTION_ID=", "DATAGRAMS_IN=105", "DATAGRAMS_OUT=105")
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }

        /// The stack itself opens another socket.
        @Test(arguments: PeerProgram.Stack.allCases)
        func `a client that opens another socket goes on`(_ stack: PeerProgram.Stack) async throws {
            let daemon = try await start()
            let client = try await client(stack)
            for _ in 0..<5 {
                #expect(try await client.echo(3, details: daemon.program.errors))
                try await client.perform("move", until: "port ")
            }
            #expect(try await client.echo(3, details: daemon.program.errors))
            try await client.leave()
            try await daemon.logged("connection closed: closed by the peer", "DATAGRAMS_IN=18")
            try await daemon.stop()
        }

        @Test(arguments: PeerProgram.Stack.allCases)
        func `a backend sees one connection, whatever the client's port`(_ stack: PeerProgram.Stack) async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let service = Service.forwarding(
                to: "udp:\(socket.local)", listen: address, identity: identity, more: "connection_id = 10")
            let daemon = try await Daemon.start("workers = 2\n\(service.text)", in: folder)
            let nat = try NAT(to: address)
            let client = try await client(stack, to: nat.address)
            for number in 0..<4 {
                #expect(
                    try await client.exchange("message \(number)", details: daemon.program.errors)
                        == "received 0:message \(number)")
                try await nat.move()
            }
            try await daemon.stop()
            try await backend.stop()
        }

        /// The first client's NAT has given its port up, and another client's NAT takes it. Which of them speaks first
        /// makes no difference.
        @Test(arguments: PeerProgram.Stack.allCases, [false, true])
        func `a port that another client had goes to the one that uses it now`(
            _ stack: PeerProgram.Stack, _ firstSpeaksFirst: Bool
        ) async throws {
            let daemon = try await start()
            let firstNAT = try NAT(to: address)
            let secondNAT = try NAT(to: address)
            let first = try await client(stack, to: firstNAT.address)
            let second = try await client(stack, to: secondNAT.address)
            #expect(try await first.echo(3))
            #expect(try await second.echo(3))
            let port = firstNAT.outside
            try await firstNAT.move()
            try await secondNAT.move(to: port)
            for client in firstSpeaksFirst ? [first, second] : [second, first] {
                #expect(try await client.echo(3, details: daemon.program.errors))
            }
            #expect(try await first.echo(3, details: daemon.program.errors))
            #expect(try await second.echo(3, details: daemon.program.errors))
            #expect(daemon.lines(with: "connection opened").count == 2)
            #expect(daemon.lines(with: "connection closed").isEmpty)
            try await daemon.stop()
        }

        /// A new client gets the port; it does a handshake there, and the one before it comes from elsewhere.
        @Test func `a port that a moved client had is a new client's`() async throws {
            let daemon = try await start()
            let firstNAT = try NAT(to: address)
            let first = try await client(.mbedTLS, to: firstNAT.address)
            #expect(try await first.echo(3))
            let port = firstNAT.outside
            try await firstNAT.move()
            let secondNAT = try await eventualValue("the port is free") { try? NAT(to: address, from: port) }
            let second = try await client(.wolfSSL, to: secondNAT.address)
            #expect(try await second.echo(3, details: daemon.program.errors))
            #expect(try await first.echo(3, details: daemon.program.errors))
            #expect(try await second.echo(3, details: daemon.program.errors))
            try await daemon.stop()
        }

        @Test(arguments: PeerProgram.Stack.allCases)
        func `a parked client is found at another port`(_ stack: PeerProgram.Stack) async throws {
            let daemon = try await start("park_after = \"1s\"")
            // Then each worker has closed what it got its configuration with.
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            let sockets = daemon.openSockets
            let nat = try NAT(to: address)
            let client = try await client(stack, to: nat.address)
            for _ in 0..<2 {
                #expect(try await client.echo(3, details: daemon.program.errors))
                try await daemon.parked(sockets: sockets)
                try await nat.move()
            }
            #expect(try await client.echo(3, details: daemon.program.errors))
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }

        @Test func `clients are found at other ports after the death of a worker and with fewer workers`() async throws
        {
            let daemon = try await start()
            var pairs: [(NAT, PeerProgram)] = []
            for stack in PeerProgram.Stack.allCases {
                let nat = try NAT(to: address)
                pairs.append((nat, try await client(stack, to: nat.address)))
            }
            try await daemon.replaceWorker(0)
            try await daemon.replaceWorker(1)
            for (nat, client) in pairs {
                try await nat.move()
                #expect(try await client.echo(3, details: daemon.program.errors))
            }
            let text = folder.read("dtlsd.toml").replacing("workers = 2", with: "workers = 1")
            try daemon.reload(text)
            try await eventually("one worker has all", details: daemon.program.errors) { daemon.workers.count == 1 }
            for (nat, client) in pairs {
                try await nat.move()
                #expect(try await client.echo(3, details: daemon.program.errors))
            }
            #expect(daemon.lines(with: "connection opened").count == pairs.count)
            try await daemon.stop()
        }

        /// Forged ones, and the client's own once more, from somebody else's address.
        @Test func `forged and replayed records move nothing`() async throws {
            let daemon = try await start()
            let nat = try NAT(to: address)
            let client = try await client(.mbedTLS, to: nat.address)
            #expect(try await client.echo(20))
            let stranger = try DatagramSocket.onOwnLoopback()
            let replayed = nat.toServer.filter { $0.first == 25 }
            #expect(replayed.count >= 20)
            for bytes in replayed {
                nat.send(bytes, from: stranger)
                // A number ahead of all, and the tag of another record.
                var forged = bytes
                forged[7] = 1
                nat.send(forged, from: stranger)
            }
            #expect(try await client.echo(20, details: daemon.program.errors))
            #expect(stranger.receive() == nil)
            #expect(!daemon.logs("\(stranger.local)"))
            try await daemon.stop()
        }

        /// The limits of forged records are for addresses that clients move to. Where one is already, anybody may forge its
        /// address, and its network is not charged for that.
        @Test func `records that are forged with a parked client's address do not keep it from moving`() async throws {
            let daemon = try await start("park_after = \"1s\"", workers: 1)
            // Then the worker has closed what it got its configuration with.
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            let sockets = daemon.openSockets
            let nat = try NAT(to: address)
            let client = try await client(.mbedTLS, to: nat.address)
            #expect(try await client.echo(3))
            try await daemon.parked(sockets: sockets)
            var forged = try #require(nat.toServer.last { $0.first == 25 })
            for number in 0..<3_000 {
                (forged[8], forged[9]) = (UInt8(1 + number >> 8), UInt8(truncatingIfNeeded: number))
                nat.forge(forged)
                // A small receive buffer has room for what comes within a moment.
                if number % 100 == 0 { try await Task.sleep(for: .milliseconds(5)) }
            }
            #expect(daemon.openSockets == sockets)
            try await nat.move()
            #expect(try await client.echo(3, details: daemon.program.errors))
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }

        /// The worker finds what the main process has passed on to it before it looks at the connection's socket, where the
        /// record itself is.
        @Test func `a copy of a record that the worker reads before the record itself moves nothing`() async throws {
            let daemon = try await start()
            let nat = try NAT(to: address)
            let client = try await client(.mbedTLS, to: nat.address)
            #expect(try await client.echo(3))
            let stranger = try DatagramSocket.onOwnLoopback()
            let before = nat.toServer
            let known = try #require(before.last { $0.first == 25 })
            for worker in daemon.workers { kill(worker, SIGSTOP) }
            defer { for worker in daemon.workers { kill(worker, SIGCONT) } }
            // The channel has something to read before the socket has. Were the main process slower than the pause, the test
            // would show less, and not fail.
            nat.send(known, from: stranger)
            try await Task.sleep(for: .milliseconds(100))
            async let echoed = client.echo(1)
            try await eventually("the client has sent a message") { nat.toServer.count > before.count }
            nat.send(try #require(nat.toServer.last), from: stranger)
            try await Task.sleep(for: .milliseconds(100))
            for worker in daemon.workers { kill(worker, SIGCONT) }
            #expect(try await echoed)
            #expect(try await client.echo(3, details: daemon.program.errors))
            #expect(stranger.receive() == nil)
            #expect(!daemon.logs("\(stranger.local)"))
            try await daemon.stop()
        }

        /// A client with two ways, such as Wi-Fi and mobile, that uses them in turn.
        @Test func `old and new address may alternate`() async throws {
            let daemon = try await start()
            let nat = try NAT(to: address)
            let client = try await client(.wolfSSL, to: nat.address)
            let home = nat.outside
            for _ in 0..<3 {
                #expect(try await client.echo(2, details: daemon.program.errors))
                try await nat.move()
                #expect(try await client.echo(2, details: daemon.program.errors))
                try await nat.move(to: home)
            }
            #expect(try await client.echo(2, details: daemon.program.errors))
            #expect(daemon.lines(with: "connection opened").count == 1)
            try await daemon.stop()
        }
    }
}
