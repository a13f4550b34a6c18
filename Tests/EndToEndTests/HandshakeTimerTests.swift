import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// How often, and how large, the flights of a handshake are sent.
    struct HandshakeTimerTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server", kind: .rsa)
        }

        /// A network that loses all datagrams to the client that are larger than this, and does not say so.
        private final class NarrowNetwork: Sendable {
            let relay: Relay
            private let state: State

            private final class State: Sendable { let lost = Mutex(0) }

            init(to server: SocketAddress, largest: Int) throws {
                let state = State()
                self.state = state
                relay = try Relay(to: server) { direction, _, bytes in
                    if direction == .toClient, bytes.count > largest {
                        state.lost.withLock { $0 += 1 }
                        return []
                    }
                    return [Relay.Passed(direction: direction, bytes: bytes)]
                }
            }

            var lost: Int { state.lost.withLock { $0 } }
        }

        @Test func `a handshake finds out what a silent network takes, and records and the next handshake keep to it`()
            async throws
        {
            let listen = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n"
                    + Service(listen: [listen], identity: identity, more: "record_mtu = \"handshake\"").text, in: folder
            )
            let network = try NarrowNetwork(to: listen, largest: 600)
            let client = try SecureClient(to: network.relay.address, trust: identity.certificate, in: folder)
            try await daemon.logged("connection opened")
            // The flight was sent three times as it was.
            #expect(network.lost >= 3)
            try await client.exchange("small")
            client.say(String(repeating: "x", count: 700))
            try await client.leave()
            let closed = try #require(try await daemon.logged("connection closed").first)
            #expect(closed.contains("DATAGRAMS_TOO_LARGE=1"))
            let again = try NarrowNetwork(to: listen, largest: 600)
            let second = try SecureClient(to: again.relay.address, trust: identity.certificate, in: folder)
            try await second.exchange("small")
            #expect(again.lost == 0)
            try await second.leave()
            try await daemon.stop()
        }

        /// A number holds whatever the handshake says, and can be changed.
        @Test func `records are bounded by record_mtu`() async throws {
            let listen = try SocketAddress.freeOnOwnLoopback()
            func service(_ more: String) -> String {
                Service(listen: [listen], identity: identity, more: more).text
            }
            let daemon = try await Daemon.start(service("record_mtu = 600"), in: folder)
            let client = try SecureClient(to: listen, trust: identity.certificate, in: folder)
            // 600 less 28 of IP and UDP, and 37 of a record with AES-GCM; less the line's end.
            let largest = String(repeating: "x", count: 600 - 28 - 37 - 1)
            try await client.exchange(largest)
            client.say(largest + "y")
            try await client.leave()
            try await daemon.logged("connection closed", "DATAGRAMS_TOO_LARGE=1")
            try daemon.reload(service("record_mtu = 601"))
            try await daemon.logged("configuration and certificates reloaded")
            let second = try SecureClient(to: listen, trust: identity.certificate, in: folder)
            try await second.exchange(largest + "y")
            try await second.leave()
            try await daemon.stop()
        }

        private struct Timer {
            var start = ""
            var reload: String?
            var flights: Int
        }

        private static let timers = [
            Timer(flights: 4), Timer(start: "retransmission = 2", flights: 2),
            Timer(reload: "retransmission = 2", flights: 2),
        ]

        /// Nothing arrives at the client but the request for a cookie, and none of what it says again at the server, which
        /// would answer at once.
        @Test(arguments: timers) private func `a flight is sent again as often as its timer says`(_ timer: Timer)
            async throws
        {
            let listen = try SocketAddress.freeOnOwnLoopback()
            func service(_ more: String) -> String {
                Service(listen: [listen], identity: identity, more: "handshake_timeout = 5\n\(more)").text
            }
            let daemon = try await Daemon.start(service(timer.start), in: folder)
            if let changed = timer.reload {
                try daemon.reload(service(changed))
                try await daemon.logged("configuration and certificates reloaded")
            }
            final class Count: Sendable {
                let flights = Mutex(0)
                let hellos = Mutex(0)
            }
            let count = Count()
            let relay = try Relay(to: listen) { direction, _, bytes in
                // RFC 5246, section 7.4: client_hello(1), server_hello(2).
                if direction == .toServer, bytes.count > 18, bytes[0] == 22, bytes[13] == 1, bytes[18] == 1 {
                    let number = count.hellos.withLock { hellos in
                        hellos += 1
                        return hellos
                    }
                    return number == 1 ? [Relay.Passed(direction: direction, bytes: bytes)] : []
                }
                guard direction == .toClient, bytes.count > 13, bytes[0] == 22, bytes[13] != 3 else {
                    return [Relay.Passed(direction: direction, bytes: bytes)]
                }
                if bytes[13] == 2 { count.flights.withLock { $0 += 1 } }
                return []
            }
            let client = try SecureClient(to: relay.address, trust: identity.certificate, in: folder)
            try await daemon.logged("the handshake took too long")
            #expect(count.flights.withLock { $0 } == timer.flights)
            client.program.signal(SIGKILL)
            try await daemon.stop()
        }
    }
}
