import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// Which clients get in by their certificates, what those that do not are told, and what the log says of them.
    @Suite struct ClientRuleTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let identity: Identity
        let root: Identity
        let member: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            identity = try await certificates.selfSigned("server")
            root = try await certificates.authority("root")
            member = try await certificates.issued(
                "member", by: root,
                extensions: [
                    "subjectAltName=DNS:member.devices.example,URI:urn:dev:7,IP:192.0.2.7,email:joe@example.org"
                ])
            address = try SocketAddress.freeOnOwnLoopback()
        }

        private func service(_ lines: String..., clients: String...) -> String {
            let table = clients.isEmpty ? [] : ["[service.echo.clients]"]
            return Service(
                listen: [address], identity: identity, more: (lines + table + clients).joined(separator: "\n")
            ).text
        }

        private var authority: String { "ca = \"\(root.certificate)\"" }

        /// s_client with a client's certificate and, where it has any, the chain above it.
        private func client(_ own: Identity?, chain: Identity? = nil, _ more: [String] = []) throws -> SecureClient {
            let shown = own.map { ["-cert", $0.certificate, "-key", $0.privateKey] } ?? []
            let above = chain.map { ["-cert_chain", $0.certificate] } ?? []
            return try SecureClient(to: address, trust: identity.certificate, in: folder, shown + above + more)
        }

        /// The client is refused with this alert, which OpenSSL and GnuTLS both name, and hears no answer.
        private func expectAlert(_ number: Int, _ client: SecureClient) async throws {
            client.say("let me in")
            #expect(try await client.program.ended() != .exited(0))
            #expect(client.output.isEmpty)
            #expect(client.program.errors.contains("SSL alert number \(number)\n"), "\(client.transcript)")
        }

        private func gnutls(_ own: Identity) throws -> Program {
            try Program(
                ["gnutls-cli", "--udp", "--port", "\(address.port)", "--x509cafile", identity.certificate]
                    + ["--verify-hostname", "localhost", "--x509certfile", own.certificate]
                    + ["--x509keyfile", own.privateKey, address.host], in: folder)
        }

        private func expectGnutlsHears(_ alert: String, _ own: Identity) async throws {
            let client = try gnutls(own)
            #expect(try await client.ended() != .exited(0))
            #expect(
                (client.output + client.errors).contains("Received alert \(alert)"), "\(client.output)\(client.errors)")
        }

        @Test(arguments: [
            "cn:MEMBER", "dns:*.devices.example", "uri:urn:dev:*", "ip:192.0.2.0/24", "email:*@example.org", "sha256",
        ])
        func `every kind of rule allows and denies`(_ rule: String) async throws {
            let rule = rule == "sha256" ? "sha256:\(try await certificates.fingerprint(of: member))" : rule
            let other = try await certificates.issued(
                "other", by: root, extensions: ["subjectAltName=DNS:other.example"])
            let daemon = try await Daemon.start(
                service(authority, clients: "allow = [\"cn:nobody\", \"\(rule)\"]"), in: folder)
            try await client(member).exchange("let me in")
            let opened = try await daemon.logged("connection opened", "CLIENT=member")
            let fingerprint = try await certificates.fingerprint(of: member).lowercased().filter { $0 != ":" }
            #expect(opened.first?.contains("CLIENT_FINGERPRINT=\(fingerprint) ") == true)
            try await expectAlert(49, client(other))
            try await daemon.logged(
                "handshake failed", "client certificate \"CN=other\" matches nothing of the allow list",
                " CLIENT=other ")

            try daemon.reload(service(authority, clients: "deny = \"\(rule)\""))
            try await daemon.logged("reloaded")
            try await expectAlert(49, client(member))
            let refused = try await daemon.logged(
                "client certificate \"CN=member\" matches \"\(rule)\" of the deny list")
            #expect(refused.first?.contains("CLIENT_FINGERPRINT=\(fingerprint) ") == true)
            try await client(other).exchange("let me in")
            try await daemon.stop()
        }

        @Test func `GnuTLS gets the alert that says why it was rejected`() async throws {
            let expired = try await certificates.issued("expired", by: root, extensions: [], isExpired: true)
            let stranger = try await certificates.authority("stranger")
            let list = try await certificates.revocationList(of: root, revoking: [member])
            let daemon = try await Daemon.start(service(authority, clients: "deny = \"cn:member\""), in: folder)
            try await expectGnutlsHears("[49]: Access was denied", member)
            try await expectGnutlsHears("[45]: Certificate is expired", expired)
            try await daemon.logged("client certificate \"CN=expired\" expired on ")
            try folder.write(list, to: "list.crl")
            // GnuTLS shows no certificate whose issuer the server has not named: a stranger's is for OpenSSL's client.
            let impostor = try await certificates.issued("impostor", by: stranger, extensions: [])
            try daemon.reload(service("ca = \"\(root.certificate)\"", "crl = \"list.crl\""))
            try await daemon.logged("reloaded")
            try await expectGnutlsHears("[44]: Certificate was revoked", member)
            try await daemon.logged("client certificate \"CN=member\" was revoked on ", " by \"CN=root\"")
            try await expectAlert(48, client(impostor))
            try await daemon.logged("\"CN=impostor\" was issued by \"CN=stranger\", which is not among the trusted CAs")
            try await daemon.stop()
        }

        @Test func `a service that requests certificates serves clients that have none`() async throws {
            let expired = try await certificates.issued("expired", by: root, extensions: [], isExpired: true)
            let daemon = try await Daemon.start(
                service(authority, "client_certificate = \"requested\"", clients: "allow = \"cn:member\""), in: folder)
            try await client(nil).exchange("I have none")
            try await client(member).exchange("I have one")
            try await expectAlert(45, client(expired))
            try await daemon.logged("connection opened", "CLIENT=member")
            #expect(daemon.lines(with: "connection opened").contains { !$0.contains("CLIENT") })
            try daemon.reload(service(authority, "client_certificate = \"required\""))
            try await daemon.logged("reloaded")
            try await expectAlert(40, client(nil))
            try await daemon.logged("handshake failed: peer did not return a certificate")
            try await daemon.stop()
        }

        @Test func `self-signed devices are recognised by their fingerprints`() async throws {
            let device = try await certificates.authority("device")
            let pin = try await certificates.fingerprint(of: device)
            let daemon = try await Daemon.start(service(clients: "allow = \"sha256:\(pin)\""), in: folder)
            try await client(device).exchange("it is me")
            let gnutls = try gnutls(device)
            gnutls.send("it is me too\n")
            try await eventually("gnutls-cli hears its line", details: gnutls.output + gnutls.errors) {
                gnutls.output.contains("it is me too\n")
            }
            try await expectAlert(49, client(member))
            try await expectAlert(40, client(nil))
            try await daemon.stop()
        }

        /// A chain of 9 KB, in datagrams of at most 300 bytes.
        @Test func `a long chain of certificates arrives in small datagrams`() async throws {
            let intermediate = try await certificates.issued(
                "intermediate", by: root, extensions: ["basicConstraints=critical,CA:TRUE"])
            let names = (0..<300).map { "DNS:name-\($0).device.example" }.joined(separator: ",")
            let device = try await certificates.issued(
                "device", by: intermediate, extensions: ["subjectAltName=\(names)"])
            let daemon = try await Daemon.start(
                service(authority, "mtu = 300", clients: "allow = \"dns:name-299.device.example\""), in: folder)
            try await client(device, chain: intermediate, ["-mtu", "300"]).exchange("a long story")
            try await expectAlert(48, client(device))
            try await daemon.logged(
                "\"CN=device\" was issued by \"CN=intermediate\", which is not among the trusted CAs")
            try await daemon.stop()
        }

        /// A list that is out of date is the operator's fault, and the client is not told that its certificate is.
        @Test func `a changed revocation list holds for new handshakes`() async throws {
            let list = try await folder.write(certificates.revocationList(of: root, outdated: true), to: "list.crl")
            let daemon = try await Daemon.start(service(authority, "crl = [\"list.crl\"]"), in: folder)
            try await daemon.logged(
                " warning ", "service.echo.crl: \"list.crl\": ",
                "the list of \"CN=root\" has been out of date since 2020-01-02 ")
            try await expectAlert(46, client(member))
            try await daemon.logged(
                "\"CN=member\" cannot be checked: the revocation list (CRL) of its issuer \"CN=root\" has been out of date "
                    + "since 2020-01-02 00:00:00Z")

            try folder.write(await certificates.revocationList(of: root), to: "list.crl")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            let session = folder.file("session")
            let early = try client(member, ["-sess_out", session])
            try await early.exchange("not revoked yet")
            let back = try client(nil, ["-sess_in", session])
            try await back.exchange("my session knows me")
            try await daemon.logged("connection opened", "CLIENT=member", "RESUMED=yes")

            try folder.write(await certificates.revocationList(of: root, revoking: [member]), to: "list.crl")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            try await expectAlert(44, client(member, ["-sess_in", session]))
            try await expectAlert(40, client(nil, ["-sess_in", session]))
            #expect(daemon.lines(with: "RESUMED=yes").count == 1)

            try FileManager.default.removeItem(atPath: list)
            daemon.program.signal(SIGHUP)
            try await daemon.logged("service.echo.crl: cannot read ", "list.crl")
            try await expectAlert(44, client(member))
            try await daemon.stop()
        }

        @Test func `with crl_check leaf only the issuer of a client's certificate needs a list`() async throws {
            let intermediate = try await certificates.issued(
                "intermediate", by: root, extensions: ["basicConstraints=critical,CA:TRUE"])
            let device = try await certificates.issued(
                "device", by: intermediate, extensions: ["basicConstraints=CA:FALSE"])
            try folder.write(await certificates.revocationList(of: intermediate), to: "list.crl")
            let lines = "crl = \"list.crl\""
            let daemon = try await Daemon.start(service(authority, lines), in: folder)
            try await expectAlert(46, client(device, chain: intermediate))
            try await daemon.logged("there is no revocation list (CRL) of its issuer \"CN=root\"")

            try daemon.reload(service(authority, lines, "crl_check = \"leaf\""))
            try await daemon.logged("reloaded")
            try await client(device, chain: intermediate).exchange("nobody asks about my CA")

            try folder.write(
                await certificates.revocationList(of: intermediate, revoking: [device]), to: "list.crl")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            try await expectAlert(44, client(device, chain: intermediate))
            try await daemon.stop()
        }

        @Test func `an old session does not get around a new rule`() async throws {
            let daemon = try await Daemon.start(service(authority), in: folder)
            let session = folder.file("session")
            let early = try client(member, ["-sess_out", session])
            try await early.exchange("nothing against me")
            // The same configuration once more ends no session.
            try daemon.reload(service(authority))
            try await daemon.logged("reloaded")
            let back = try client(member, ["-sess_in", session])
            try await back.exchange("back again")
            try await daemon.logged("connection opened", "RESUMED=yes")
            try daemon.reload(service(authority, clients: "deny = [\"dns:*.devices.example\"]"))
            try await daemon.logged("reloaded", count: 2)
            try await expectAlert(49, client(member, ["-sess_in", session]))
            try daemon.reload(service(authority, clients: "allow = [\"dns:*.devices.example\"]"))
            try await daemon.logged("reloaded", count: 3)
            let late = try client(member, ["-sess_in", session])
            try await late.exchange("a full handshake")
            #expect(daemon.lines(with: "RESUMED=yes").count == 1)
            try await daemon.stop()
        }

        @Test func `wrong rules change nothing`() async throws {
            let good = service(authority, clients: "allow = \"cn:member\"")
            let daemon = try await Daemon.start(good, in: folder)
            for (wrong, message) in [
                (
                    service(authority, clients: "allow = [\"cn:member\", \"cn:mem*\"]"),
                    "service.echo.clients.allow: \"cn:mem*\": "
                ),
                (
                    service(authority, clients: "deny = \"user:x\""),
                    "service.echo.clients.deny: \"user:x\": expected one of "
                ),
                (service(clients: "allow = \"cn:member\""), "\"cn:member\" proves nothing without ca"),
                (service("client_certificate = \"required\""), "nothing says which certificates are valid"),
                (service(authority, "crl = \"\(root.certificate)\""), "no PEM CRL in it"),
            ] {
                try daemon.reload(wrong)
                try await daemon.logged(" error ", message)
                try await client(member).exchange("still here after \(message.utf8.count)")
            }
            #expect(!daemon.logs("reloaded"))
            try await daemon.stop()
        }
    }
}
