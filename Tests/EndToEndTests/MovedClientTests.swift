import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// What handlers and logs make of clients whose address changes. The client is dtlsd itself, behind a NAT.
    @Suite struct MovedClientTests {
        let fixture: ClientFixture

        init() async throws { fixture = try await ClientFixture() }

        private func tunnel(to server: SocketAddress, _ more: String = "") -> String {
            Client(
                listen: fixture.front, connect: server, trust: fixture.identity.certificate,
                more: "server_name = \"localhost\"\nconnection_id = 8\n\(more)"
            ).text
        }

        @Test func `a backend gets the new address in its header, over the same socket`() async throws {
            let backend = try DatagramSocket.onOwnLoopback()
            let service = Service.forwarding(
                to: "udp:\(backend.local)", listen: fixture.back, identity: fixture.identity,
                more: "connection_id = 16")
            let server = try await fixture.serverDaemon(service.text + "proxy_protocol = true\n")
            let nat = try NAT(to: fixture.back)
            let daemon = try await Daemon.start(tunnel(to: nat.address), in: fixture.folder)
            let sender = try DatagramSocket.onOwnLoopback()

            var senders: Set<DatagramSocket.Sender> = []
            var ports: [Int] = []
            // The header changes when the new address is confirmed, which takes a round trip.
            for number in 0..<3 {
                let outside = Int(nat.outside.port)
                try await eventually("the header has port \(outside)", details: server.program.errors) {
                    sender.send(Array("message \(number)".utf8), to: fixture.front)
                    guard let (bytes, from) = backend.receive(), bytes.count > 28 else { return false }
                    senders.insert(from)
                    // Section 2.2 of the protocol's text: the source port stands behind the two addresses.
                    ports.append(Int(bytes[24]) << 8 | Int(bytes[25]))
                    return ports.last == outside
                }
                if number < 2 { try await nat.move() }
            }
            #expect(senders.count == 1)
            #expect(Set(ports).count == 3)
            try await server.logged("the client's address has changed", "FORMER_PEER=", "CONNECTION_ID=", count: 2)
            #expect(server.lines(with: "connection opened").count == 1)
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a program goes on when its client's address changes`() async throws {
            let service = Service(
                listen: [fixture.back], identity: fixture.identity, handler: "exec",
                more: """
                    connection_id = 12
                    [service.echo.exec]
                    command = ["/bin/sh", "-c", "echo program $$; exec cat"]
                    """)
            let server = try await fixture.serverDaemon(service.text)
            let nat = try NAT(to: fixture.back)
            let daemon = try await Daemon.start(tunnel(to: nat.address), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            sender.send("first")
            let greeting = try await eventualValue("the program greets", details: server.program.errors) {
                sender.receive().flatMap { $0.hasPrefix("program ") ? $0 : nil }
            }
            let program = try #require(Int32(greeting.dropFirst(8).filter(\.isNumber)))
            for number in 0..<3 {
                try await nat.move()
                try await sender.exchange("message \(number)", details: server.program.errors)
            }
            #expect(ProcessTable.isRunning(program))
            #expect(server.lines(with: "connection opened").count == 1)
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a parked client is challenged at its new address, and answered there`() async throws {
            let service = Service(
                listen: [fixture.back], identity: fixture.identity, more: "connection_id = 16\npark_after = \"1s\"")
            let server = try await fixture.serverDaemon(service.text)
            let sockets = server.openSockets
            let nat = try NAT(to: fixture.back)
            let daemon = try await Daemon.start(tunnel(to: nat.address), in: fixture.folder)
            let sender = try PlainSender(to: fixture.front)
            try await sender.exchange("before", details: server.program.errors)
            for number in 0..<2 {
                try await server.parked(sockets: sockets)
                let outside = try await nat.move()
                try await sender.exchange("after \(number)", details: server.program.errors)
                try await server.logged("the client's address has changed", "PEER=\(outside)")
            }
            #expect(server.lines(with: "connection opened").count == 1)
            try await daemon.stop()
            try await server.stop()
        }
    }
}
