import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Services with pre-shared keys, and clients of OpenSSL, GnuTLS and libcoap.
    @Suite struct PresharedKeyTests {
        let folder: TestFolder
        let address: SocketAddress
        /// A certificate for s_client to trust, although none will be shown to it.
        let nobody: String

        init() async throws {
            folder = try TestFolder()
            nobody = try await CertificateMaker(folder: folder).selfSigned("nobody").certificate
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private static let key = "00112233445566778899aabbccddeeff"
        private static let otherKey = "ffeeddccbbaa99887766554433221100"
        /// What coap-client sends for the option -k: the characters themselves.
        private static let text = "correct horse battery"

        private func service(_ more: String = "") throws -> String {
            try folder.write("sensor-7:\(Self.key)\ncoap:\(Self.text)\n", to: "keys.psk")
            return """
                workers = 2
                [service.echo]
                listen = "\(address)"
                handler = "echo"
                \(more)
                [service.echo.psk]
                file = "keys.psk"
                hint = "gateway"

                """
        }

        /// `openssl s_client` with a key.
        private func client(
            _ identity: String = "sensor-7", key: String = Self.key, _ arguments: [String] = []
        ) throws -> SecureClient {
            try SecureClient(
                to: address, trust: nobody, in: folder, ["-psk_identity", identity, "-psk", key] + arguments)
        }

        @Test(arguments: [nil, "PSK-AES128-CCM8", "PSK-AES128-CCM", "PSK-AES128-GCM-SHA256"])
        func `OpenSSL clients are served`(_ suite: String?) async throws {
            let daemon = try await Daemon.start(try service(), in: folder)
            // From OpenSSL 3.2 on, a client counts the tag of CCM-8 as 64 bits, for which its security level has to be
            // 0.
            let client = try client(suite.map { ["-cipher", "\($0):@SECLEVEL=0"] } ?? [])
            try await client.exchange("hello")
            try await daemon.logged(
                "connection opened", "CLIENT=sensor-7", "CIPHER=\(suite ?? "ECDHE-PSK-CHACHA20-POLY1305")")
            try await daemon.stop()
        }

        private func client(_ arguments: [String]) throws -> SecureClient { try client("sensor-7", arguments) }

        /// Not with ECDHE-PSK: gnutls-cli 3.7.9 crashes when it tells of such a session, after its handshake.
        @Test(arguments: [
            "NORMAL:-KX-ALL:+PSK",
            "NONE:+VERS-DTLS1.2:+PSK:+AES-128-CCM-8:+AEAD:+COMP-NULL:+SIGN-ALL:+GROUP-ALL",
        ])
        func `GnuTLS clients are served`(_ priority: String) async throws {
            let daemon = try await Daemon.start(try service(), in: folder)
            let client = try Program(
                [
                    "gnutls-cli", "--udp", "--pskusername", "sensor-7", "--pskkey", Self.key, "--priority", priority,
                    "-p", "\(address.port)", address.host,
                ], in: folder)
            try await daemon.logged("connection opened", "CLIENT=sensor-7")
            client.send("hello\n")
            try await eventually("an echo", details: client.output + client.errors) {
                client.output.split(separator: "\n").contains("hello")
            }
            if priority.contains("CCM-8") { try await daemon.logged("connection opened", "CIPHER=PSK-AES128-CCM8") }
            client.signal(SIGKILL)
            try await daemon.stop()
        }

        /// libcoap over either library, to a CoAP server that knows no DTLS.
        @Test(arguments: ["coap-client-openssl", "coap-client-gnutls"])
        func `CoAP clients reach a CoAP server`(_ program: String) async throws {
            let backend = try SocketAddress.free(on: "127.0.0.1")
            let server = try Program(
                ["coap-server-notls", "-A", backend.host, "-p", "\(backend.port)", "-v", "1"], in: folder)
            try await eventually("coap-server is there", details: server.errors) {
                ProcessTable.localPorts(of: server.pid).contains(backend.port)
            }
            let configuration = try service()
                .replacing("handler = \"echo\"", with: "handler = \"forward\"\nforward.backend = \"udp:\(backend)\"")
            let daemon = try await Daemon.start(configuration, in: folder)
            let greeting = try await Program.run(
                [program, "-B", "30", "-u", "coap", "-k", Self.text, "-m", "get", "coaps://\(address)/"], in: folder)
            #expect(greeting.contains("This is a test server made with libcoap"))
            try await daemon.logged("connection opened", "CLIENT=coap")
            try await daemon.stop()
        }

        @Test func `an unknown identity is answered with an alert and logged`() async throws {
            let daemon = try await Daemon.start(try service(), in: folder)
            let stranger = try client("no\"bo\tdy")
            _ = try await stranger.program.ended()
            #expect(stranger.program.errors.contains("unknown psk identity"), "\(stranger.transcript)")
            try await daemon.logged("handshake failed", #"unknown PSK identity "no\\"bo\\u{9}dy""#)
            try await daemon.stop()
        }

        @Test func `a wrong key is logged with its identity`() async throws {
            let daemon = try await Daemon.start(try service("handshake_timeout = 5"), in: folder)
            let wrong = try client(key: Self.otherKey)
            try await daemon.logged(
                "handshake failed", "has not proven that it has the key of PSK identity \"sensor-7\"")
            #expect(!daemon.logs("connection opened"))
            wrong.program.signal(SIGKILL)
            try await daemon.stop()
        }

        @Test func `a wrong line keeps nobody else out, and short keys come in where they may`() async throws {
            let short = "0123456789abcdef"
            var configuration = try service()
            try folder.write("sensor-7:\(Self.key)\nno colon\nold:\(short)\n", to: "keys.psk")
            let daemon = try await Daemon.start(configuration, in: folder)
            try await daemon.logged("line 2: no colon; expected IDENTITY:KEY; the line is skipped")
            try await daemon.logged("line 3: a key of 8 bytes; expected 16 to 512 bytes")
            let client = try client()
            try await client.exchange("hello")
            let refused = try self.client("old", key: short)
            _ = try await refused.program.ended()
            #expect(refused.program.errors.contains("unknown psk identity"), "\(refused.transcript)")

            let check = [Daemon.binary, "--config", daemon.configurationFile, "--check"]
            let lenient = try Program(check, in: folder)
            #expect(try await lenient.ended() == .exited(0))
            let strict = try Program(check + ["--strict"], in: folder)
            #expect(try await strict.ended() == .exited(78))
            #expect(strict.errors.contains("line 2: no colon"))

            configuration += "minimum_key_bytes = 8\n"
            try daemon.reload(configuration)
            try await daemon.logged("1 key has fewer than 16 bytes, as minimum_key_bytes allows")
            try await daemon.logged("reloaded")
            let old = try self.client("old", key: short)
            try await old.exchange("hello")
            try await daemon.logged("connection opened", "CLIENT=old")
            try await daemon.stop()
        }

        @Test func `a reload adds and removes identities`() async throws {
            let daemon = try await Daemon.start(try service(), in: folder)
            let session = folder.file("session")
            let before = try client(["-sess_out", session])
            try await before.exchange("before")
            let again = try client(["-sess_in", session])
            try await again.exchange("resumed")
            try await daemon.logged("connection opened", "CLIENT=sensor-7", "RESUMED=yes")

            // A file that others can read changes nothing.
            try folder.write("other:\(Self.key)\n", to: "keys.psk.new")
            chmod(folder.file("keys.psk.new"), 0o644)
            rename(folder.file("keys.psk.new"), folder.file("keys.psk"))
            daemon.program.signal(SIGHUP)
            try await daemon.logged("every user may use", "keys.psk")
            let still = try client()
            try await still.exchange("still")

            chmod(folder.file("keys.psk"), 0o600)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("configuration and certificates reloaded")
            let added = try client("other")
            try await added.exchange("added")
            // Neither the key nor a session that was made with it is of use any more.
            let removed = try client(["-sess_in", session])
            _ = try await removed.program.ended()
            try await daemon.logged("unknown PSK identity \"sensor-7\"")
            try await daemon.stop()
        }

        /// A changed key ends the sessions of the old one, too.
        @Test func `a session of an old key is not resumed`() async throws {
            let daemon = try await Daemon.start(try service(), in: folder)
            let session = folder.file("session")
            let before = try client(["-sess_out", session])
            try await before.exchange("before")
            try folder.write("sensor-7:\(Self.otherKey)\n", to: "keys.psk")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("configuration and certificates reloaded")
            let after = try client(key: Self.otherKey, ["-sess_in", session])
            try await after.exchange("after")
            #expect(daemon.lines(with: "connection opened", "RESUMED=no").count == 2)
            #expect(!daemon.logs("RESUMED=yes"))
            try await daemon.stop()
        }

        @Test func `a service with a certificate and keys serves both kinds of clients`() async throws {
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let daemon = try await Daemon.start(
                try service("certificate = \"\(identity.certificate)\"\nprivate_key = \"\(identity.privateKey)\""),
                in: folder)
            let keyed = try client()
            try await keyed.exchange("by key")
            let certified = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await certified.exchange("by certificate")
            try await daemon.logged("connection opened", "CIPHER=ECDHE-PSK-CHACHA20-POLY1305", "CLIENT=sensor-7")
            try await daemon.logged("connection opened", "CIPHER=ECDHE-ECDSA-AES128-GCM-SHA256")
            try await daemon.stop()
        }
    }
}
