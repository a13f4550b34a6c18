import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// Connections move to other workers, and nobody notices.
    @Suite struct MovedConnectionTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func clients(_ count: Int, _ arguments: [String] = []) throws -> [SecureClient] {
            try (0..<count).map { _ in
                try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
            }
        }

        private func changeWorkers(of daemon: Daemon, from old: Int, to new: Int, _ service: String) async throws {
            let reloads = daemon.lines(with: "reloaded").count
            try daemon.reload("workers = \(new)\n" + service)
            try await daemon.logged("reloaded", count: reloads + 1)
            try await eventually("there are \(new) workers instead of \(old)", details: daemon.program.errors) {
                daemon.workers.count == new
            }
        }

        @Test func `all connections move to the workers that a reload leaves`() async throws {
            let service = Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start("workers = 3\n" + service, in: folder)
            let clients = try clients(9)
            for client in clients { try await client.exchange("with three workers") }
            try await changeWorkers(of: daemon, from: 3, to: 1, service)
            for client in clients { try await client.exchange("with one worker") }
            try await changeWorkers(of: daemon, from: 1, to: 2, service)
            for client in clients { try await client.exchange("with two workers") }
            try await changeWorkers(of: daemon, from: 2, to: 1, service)
            for client in clients { try await client.exchange("with one worker again") }
            #expect(daemon.lines(with: "connection opened").count == 9)
            #expect(!daemon.logs("connection closed"))
            try await clients.leave()
            try await daemon.logged("connection closed: closed by the peer", count: 9)
            try await daemon.stop()
        }

        /// They go on talking while they move, and every word is heard, in order.
        @Test func `connections move under traffic, and lose nothing`() async throws {
            let service = Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start("workers = 2\n" + service, in: folder)
            let clients = try clients(6)
            for client in clients { try await client.exchange("before") }
            var said = ["before"]
            try daemon.reload("workers = 1\n" + service)
            while daemon.workers.count != 1 || said.count < 50 {
                let word = "word \(said.count)"
                said.append(word)
                for client in clients { client.say(word) }
                // This paces the clients, which else would say all of it before the first connection moves.
                try await Task.sleep(for: .milliseconds(10))
                guard said.count < 2_000 else {
                    Issue.record("there are still two workers\n\(daemon.program.errors)")
                    return
                }
            }
            for client in clients { try await client.hears(said[said.count - 1]) }
            let expected = said.map { $0 + "\n" }.joined()
            for client in clients { #expect(client.output == expected) }
            try await daemon.stop()
        }

        @Test func `the backend of connections that move notices nothing`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let service = Service.forwarding(to: "udp:\(socket.local)", listen: address, identity: identity).text
            let daemon = try await Daemon.start("workers = 2\n" + service, in: folder)
            let clients = try clients(4)
            for (number, client) in clients.enumerated() {
                try await client.exchange("before", answer: "\(number):before")
            }
            try await changeWorkers(of: daemon, from: 2, to: 1, service)
            for (number, client) in clients.enumerated().reversed() {
                try await client.exchange("after", answer: "\(number):after")
            }
            #expect(Set(backend.received.map(\.client)) == [0, 1, 2, 3])
            try await daemon.stop()
            try await backend.stop()
        }

        /// A program, and what OpenSSL keeps of records with AES-CBC, are their worker's: it ends with them.
        @Test func `what cannot move stays until it ends`() async throws {
            let service = Service(listen: [address], identity: identity, more: "policy = \"legacy\"").text
            let daemon = try await Daemon.start("workers = 2\n" + service, in: folder)
            // One for each worker.
            let old = try clients(2, ["-cipher", "ECDHE-ECDSA-AES128-SHA"])
            for client in old { try await client.exchange("before") }
            let new = try clients(4)
            for client in new { try await client.exchange("before") }
            try daemon.reload("workers = 1\n" + service)
            try await daemon.logged("reloaded")
            for client in old + new { try await client.exchange("after") }
            #expect(daemon.workers.count == 2)
            #expect(!daemon.logs("connection closed"))
            try await old.leave()
            try await eventually("the second worker ends", details: daemon.program.errors) { daemon.workers.count == 1 }
            for client in new { try await client.exchange("and still here") }
            try await daemon.stop()
        }
    }
}
