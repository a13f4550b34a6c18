import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Which certificate a client gets.
    @Suite struct ServerNameTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        /// The service's own, for a.example.net.
        let own: Identity
        let exact: Identity
        let wildcard: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            own = try await certificates.selfSigned("own", names: ["DNS:a.example.net"])
            exact = try await certificates.selfSigned("exact", names: ["DNS:b.example.org"])
            wildcard = try await certificates.selfSigned("wildcard", names: ["DNS:*.example.org"])
            address = try .freeOnOwnLoopback()
        }

        private func service(_ more: String = "") -> String {
            let service = Service(listen: [address], identity: own, more: more)
            return service.text + service.name("B.example.org", exact) + service.name("*.example.org", wildcard)
        }

        /// A client that trusts one certificate alone: it is served only if that is the one.
        private func client(asking name: String?, trusting identity: Identity, _ more: [String] = []) throws
            -> SecureClient
        {
            let asks = name.map { ["-servername", $0] } ?? ["-noservername"]
            return try SecureClient(to: address, trust: identity.certificate, in: folder, asks + more)
        }

        @Test func `the name that a client asks for decides its certificate`() async throws {
            let daemon = try await Daemon.start(service(), in: folder)
            let expected = [
                (nil, own), ("x.example.net", own), ("b.example.org", exact), ("B.EXAMPLE.ORG", exact),
                ("c.example.org", wildcard), ("d.c.example.org", own), ("example.org", own),
            ]
            for (name, identity) in expected {
                let client = try client(asking: name, trusting: identity)
                try await client.exchange("I asked for \(name ?? "nothing")")
            }
            try await daemon.logged("connection opened", "SNI=b.example.org")
            try await daemon.stop()
        }

        @Test func `GnuTLS gets the certificate that it asks for`() async throws {
            let daemon = try await Daemon.start(service(), in: folder)
            for (name, identity) in [("b.example.org", exact), ("c.example.org", wildcard)] {
                let client = try Program(
                    [
                        "gnutls-cli", "--udp", "--port", "\(address.port)", "--x509cafile", identity.certificate,
                        "--sni-hostname", name, "--verify-hostname", name, address.host,
                    ], in: folder)
                client.send("hello\n")
                try await eventually("gnutls-cli hears its line", details: client.output + client.errors) {
                    client.output.contains("\nhello\n")
                }
                client.closeInput()
                #expect(try await client.ended() == .exited(0))
            }
            try await daemon.stop()
        }

        @Test func `an unknown name is refused where the configuration says so`() async throws {
            let daemon = try await Daemon.start(service("unknown_name = \"refuse\""), in: folder)
            for name in [nil, "a.example.net", "A.example.net"] {
                try await client(asking: name, trusting: own).exchange("this is yours")
            }
            let refused = try client(asking: "x.example.net", trusting: own)
            refused.say("let me in")
            #expect(try await refused.program.ended() != .exited(0))
            #expect(refused.program.errors.contains("unrecognized name"), "\(refused.transcript)")
            #expect(refused.output.isEmpty)
            try await daemon.logged("handshake failed", "x.example.net", "notice")
            try await daemon.stop()
        }

        @Test func `a reload adds a name`() async throws {
            let plain = Service(listen: [address], identity: own)
            let daemon = try await Daemon.start(plain.text, in: folder)
            try await client(asking: "b.example.org", trusting: own).exchange("not yet")
            try daemon.reload(service())
            try await daemon.logged("reloaded")
            try await client(asking: "b.example.org", trusting: exact).exchange("now")
            try await daemon.stop()
        }

        /// Each name has its own sessions: what one has let in is not let in by another without a look.
        @Test func `a session of one name is not resumed under another`() async throws {
            let daemon = try await Daemon.start(service(), in: folder)
            let session = folder.file("session")
            let first = try client(asking: "b.example.org", trusting: exact, ["-sess_out", session])
            try await first.exchange("to begin with")
            #expect(folder.read("session").contains("SSL SESSION"))
            let expected = [
                ("b.example.org", "yes"), ("c.example.org", "no"), ("a.example.net", "no"), ("B.example.org", "yes"),
            ]
            for (name, resumed) in expected {
                // Verification is done once for a session; what counts here is which handshakes resume.
                let client = try Program(
                    ["openssl", "s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-connect", "\(address)"]
                        + ["-servername", name, "-sess_in", session], in: folder)
                client.send("hello \(name)\n")
                try await eventually("it is served", details: client.errors) {
                    client.output.contains("hello \(name)")
                }
                // A session has the name as it was first asked for.
                let logged = resumed == "yes" ? "b.example.org" : name
                try await daemon.logged("connection opened", "SNI=\(logged)", "RESUMED=\(resumed)")
            }
            try await daemon.stop()
        }

        @Test(arguments: ["ECDSA", "RSA"])
        func `two kinds of keys serve one name`(_ kind: String) async throws {
            let rsa = try await certificates.selfSigned("rsa", kind: .rsa, names: ["DNS:a.example.net"])
            let text = Service(listen: [address], identity: own).text
                .replacing("\"\(own.certificate)\"", with: "[\"\(rsa.certificate)\", \"\(own.certificate)\"]")
                .replacing("\"\(own.privateKey)\"", with: "[\"\(rsa.privateKey)\", \"\(own.privateKey)\"]")
            let daemon = try await Daemon.start(text, in: folder)
            let client = try client(
                asking: "a.example.net", trusting: kind == "RSA" ? rsa : own,
                ["-cipher", "ECDHE-\(kind)-AES128-GCM-SHA256"])
            try await client.exchange("hello")
            try await daemon.logged("connection opened", "CIPHER=ECDHE-\(kind)-AES128-GCM-SHA256")
            try await daemon.stop()
        }

        /// Clients that ask for no name get the certificate of the address which they have come to.
        @Test func `the address decides the certificate where no name is asked for`() async throws {
            let here = try await certificates.selfSigned("here", names: ["IP:\(address.host)"])
            let other = try #require(SocketAddress(host: "127.0.0.1", port: address.port))
            let service = Service(listen: [address, other], identity: own, more: "by_address = true")
            let daemon = try await Daemon.start(service.text + service.name(address.host, here), in: folder)
            try await client(asking: nil, trusting: here).exchange("by address")
            try await client(asking: "a.example.net", trusting: own).exchange("by name")
            try await SecureClient(to: other, trust: own.certificate, in: folder, ["-noservername"])
                .exchange("elsewhere")
            try await daemon.stop()
        }

        /// Whoever may not come in may not come in under another name either.
        @Test func `a name requires the service's client certificates`() async throws {
            let authority = try await certificates.selfSigned("authority")
            let member = try await certificates.issued("member", by: authority)
            let daemon = try await Daemon.start(service("ca = \"\(authority.certificate)\""), in: folder)
            for (name, identity) in [("b.example.org", exact), ("c.example.org", wildcard), ("x.example.net", own)] {
                try await client(
                    asking: name, trusting: identity, ["-cert", member.certificate, "-key", member.privateKey]
                ).exchange("I am a member")
                let refused = try client(asking: name, trusting: identity)
                refused.say("let me in")
                #expect(try await refused.program.ended() != .exited(0))
                #expect(refused.output.isEmpty)
            }
            try await daemon.logged("handshake failed", count: 3)
            try await daemon.stop()
        }

        /// A certificate that is not for its name is served, and the log and --check say so.
        @Test func `a certificate for another name is served with a warning`() async throws {
            let service = Service(listen: [address], identity: own)
            let daemon = try await Daemon.start(service.text + service.name("c.example.org", exact), in: folder)
            try await daemon.logged("warning", "service.echo.name.\"c.example.org\".certificate", "is not for")
            try await client(asking: "c.example.org", trusting: exact).exchange("I do not check names")
            let check = try Program([Daemon.binary, "--check", "--config", daemon.configurationFile], in: folder)
            #expect(try await check.ended() == .exited(0))
            #expect(check.errors.contains("warning: "), "\(check.errors)")
            try await daemon.stop()
        }
    }
}
