import Foundation
import LinuxSystem
import Testing

/// Text of a `[client.NAME]` table.
struct Client {
    var name = "out"
    var listen: SocketAddress
    var connect: SocketAddress
    /// A PEM file; `nil`: no `ca`.
    var trust: String?
    /// More keys of the table, and sub-tables, as they are written in the file.
    var more = ""

    var text: String {
        """
        [client.\(name)]
        listen = "\(listen)"
        connect = "\(connect)"
        \(trust.map { "ca = \"\($0)\"" } ?? "")
        \(more)

        """
    }
}

extension EndToEnd {
    /// dtlsd as a DTLS client: plain UDP in, DTLS out.
    @Suite struct ClientModeTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let identity: Identity
        /// Where plain datagrams come in.
        let front: SocketAddress
        /// Where the server is.
        let back: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            identity = try await certificates.selfSigned("server")
            front = try Endpoint.freeOnOwnLoopback()
            back = try Endpoint.freeOnOwnLoopback()
        }

        private func client(more: String = "server_name = \"localhost\"", workers: Int = 1) -> String {
            "workers = \(workers)\n"
                + Client(listen: front, connect: back, trust: identity.certificate, more: more).text
        }

        /// A second dtlsd, as the server.
        private func serverDaemon(_ text: String? = nil) async throws -> Daemon {
            try await Daemon.start(
                text ?? Service(listen: [back], identity: identity).text, in: try TestFolder())
        }

        @Test func datagramsGoThroughOpenSSLsServerBothWays() async throws {
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
            // Alert, warning, close_notify.
            try await eventually("the server is told of the end", details: server.messages) {
                server.messages.contains("01 00")
            }
        }

        @Test func datagramsGoThroughGnuTLSsServerBothWays() async throws {
            // It listens on all addresses, and answers from the one that the kernel likes best.
            let address = try Endpoint.free(on: "127.0.0.1")
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
        func twoDaemonsAreATunnelThatKeepsSendersApart(_ workers: Int) async throws {
            let socket = try DatagramSocket(at: .freeOnOwnLoopback())
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

        /// Everybody sends at once, before any of the sockets is there: all of it arrives, from each over one connection.
        @Test func manyNewSendersAtOnceLoseNothing() async throws {
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

        @Test func aServerOfAnotherAuthorityIsRefused() async throws {
            let other = try await certificates.selfSigned("other")
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

        @Test func aServerOfAnotherNameIsRefused() async throws {
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
        @Test func anAddressIsVerifiedToo() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(more: ""), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("for \(back.host) alone")
            let lines = try await daemon.logged(" error ", "the server \(back) cannot be verified", "\"\(back.host)\"")
            #expect(lines.first?.contains("IP address mismatch") == true, "\(lines)")
            try await daemon.stop()
            try await server.stop()
        }

        @Test func withoutVerificationItWarnsAndConnects() async throws {
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

        @Test func aClientCertificateOpensTheDoor() async throws {
            let own = try await certificates.issued("sensor-7", by: identity)
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
        @Test func aKeyInCommonOpensTheDoor() async throws {
            let key = "00112233445566778899aabbccddeeff"
            try folder.write("sensor-7:\(key)\n", to: "one.psk")
            let text = Client(listen: front, connect: back, more: "psk.file = \"one.psk\"\nhandshake_timeout = 2").text
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

        // MARK: When the server is not there

        /// What comes before the server does waits, up to 64 datagrams, and what is above that is dropped.
        @Test func datagramsWaitForTheServer() async throws {
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("0")
            // Only now, so that the listener's own limit of datagrams in a hand-over does not matter.
            try await daemon.logged(" warning ", "no connection to the server \(back)", "nothing listens there")
            for number in 1..<80 { sender.send("\(number)") }
            try await daemon.logged("datagrams are dropped", "64 wait for it already")
            let socket = try DatagramSocket(at: .freeOnOwnLoopback())
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

        @Test func pausesBetweenTriesGrow() async throws {
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
        @Test func aServerThatIsKilledAndStartedAgainIsFoundAgain() async throws {
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

        /// A server that says goodbye is asked again as soon as there is something to send.
        @Test func aServerThatIsRestartedInOrderLosesNothing() async throws {
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

        // MARK: Sessions

        @Test(arguments: [("", "yes"), ("resumption = false", "no")])
        func theNextConnectionResumesTheSession(_ key: String, _ resumed: String) async throws {
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
        @Test func aLostSessionIsNoObstacle() async throws {
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

        @Test func anIdleSenderIsForgottenAndComesBack() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(
                client(more: "server_name = \"localhost\"\nidle_timeout = 2"), in: folder)
            let worker = try #require(daemon.workers.first)
            let sender = try PlainSender(to: front)
            let before = ProcessTable.openDescriptors(of: worker)
            try await sender.exchange("one", details: daemon.program.errors)
            #expect(ProcessTable.openDescriptors(of: worker) == before + 2)
            try await daemon.logged("connection to the server closed: idle")
            try await server.logged("connection closed: closed by the peer")
            try await eventually("its sockets are closed") { ProcessTable.openDescriptors(of: worker) == before }
            try await sender.exchange("two", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }

        /// On a wildcard address, the answer comes from the address that the sender used.
        @Test func answersComeFromTheAddressThatWasUsed() async throws {
            let server = try await serverDaemon()
            let wildcard = try #require(Endpoint("0.0.0.0:\(front.port)"))
            let text = Client(
                listen: wildcard, connect: back, trust: identity.certificate, more: "server_name = \"localhost\"")
            let daemon = try await Daemon.start(text.text, in: folder)
            for host in ["127.0.0.1", SocketAddress.ownLoopback] {
                let used = try #require(Endpoint(host: host, port: front.port))
                try await PlainSender(to: used).exchange("to \(host)", details: daemon.program.errors)
            }
            try await daemon.stop()
            try await server.stop()
        }

        @Test func whatNoRecordHasRoomForIsReported() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            sender.send([UInt8](repeating: 0, count: 16_385))
            sender.send([])
            try await sender.exchange("after", details: daemon.program.errors)
            try await daemon.logged(" warning ", "a datagram of 16385 bytes was dropped", "PEER=\(sender.address)")
            try await daemon.stop()
            #expect(daemon.logs("connection to the server closed", "DATAGRAMS_UNSUITED=2", "DATAGRAMS_OUT=2"))
            try await server.stop()
        }

        @Test func aDeadWorkersSendersAreServedByTheNext() async throws {
            let server = try await serverDaemon()
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)
            kill(try #require(daemon.workers.first), SIGKILL)
            try await daemon.logged("worker 0", "killed")
            try await sender.exchangeWithLosses("after", details: daemon.program.errors)
            try await daemon.stop()
            try await server.stop()
        }

        @Test func aReloadConcernsNewConnections() async throws {
            let socket = try DatagramSocket(at: .freeOnOwnLoopback())
            let backend = Backend(on: [socket]) { [Array("new:".utf8) + $0.bytes] }
            let server = try await serverDaemon()
            let other = try Endpoint.freeOnOwnLoopback()
            let otherServer = try await serverDaemon(
                Service.forwarding(to: "udp:\(socket.local)", listen: other, identity: identity).text)
            let daemon = try await Daemon.start(client(), in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("before", details: daemon.program.errors)

            let moved = try Endpoint.freeOnOwnLoopback()
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

        @Test func aBadReloadChangesNothing() async throws {
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
