import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// A client's connections come and go: servers that are away or have forgotten, sessions, reloads.
    @Suite struct ClientReconnectionTests {
        let fixture: ClientFixture

        init() async throws { fixture = try await ClientFixture() }

        private var folder: TestFolder { fixture.folder }
        private var identity: Identity { fixture.identity }
        private var front: SocketAddress { fixture.front }
        private var back: SocketAddress { fixture.back }

        private func client(more: String = "server_name = \"localhost\"", workers: Int = 1) -> String {
            fixture.client(more: more, workers: workers)
        }

        private func serverDaemon(_ text: String? = nil) async throws -> Daemon { try await fixture.serverDaemon(text) }

        /// What comes before the server does waits, up to 64 datagrams, and what is above that is dropped.
        @Test func `datagrams wait for the server`() async throws {
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("0")
            // Only now, so that the listener's own limit of datagrams in a hand-over does not matter.
            try await daemon.logged(" warning ", "no connection to the server \(back)", "nothing listens there")
            for number in 1..<80 { sender.send("\(number)") }
            try await daemon.logged("datagrams are dropped", "64 wait for it already")
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let server = try await serverDaemon(
                Service.forwarding(to: "udp:\(socket.local)", listen: back, identity: identity).text)
            try await eventually("what waited arrives", details: daemon.program.errors) {
                backend.received.count >= 64
            }
            #expect(backend.received.map(\.text) == (0..<64).map(String.init))
            try await sender.exchange("now", answer: "0:now", details: daemon.program.errors)
            try await daemon.stop()
            #expect(daemon.logs("connection to the server closed", "DATAGRAMS_UNCONNECTED=16"))
            try await server.stop()
            try await backend.stop()
        }

        @Test func `the pauses between attempts grow`() async throws {
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("is anybody there?")
            let lines = try await daemon.logged("no connection to the server \(back)", count: 4)
            let pauses = lines.compactMap { $0.firstMatch(of: /next try is in (\d+) ms/).flatMap { Int($0.output.1) } }
            #expect(pauses.count >= 4)
            for (pause, expected) in zip(pauses, [500, 1_000, 2_000, 4_000]) {
                #expect((expected * 8 / 10...expected * 12 / 10).contains(pause), "\(pauses)")
            }
            try await daemon.stop()
        }

        /// A server that dies without a word is missed as soon as its port refuses, and found again when it is back.
        @Test func `a server that is killed and started again is reached again`() async throws {
            let first = try await SecureServer(at: back, as: identity, in: folder)
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("before\n")
            try await first.hears("before\n")
            first.program.signal(SIGKILL)
            _ = try await first.program.ended()
            try await eventually("the client misses it", details: daemon.program.errors) {
                sender.send("into the void\n")
                return daemon.logs("connection to the server closed: nothing listens there")
            }
            let second = try await SecureServer(at: back, as: identity, in: folder)
            try await eventually("the second server hears", details: daemon.program.errors + second.program.errors) {
                sender.send("after\n")
                return second.output.contains("after\n")
            }
            #expect(daemon.lines(with: "connection to the server opened").count == 2)
            try await daemon.stop()
        }

        /// One that is back before anybody has missed it drops what comes in silence: no refusal, no alert.
        @Test func `a server that has lost the connection without a word gets a new handshake`() async throws {
            let first = try await SecureServer(at: back, as: identity, in: folder)
            let daemon = try await Daemon.start(
                client(more: "server_name = \"localhost\"\nanswer_timeout = 1"), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("before\n")
            try await first.hears("before\n")
            first.program.signal(SIGKILL)
            _ = try await first.program.ended()
            let second = try await serverDaemon()
            try await sender.exchangeWithLosses("after", details: daemon.program.errors)
            #expect(daemon.logs("connection to the server closed: the server has sent nothing for 1 s"))
            try await daemon.stop()
            try await second.stop()
        }

        /// One that never answers and is alive loses nothing over it.
        @Test func `one-way traffic arrives completely`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { _ in [] }
            let server = try await serverDaemon(
                Service.forwarding(to: "udp:\(socket.local)", listen: back, identity: identity).text)
            let daemon = try await Daemon.start(
                client(more: "server_name = \"localhost\"\nanswer_timeout = 1"), in: folder)
            let sender = try PlainSender(to: front)
            var sent = 0
            try await eventually("the connection is made anew twice", details: daemon.program.errors) {
                // No more than can wait for a connection.
                if sent - backend.received.count <= 32 {
                    sender.send("\(sent)")
                    sent += 1
                }
                return daemon.lines(with: "connection to the server opened").count >= 3
            }
            try await eventually("all arrive", details: "\(backend.received.count) of \(sent) are there") {
                backend.received.count == sent
            }
            #expect(Set(backend.received.map(\.text)) == Set((0..<sent).map(String.init)))
            #expect(daemon.lines(with: "connection to the server opened", "RESUMED=yes").count >= 2)
            try await daemon.stop()
            try await server.stop()
            try await backend.stop()
        }

        /// A server that says goodbye is asked again as soon as there is something to send.
        @Test func `a server that is restarted cleanly loses nothing`() async throws {
            let first = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            try await first.stop()
            try await daemon.logged("connection to the server closed: closed by the peer")
            let second = try await serverDaemon()
            try await sender.exchange("after", details: daemon.program.errors)
            try await daemon.stop()
            try await second.stop()
        }

        /// Nobody who still sends to it makes a connection that the configuration knows nothing of.
        @Test func `an idle tunnel ends when its table is removed`() async throws {
            let server = try await serverDaemon()
            let service = Service(listen: [try SocketAddress.freeOnOwnLoopback()], identity: identity).text
            let daemon = try await Daemon.start(client() + service, in: folder)
            let worker = try #require(daemon.workers.first)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            try await server.stop()
            try await daemon.logged("connection to the server closed: closed by the peer")
            let before = ProcessTable.openSockets(of: worker)
            try daemon.reload("workers = 1\n" + service)
            try await daemon.logged("reloaded")
            try await eventually("the sender's socket is closed", details: daemon.program.errors) {
                ProcessTable.openSockets(of: worker) == before - 1
            }
            try await daemon.stop()
        }

        // MARK: Sessions

        @Test(arguments: [("", "yes"), ("resumption = false", "no")])
        func `the next connection resumes the session`(_ key: String, _ resumed: String) async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(more: "server_name = \"localhost\"\n\(key)"), in: folder)
            for number in 0..<2 {
                try await PlainSender(to: front).exchange("\(number)", details: daemon.program.errors)
            }
            let lines = try await daemon.logged("connection to the server opened", count: 2)
            #expect(lines[0].contains("RESUMED=no") && lines[1].contains("RESUMED=\(resumed)"), "\(lines)")
            #expect(server.lines(with: "connection opened", "RESUMED=\(resumed)").count >= 1)
            try await daemon.stop()
            try await server.stop()
        }

        /// A session that the server does not know any more costs a full handshake, not the connection.
        @Test func `a session that the server has lost does not prevent a connection`() async throws {
            let first = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            try await PlainSender(to: front).exchange("before", details: daemon.program.errors)
            try await first.stop()
            let second = try await serverDaemon()
            try await PlainSender(to: front).exchange("after", details: daemon.program.errors)
            #expect(daemon.lines(with: "connection to the server opened", "RESUMED=no").count == 2)
            try await daemon.stop()
            try await second.stop()
        }

        // MARK: Its life

        @Test func `the tunnel of an idle sender ends, and its next datagram makes another`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(
                client(more: "server_name = \"localhost\"\nidle_timeout = 2"), in: folder)
            let worker = try #require(daemon.workers.first)
            let sender = try PlainSender(to: front)
            let before = ProcessTable.openSockets(of: worker)
            try await sender.exchange("one", details: daemon.program.errors)
            #expect(ProcessTable.openSockets(of: worker) == before + 2)
            try await daemon.logged("connection to the server closed: idle")
            try await server.logged("connection closed: closed by the peer")
            try await eventually("its sockets are closed") { ProcessTable.openSockets(of: worker) == before }
            try await sender.exchange("two", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }

        /// What has waited in vain is told of, and a connection that never opened is not told to be closed.
        @Test func `the tunnel of an idle sender ends also without a server`() async throws {
            let silent = try DatagramSocket(at: back)
            let daemon = try await Daemon.start(
                client(more: "server_name = \"localhost\"\nidle_timeout = 2"), in: folder)
            let sender = try PlainSender(to: front)
            for number in 0..<3 { sender.send("\(number)") }
            let lines = try await daemon.logged("3 datagrams that waited", "\(silent.local)", "dropped: idle")
            #expect(lines.first?.contains("DATAGRAMS_UNCONNECTED=3") == true, "\(lines)")
            try await daemon.stop()
            #expect(!daemon.logs("connection to the server closed"))
        }

        /// On a wildcard address, the answer comes from the address that the sender used.
        @Test func `answers come from the address that was used`() async throws {
            let server = try await serverDaemon()
            let wildcard = try #require(SocketAddress("0.0.0.0:\(front.port)"))
            let text = Client(
                listen: wildcard, connect: back, trust: identity.certificate, more: "server_name = \"localhost\"")
            let daemon = try await Daemon.start(text.text, in: folder)
            for host in ["127.0.0.1", SocketAddress.ownLoopback] {
                let used = try #require(SocketAddress(host: host, port: front.port))
                try await PlainSender(to: used).exchange("to \(host)", details: daemon.program.errors)
            }
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a datagram that no record can carry is reported`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            sender.send([UInt8](repeating: 0, count: 16_385))
            try await sender.exchange("after", details: daemon.program.errors)
            try await daemon.logged(" warning ", "a datagram of 16385 bytes was dropped", "PEER=\(sender.address)")
            try await daemon.stop()
            #expect(daemon.logs("connection to the server closed", "DATAGRAMS_UNSUITED=1", "DATAGRAMS_OUT=2"))
            try await server.stop()
        }

        @Test func `a dead worker's senders are served by its successor`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            kill(try #require(daemon.workers.first), SIGKILL)
            try await daemon.logged("worker 0 started", count: 2)
            try await PlainSender(to: front).exchangeWithLosses("it is ready", details: daemon.program.errors)
            // At once, although its first connection may be only moments old.
            try await sender.exchange("after", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a reload holds for new connections`() async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { [Array("new:".utf8) + $0.bytes] }
            let server = try await serverDaemon()
            let other = try SocketAddress.freeOnOwnLoopback()
            let otherServer = try await serverDaemon(
                Service.forwarding(to: "udp:\(socket.local)", listen: other, identity: identity).text)
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)

            let moved = try SocketAddress.freeOnOwnLoopback()
            let more = "server_name = \"localhost\""
            let tables = [
                Client(listen: front, connect: other, trust: identity.certificate, more: more),
                Client(name: "second", listen: moved, connect: back, trust: identity.certificate, more: more),
            ]
            try daemon.reload("workers = 1\n" + tables.map(\.text).joined())
            try await daemon.logged("reloaded")
            // The connection that is there goes on; a new sender's goes to the new server, and so does this one's next.
            try await sender.exchange("still the old one", details: daemon.program.errors)
            try await PlainSender(to: front).exchange("hi", answer: "new:hi", details: daemon.program.errors)
            try await PlainSender(to: moved).exchange("at another door", details: daemon.program.errors)
            try await server.stop()
            try await daemon.logged("connection to the server closed: closed by the peer")
            try await sender.exchange("moved", answer: "new:moved", details: daemon.program.errors)

            // Without its table, a client takes nothing more.
            try daemon.reload("workers = 1\n" + tables[1].text)
            try await daemon.logged("reloaded", count: 2)
            #expect(!ProcessTable.localPorts(of: daemon.program.pid).contains(front.port))
            try await daemon.stop()
            try await otherServer.stop()
            try await backend.stop()
        }

        @Test func `an invalid reload changes nothing`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            try await PlainSender(to: front).exchange("before", details: daemon.program.errors)
            try daemon.reload(client().replacing("connect", with: "conect"))
            try await daemon.logged(" error ", "client.out.connect: missing")
            try await daemon.logged("reload failed")
            try await PlainSender(to: front).exchange("after", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }
    }
}
