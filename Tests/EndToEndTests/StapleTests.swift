import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// OCSP responses from files, stapled to the handshake.
    @Suite struct StapleTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let authority: Identity
        let ecdsa: Identity
        let rsa: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            authority = try await certificates.selfSigned("authority")
            ecdsa = try await certificates.issued("ecdsa", by: authority, names: "DNS:localhost")
            rsa = try await certificates.issued("rsa", by: authority, kind: .rsa, names: "DNS:localhost")
            address = try .freeOnOwnLoopback()
        }

        private func service(_ staples: String) -> String {
            """
            [service.echo]
            listen = "\(address)"
            certificate = ["\(ecdsa.certificate)", "\(rsa.certificate)"]
            private_key = ["\(ecdsa.privateKey)", "\(rsa.privateKey)"]
            ocsp_staple = \(staples)
            handler = "echo"

            """
        }

        /// Whether s_client says that it has got no response.
        private func saysNothingWasStapled(_ output: String) -> Bool {
            // Before and from OpenSSL 3.6 on.
            output.contains("OCSP response: no response sent") || output.contains("OCSP responses: no responses sent")
        }

        /// What s_client says of the response that it has got; it checks the signature, and ends if it is bad.
        private func stapled(_ kind: String) async throws -> String {
            let client = try Program(
                ["openssl", "s_client", "-dtls1_2", "-connect", "\(address)", "-status", "-servername", "localhost"]
                    + ["-CAfile", authority.certificate, "-cipher", "ECDHE-\(kind)-AES128-GCM-SHA256"], in: folder)
            try await eventually("the handshake is done", details: client.output + client.errors) {
                client.output.contains("Verify return code")
            }
            return client.output
        }

        /// The serial number in a response, to tell one from another, and in a certificate.
        private func serial(of identity: Identity) async throws -> String {
            let file = "\(UUID().uuidString).serial"
            try await Program.run(
                ["openssl", "x509", "-in", identity.certificate, "-noout", "-serial", "-out", folder.file(file)],
                in: folder)
            return folder.read(file).dropFirst("serial=".count).filter(\.isHexDigit)
        }

        @Test func `each certificate has its own OCSP response`() async throws {
            let good = [
                try await certificates.response("rsa.ocsp", about: rsa, by: authority),
                try await certificates.response("ecdsa.ocsp", about: ecdsa, by: authority),
            ]
            let daemon = try await Daemon.start(service("[\"\(good[0])\", \"\(good[1])\"]"), in: folder)
            for (kind, identity) in [("ECDSA", ecdsa), ("RSA", rsa)] {
                let output = try await stapled(kind)
                #expect(output.contains("OCSP Response Status: successful"), "\(output)")
                #expect(output.contains("Cert Status: good"))
                #expect(output.contains("Serial Number: \(try await serial(of: identity))"))
            }
            // Who does not ask is served as ever.
            try await SecureClient(to: address, trust: authority.certificate, in: folder).exchange("hello")
            try await daemon.stop()
        }

        /// A response of no use is no reason not to serve; and when the file has changed, SIGHUP is not needed.
        @Test func `a changed file is loaded without a reload`() async throws {
            let file = try await certificates.response("served.ocsp", about: ecdsa, by: authority, .revoked)
            let daemon = try await Daemon.start(service("\"\(file)\""), in: folder)
            try await daemon.logged("warning", "service.echo.ocsp_staple", "revoked")
            #expect(saysNothingWasStapled(try await stapled("ECDSA")))

            // What is half-way edited is nobody's concern.
            try folder.write("[service.echo", to: "dtlsd.toml")
            let good = try await certificates.response("good.ocsp", about: ecdsa, by: authority)
            #expect(rename(good, file) == 0)
            try await daemon.logged("OCSP responses have changed")
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))

            // One that is broken, here written in place, is not taken.
            try folder.write("no response", to: "served.ocsp")
            try await daemon.logged("warning", "service.echo.ocsp_staple", "not an OCSP response")
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))

            // And the watch goes on.
            let other = try await certificates.response("other.ocsp", about: rsa, by: authority)
            #expect(rename(other, file) == 0)
            try await daemon.logged("OCSP responses have changed", count: 2)
            #expect(try await stapled("RSA").contains("Cert Status: good"))
            #expect(!daemon.logs("reload"))
            try await daemon.stop()
        }

        /// Certificates are often handed out as links to the newest of their kind.
        @Test func `a symbolic link that is changed is followed without a reload`() async throws {
            let old = try await certificates.response("old.ocsp", about: ecdsa, by: authority, .revoked)
            let new = try await certificates.response("new.ocsp", about: ecdsa, by: authority)
            try FileManager.default.createDirectory(atPath: folder.file("live"), withIntermediateDirectories: true)
            let link = folder.file("live/current")
            #expect(symlink(old, link) == 0)
            let daemon = try await Daemon.start(service("\"live/current\""), in: folder)
            #expect(symlink(new, link + ".new") == 0)
            #expect(rename(link + ".new", link) == 0)
            try await daemon.logged("OCSP responses have changed")
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))
            // In the folder that the link leads to now.
            try folder.write("no response", to: "new.ocsp")
            try await daemon.logged("warning", "not an OCSP response")
            try await daemon.stop()
        }

        /// Workers take responses up while SIGHUP has its own configuration read: they are not what the reload waits
        /// for.
        @Test func `a reload in between waits for its own configuration`() async throws {
            let file = try await certificates.response("served.ocsp", about: ecdsa, by: authority, .revoked)
            let daemon = try await Daemon.start("workers = 1\n" + service("\"\(file)\""), in: folder)
            let worker = try #require(daemon.workers.first)
            kill(worker, SIGSTOP)
            defer { kill(worker, SIGCONT) }
            let good = try await certificates.response("good.ocsp", about: ecdsa, by: authority)
            #expect(rename(good, file) == 0)
            try await daemon.logged("OCSP responses have changed")
            let loader = try await daemon.reloadAndStopLoader("nonsense = 1\n")
            defer { kill(loader, SIGCONT) }
            let failures = daemon.lines(with: "reload failed").count
            kill(worker, SIGCONT)
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))
            #expect(daemon.lines(with: "reload failed").count == failures && !daemon.logs("reloaded"))
            kill(loader, SIGCONT)
            try await daemon.logged("reload failed", count: failures + 1)
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))
            try await daemon.stop()
        }

        /// From 3.6 on OpenSSL announces such a response, sends none, and the handshake never ends.
        @Test func `a client that asks for a response is served by a certificate that signs itself`() async throws {
            let alone = try await certificates.selfSigned("alone")
            let file = try await certificates.response("alone.ocsp", about: alone, by: alone)
            let service = Service(listen: [address], identity: alone, more: "ocsp_staple = \"\(file)\"")
            let daemon = try await Daemon.start(service.text, in: folder)
            try await daemon.logged("warning", "service.echo.ocsp_staple", "the certificate has signed itself")
            let client = try Program(
                ["openssl", "s_client", "-dtls1_2", "-connect", "\(address)", "-status"]
                    + ["-CAfile", alone.certificate], in: folder)
            try await eventually("the handshake is done", details: client.output + client.errors) {
                client.output.contains("Verify return code: 0 (ok)")
            }
            #expect(saysNothingWasStapled(client.output))
            try await daemon.stop()
        }

        @Test func `a file without a response is an error`() async throws {
            let file = try folder.write("no response", to: "bad.ocsp")
            let configuration = try folder.write(service("\"\(file)\""), to: "bad.toml")
            let program = try Program([Daemon.binary, "--config", configuration], in: folder)
            #expect(try await program.ended() == .exited(78))
            #expect(program.errors.contains("bad.toml:5: service.echo.ocsp_staple: "), "\(program.errors)")
            #expect(program.errors.contains("not an OCSP response in DER"))
        }

        /// SIGHUP takes responses up too, and new ones are watched from then on.
        @Test func `a reload watches new files`() async throws {
            let daemon = try await Daemon.start(
                service("[]").replacing("ocsp_staple = []\n", with: ""), in: folder)
            let file = try await certificates.response("late.ocsp", about: ecdsa, by: authority, .revoked)
            try daemon.reload(service("\"\(file)\""))
            try await daemon.logged("reloaded")
            let good = try await certificates.response("good.ocsp", about: ecdsa, by: authority)
            #expect(rename(good, file) == 0)
            try await daemon.logged("OCSP responses have changed")
            #expect(try await stapled("ECDSA").contains("Cert Status: good"))
            try await daemon.stop()
        }
    }
}
