import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Raw public keys (RFC 7250), with OpenSSL's and GnuTLS's programs.
    @Suite(.enabled(if: RawKeys.areThere, "OpenSSL has no raw public keys"))
    struct RawPublicKeyTests {
        let folder: TestFolder
        let maker: CertificateMaker
        let identity: Identity
        let device: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            maker = CertificateMaker(folder: folder)
            identity = try await maker.selfSigned("server")
            device = try await maker.selfSigned("device")
            address = try SocketAddress.freeOnOwnLoopback()
        }

        /// A service without a certificate.
        private func service(more: String = "") -> String {
            """
            workers = 1
            \(more)
            [service.echo]
            listen = "\(address)"
            private_key = "\(identity.privateKey)"
            raw_public_key = true
            client_public_keys = "devices.keys"
            handler = "echo"

            """
        }

        private func writeKeys(_ lines: String...) throws {
            try folder.write(lines.map { "\($0)\n" }.joined(), to: "devices.keys")
        }

        @Test func `OpenSSL's clients get in by their keys, and the log says who they are`() async throws {
            let digits = try await maker.keyFingerprint(of: device)
            let (gateway, unknown) = (
                try await maker.selfSigned("gateway", kind: .rsa), try await maker.selfSigned("x")
            )
            let pem = folder.read(
                try await maker.publicKey(of: gateway).split(separator: "/").last.map(String.init) ?? "")
            try writeKeys("sensor-7 sha256:\(digits)", "gateway", pem)
            let daemon = try await Daemon.start(service(), in: folder)
            let client = try RawKeyClient(to: address, as: device, in: folder)
            try await client.exchange("hello", details: daemon.program.errors)
            try await client.leave()
            let opened = try await daemon.logged("connection opened", "CLIENT=sensor-7")
            #expect(opened[0].contains("CLIENT_FINGERPRINT=\(digits)"), "\(opened)")
            let other = try RawKeyClient(to: address, as: gateway, in: folder)
            try await other.exchange("hello", details: daemon.program.errors)
            try await other.leave()
            try await daemon.logged("connection opened", "CLIENT=gateway")

            let refused = try RawKeyClient(to: address, as: unknown, in: folder)
            let errors = try await refused.isRefused()
            #expect(errors.contains("access denied"), "\(errors)")
            let fingerprint = try await maker.keyFingerprint(of: unknown)
            let line = try await daemon.logged("raw public key sha256:\(fingerprint) is not among those that are known")
            #expect(line[0].contains("CLIENT_FINGERPRINT=\(fingerprint)") && line[0].contains(" notice "), "\(line)")
            #expect(try await RawKeyClient(to: address, as: nil, in: folder).isRefused().contains("alert"))
            try await daemon.logged("peer did not return a certificate")
            // One that knows nothing of raw public keys.
            let ordinary = try SecureClient(to: address, trust: identity.certificate, in: folder)
            ordinary.say("let me in")
            #expect(try await ordinary.program.ended() != .exited(0))
            try await daemon.logged("the client takes no raw public key")
            try await daemon.stop()
        }

        @Test func `a session is resumed as long as its key is known`() async throws {
            let digits = try await maker.keyFingerprint(of: device)
            let other = try await maker.keyFingerprint(of: identity)
            try writeKeys("sensor-7 sha256:\(digits)")
            let daemon = try await Daemon.start(service(), in: folder)
            let session = folder.file("session")
            for arguments in [["-sess_out", session], ["-sess_in", session]] {
                let client = try RawKeyClient(to: address, as: device, in: folder, arguments)
                try await client.exchange("hello", details: daemon.program.errors)
                try await client.leave()
            }
            var lines = try await daemon.logged("connection opened", "CLIENT=sensor-7", digits, count: 2)
            #expect(lines.map { $0.contains("RESUMED=yes") } == [false, true])
            try writeKeys("sensor-7 sha256:\(digits)", "sensor-8 sha256:\(other)")
            try daemon.reload(service())
            try await daemon.logged("reloaded")
            let again = try RawKeyClient(to: address, as: device, in: folder, ["-sess_in", session])
            try await again.exchange("hello", details: daemon.program.errors)
            try await again.leave()
            lines = try await daemon.logged("connection opened", "CLIENT=sensor-7", count: 3)
            #expect(lines.last?.contains("RESUMED=yes") == true)
            try writeKeys("sensor-8 sha256:\(other)")
            try daemon.reload(service())
            try await daemon.logged("reloaded", count: 2)
            _ = try await RawKeyClient(to: address, as: device, in: folder, ["-sess_in", session]).isRefused()
            try await daemon.logged("raw public key sha256:\(digits) is not among those that are known")
            try await daemon.stop()
        }

        @Test func `keys that are added to the file are taken up without a signal`() async throws {
            try writeKeys("other sha256:\(String(repeating: "0a", count: 32))")
            let daemon = try await Daemon.start(service(more: "watch = true"), in: folder)
            _ = try await RawKeyClient(to: address, as: device, in: folder).isRefused()
            try writeKeys("sensor-7 sha256:\(try await maker.keyFingerprint(of: device))")
            try await daemon.logged("configuration and certificates reloaded")
            try await RawKeyClient(to: address, as: device, in: folder).exchange(
                "hello", details: daemon.program.errors)
            try await daemon.stop()
        }

        @Test func `GnuTLS's client gets in by its key`() async throws {
            try writeKeys("lamp sha256:\(try await maker.keyFingerprint(of: device))")
            let daemon = try await Daemon.start(service(), in: folder)
            let key = try await maker.publicKey(of: device)
            let program = try Program(
                [
                    "gnutls-cli", "--udp", "--insecure", "--port", "\(address.port)", "--priority",
                    RawKeys.gnutlsPriority,
                ]
                    + ["--rawpkkeyfile", device.privateKey, "--rawpkfile", key, address.host], in: folder)
            program.send("hello\n")
            try await eventually("gnutls-cli hears", details: program.output + program.errors + daemon.program.errors) {
                program.output.contains("\nhello\n")
            }
            try await daemon.logged("connection opened", "CLIENT=lamp")
            program.closeInput()
            try await daemon.stop()
        }

        @Test func `clients that ask for it get the key of a certificate, and others the certificate`() async throws {
            let more = "raw_public_key = true"
            let daemon = try await Daemon.start(
                Service(listen: [address], identity: identity, more: more).text, in: folder)
            try await SecureClient(to: address, trust: identity.certificate, in: folder).exchange("by the certificate")
            let bare = try RawKeyClient(to: address, as: nil, in: folder, ["-status"])
            try await bare.exchange("by the bare key", details: daemon.program.errors)
            try await daemon.stop()
        }

        // MARK: Client mode

        /// A client of a server at `address`, whose key is in `server.keys`.
        private func client(_ front: SocketAddress) -> String {
            Client(
                listen: front, connect: address, trust: nil,
                more: "server_public_keys = \"server.keys\"\nprivate_key = \"\(device.privateKey)\"\n"
                    + "raw_public_key = true"
            ).text
        }

        @Test func `client mode goes to OpenSSL's server with the known key alone`() async throws {
            let front = try SocketAddress.freeOnOwnLoopback()
            let options = ["-enable_server_rpk", "-enable_client_rpk", "-Verify", "1"]
            let server = try await SecureServer(at: address, as: identity, in: folder, options)
            try folder.write("server sha256:\(try await maker.keyFingerprint(of: device))\n", to: "server.keys")
            let daemon = try await Daemon.start(client(front), in: folder)
            let sender = try PlainSender(to: front)
            sender.send("to another\n")
            let digits = try await maker.keyFingerprint(of: identity)
            try await daemon.logged("the server's raw public key sha256:\(digits) is not among those that are known")
            #expect(!server.output.contains("to another") && !daemon.logs("connection to the server opened"))
            // Some versions end with the handshake that has failed, and others wait for the next client.
            server.program.signal(SIGKILL)
            _ = try await server.program.ended()
            let next = try await SecureServer(at: address, as: identity, in: folder, options)
            try folder.write("server sha256:\(digits)\n", to: "server.keys")
            try daemon.reload(client(front))
            try await daemon.logged("reloaded")
            sender.send("to the right one\n")
            try await next.hears("to the right one\n")
            next.program.send("and back\n")
            try await sender.hears("and back\n", details: daemon.program.errors)
            try await daemon.stop()
        }

        @Test func `client mode goes to GnuTLS's server by raw public keys`() async throws {
            let front = try SocketAddress.freeOnOwnLoopback()
            let address = try SocketAddress.free(on: "127.0.0.1")
            let key = try await maker.publicKey(of: identity)
            let server = try Program(
                ["gnutls-serv", "--udp", "--echo", "--port", "\(address.port)", "--priority", RawKeys.gnutlsPriority]
                    + ["--rawpkkeyfile", identity.privateKey, "--rawpkfile", key], in: folder)
            try await eventually("gnutls-serv listens", details: server.errors) {
                ProcessTable.localPorts(of: server.pid).contains(address.port)
            }
            let text = Client(
                listen: front, connect: address, trust: nil,
                more: "server_public_keys = \"\(key)\"\nprivate_key = \"\(device.privateKey)\"\nraw_public_key = true")
            let daemon = try await Daemon.start(text.text, in: folder)
            let sender = try PlainSender(to: front)
            try await sender.exchange("one", details: daemon.program.errors + server.output + server.errors)
            try await daemon.stop()
        }
    }
}
