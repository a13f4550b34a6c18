import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// Too many clients, silent clients, strangers that send rubbish.
    @Suite struct LimitTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        /// With 72 descriptors, some of which it needs itself, one worker cannot serve 70 clients. The newcomers wait,
        /// the others notice nothing, and when those leave everyone is served.
        @Test func `new clients wait while there are no descriptors for them`() async throws {
            let limit = 72
            let daemon = try await Daemon.start(
                "workers = 1\n" + Service(listen: [address], identity: identity).text, in: folder,
                descriptorLimit: limit)
            let processes = [daemon.program.pid] + daemon.workers
            let clients = try (0..<70).map { number in
                let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
                client.say("client \(number)")
                return client
            }
            func isServed(_ number: Int) -> Bool { clients[number].hasHeard("client \(number)") }
            try await eventually("there is no room in the worker", details: daemon.program.errors) {
                clients.indices.count(where: isServed) >= limit / 2 && daemon.logs(" warning ")
            }
            let served = clients.indices.filter(isServed)
            #expect(served.count < limit)
            for number in served { try await clients[number].exchange("nothing happened") }
            #expect(([daemon.program.pid] + daemon.workers) == processes)

            try await served.map { clients[$0] }.leave()
            let waiting = clients.indices.filter { !served.contains($0) }
            // There is room for all of them, and their clients ask again sooner or later.
            for number in waiting { try await clients[number].hears("client \(number)") }
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("all is well")
            #expect(([daemon.program.pid] + daemon.workers) == processes)
            try await daemon.stop()
        }

        /// Rubbish costs neither a connection, nor a descriptor, nor a line of log each.
        @Test func `garbage costs neither a connection, nor a descriptor, nor a line of log each`() async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            let descriptors = ([daemon.program.pid] + daemon.workers).map { ProcessTable.openDescriptors(of: $0) }
            let processes = [daemon.program.pid] + daemon.workers
            let lines = daemon.log.count

            let stranger = try DatagramSocket.onOwnLoopback()
            var random = SystemRandomNumberGenerator()
            for round in 0..<20_000 {
                var bytes = (0..<Int.random(in: 0...200)).map { _ in UInt8.random(in: 0...255, using: &random) }
                if round % 2 == 0 {
                    // What looks like a handshake record of DTLS 1.2 gets further in.
                    bytes.insert(contentsOf: [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, UInt8(bytes.count), 1], at: 0)
                }
                stranger.send(bytes, to: address)
            }
            stranger.send([UInt8](repeating: 22, count: 65_000), to: address)

            try await client.exchange("after")
            let newcomer = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await newcomer.exchange("me too")
            try await newcomer.leave()
            try await daemon.logged("connection closed")
            #expect([daemon.program.pid] + daemon.workers == processes)
            #expect(([daemon.program.pid] + daemon.workers).map { ProcessTable.openDescriptors(of: $0) } == descriptors)
            #expect(daemon.log.count - lines < 20, "\(daemon.program.errors)")
            try await daemon.stop()
        }

        enum Rubbish: CaseIterable {
            case empty, cutOff, changed, repeated, random

            func made(from real: [UInt8]) -> [[UInt8]] {
                switch self {
                case .empty: return [[]]
                case .cutOff: return (1..<real.count).map { Array(real.prefix($0)) }
                case .changed:
                    return real.indices.map { position in
                        var changed = real
                        changed[position] ^= 0x55
                        return changed
                    }
                case .repeated: return Array(repeating: real, count: 10)
                case .random: return (1...200).map { (0..<$0).map { _ in UInt8.random(in: 0...255) } }
                }
            }
        }

        /// Rubbish to a connection's own socket, with the client's address: it is not authentic, so it is dropped.
        @Test(arguments: Rubbish.allCases)
        func `garbage on a connection's socket changes nothing`(_ kind: Rubbish) async throws {
            let daemon = try await Daemon.start(Service(listen: [address], identity: identity).text, in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            // The client's last record, and its first, a ClientHello.
            let sent = relay.passed.filter { $0.direction == .toServer }.map(\.bytes)
            var expected = "before\n"
            var step = 0
            for real in [try #require(sent.last), try #require(sent.first)] {
                let rubbish = kind.made(from: real)
                // No more at a time than a socket's buffer holds: the client says each line once.
                for start in stride(from: 0, to: rubbish.count, by: 40) {
                    for datagram in rubbish[start..<min(start + 40, rubbish.count)] { relay.inject(datagram) }
                    step += 1
                    try await client.exchange("after \(step)")
                    expected += "after \(step)\n"
                }
            }
            #expect(client.output == expected)
            try await client.leave()
            try await daemon.stop()
        }

        @Test func `a handshake that stops is ended by its timeout`() async throws {
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "handshake_timeout = 2").text, in: folder)
            let sockets = daemon.workersSockets
            // Both ClientHellos reach the server, and nothing after them.
            let relay = try Relay(to: address) { direction, number in direction == .toClient || number < 2 }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            // A worker had the connection, since workers alone say this.
            try await daemon.logged("handshake failed", " notice ", "WORKER=")
            try await eventually("the connection's socket is closed", details: daemon.program.errors) {
                daemon.workersSockets == sockets
            }
            _ = client
            try await daemon.stop()
        }

        @Test func `a silent client is disconnected`() async throws {
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: "idle_timeout = 1").text, in: folder)
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("and then silence")
            #expect(try await client.program.ended() == .exited(0))
            #expect(client.gotCloseNotify)
            try await daemon.logged("connection closed", "idle")
            try await daemon.stop()
        }
    }
}
