import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What a client may send over its connection: what is beyond that is dropped and counted, and the rest is served.
    @Suite struct TrafficLimitTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func configuration(_ limits: String, all: String = "") -> String {
            Service(listen: [address], identity: identity, more: "[service.echo.limits]\n\(limits)").text
                + "[limits]\n\(all)\n"
        }

        private func client() throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder)
        }

        @Test(arguments: [("largest_datagram = 100", ""), ("largest_datagram = 1000", "largest_datagram = 100")])
        func `datagrams above the limit are dropped and counted`(_ limits: String, _ all: String) async throws {
            let daemon = try await Daemon.start(configuration(limits, all: all), in: folder)
            let client = try client()
            // s_client sends a line as one datagram, its end among the bytes.
            let fits = String(repeating: "a", count: 99)
            let tooLong = String(repeating: "b", count: 100)
            try await client.exchange(fits)
            client.say(tooLong)
            try await daemon.logged("datagrams are dropped", "REASON=largest_datagram", "SERVICE=echo", "PEER=")
            try await client.exchange("short")
            client.say(tooLong)
            try await client.leave()
            #expect(client.output == "\(fits)\nshort\n")
            try await daemon.logged("connection closed", "DATAGRAMS_DROPPED=2", "DATAGRAMS_IN=4")
            try await daemon.stop()
            #expect(daemon.logs("stopped:", "2 datagrams dropped (2 largest_datagram)"))
        }

        /// The more a client sends, the more is dropped; when it has paused, it is served again. Another client has an
        /// allowance of its own.
        @Test(arguments: ["datagrams_per_second = 5", "bytes_per_second = 50"])
        func `messages above the rates are dropped and counted`(_ limit: String) async throws {
            let key = limit.split(separator: " ")[0]
            let daemon = try await Daemon.start(configuration(limit), in: folder)
            let client = try client()
            var said = 0
            try await eventually("datagrams are dropped", details: client.transcript) {
                client.say("line \(said)")
                said += 1
                return daemon.logs("datagrams are dropped", "REASON=\(key)")
            }
            let other = try self.client()
            try await other.exchange("I have said nothing yet")
            // Whatever the rate has left, it comes back.
            try await eventually("the client is served again", details: client.transcript) {
                if client.hasHeard("after all") { return true }
                if said.isMultiple(of: 100) { client.say("after all") }
                said += 1
                return false
            }
            try await other.exchange("nothing happened")
            try await [client, other].leave()
            let line = try await daemon.logged("connection closed", "DATAGRAMS_DROPPED=")[0]
            let dropped = try #require(line.firstMatch(of: /DATAGRAMS_DROPPED=(\d+)/).flatMap { Int($0.output.1) })
            #expect(dropped > 0)
            try await daemon.stop()
            #expect(daemon.logs("stopped:", "\(dropped) \(key)"))
        }

        /// Forged datagrams, which fail authentication, use up nothing of the client's allowance.
        @Test func `forged datagrams do not count in the rates`() async throws {
            let daemon = try await Daemon.start(
                configuration("datagrams_per_second = 3\nbytes_per_second = 200"), in: folder)
            let relay = try Relay(to: address) { _, _ in true }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await client.exchange("before")
            var forged = try #require(relay.passed.last { $0.direction == .toServer }?.bytes)
            #expect(forged.first == 23)
            forged[forged.count - 1] ^= 1
            for _ in 0..<200 { relay.inject(forged) }
            try await client.exchange("after")
            try await client.leave()
            try await daemon.logged("connection closed", "DATAGRAMS_IN=2")
            #expect(!daemon.logs("DATAGRAMS_DROPPED"))
            try await daemon.stop()
        }

        /// A reload changes what new connections may send; one that is there keeps what it began with.
        @Test func `a reload limits new connections`() async throws {
            let daemon = try await Daemon.start(configuration(""), in: folder)
            let old = try client()
            let long = String(repeating: "a", count: 200)
            try await old.exchange(long)
            try daemon.reload(configuration("largest_datagram = 100"))
            try await daemon.logged("reloaded")
            let new = try client()
            new.say(long)
            try await daemon.logged("datagrams are dropped", "REASON=largest_datagram")
            try await new.exchange("short")
            try await old.exchange(long)
            #expect(new.output == "short\n")
            try await daemon.stop()
        }
    }
}
