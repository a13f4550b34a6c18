import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// SIGHUP with changed limits: newcomers and new connections go by them, and who is connected stays so.
    @Suite struct ChangedLimitsTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private func configuration(_ limits: [(place: SocketAddress, keys: String)]) -> String {
            "workers = 1\n"
                + limits.enumerated().map { index, limit in
                    Service(
                        name: "echo\(index)", listen: [limit.place], identity: identity,
                        more: "[service.echo\(index).limits]\n\(limit.keys)"
                    ).text
                }.joined()
        }

        private func client(
            to place: SocketAddress, from host: String = "127.0.0.11", prefix: [String] = []
        ) throws -> SecureClient {
            try SecureClient(
                to: place, trust: identity.certificate, in: folder, ["-bind", "\(host):0"], prefix: prefix)
        }

        /// Says so much on end that a limit of five datagrams, or fifty bytes, a second drops some of it.
        private func sayALot(_ client: SecureClient) { for number in 0..<40 { client.say("line \(number)") } }

        @Test func `changed limits of datagrams and bytes per second hold for new connections`() async throws {
            let keys = ["datagrams_per_second", "bytes_per_second"]
            let places = try keys.map { _ in try SocketAddress.freeOnOwnLoopback() }
            let daemon = try await Daemon.start(configuration(places.map { ($0, "") }), in: folder)
            let old = try places.map { try client(to: $0) }
            for client in old { try await client.exchange("before") }
            try daemon.reload(
                configuration([(places[0], "datagrams_per_second = 5"), (places[1], "bytes_per_second = 50")]))
            try await daemon.logged("reloaded")
            // A connection keeps what it began with: of what it says nothing is dropped.
            for client in old {
                sayALot(client)
                try await client.hears("line 39")
            }
            #expect(!daemon.logs("datagrams are dropped"))
            for (index, key) in keys.enumerated() {
                let new = try client(to: places[index])
                try await eventually("\(key) drops datagrams", details: new.transcript) {
                    sayALot(new)
                    return daemon.logs("datagrams are dropped", "REASON=\(key)", "SERVICE=echo\(index)")
                }
            }
            try await daemon.stop()
        }

        /// A handshake that hangs takes the only place.
        @Test func `handshakes in progress are limited`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(configuration([(place, "")]), in: folder)
            let hanging = try DatagramSocket.onOwnLoopback()
            let hello = ClientHelloBytes()
            guard case .helloVerifyRequest(let cookie) = try await hanging.ask(hello.bytes(), of: place) else {
                Issue.record("no cookie")
                return
            }
            #expect(try await hanging.ask(hello.bytes(cookie: cookie, number: 1), of: place) == .serverHello)
            try await client(to: place).exchange("there is room")
            try daemon.reload(configuration([(place, "handshakes = 1")]))
            try await daemon.logged("reloaded")
            let late = try client(to: place)
            late.say("let me in")
            try await daemon.logged("PEER=127.0.0.11:", "REASON=handshakes ", "SERVICE=echo0")
            #expect(late.output.isEmpty)
            try daemon.reload(configuration([(place, "handshakes = 2")]))
            try await late.hears("let me in")
            try await daemon.stop()
        }

        @Test func `a changed IPv4 prefix length holds for new connections`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            func limits(_ length: Int) -> String {
                configuration([(place, "connections_per_prefix = 1\nipv4_prefix = \(length)")])
            }
            let daemon = try await Daemon.start(limits(32), in: folder)
            let first = try client(to: place, from: "127.0.1.1")
            try await first.exchange("an address of its own")
            try daemon.reload(limits(16))
            try await daemon.logged("reloaded")
            let neighbour = try client(to: place, from: "127.0.2.1")
            neighbour.say("let me in")
            try await daemon.logged("PEER=127.0.2.1:", "REASON=connections_per_prefix ")
            try await client(to: place, from: "127.1.1.1").exchange("another network")
            try await first.exchange("still here")
            try daemon.reload(limits(24))
            try await neighbour.hears("let me in")
            try await daemon.stop()
        }

        /// By default, the addresses of one /64 count together.
        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
        func `a changed IPv6 prefix length holds for new connections`() async throws {
            let place = try #require(SocketAddress(host: "fd00::1", port: 4_433))
            let hosts = ["fd00::11", "fd00::12", "fd00:0:0:1::11"]
            let network = PrivateNetwork.prefix(mtu: 1_500, addresses: (["fd00::1"] + hosts).map { "\($0)/128" })
            let limits = "connections_per_prefix = 1"
            let daemon = try await Daemon.start(configuration([(place, limits)]), in: folder, prefix: network)
            func client(from host: String) throws -> SecureClient {
                try self.client(to: place, from: "[\(host)]", prefix: PrivateNetwork.prefix(of: daemon))
            }
            try await client(from: hosts[2]).exchange("another network")
            let first = try client(from: hosts[0])
            try await first.exchange("the first of its network")
            let neighbour = try client(from: hosts[1])
            neighbour.say("let me in")
            try await daemon.logged("PEER=[fd00::12]:", "REASON=connections_per_prefix ")
            #expect(neighbour.output.isEmpty)
            try daemon.reload(configuration([(place, "\(limits)\nipv6_prefix = 128")]))
            try await neighbour.hears("let me in")
            try await first.exchange("still here")
            try await daemon.stop()
        }
    }
}
