import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

extension EndToEndCrowds {
    /// More hellos than the daemon can answer.
    @Suite struct FloodTests {
        /// Sends a datagram as often as it can, on a thread of its own, until it is stopped.
        private final class Flood: Sendable {
            private let isOver = Atomic(false)

            init(of datagram: [UInt8], to address: SocketAddress) throws {
                let socket = try DatagramSocket.onOwnLoopback()
                Thread.detachNewThread { [self] in
                    while !isOver.load(ordering: .relaxed) { for _ in 0..<64 { socket.send(datagram, to: address) } }
                }
            }

            func stop() { isOver.store(true, ordering: .relaxed) }
        }

        /// How many datagrams the kernel has dropped in front of the listeners.
        private func drops(_ folder: TestFolder) async throws -> UInt64 {
            let client = try StreamClient(to: folder.file("control"))
            client.send("{\"version\":1,\"command\":\"counters\"}\n")
            let answer = try JSONSerialization.jsonObject(with: Data(try await client.line().utf8))
            let result = try #require((answer as? [String: Any])?["result"] as? [String: Any])
            let listeners = try #require(result["listeners"] as? [[String: Any]])
            return listeners.reduce(0) { sum, listener in
                let counters = listener["counters"] as? [String: Any]
                return sum + ((counters?["listener_queue_drops_total"] as? NSNumber)?.uint64Value ?? 0)
            }
        }

        /// Asks the daemon until something is so.
        private func eventually(_ what: Comment, _ condition: () async throws -> Bool) async throws {
            let deadline = ContinuousClock.now + .seconds(60)
            while try await !condition() {
                try #require(ContinuousClock.now < deadline, what)
                // Only the pause between two questions: nothing relies on its length.
                try await Task.sleep(for: .milliseconds(10))
            }
        }

        @Test func `hellos with cookies are served in a flood of hellos without, and all is served after it`()
            async throws
        {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                "workers = 1\n[control]\npath = \"\(folder.file("control"))\"\n"
                    + Service(listen: [address], identity: identity).text, in: folder)
            let early = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await early.exchange("before the flood")
            var waiting: [(socket: DatagramSocket, second: [UInt8])] = []
            for _ in 0..<20 {
                let (client, hello) = (try DatagramSocket.onOwnLoopback(), ClientHelloBytes())
                guard case .helloVerifyRequest(let cookie) = try await client.ask(hello.bytes(), of: address) else {
                    Issue.record("no HelloVerifyRequest")
                    return
                }
                waiting.append((client, hello.bytes(cookie: cookie, number: 1)))
            }

            let flood = try Flood(of: ClientHelloBytes().bytes(), to: address)
            defer { flood.stop() }
            try await eventually("the gate is closed in part") { try await drops(folder) > 1_000 }
            // The queue was full before the gate had found out. These are sent again until they are served, so it is not
            // any more.
            for client in waiting.prefix(2) {
                #expect(try await client.socket.ask(client.second, of: address) == .serverHello)
            }
            waiting.removeFirst(2)
            // Each of the others is sent once.
            for client in waiting { client.socket.send(client.second, to: address) }
            for client in waiting {
                let answer = try await eventualValue("a hello with a cookie is served") {
                    client.socket.receive().map { HelloAnswer($0.bytes) }
                }
                #expect(answer == .serverHello)
            }
            try await early.exchange("in the flood")
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("who came in the flood")

            flood.stop()
            try await eventually("first hellos are let in again") {
                let before = try await drops(folder)
                let client = try DatagramSocket.onOwnLoopback()
                for _ in 0..<20 {
                    guard case .helloVerifyRequest = try await client.ask(ClientHelloBytes().bytes(), of: address)
                    else {
                        return false
                    }
                }
                return try await drops(folder) == before
            }
            try await [early, late].leave()
            try await daemon.stop()
        }
    }
}
