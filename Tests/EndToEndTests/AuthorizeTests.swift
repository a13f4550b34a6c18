import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Services that ask somebody else who may come in, and clients of OpenSSL and GnuTLS.
    @Suite struct AuthorizeTests {
        let folder: TestFolder
        let identity: Identity
        let address: SocketAddress
        private static let key = "00112233445566778899aabbccddeeff"

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("localhost")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private var path: String { folder.file("authz.sock") }

        /// A service with a certificate and pre-shared keys, which come with the answers.
        private func service(
            _ more: String = "", authorize: String? = nil, handler: String = "handler = \"echo\""
        ) -> String {
            """
            workers = 1
            [control]
            path = "\(folder.file("control"))"
            [service.echo]
            listen = "\(address)"
            certificate = "\(identity.certificate)"
            private_key = "\(identity.privateKey)"
            \(authorize ?? "authorize = \"unix:\(path)\"")
            \(more)
            \(handler)
            [service.echo.psk]
            \(authorize == "" ? "file = \"keys.psk\"" : "")

            """
        }

        private func keyClient(
            _ name: String = "sensor-7", key: String = Self.key, _ more: [String] = []
        ) throws
            -> SecureClient
        {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-psk_identity", name, "-psk", key, "-cipher", "PSK"] + more)
        }

        private func client(_ more: [String] = []) throws -> SecureClient {
            try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"] + more)
        }

        private func connection(_ daemon: Daemon) async throws -> String {
            let opened = try await daemon.logged("connection opened")
            let id = try #require(opened.last?.firstMatch(of: /CONNECTION=([0-9a-f]{16})/)?.1)
            let shown = try await Tool.run(
                ["connection", String(id), "--json", "--socket", folder.file("control")], in: folder)
            return shown.output + shown.errors
        }

        private func counters() async throws -> String {
            let shown = try await Tool.run(
                ["counters", "--json", "--socket", folder.file("control")], in: folder)
            return shown.output + shown.errors
        }

        // MARK: Answers

        @Test func `the key of a client comes with the answer, and its label goes everywhere`()
            async throws
        {
            let authorizer = try TestAuthorizer(at: path) { question in
                guard question.identity == "sensor-7" else {
                    return .members(#""allow":false,"reason":"it was stolen""#)
                }
                return .members(#""allow":true,"key":"\#(Self.key)","label":"gold""#)
            }
            let exec =
                "handler = \"exec\"\nexec.command = [\"/bin/sh\", \"-c\", \"echo label $DTLSD_LABEL; cat\"]"
            let daemon = try await Daemon.start(service(handler: exec), in: folder)
            let client = try keyClient("sensor-7", ["-servername", "coap.example"])
            try await client.hears("label gold")
            try await daemon.logged("connection opened", "CLIENT=sensor-7", "LABEL=gold")
            #expect(try await connection(daemon).contains(#""label":"gold""#))
            let question = try #require(authorizer.questions.first)
            #expect(
                question.service == "echo" && question.serverName == "coap.example" && !question.isResumed)
            #expect(question.address?.hasPrefix("127.") == true && question.fingerprint == nil)

            let gnutls = try Program(
                [
                    "gnutls-cli", "--udp", "--pskusername", "sensor-7", "--pskkey", Self.key, "--priority",
                    "NORMAL:-KX-ALL:+PSK", "-p", "\(address.port)", address.host,
                ], in: folder)
            try await eventually("gnutls-cli is served", details: gnutls.output + gnutls.errors) {
                gnutls.output.contains("label gold")
            }

            let thief = try keyClient("sensor-8")
            _ = try await thief.program.ended()
            #expect(thief.program.errors.contains("unknown psk identity"), "\(thief.transcript)")
            try await daemon.logged(
                "handshake failed: the authorizer has refused the client: \"it was stolen\"",
                "CLIENT=sensor-8")
            let wrong = try keyClient(key: "ffeeddccbbaa99887766554433221100")
            try await eventually("the wrong key is asked about") { authorizer.questions.count == 4 }
            wrong.program.signal(SIGKILL)
            let counters = try await counters()
            #expect(counters.contains(#""allowed":3"#), "\(counters)")
            try await daemon.stop()
        }

        @Test func `clients with a certificate, and with nothing, are asked about`() async throws {
            let maker = CertificateMaker(folder: folder)
            let authority = try await maker.authority("authority")
            let member = try await maker.issued(
                "member", by: authority, extensions: ["subjectAltName = DNS:m.example"])
            let fingerprint = try await maker.fingerprint(of: member).replacing(":", with: "")
                .lowercased()
            let authorizer = try TestAuthorizer(at: path) { question in
                .members(
                    question.fingerprint == nil ? #""allow":false"# : #""allow":true,"label":"silver""#)
            }
            let daemon = try await Daemon.start(
                service("ca = \"\(authority.certificate)\"\nclient_certificate = \"requested\""), in: folder
            )
            let client = try client(["-cert", member.certificate, "-key", member.privateKey])
            try await client.exchange("hello")
            try await daemon.logged("connection opened", "CLIENT=member", "LABEL=silver")
            #expect(authorizer.questions.map(\.fingerprint) == [fingerprint])
            #expect(authorizer.questions.first?.commonName == "member")

            let nobody = try self.client()
            _ = try await nobody.program.ended()
            #expect(nobody.program.errors.contains("access denied"), "\(nobody.transcript)")
            try await daemon.logged("handshake failed: the authorizer has refused the client")
            let gnutls = try GnuTLSClient(to: address, in: folder)
            _ = try await gnutls.program.ended()
            #expect(
                (gnutls.program.output + gnutls.program.errors).contains("Access was denied"),
                "\(gnutls.program.output + gnutls.program.errors)")
            try await daemon.stop()
        }

        @Test func `a session is resumed only as long as its client may come in`() async throws {
            let authorizer = try TestAuthorizer(at: path) { _ in
                .members(#""allow":true,"label":"first""#)
            }
            let daemon = try await Daemon.start(service(), in: folder)
            let session = folder.file("session")
            let first = try client(["-sess_out", session])
            try await first.exchange("hello")
            try await first.leave()
            let again = try client(["-sess_in", session])
            try await again.exchange("again")
            try await daemon.logged("connection opened", "RESUMED=yes", "LABEL=first")
            #expect(authorizer.questions.map(\.isResumed) == [false, true])
            try await authorizer.stop()
            let strict = try TestAuthorizer(at: path) { _ in .members(#""allow":false"#) }
            let revoked = try client(["-sess_in", session])
            _ = try await revoked.program.ended()
            #expect(revoked.program.errors.contains("access denied"), "\(revoked.transcript)")
            #expect(strict.questions.first?.isResumed == true)
            try await daemon.stop()
        }

        // MARK: No answers

        @Test func `while one client waits, others are served, and its time is bounded`() async throws {
            let authorizer = try TestAuthorizer(at: path) { question in
                question.identity == "fast" ? .members(#""allow":true,"key":"\#(Self.key)""#) : .later
            }
            let daemon = try await Daemon.start(
                service(authorize: "authorize = { server = \"unix:\(path)\", timeout = 3 }"), in: folder)
            let slow = try keyClient("slow")
            try await eventually("the question comes") {
                authorizer.questions.contains { $0.identity == "slow" }
            }
            let fast = try keyClient("fast")
            try await fast.exchange("hello")
            authorizer.release(#""allow":true,"key":"\#(Self.key)""#)
            try await slow.exchange("at last")

            let never = try keyClient("never")
            _ = try await never.program.ended()
            #expect(never.program.errors.contains("unknown psk identity"), "\(never.transcript)")
            try await daemon.logged("the authorizer has not answered within 3 s", "CLIENT=never")
            // It was asked once more, and no more than that, whatever the client has sent.
            #expect(authorizer.questions.count { $0.identity == "never" } == 2)
            authorizer.release(#""allow":true"#)
            try await repeatedly("the late answer is counted") {
                try await counters().firstMatch(of: /"late":[1-9]/) != nil
            }
            try await fast.exchange("still there")
            try await daemon.stop()
        }

        @Test func `an authorizer may be restarted, and one that is away lets nobody in`() async throws {
            let allow: @Sendable (TestAuthorizer.Question) -> TestAuthorizer.Answer = { _ in
                .members(#""allow":true,"key":"\#(Self.key)""#)
            }
            let daemon = try await Daemon.start(
                service(authorize: "authorize = { server = \"unix:\(path)\", timeout = 2 }"), in: folder)
            let early = try keyClient("early")
            _ = try await early.program.ended()
            try await daemon.logged(
                "handshake failed: the authorizer cannot be asked", "No such file or directory")
            try await daemon.logged("clients are refused", "PATH=\(path)")
            var authorizer = try TestAuthorizer(at: path, answer: allow)
            try await keyClient().exchange("one")
            try await authorizer.stop()
            authorizer = try TestAuthorizer(at: path, answer: allow)
            try await keyClient().exchange("two")
            #expect(authorizer.questions.count == 1)
            try await daemon.stop()
        }

        @Test(arguments: [
            ("garbage", "the authorizer has not answered within 1 s"),
            (
                "{\"id\":\"ID\",\"allow\":7}",
                "the authorizer's answer is malformed: \"allow\": expected true or false"
            ),
            (
                "{\"id\":\"ID\",\"allow\":true,\"key\":\"00\"}",
                "a key of 1 byte; expected 16 or more (minimum_key_bytes)"
            ),
            ("{\"id\":\"ID\",\"allow\":true}", "unknown PSK identity \"sensor-7\""),
        ]) func `a wrong answer lets nobody in`(_ answer: String, _ reason: String) async throws {
            let authorizer = try TestAuthorizer(at: path) { .raw(answer.replacing("ID", with: $0.id)) }
            let daemon = try await Daemon.start(
                service(authorize: "authorize = { server = \"unix:\(path)\", timeout = 1 }"), in: folder)
            let client = try keyClient()
            _ = try await client.program.ended()
            #expect(client.program.errors.contains("unknown psk identity"), "\(client.transcript)")
            try await daemon.logged("handshake failed", reason)
            #expect(!authorizer.questions.isEmpty && !daemon.logs("connection opened"))
            try await daemon.stop()
        }

        // MARK: Cache and reload

        @Test func `an answer holds as long as it says, and a reload forgets it`() async throws {
            let authorizer = try TestAuthorizer(at: path) { question in
                .members(
                    #""allow":true,"key":"\#(Self.key)""#
                        + (question.identity == "kept" ? #","ttl":600"# : ""))
            }
            let daemon = try await Daemon.start(service(), in: folder)
            for _ in 0..<3 { try await keyClient("kept").exchange("hello") }
            #expect(authorizer.questions.count == 1)
            for _ in 0..<2 { try await keyClient("asked").exchange("hello") }
            #expect(authorizer.questions.count == 3)
            #expect(try await counters().contains(#""allowed_from_cache":2"#))
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            try await keyClient("kept").exchange("hello")
            #expect(authorizer.questions.count == 4)
            try await daemon.stop()
        }

        @Test func `a reload turns it on and off`() async throws {
            try folder.write("sensor-7:\(Self.key)\n", to: "keys.psk")
            let daemon = try await Daemon.start(service(authorize: ""), in: folder)
            let before = try keyClient()
            try await before.exchange("before")
            let authorizer = try TestAuthorizer(at: path) { _ in .members(#""allow":false"#) }
            try daemon.reload(service())
            try await daemon.logged("reloaded")
            let refused = try keyClient()
            _ = try await refused.program.ended()
            #expect(authorizer.questions.count == 1)
            // Who is connected stays so.
            try await before.exchange("still")
            try daemon.reload(service(authorize: ""))
            try await daemon.logged("reloaded", count: 2)
            try await keyClient().exchange("after")
            #expect(authorizer.questions.count == 1)
            try await daemon.stop()
        }

        @Test func `the label chooses the backend, which learns it`() async throws {
            let authorizer = try TestAuthorizer(at: path) { _ in
                .members(#""allow":true,"key":"\#(Self.key)","label":"gold""#)
            }
            let socket = try DatagramSocket.onOwnLoopback()
            let backend = Backend(on: [socket]) { received in [received.bytes] }
            let other = try DatagramSocket.onOwnLoopback()
            let forward = """
                handler = "forward"
                [service.echo.forward]
                backend = "udp:\(other.local)"
                proxy_protocol = true
                [service.echo.forward.rule.gold]
                label = "g*d"
                backend = "udp:\(socket.local)"
                """
            let daemon = try await Daemon.start(service(handler: forward), in: folder)
            let client = try keyClient()
            client.say("hello")
            let received = try await eventualValue("the backend is reached", details: client.transcript) {
                backend.received.first
            }
            // The type 0xE1, two bytes of length, and the label.
            let field = [0xe1, 0, 4] + Array("gold".utf8)
            #expect(received.bytes.firstRange(of: field) != nil, "\(received.bytes)")
            #expect(authorizer.questions.count == 1 && other.receiveAtOnce() == nil)
            try await daemon.stop()
        }
    }
}
