import Glibc
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// What server and client agree on: versions, cipher suites, application protocols, renegotiation.
    @Suite struct PolicyTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            // With an RSA key: half of the old suites need one.
            identity = try await CertificateMaker(folder: folder).selfSigned("server", kind: .rsa)
            address = try .freeOnOwnLoopback()
        }

        private func start(_ more: String) async throws -> Daemon {
            try await Daemon.start(Service(listen: [address], identity: identity, more: more).text, in: folder)
        }

        private func client(_ arguments: [String]) throws -> SecureClient {
            try SecureClient(to: address, trust: identity.certificate, in: folder, arguments)
        }

        private func expectRefused(_ arguments: [String], _ alert: String) async throws {
            let refused = try client(arguments)
            refused.say("let me in")
            #expect(try await refused.program.ended() != .exited(0))
            #expect(refused.program.errors.contains(alert), "\(refused.transcript)")
            #expect(refused.output.isEmpty)
        }

        // MARK: ALPN (RFC 7301)

        @Test func `the server's first protocol that both know is agreed on`() async throws {
            let daemon = try await start("alpn = [\"coap\", \"two\"]")
            try await client(["-alpn", "other,two,coap"]).exchange("hello")
            try await daemon.logged("connection opened", "ALPN=coap")
            try await client(["-alpn", "two"]).exchange("hello")
            try await daemon.logged("connection opened", "ALPN=two")
            try await client([]).exchange("I offer nothing")
            try await daemon.logged("connection opened", count: 3)
            #expect(daemon.lines(with: "connection opened", "ALPN=").count == 2)
            try await expectRefused(["-alpn", "other"], "no application protocol")
            try await daemon.logged("handshake failed", "no application protocol")
            try await daemon.stop()
        }

        @Test func `GnuTLS agrees on a protocol`() async throws {
            let daemon = try await start("alpn = \"coap\"")
            let client = try Program(
                [
                    "gnutls-cli", "--udp", "--port", "\(address.port)", "--x509cafile", identity.certificate,
                    "--alpn", "other", "--alpn", "coap", "--verify-hostname", "localhost", address.host,
                ], in: folder)
            client.send("hello\n")
            try await eventually("gnutls-cli hears its line", details: client.output + client.errors) {
                client.output.contains("\nhello\n")
            }
            try await daemon.logged("connection opened", "ALPN=coap")
            client.closeInput()
            #expect(try await client.ended() == .exited(0))
            try await daemon.stop()
        }

        @Test func `a service without protocols ignores what clients offer`() async throws {
            let daemon = try await start("")
            try await client(["-alpn", "anything"]).exchange("hello")
            #expect(!daemon.logs("ALPN="))
            try await daemon.stop()
        }

        /// dtlsd as a client: it offers what its configuration has.
        @Test func `a client's protocol is agreed on with its server`() async throws {
            let front = try SocketAddress.freeOnOwnLoopback()
            let server = try await SecureServer(at: address, as: identity, in: folder, ["-alpn", "two,coap"])
            let client = Client(
                listen: front, connect: address, trust: identity.certificate,
                more: "server_name = \"localhost\"\nalpn = [\"coap\", \"other\"]")
            let daemon = try await Daemon.start(client.text, in: folder)
            let sender = try PlainSender(to: front)
            sender.send("hello\n")
            try await server.hears("hello\n")
            try await daemon.logged("connection to the server opened", "ALPN=coap")
            try await daemon.stop()
        }

        // MARK: Versions and cipher suites

        /// s_client's options for what only "legacy" has: a DTLS version, and a cipher list.
        private static let old = [
            ["-dtls1", "-cipher", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0"], ["-dtls1", "-cipher", "AES128-SHA:@SECLEVEL=0"],
            ["-dtls1_2", "-cipher", "AES128-GCM-SHA256"], ["-dtls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
            ["-dtls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"],
        ]

        private func oldClient(_ arguments: [String]) throws -> Program {
            let client = try Program(
                ["openssl", "s_client", "-quiet", "-no_ign_eof", "-nbio", "-connect", "\(address)"]
                    + ["-CAfile", identity.certificate, "-verify_return_error"] + arguments, in: folder)
            client.send("let me in\n")
            return client
        }

        @Test func `the policy modern refuses what the policy legacy serves`() async throws {
            let daemon = try await start("")
            for arguments in Self.old {
                let refused = try oldClient(arguments)
                #expect(try await refused.ended() != .exited(0), "\(arguments)")
                #expect(refused.output.isEmpty)
            }
            try await daemon.logged("handshake failed", count: Self.old.count)
            try daemon.reload(
                Service(listen: [address], identity: identity, more: "policy = \"legacy\"").text)
            try await daemon.logged("reloaded")
            try await daemon.logged("warning", "service.echo.policy", "legacy")
            for arguments in Self.old {
                let client = try oldClient(arguments)
                try await eventually("\(arguments) is served", details: client.errors) {
                    client.output.contains("let me in")
                }
            }
            try await daemon.logged("connection opened", "VERSION=DTLSv1 ", count: 2)
            try await client([]).exchange("the best that both know")
            try await daemon.logged("connection opened", "CIPHER=ECDHE-RSA-AES128-GCM-SHA256")
            try await daemon.stop()
        }

        @Test func `a service's own settings take precedence over the policy`() async throws {
            let daemon = try await start(
                "policy = \"legacy\"\nminimum_version = \"1.2\"\nciphers = \"AES256-GCM-SHA384\"")
            try await client([]).exchange("hello")
            try await daemon.logged("connection opened", "CIPHER=AES256-GCM-SHA384")
            try await expectRefused(["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "handshake failure")
            #expect(try await oldClient(Self.old[0]).ended() != .exited(0))
            try await daemon.stop()
        }

        /// gnutls-serv without RFC 5746, as servers before 2010 are.
        @Test func `a server without secure renegotiation is taken where that is allowed`() async throws {
            let front = try SocketAddress.freeOnOwnLoopback()
            // It serves on all addresses, and answers from the first one of the interface.
            let address = try #require(SocketAddress(host: "127.0.0.1", port: address.port))
            let server = try Program(
                [
                    "gnutls-serv", "--udp", "--echo", "-p", "\(address.port)", "--x509certfile", identity.certificate,
                    "--x509keyfile", identity.privateKey, "--priority", "NORMAL:%DISABLE_SAFE_RENEGOTIATION",
                ], in: folder)
            try await eventually("gnutls-serv listens", details: server.output + server.errors) {
                ProcessTable.localPorts(of: server.pid).contains(address.port)
            }
            func client(_ more: String) -> String {
                Client(
                    listen: front, connect: address, trust: identity.certificate,
                    more: "server_name = \"localhost\"\n\(more)"
                ).text
            }
            let daemon = try await Daemon.start(client(""), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("hello")
            try await daemon.logged("no connection to the server", "unsafe legacy renegotiation disabled")
            try daemon.reload(client("legacy_server = true"))
            try await daemon.logged("reloaded")
            try await daemon.logged(" warning ", "client.", "legacy_server: true: ", "RFC 5746")
            try await sender.exchangeWithLosses("hello again", details: server.output + server.errors)
            server.signal(SIGTERM)
            _ = try await server.ended()
            try await daemon.stop()
        }

        // MARK: Renegotiation

        /// A line "R" makes s_client ask for it.
        @Test func `renegotiation works where the configuration allows it`() async throws {
            let daemon = try await start("renegotiation = true")
            let client = try client([])
            try await client.exchange("before")
            client.say("R")
            // What is sent during the handshake may be lost, as on the wire.
            try await eventually("the echo comes back", details: client.transcript) {
                client.say("after")
                return client.hasHeard("after")
            }
            try await client.leave()
            #expect(client.handshakesDone == 2)
            try await daemon.stop()
        }

        @Test func `renegotiation is refused where the configuration does not allow it`() async throws {
            let daemon = try await start("")
            let client = try client([])
            try await client.exchange("before")
            client.say("R")
            #expect(try await client.program.ended() != .exited(0))
            #expect(client.program.errors.contains("no renegotiation"), "\(client.transcript)")
            try await self.client([]).exchange("others are served")
            try await daemon.stop()
        }
    }
}
