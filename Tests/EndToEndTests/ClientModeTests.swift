import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// dtlsd as a DTLS client: plain UDP in, DTLS out, to the right server alone.
    @Suite struct ClientModeTests {
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

        @Test func `datagrams pass through OpenSSL's server both ways`() async throws {
            let server = try await SecureServer(at: back, as: identity, in: folder)
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("one\n")
            sender.send("two\n")
            try await server.hears("one\ntwo\n")
            server.program.send("and back\n")
            try await sender.hears("and back\n", details: daemon.program.errors)
            let opened = try await daemon.logged("connection to the server opened")
            for part in [
                "SERVICE=out", "PEER=\(sender.address)", "REMOTE=\(back)", "VERSION=DTLSv1.2", "RESUMED=no",
                "CIPHER=ECDHE",
            ] {
                #expect(opened.first?.contains(part) == true, "\(part) is not in \(opened)")
            }
            try await daemon.stop()
            try await eventually("the server is told of the end", details: server.messages) {
                Self.hasCloseNotify(server.messages)
            }
        }

        /// Whether s_server has got a warning (1) of close_notify (0), the bytes of which follow the line of an alert
        /// (21).
        private static func hasCloseNotify(_ messages: String) -> Bool {
            let lines = messages.split(separator: "\n")
            return zip(lines, lines.dropFirst()).contains { head, bytes in
                head.hasPrefix("<<<") && (head.contains("content_type=21") || head.contains("Alert"))
                    && bytes.drop { $0 == " " }.hasPrefix("01 00")
            }
        }

        /// The sender's next call fails with EMSGSIZE, where the daemon has CAP_NET_RAW; the log says which it was.
        /// A dual-stack listener sees it inside an IPv6 address.
        @Test(arguments: [false, true])
        func `a sender learns by ICMP that its datagram was too large`(_ isDualStack: Bool) async throws {
            let server = try await SecureServer(at: back, as: identity, in: folder)
            let listen = isDualStack ? try SocketAddress.free(on: "::") : front
            let front = front.with(port: listen.port)
            let text = Client(
                listen: listen, connect: back, trust: identity.certificate,
                more: "server_name = \"localhost\"\nsocket.ipv6_only = \(!isDualStack)")
            let daemon = try await Daemon.start("workers = 1\n" + text.text, in: folder)
            let sender = try UDPSocket.open(front.family)
            try UDPSocket.connect(sender, to: front)
            func send(_ bytes: [UInt8]) throws {
                _ = try bytes.withUnsafeBytes { try UDPSocket.send($0, over: sender) }
            }
            try send(Array("small\n".utf8))
            try await server.hears("small\n")
            try send([UInt8](repeating: 7, count: 16_385))
            try await daemon.logged(
                "a datagram of 16385 bytes was dropped", geteuid() == 0 ? "was told" : "was not told")
            #expect(try UDPSocket.takeError(of: sender) == (geteuid() == 0 ? EMSGSIZE : 0))
            try send(Array("still here\n".utf8))
            try await server.hears("still here\n")
            try await daemon.stop()
            #expect(daemon.lines(with: "DATAGRAMS_UNSUITED=1").count == 1)
        }

        @Test func `datagrams pass through GnuTLS's server both ways`() async throws {
            // It listens on all addresses, and answers from the one that the kernel likes best.
            let address = try SocketAddress.free(on: "127.0.0.1")
            let server = try Program(
                ["gnutls-serv", "--udp", "--echo", "--port", "\(address.port)"]
                    + ["--x509certfile", identity.certificate, "--x509keyfile", identity.privateKey], in: folder)
            try await eventually("gnutls-serv listens", details: server.errors) {
                ProcessTable.localPorts(of: server.pid).contains(address.port)
            }
            let text = Client(listen: front, connect: address, trust: identity.certificate)
            let daemon = try await Daemon.start(text.text, in: folder)
            let sender = try PlainSender(to: front)
            for text in ["one", "two", String(repeating: "three", count: 40)] {
                try await sender.exchange(text, details: daemon.program.errors + server.output + server.errors)
            }
            try await daemon.stop()
        }

        /// Each sender has a connection of its own, and gets its own answers; one datagram stays one datagram.
        @Test(arguments: [1, 2])
        func `two daemons are a tunnel that keeps senders apart`(_ workers: Int) async throws {
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend.numbering(on: socket)
            let server = try await serverDaemon(
                Service.forwarding(to: "udp:\(socket.local)", listen: back, identity: identity).text)
            let daemon = try await Daemon.start(client(workers: workers), in: folder)
            let senders = try (0..<5).map { _ in try PlainSender(to: front) }
            for (number, sender) in senders.enumerated() {
                try await sender.exchange(
                    "I am \(number)", answer: "\(number):I am \(number)", details: daemon.program.errors)
            }
            for (number, sender) in senders.enumerated().reversed() {
                try await sender.exchange("again", answer: "\(number):again", details: daemon.program.errors)
            }
            let lengths = [1, 16_384, 2, 1_200, 1_200, 1_200, 700, 3]
            for length in lengths { senders[0].send([UInt8](repeating: UInt8(ascii: "x"), count: length)) }
            try await eventually("the backend has all of them", details: daemon.program.errors) {
                backend.received.count == 10 + lengths.count
            }
            #expect(backend.received.dropFirst(10).map(\.bytes.count) == lengths)
            #expect(daemon.lines(with: "connection to the server opened").count == 5)
            #expect(server.lines(with: "connection opened", "SNI=localhost").count >= 1)
            try await daemon.stop()
            try await server.logged("connection closed: closed by the peer", count: 5)
            try await server.stop()
            try await backend.stop()
        }

        /// Everybody sends at once, before any of the sockets is there: all of it arrives, from each over one
        /// connection.
        @Test func `many new senders at once lose nothing`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(workers: 2), in: folder)
            let senders = try (0..<60).map { _ in try PlainSender(to: front) }
            for number in 0..<4 {
                for sender in senders { sender.send("\(number)") }
            }
            for sender in senders {
                var heard: Set<String> = []
                try await eventually("all four come back", details: daemon.program.errors) {
                    if let text = sender.receive() { heard.insert(text) }
                    return heard == ["0", "1", "2", "3"]
                }
            }
            // Opened ones are all logged, up to 100 at once.
            #expect(daemon.lines(with: "connection to the server opened").count == senders.count)
            try await daemon.stop()
            try await server.stop()
        }

        // MARK: Who the server is

        @Test func `a server of another authority is refused`() async throws {
            let other = try await fixture.certificates.selfSigned("other")
            let server = try await serverDaemon(Service(listen: [back], identity: other).text)
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("for the right server alone")
            let lines = try await daemon.logged(" error ", "the server \(back) cannot be verified")
            #expect(lines.first?.contains("self-signed certificate") == true, "\(lines)")
            #expect(!daemon.logs("connection to the server opened") && sender.receive() == nil)
            #expect(!server.logs("connection opened"))
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a server of another name is refused`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(more: "server_name = \"example.org\""), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("for example.org alone")
            let lines = try await daemon.logged(" error ", "the server \(back) cannot be verified", "example.org")
            #expect(lines.first?.contains("ostname mismatch") == true, "\(lines)")
            try await daemon.stop()
            try await server.stop()
        }

        /// Without a server_name it is the address, which the certificate must have.
        @Test func `a server's certificate is verified by address too`() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(more: ""), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("for \(back.host) alone")
            let lines = try await daemon.logged(" error ", "the server \(back) cannot be verified", "\"\(back.host)\"")
            #expect(lines.first?.contains("IP address mismatch") == true, "\(lines)")
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a client without verification warns and connects`() async throws {
            let server = try await serverDaemon()
            let text = "workers = 1\n" + Client(listen: front, connect: back, more: "verify = false").text
            let daemon = try await Daemon.start(text, in: folder)
            try await daemon.logged(" warning ", "client.out.verify: false")
            let sender = try PlainSender(to: front)
            try await sender.exchange("hello", details: daemon.program.errors)
            daemon.program.signal(SIGHUP)
            try await daemon.logged(" warning ", "client.out.verify: false", count: 2)
            let check = try Program([Daemon.binary, "--check", "--config", daemon.configurationFile], in: folder)
            #expect(try await check.ended() == .exited(0))
            #expect(check.errors.contains("client.out.verify: false") && check.output.contains("clients: out"))
            try await daemon.stop()
            try await server.stop()
        }

        @Test func `a server that requires a client certificate accepts the one that is configured`() async throws {
            let own = try await fixture.certificates.issued("sensor-7", by: identity)
            let server = try await serverDaemon(
                Service(listen: [back], identity: identity, more: "ca = \"\(identity.certificate)\"").text)
            let bare = try await Daemon.start(client(), in: try TestFolder())
            let sender = try PlainSender(to: front)
            sender.send("let me in")
            try await bare.logged(" warning ", "\(back)")
            try await bare.stop()

            let keys = "certificate = \"\(own.certificate)\"\nprivate_key = \"\(own.privateKey)\""
            let daemon = try await Daemon.start(client(more: "server_name = \"localhost\"\n\(keys)"), in: folder)
            try await sender.exchange("it is me", details: daemon.program.errors)
            try await server.logged("connection opened", "CLIENT=sensor-7")
            try await daemon.stop()
            try await server.stop()
        }

        /// A key in common, with a server of OpenSSL and with dtlsd; one whose key is another's is not let in.
        @Test func `a client and a server with a common pre-shared key connect`() async throws {
            let key = "00112233445566778899aabbccddeeff"
            try folder.write("sensor-7:\(key)\n", to: "one.psk")
            let text = Client(
                listen: front, connect: back, more: "psk.file = \"one.psk\"\nhandshake_timeout = 2\nanswer_timeout = 1"
            ).text
            let daemon = try await Daemon.start(text, in: folder)
            let sender = try PlainSender(to: front)
            let foreign = try await SecureServer(
                at: back, as: nil, in: folder, ["-psk", key, "-psk_identity", "sensor-7", "-nocert"])
            sender.send("to s_server\n")
            try await foreign.hears("to s_server\n")
            foreign.program.signal(SIGKILL)
            _ = try await foreign.program.ended()

            // Records that were made with another key are no records at all: nobody says anything, and time goes by.
            let other = try TestFolder()
            try other.write("sensor-7:\(String(key.reversed()))\n", to: "one.psk")
            let keys = "[service.echo]\nlisten = \"\(back)\"\nhandler = \"echo\"\npsk.file = \"one.psk\""
            let wrong = try await Daemon.start(keys, in: other)
            try await eventually("the wrong key fails", details: daemon.program.errors) {
                sender.send("is it you?")
                return daemon.logs("no connection to the server \(back)", "the handshake took too long")
            }
            #expect(!wrong.logs("connection opened"))
            try await wrong.stop()
            let right = try TestFolder()
            try right.write("sensor-7:\(key)\n", to: "one.psk")
            let server = try await Daemon.start(keys, in: right)
            try await sender.exchangeWithLosses("it is me", details: daemon.program.errors)
            try await server.logged("connection opened", "sensor-7")
            try await daemon.stop()
            try await server.stop()
        }
    }
}
