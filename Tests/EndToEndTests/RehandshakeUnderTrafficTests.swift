import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndClientMode {
    /// A client begins anew (RFC 6347, section 4.2.8) while its lost connection's backend talks on. GnuTLS waits for 50
    /// ms after each datagram that it cannot read.
    @Suite struct RehandshakeUnderTrafficTests {
        /// Says ten things to whoever has spoken to it, every 20 milliseconds.
        private final class Talker: Sendable {
            let address: SocketAddress
            private let isStopped = Atomic<Bool>(false)

            init() throws {
                let socket = try DatagramSocket.onOwnLoopback()
                address = socket.local
                Thread.detachNewThread { [self] in
                    var listeners: Set<DatagramSocket.Sender> = []
                    while !isStopped.load(ordering: .relaxed) {
                        if let (_, sender) = socket.receive() { listeners.insert(sender) }
                        for listener in listeners {
                            for _ in 0..<10 { socket.send(Array("tick\n".utf8), to: listener) }
                        }
                    }
                }
            }

            func stop() { isStopped.store(true, ordering: .relaxed) }
        }

        private struct Seen: Sendable {
            let time: ContinuousClock.Instant
            let direction: Relay.Direction
            let type: UInt8
            let message: UInt8?
        }

        private func isServerHello(_ seen: Seen) -> Bool {
            seen.direction == .toClient && seen.type == 22 && seen.message == 2
        }

        /// The server's last flight: with NewSessionTicket in front, or without.
        private func isEnd(_ seen: Seen) -> Bool {
            seen.direction == .toClient && (seen.type == 20 || seen.type == 22 && seen.message == 4)
        }

        @Test func `a lost connection gets no answers while its client begins a new handshake`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let talker = try Talker()
            defer { talker.stop() }
            let service = Service.forwarding(to: "udp:\(talker.address)", listen: address, identity: identity)
            let daemon = try await Daemon.start("workers = 1\n" + service.text, in: folder)
            let history = Mutex<[Seen]>([])
            let relay = try Relay(to: address) { direction, _, bytes in
                let message = bytes.count > 13 && bytes[4] == 0 ? bytes[13] : nil
                let seen = Seen(time: .now, direction: direction, type: bytes.first ?? 0, message: message)
                history.withLock { $0.append(seen) }
                return [Relay.Passed(direction: direction, bytes: bytes)]
            }
            /// What the relay has seen of one client's handshake, from its first hello to the server's last flight.
            func handshake() async throws -> [Seen] {
                let start = history.withLock { $0.count }
                let client = try Program(
                    [
                        "gnutls-cli", "--udp", "--insecure", "--port", "\(relay.address.port)", relay.address.host,
                    ], in: folder)
                client.send("talk to me\n")
                try await eventually("it is talked to", details: client.output + daemon.program.errors) {
                    client.output.contains("tick")
                }
                // Without a word.
                client.signal(SIGKILL)
                _ = try await client.ended()
                let seen = history.withLock { $0[start...] }.drop { $0.direction == .toClient }
                let end = try #require(seen.firstIndex(where: isEnd))
                return Array(seen[...end])
            }
            _ = try await handshake()
            // The silence is for a second at most: where a busy machine takes as long, the client begins anew once
            // more.
            var quick: [Seen]?
            var rounds = 1
            while quick == nil, rounds <= 10 {
                let seen = try await handshake()
                rounds += 1
                #expect(daemon.lines(with: "connection opened").count == rounds)
                if let first = seen.first, let last = seen.last, last.time - first.time < .milliseconds(900) {
                    quick = seen
                }
            }
            let seen = try #require(quick, "no handshake takes less than a second")
            let start = try #require(seen.firstIndex(where: isServerHello))
            #expect(seen[start...].count { $0.type == 23 && $0.direction == .toClient } == 0)
            try await daemon.stop()
        }
    }
}
