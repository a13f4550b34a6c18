import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// `dtls connect` and `dtls probe` with servers of OpenSSL and GnuTLS, and with the daemon.
    @Suite struct TalkingTests {
        let folder: TestFolder
        let address: SocketAddress
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        /// Arguments by which the server of `identity` is trusted under its name.
        private var trust: [String] { ["--ca", identity.certificate, "--server-name", "localhost"] }

        private func echo(_ more: String = "") async throws -> Daemon {
            try await Daemon.start(
                """
                [service.echo]
                listen = "\(address)"
                certificate = "\(identity.certificate)"
                private_key = "\(identity.privateKey)"
                handler = "echo"
                \(more)

                """, in: folder)
        }

        // MARK: connect

        @Test func `a conversation with s_server says who it is, and carries lines both ways`() async throws {
            let server = try await SecureServer(at: address, as: identity, in: folder)
            let tool = try Tool.start(["connect"] + trust + ["\(address)"], in: folder)
            tool.send("from the tool\n")
            try await server.hears("from the tool")
            server.program.send("from the server \u{1b}[31m\n")
            try await eventually("the tool prints the line, escaped", details: tool.errors) {
                tool.output == "from the server \\u{1b}[31m\n"
            }
            for part in [
                "DTLSv1.2, ECDHE-ECDSA-", "group x25519", "CN=localhost", "(verified)", " days left", "hello ",
            ] {
                #expect(tool.errors.contains(part), "\(part) is missing in \(tool.errors)")
            }
            tool.signal(SIGINT)
            #expect(try await tool.ended() == .exited(0))
            try await eventually("an alert arrives", details: server.messages) {
                server.messages.contains(/<<< .*(Alert|content_type=21)/)
            }
        }

        @Test func `a file is sent, and the echoes are printed`() async throws {
            let daemon = try await echo()
            let file = try folder.write("one\ntwo\n\nthree", to: "lines")
            let outcome = try await Tool.run(
                ["connect", "-q"] + trust + ["--wait", "0.5", "--file", file, "\(address)"], in: folder)
            #expect(outcome.status == .exited(0) && outcome.errors.isEmpty)
            #expect(outcome.output == "one\ntwo\nthree\n")
            try await daemon.stop()
        }

        @Test func `binary bytes pass as they are`() async throws {
            let daemon = try await echo()
            let outcome = try await Tool.run(
                ["connect", "-q", "--binary", "--message-size", "4", "--wait", "0.5"] + trust + ["\(address)"],
                input: "\u{1b}[2Jab\r\n", in: folder)
            #expect(outcome.status == .exited(0) && outcome.output == "\u{1b}[2Jab\r\n")
            try await daemon.stop()
        }

        @Test func `another CA and another name are refused, with what to try next`() async throws {
            let other = try await CertificateMaker(folder: folder).selfSigned("other")
            /// s_server ends with the first handshake that fails.
            func connect(_ arguments: [String]) async throws -> Tool.Outcome {
                let address = try SocketAddress.freeOnOwnLoopback()
                let server = try await SecureServer(at: address, as: identity, in: folder)
                defer { withExtendedLifetime(server) {} }
                return try await Tool.run(["connect"] + arguments + ["\(address)"], in: folder)
            }
            let stranger = try await connect(["--ca", other.certificate, "--server-name", "localhost"])
            #expect(stranger.status == .exited(5) && stranger.errors.contains("--ca FILE"), "\(stranger.errors)")
            let misnamed = try await connect(["--ca", identity.certificate, "--server-name", "elsewhere.example"])
            #expect(misnamed.status == .exited(5), "\(misnamed.errors)")
            #expect(misnamed.errors.contains("The certificate is for localhost, 127.0.0.1"), "\(misnamed.errors)")
            let insecure = try await connect(["--insecure", "--server-name", "elsewhere.example", "--wait", "0"])
            #expect(insecure.status == .exited(0) && insecure.errors.contains("NOT VERIFIED"), "\(insecure.errors)")
        }

        @Test func `nobody there, nobody who answers, and a name without an address have each their status`()
            async throws
        {
            let nobody = try await Tool.run(["connect", "\(address)"], in: folder)
            #expect(nobody.status == .exited(3) && nobody.errors.contains("nothing listens"), "\(nobody.errors)")
            let socket = try DatagramSocket(at: address)
            let silent = try await Tool.run(["connect", "--timeout", "1.2", "\(address)"], in: folder)
            #expect(silent.status == .exited(3) && silent.errors.contains("was sent 3 times"), "\(silent.errors)")
            withExtendedLifetime(socket) {}
            let unknown = try await Tool.run(["connect", "name.invalid:5684"], in: folder)
            #expect(unknown.status == .exited(2) && unknown.errors.contains("name.invalid"), "\(unknown.errors)")
        }

        @Test func `pre-shared keys come from a file, and a wrong one is told from silence`() async throws {
            let added = try await Tool.run(["psk", "add", folder.file("keys.psk"), "sensor-7"], in: folder)
            #expect(added.status == .exited(0) && added.output.hasPrefix("sensor-7:"), "\(added.errors)")
            let daemon = try await echo("[service.echo.psk]\nfile = \"keys.psk\"")
            let talks = try await Tool.run(
                ["connect", "--psk-file", folder.file("keys.psk"), "--wait", "0.3", "\(address)"], input: "hello\n",
                in: folder)
            #expect(talks.status == .exited(0) && talks.output == "hello\n", "\(talks.errors)")
            #expect(talks.errors.contains("\"sensor-7\" (pre-shared key)"))
            let wrong = try await Tool.run(
                ["connect", "--timeout", "1", "\(address)"], in: folder,
                environment: ["DTLS_PSK": "sensor-7:00112233445566778899aabbccddeeff"])
            #expect(wrong.status == .exited(4) && wrong.errors.contains("compare the keys"), "\(wrong.errors)")
            let unknown = try await Tool.run(
                ["connect", "\(address)"], in: folder,
                environment: ["DTLS_PSK": "stranger:00112233445566778899aabbccddeeff"])
            #expect(
                unknown.status == .exited(4) && unknown.errors.contains("does not know this identity"),
                "\(unknown.errors)")
            try await daemon.stop()
        }

        @Test func `a session is kept in a file and resumed, and a connection ID is agreed on`() async throws {
            let daemon = try await echo("connection_id = 16")
            let arguments = ["connect", "--connection-id", "4", "--session", folder.file("session"), "--wait", "0"]
            let first = try await Tool.run(arguments + trust + ["\(address)"], in: folder)
            #expect(
                first.errors.contains("session        new") && first.errors.contains("this side's "), "\(first.errors)")
            let second = try await Tool.run(arguments + trust + ["\(address)"], in: folder)
            #expect(second.errors.contains("session        resumed"), "\(second.errors)")
            let attributes = try FileManager.default.attributesOfItem(atPath: folder.file("session"))
            #expect(attributes[.posixPermissions] as? Int == 0o600)
            // A session that was begun without verification must not stand for a verified server.
            let other = try await Tool.run(arguments + ["--insecure", "\(address)"], in: folder)
            #expect(other.status == .exited(0) && other.errors.contains("other options"), "\(other.errors)")
            try await daemon.stop()
        }

        @Test func `the tunnel carries datagrams of several local senders`() async throws {
            let daemon = try await echo()
            let tool = try Tool.start(["connect", "--udp-listen", "0"] + trust + ["\(address)"], in: folder)
            let port = try await eventualValue("the tunnel says its port", details: tool.errors) {
                tool.errors.firstMatch(of: /Datagrams to 127\.0\.0\.1:(\d+) go/).flatMap { UInt16($0.1) }
            }
            let local = try #require(SocketAddress(host: "127.0.0.1", port: port))
            let senders = try (0..<3).map { _ in try PlainSender(to: local, from: "127.0.0.1") }
            for (index, sender) in senders.enumerated() {
                try await sender.exchange("datagram \(index)", details: tool.errors)
            }
            try await daemon.logged("connection opened", count: 3)
            tool.signal(SIGTERM)
            #expect(try await tool.ended() == .exited(0))
            try await daemon.logged("connection closed", "closed by the peer", count: 3)
            try await daemon.stop()
        }

        // MARK: probe

        @Test func `a probe of gnutls-serv is OK, with performance data`() async throws {
            // It listens on all addresses, and answers from the one that the kernel likes best.
            let address = try SocketAddress.free(on: "127.0.0.1")
            let server = try Program(
                ["gnutls-serv", "--udp", "--echo", "--port", "\(address.port)"]
                    + ["--x509certfile", identity.certificate, "--x509keyfile", identity.privateKey], in: folder)
            try await eventually("gnutls-serv listens", details: server.errors) {
                ProcessTable.localPorts(of: server.pid).contains(address.port)
            }
            let outcome = try await Tool.run(
                ["probe", "--send", "ping 1", "--expect", "^ping \\d", "-w", "30", "-c", "60", "--expire-days", "7,1"]
                    + trust
                    + ["\(address)"], in: folder)
            #expect(outcome.status == .exited(0), "\(outcome)")
            let line =
                /DTLS OK - 127\.0\.0\.1:\d+ DTLSv1\.2 ECDHE-\S+, answered, certificate valid for (59|60) days, until \d{4}-\d\d-\d\d \| time=\d+\.\d{6}s;30;60 answer=\d+\.\d{6}s days=(59|60);7;1 retransmissions=\d+\n/
            #expect(outcome.output.wholeMatch(of: line) != nil, "\(outcome.output)")
        }

        @Test func `a certificate that expires soon is a warning, and one that has expired is critical`() async throws {
            let daemon = try await echo()
            let soon = try await Tool.run(["probe", "--expire-days", "70,7"] + trust + ["\(address)"], in: folder)
            #expect(soon.status == .exited(1) && soon.output.hasPrefix("DTLS WARNING - "), "\(soon.output)")
            try await daemon.stop()

            let expired = Identity(certificate: folder.file("expired.pem"), privateKey: identity.privateKey)
            let request = folder.file("expired.request")
            try await Program.run(
                ["openssl", "req", "-new", "-key", identity.privateKey, "-subj", "/CN=localhost", "-out", request],
                in: folder)
            try await folder.signCertificate(
                "expired", request: request, authority: (identity.certificate, identity.privateKey),
                extensions: try folder.write("subjectAltName=DNS:localhost\n", to: "expired.extensions"),
                isExpired: true,
                to: expired.certificate)
            var server = try await SecureServer(at: address, as: expired, in: folder)
            let outcome = try await Tool.run(["probe"] + trust + ["\(address)"], in: folder)
            #expect(outcome.status == .exited(2), "\(outcome)")
            #expect(outcome.output.contains("DTLS CRITICAL - ") && outcome.output.contains("certificate has expired"))
            // s_server ends with the first handshake that fails.
            let second = try SocketAddress.freeOnOwnLoopback()
            server = try await SecureServer(at: second, as: expired, in: folder)
            let insecure = try await Tool.run(
                ["probe", "--insecure", "--expire-days", "30,7", "\(second)"], in: folder)
            #expect(
                insecure.status == .exited(2) && insecure.output.contains("certificate expired on 2024-01-31"),
                "\(insecure)")
            withExtendedLifetime(server) {}
        }

        @Test func `a probe says in one line that nobody answers, or not what was expected`() async throws {
            let nobody = try await Tool.run(["probe", "\(address)"], in: folder)
            #expect(nobody.status == .exited(2) && nobody.output.hasPrefix("DTLS CRITICAL - "), "\(nobody)")
            #expect(nobody.output.split(separator: "\n").count == 1)
            let daemon = try await echo()
            let other = try await Tool.run(
                ["probe", "--timeout", "1", "--send", "a|b", "--expect", "pong"] + trust + ["\(address)"], in: folder)
            #expect(other.status == .exited(2), "\(other)")
            #expect(other.output.contains("\"a/b\" does not match") && !other.output.contains("|"), "\(other.output)")
            let pattern = try await Tool.run(["probe", "--send", "a", "--expect", "(", "\(address)"], in: folder)
            #expect(pattern.status == .exited(3) && pattern.output.hasPrefix("DTLS UNKNOWN - "), "\(pattern)")
            let misused = try await Tool.run(["probe", "--expire-days", "7", "\(address)"], in: folder)
            #expect(misused.status == .exited(3) && misused.output.hasPrefix("DTLS UNKNOWN - "), "\(misused)")
            try await daemon.stop()
        }

        // MARK: cert and bench

        @Test func `the certificates of dtls cert serve the daemon and its clients`() async throws {
            let made = try await Tool.run(["cert", "--out", folder.file("tls"), "--name", "localhost"], in: folder)
            #expect(made.status == .exited(0), "\(made.errors)")
            let daemon = try await Daemon.start(
                """
                [service.echo]
                listen = "\(address)"
                certificate = "tls/server.pem"
                private_key = "tls/server.key"
                handler = "echo"
                ca = "tls/ca.pem"

                """, in: folder)
            let trust = ["--ca", folder.file("tls/ca.pem"), "--server-name", "localhost", "--wait", "0.3"]
            let talks = try await Tool.run(
                ["connect", "--cert", folder.file("tls/client.pem"), "--key", folder.file("tls/client.key")] + trust
                    + ["\(address)"], input: "hello\n", in: folder)
            #expect(talks.status == .exited(0) && talks.output == "hello\n", "\(talks.errors)")
            try await daemon.logged("connection opened", "CLIENT=client")
            let without = try await Tool.run(["connect"] + trust + ["\(address)"], in: folder)
            #expect(without.status == .exited(4) && without.errors.contains("--cert"), "\(without.errors)")
            // What another program thinks of them.
            try await Program.run(
                ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
                    + ["-CAfile", folder.file("tls/ca.pem"), folder.file("tls/server.pem")], in: folder)
            let again = try await Tool.run(["cert", "--out", folder.file("tls")], in: folder)
            #expect(again.status == .exited(1) && again.errors.contains("--force"), "\(again.errors)")
            for name in ["ca.key", "server.key", "client.key"] {
                let attributes = try FileManager.default.attributesOfItem(atPath: folder.file("tls/\(name)"))
                #expect(attributes[.posixPermissions] as? Int == 0o600)
            }
            try await daemon.stop()
        }

        @Test func `measurements count every handshake and echo, as JSON and as a drawing`() async throws {
            let daemon = try await echo()
            func measure(_ arguments: [String]) async throws -> [String: Any] {
                let outcome = try await Tool.run(["bench"] + arguments + trust + ["--json", "\(address)"], in: folder)
                #expect(outcome.status == .exited(0), "\(outcome.errors)")
                return try #require(
                    try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any],
                    "\(outcome.output)")
            }
            let full = try await measure(["handshake", "-n", "30", "-c", "4"])
            #expect(full["handshakes_opened"] as? Int == 30 && full["handshakes_resumed"] as? Int == 0)
            let resumed = try await measure(["handshake", "-n", "30", "-c", "4", "--resume"])
            #expect(resumed["handshakes_resumed"] as? Int == 30)
            let drawing = folder.file("echo.svg")
            let echoes = try await measure(["echo", "-c", "4", "-w", "2", "-t", "0.3", "--svg", drawing])
            let received = try #require(echoes["messages_received"] as? Int)
            #expect(received > 100 && echoes["messages_lost"] as? Int == 0)
            #expect(folder.read("echo.svg").hasPrefix("<svg ") && folder.read("echo.svg").hasSuffix("</svg>\n"))
            let paced = try await measure(["echo", "-c", "4", "-r", "200", "-t", "0.5"])
            #expect(paced["messages_sent"] as? Int == 100 && paced["messages_received"] as? Int == 100)
            let idle = try await measure(["idle", "-c", "20", "-t", "0.2"])
            #expect(idle["connections_alive"] as? Int == 20)
            // With the first connection of each measurement.
            try await daemon.logged("connection opened", count: 31 + 31 + 5 + 5 + 21)
            try await daemon.stop()
        }
    }
}
