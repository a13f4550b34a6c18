import DTLSEngine
import Testing

@testable import DTLSDaemon

/// How a service verifies its clients: `client_certificate`, `ca`, `crl` and `[service.NAME.clients]`.
@Suite struct ConfigurationClientsTests {
    private let folder: ConfigurationFolder

    init() throws {
        folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write("ca.pem", material.certificate)
        try folder.write("list.crl", material.revocationList)
    }

    /// A service with `lines`, starting at line 5.
    private func service(_ lines: String) -> String {
        """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"
        \(lines)
        """
    }

    private func clients(_ lines: String) throws -> PeerVerification {
        try #require(folder.read(service(lines)).services.first).tls.clients
    }

    private func problems(_ lines: String) throws -> [String] { try folder.problems(service(lines)) }

    private static let fingerprint = "sha256:" + Array(repeating: "aB", count: 32).joined(separator: ":")
    private static let lists =
        "expected the path of a PEM file with the CAs' revocation lists (`openssl crl -inform DER` converts DER to PEM), or an"
        + " array of such paths"

    @Test func `without client_certificate, the other keys determine the mode`() throws {
        #expect(try clients("") == PeerVerification())
        #expect(try clients("client_certificate = \"none\"") == PeerVerification())
        #expect(try clients("ca = \"ca.pem\"").mode == .required)
        #expect(try clients("ca = \"ca.pem\"").authorities == TestMaterial.shared.get().certificate)
        #expect(try clients("ca = \"ca.pem\"\nclient_certificate = \"requested\"").mode == .requested)
        let pinned = try clients("[service.a.clients]\nallow = \"\(Self.fingerprint)\"")
        #expect(pinned.mode == .required && pinned.authorities == nil && pinned.allow.count == 1)
    }

    @Test func `rules and revocation lists are read`() throws {
        let clients = try clients(
            """
            ca = "ca.pem"
            crl = ["list.crl", "list.crl"]
            [service.a.clients]
            allow = ["cn:*.devices.example", "URI:urn:dev:*"]
            deny = "ip:2001:db8::/32"
            """)
        #expect(try clients.allow == [PeerRule("cn:*.devices.example"), PeerRule("URI:urn:dev:*")])
        #expect(try clients.deny == [PeerRule("ip:2001:db8::/32")])
        #expect(clients.revocationLists.count == 2)
        #expect(try self.clients("ca = \"ca.pem\"\ncrl = \"list.crl\"").revocationLists.count == 1)
    }

    @Test func `keys that contradict one another are reported`() throws {
        let noEffect =
            "it has no effect, since clients are not asked for certificates; expected client_certificate = \"requested\" or "
            + "\"required\""
        #expect(
            try problems(
                "client_certificate = \"none\"\nca = \"ca.pem\"\ncrl = \"list.crl\"\n[service.a.clients]\ndeny = \"cn:a\""
            )
                == [
                    "dtlsd.toml:6: service.a.ca: \(noEffect)", "dtlsd.toml:7: service.a.crl: \(noEffect) and ca",
                    "dtlsd.toml:8: service.a.clients: \(noEffect)",
                ])
        #expect(try problems("crl = \"list.crl\"") == ["dtlsd.toml:5: service.a.crl: \(noEffect) and ca"])
        let nothing =
            "nothing says which certificates are valid; expected ca beside it, or an allow list of \"sha256:\" "
            + "fingerprints in [service.NAME.clients]"
        for mode in ["requested", "required"] {
            #expect(
                try problems("client_certificate = \"\(mode)\"") == [
                    "dtlsd.toml:5: service.a.client_certificate: \(nothing)"
                ])
        }
        #expect(
            try problems("[service.a.clients]\ndeny = \"\(Self.fingerprint)\"") == [
                "dtlsd.toml:5: service.a.clients: \(nothing)"
            ])
        #expect(
            try problems(
                "crl = \"list.crl\"\n[service.a.clients]\nallow = [\n\"\(Self.fingerprint)\",\n\"dns:a.example\"]") == [
                    "dtlsd.toml:5: service.a.crl: it has no effect without ca; expected ca with the CAs that issued these lists",
                    "dtlsd.toml:9: service.a.clients.allow: \"dns:a.example\" proves nothing without ca; expected ca in "
                        + "[service.NAME], or \"sha256:\" fingerprints alone",
                ])
    }

    @Test func `wrong values of the keys about clients are reported`() throws {
        try folder.write("garbage", "no PEM at all")
        try folder.write("half.crl", String(TestMaterial.shared.get().revocationList.prefix(200)))
        let wildcard = "no other * is allowed"
        #expect(
            try problems(
                """
                client_certificate = "optional"
                ca = "ca.pem"
                crl = [
                    "garbage",
                    "none.crl",
                    "half.crl",
                    5]
                [service.a.clients]
                allow = [
                    "cn:a*",
                    7,
                    "sha256:00",
                    "sensor-7"]
                deny = []
                alow = "cn:a"
                """
            ).map { $0.replacing(#/not valid PEM \([^)]*\)\)?/#, with: "not valid PEM (…)") } == [
                "dtlsd.toml:5: service.a.client_certificate: expected one of \"none\", \"requested\", \"required\", found "
                    + "the string \"optional\"",
                "dtlsd.toml:8: service.a.crl: \"garbage\": no PEM CRL in it; \(Self.lists)",
                "dtlsd.toml:9: service.a.crl: cannot read \"none.crl\": No such file or directory; \(Self.lists)",
                "dtlsd.toml:10: service.a.crl: \"half.crl\": not valid PEM (…); \(Self.lists)",
                "dtlsd.toml:11: service.a.crl: \(Self.lists), found 5",
                "dtlsd.toml:14: service.a.clients.allow: \"cn:a*\": expected \"cn:NAME\" or \"cn:*.NAME\", where * stands "
                    + "for one label; \(wildcard)",
                "dtlsd.toml:15: service.a.clients.allow: expected a rule such as \"cn:*.example.org\", or an array of "
                    + "rules, found 7",
                "dtlsd.toml:16: service.a.clients.allow: \"sha256:00\": expected \"sha256:\" and 64 hexadecimal digits, "
                    + "with or without a colon between each two of them",
                "dtlsd.toml:17: service.a.clients.allow: \"sensor-7\": expected one of \"cn:\", \"dns:\", \"ip:\", "
                    + "\"uri:\", \"email:\", \"sha256:\" in front",
                "dtlsd.toml:18: service.a.clients.deny: expected a rule such as \"cn:*.example.org\", or an array of "
                    + "rules, found an empty array",
                "dtlsd.toml:19: service.a.clients.alow: unknown key; did you mean \"allow\"?",
            ])
        #expect(
            try problems("deny = \"cn:a\"") == [
                "dtlsd.toml:5: service.a.deny: unknown key here; it belongs in [service.NAME.clients] or "
                    + "[service.NAME.limits] or [limits]"
            ])
    }

    /// An empty array would silently deactivate revocation checks.
    @Test func `an empty array of revocation lists is refused`() throws {
        #expect(
            try problems("ca = \"ca.pem\"\ncrl = []") == [
                "dtlsd.toml:6: service.a.crl: \(Self.lists), found an empty array"
            ])
    }

    @Test func `CAs whose clients are rejected cause a warning`() throws {
        let material = try TestMaterial.shared.get()
        try folder.write("both.pem", material.certificate + material.expiredCertificate)
        let configuration = try folder.read(service("ca = \"both.pem\"\ncrl = \"list.crl\""))
        let warnings = configuration.warnings.map { "\($0.line ?? 0): \($0.key ?? ""): \($0.message)" }
        #expect(warnings.count == 2)
        #expect(
            warnings.first?.hasPrefix("5: service.a.ca: \"both.pem\": the certificate of \"CN=expired\" expired on 2")
                == true
        )
        #expect(warnings.first?.hasSuffix("; the clients of this CA are refused") == true)
        #expect(
            warnings.last
                == "6: service.a.crl: no list of \"CN=expired\", a CA in \"both.pem\": its clients are refused "
                + "until there is one (SIGHUP loads it)")
    }

    /// A list of revoked certificates may be larger than other files.
    @Test func `a revocation list may be larger than other files`() throws {
        let list = try TestMaterial.shared.get().revocationList
        try folder.write("large.crl", list + String(repeating: "# a comment\n", count: 200_000))
        #expect(try problems("ca = \"ca.pem\"\ncrl = \"large.crl\"") == [])
        try folder.write("large.crl", list + String(repeating: "# a comment\n", count: 1_400_000))
        #expect(
            try problems("ca = \"ca.pem\"\ncrl = \"large.crl\"") == [
                "dtlsd.toml:6: service.a.crl: \"large.crl\" is too large; expected at most 16777216 bytes; \(Self.lists)"
            ])
    }
}
