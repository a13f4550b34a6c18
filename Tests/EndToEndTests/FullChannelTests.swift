import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// New clients come while a worker does not read its channel, which becomes full. The worker is stopped by SIGSTOP;
    /// it is not taken for dead before it has left pings of 30 seconds unanswered.
    @Suite struct FullChannelTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        /// A client that is no more than a socket, and goes no further than to the ServerHello.
        private struct HalfClient {
            let socket: DatagramSocket
            let hello = ClientHelloBytes()
            /// What the listener gave it, for its second ClientHello.
            var cookie: [UInt8] = []

            init(to address: SocketAddress) throws { socket = try DatagramSocket(at: address.with(port: 0)) }

            mutating func getCookie(from address: SocketAddress) async throws {
                socket.send(hello.bytes(), to: address)
                let answer = try await eventualValue("a HelloVerifyRequest") { socket.receive()?.bytes }
                guard case .helloVerifyRequest(let cookie) = HelloAnswer(answer) else {
                    throw NeverHappened(description: "the first answer was no HelloVerifyRequest: \(answer)")
                }
                self.cookie = cookie
            }

            func sendHello(to address: SocketAddress) {
                socket.send(hello.bytes(cookie: cookie, number: 1), to: address)
            }

            /// Whether a ServerHello is among what has come since the last call.
            func hasServerHello() -> Bool {
                var found = false
                while let datagram = socket.receiveAtOnce()?.bytes {
                    if HelloAnswer(datagram) == .serverHello { found = true }
                }
                return found
            }
        }

        private func clients(_ count: Int) async throws -> [HalfClient] {
            var clients = try (0..<count).map { _ in try HalfClient(to: address) }
            for index in clients.indices { try await clients[index].getCookie(from: address) }
            return clients
        }

        /// Sends the second hello of each, a few at a time: a listener's queue has room for some hundreds.
        private func sendHellos(of clients: [HalfClient]) async throws {
            for start in stride(from: 0, to: clients.count, by: 50) {
                for client in clients[start..<min(start + 50, clients.count)] { client.sendHello(to: address) }
                try await Task.sleep(for: .milliseconds(20))
            }
        }

        /// Waits until each of these has had a ServerHello.
        private func expectServed(_ clients: [HalfClient], _ daemon: Daemon, repeating: Bool = false) async throws {
            var waiting = clients
            try await eventually(
                "all of \(clients.count) clients are served", details: "\(waiting.count) wait\n\(daemon.program.errors)"
            ) {
                waiting.removeAll { $0.hasServerHello() }
                // A client sends its hello again where nothing comes (RFC 6347, section 4.2.4).
                if repeating { for client in waiting { client.sendHello(to: address) } }
                return waiting.isEmpty
            }
        }

        private func daemon(workers: Int) async throws -> Daemon {
            _ = OpenFileLimit.raise()
            return try await Daemon.start(
                "workers = \(workers)\n" + Service(listen: [address], identity: identity).text, in: folder)
        }

        /// A crowd that has sent its hellos to a daemon whose only worker is stopped.
        private func crowd(before daemon: Daemon, _ worker: pid_t) async throws -> [HalfClient] {
            // A channel takes some 200 KB (net.core.wmem_default), and a handed-over client counts for 1 KB at least.
            let crowd = try await clients(500)
            kill(worker, SIGSTOP)
            try await eventually("the worker is stopped") { ProcessTable.isStopped(worker) }
            try await sendHellos(of: crowd)
            #expect(!crowd.contains { $0.hasServerHello() }, "nobody can have been served")
            return crowd
        }

        @Test func `clients that find the only worker's channel full wait, and are served when it reads`() async throws
        {
            let daemon = try await daemon(workers: 1)
            let resident = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await resident.exchange("before")
            let worker = try #require(daemon.workers.first)
            let crowd = try await crowd(before: daemon, worker)
            kill(worker, SIGCONT)
            try await expectServed(crowd, daemon, repeating: true)
            #expect(!daemon.logs("REASON=busy"), "\(daemon.program.errors)")
            try await resident.exchange("after")
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("new")
            #expect(daemon.workers == [worker], "it was not replaced")
            try await [resident, late].leave()
            try await daemon.stop()
            #expect(daemon.lines(with: "stopped: ").last?.contains("; 0 refused") == true, "\(daemon.program.errors)")
        }

        @Test
        func `clients that wait for two seconds without another hello are refused, and served when they ask again`()
            async throws
        {
            let daemon = try await daemon(workers: 1)
            let worker = try #require(daemon.workers.first)
            let crowd = try await crowd(before: daemon, worker)
            // What is measured is how long they have waited.
            try await Task.sleep(for: .milliseconds(2_100))
            kill(worker, SIGCONT)
            let lines = try await daemon.logged(" warning main: connection refused", "REASON=busy", "SERVICE=echo")
            #expect(lines.contains { $0.contains("PEER=\(address.host):") }, "\(lines)")
            #expect(daemon.lines(with: "REASON=busy").count <= 20, "the log is limited")
            try await expectServed(crowd, daemon, repeating: true)
            let late = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await late.exchange("new")
            #expect(daemon.workers == [worker], "it was not replaced")
            try await late.leave()
            try await daemon.stop()
        }

        @Test func `clients that find one worker's channel full go to the other worker`() async throws {
            let daemon = try await daemon(workers: 2)
            let workers = daemon.workers
            let stopped = try #require(workers.first)
            let crowd = try await clients(800)
            kill(stopped, SIGSTOP)
            try await eventually("the worker is stopped") { ProcessTable.isStopped(stopped) }
            // Each worker gets half of them, since the next client goes to who has the fewest, until the channel of the one
            // that is stopped is full. The other one has served its half before more come, or its channel may be full, too.
            var served: Set<Int> = []
            for end in stride(from: 50, through: crowd.count, by: 50) {
                try await sendHellos(of: Array(crowd[(end - 50)..<end]))
                try await eventually("the other worker serves its half", details: daemon.program.errors) {
                    for index in crowd.indices where crowd[index].hasServerHello() { served.insert(index) }
                    return served.count >= end / 2 - 1
                }
            }
            try await eventually("the other worker serves more than its half", details: daemon.program.errors) {
                for index in crowd.indices where crowd[index].hasServerHello() { served.insert(index) }
                return served.count > 450
            }
            #expect(!daemon.logs("REASON="), "\(daemon.program.errors)")

            kill(stopped, SIGCONT)
            try await expectServed(
                crowd.indices.filter { !served.contains($0) }.map { crowd[$0] }, daemon, repeating: true)
            #expect(daemon.workers == workers)
            try await daemon.stop()
        }
    }
}
