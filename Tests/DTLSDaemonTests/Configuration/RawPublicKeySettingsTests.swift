import DTLSEngine
import Testing

@testable import DTLSDaemon

/// Raw public keys (RFC 7250): `raw_public_key`, `client_public_keys` and `server_public_keys`.
@Suite struct ConfigurationRawPublicKeyTests {
    private let folder: ConfigurationFolder

    init() throws {
        folder = try ConfigurationFolder()
        try folder.write("keys", "sensor-7 sha256:\(Self.digits)\n")
        try folder.write("ca.pem", TestMaterial.shared.get().certificate)
    }

    private static let digits = String(repeating: "0a", count: 32)
    private static let known = KnownPublicKeys([
        KnownPublicKey(name: "sensor-7", fingerprint: [UInt8](repeating: 10, count: 32))
    ])

    private func service(_ lines: String) -> String { "[service.a]\nhandler = \"echo\"\n\(lines)" }

    private func client(_ lines: String) -> String {
        "[client.a]\nlisten = \"127.0.0.1:5000\"\nconnect = \"192.0.2.1:4433\"\n\(lines)"
    }

    private static let certified = "certificate = \"server.pem\"\nprivate_key = \"server.key\"\n"

    /// The problems but for that of an OpenSSL without raw public keys.
    private func problems(_ text: String) throws -> [String] {
        let all = try folder.problems(text, environment: ["SSL_CERT_FILE": "\(folder.path)/server.pem"])
        return RawPublicKeys.missing.map { missing in all.filter { !$0.contains(missing) } } ?? all
    }

    @Test(.enabled(if: RawPublicKeys.missing != nil, "OpenSSL has them"))
    func `an OpenSSL without raw public keys is named`() throws {
        let missing = try #require(RawPublicKeys.missing)
        #expect(
            try folder.problems(service("\(Self.certified)raw_public_key = true\nclient_public_keys = \"keys\"")) == [
                "dtlsd.toml:5: service.a.raw_public_key: \(missing); expected false",
                "dtlsd.toml:6: service.a.client_public_keys: \(missing); expected no client_public_keys",
            ])
        #expect(
            try folder.problems(service("private_key = \"server.key\"\nraw_public_key = true"))
                == ["dtlsd.toml:4: service.a.raw_public_key: \(missing); expected false"])
        #expect(
            try folder.problems(
                client("private_key = \"server.key\"\nraw_public_key = true\nserver_public_keys = \"keys\"")) == [
                    "dtlsd.toml:5: client.a.raw_public_key: \(missing); expected false",
                    "dtlsd.toml:6: client.a.server_public_keys: \(missing); expected no server_public_keys",
                ])
        let off = try folder.read(service("\(Self.certified)raw_public_key = false"))
        #expect(off.services.first?.tls.offersRawPublicKeys == false)
    }

    @Test(.enabled(if: RawPublicKeys.missing == nil, "OpenSSL has none"))
    func `a service shows and takes keys`() throws {
        func read(_ lines: String) throws -> ServerSettings {
            try #require(folder.read(service(lines)).services.first).tls
        }
        let material = try TestMaterial.shared.get()
        let bare = try read("private_key = \"server.key\"\nraw_public_key = true\nclient_public_keys = \"keys\"")
        #expect(bare.certifiedKeys.isEmpty && bare.bareKeys == [BareKey(privateKey: material.privateKey)])
        #expect(bare.clients == PeerVerification(mode: .required, publicKeys: Self.known))
        let both = try read("\(Self.certified)raw_public_key = true\nclient_public_keys = \"keys\"\nca = \"ca.pem\"")
        #expect(both.bareKeys.isEmpty && both.offersRawPublicKeys && both.certifiedKeys.count == 1)
        #expect(both.clients.authorities != nil && both.clients.publicKeys == Self.known)
        let requested = try read("\(Self.certified)client_public_keys = \"keys\"\nclient_certificate = \"requested\"")
        #expect(requested.clients.mode == .requested && !requested.offersRawPublicKeys)
        let rules = try read(
            "\(Self.certified)client_public_keys = \"keys\"\n[service.a.clients]\nallow = \"sha256:\(Self.digits)\"")
        #expect(rules.clients.allow.count == 1 && rules.clients.publicKeys == Self.known)
        try folder.write("encrypted.key", material.encryptedKey)
        try folder.write("rsa.key", material.rsaKey)
        try folder.write("passphrase", "sesame\n")
        let several = try read(
            "private_key = [\"encrypted.key\", \"rsa.key\"]\npassphrase_file = \"passphrase\"\nraw_public_key = true")
        #expect(several.bareKeys.map(\.passphrase) == ["sesame", "sesame"])
    }

    @Test(.enabled(if: RawPublicKeys.missing == nil, "OpenSSL has none"))
    func `a client shows its key and knows its server's`() throws {
        func read(_ lines: String) throws -> ClientSettings {
            let environment = ["SSL_CERT_FILE": "\(folder.path)/server.pem"]
            return try #require(folder.read(client(lines), environment: environment).clients.first).tls
        }
        let bare = try read("server_public_keys = \"keys\"\nprivate_key = \"server.key\"\nraw_public_key = true")
        // Not those of the system either.
        #expect(bare.serverPublicKeys == Self.known && bare.certificateAuthorities == nil)
        #expect(bare.certificate == nil && bare.privateKey != nil && bare.offersRawPublicKey)
        let both = try read("server_public_keys = \"keys\"\nca = \"ca.pem\"\n\(Self.certified)raw_public_key = true")
        #expect(both.certificateAuthorities != nil && both.certificate != nil && both.offersRawPublicKey)
    }

    private static let file =
        "expected the path of a file of public keys, in PEM or as NAME sha256:DIGITS in each line"

    @Test func `files that cannot be used are reported`() throws {
        for text in [
            service("\(Self.certified)client_public_keys = "), client("ca = \"ca.pem\"\n\nserver_public_keys = "),
        ] {
            func found(_ value: String) throws -> [String] {
                try problems(text + value).map { $0.replacing(/^dtlsd.toml:\d+: (service|client).a./, with: "") }
            }
            let key = text.contains("client_public") ? "client_public_keys" : "server_public_keys"
            try folder.write("empty", "# nothing yet\n")
            #expect(
                try found("\"empty\"") == ["\(key): \"empty\" has no key; expected one or more, as NAME sha256:DIGITS"])
            try folder.write("wrong", "a\nb c d\n")
            let expected = "expected NAME sha256:DIGITS, or NAME and a PEM public key below it"
            #expect(
                try found("\"wrong\"") == [
                    "\(key): \"wrong\", line 1: no key after the name \"a\"; \(expected)",
                    "\(key): \"wrong\", line 2: more than two words; \(expected)",
                ])
            #expect(try found("\"gone\"").map { $0.contains("No such file or directory; \(Self.file)") } == [true])
            #expect(try found("7") == ["\(key): \(Self.file), found 7"])
        }
    }

    @Test(.enabled(if: RawPublicKeys.missing == nil, "OpenSSL has none"))
    func `a wrong line is skipped with a warning where others are right`() throws {
        try folder.write("keys", "a\nsensor-7 sha256:\(Self.digits)\n")
        let configuration = try folder.read(service("\(Self.certified)client_public_keys = \"keys\""))
        #expect(configuration.services.first?.tls.clients.publicKeys == Self.known)
        #expect(configuration.warnings.map { $0.description.contains("line 1: no key after the name") } == [true])
    }

    @Test func `keys that do not fit together are reported`() throws {
        #expect(
            try problems(service("raw_public_key = true")) == [
                "dtlsd.toml:1: service.a.private_key: missing; expected the path of a PEM file with the certificate's private key"
            ])
        // Then a certificate is missing, too.
        #expect(try problems(service("raw_public_key = false")).count == 2)
        #expect(
            try problems(
                service("\(Self.certified)client_public_keys = \"keys\"\nclient_certificate = \"none\"")) == [
                    "dtlsd.toml:5: service.a.client_public_keys: it has no effect, since clients are not asked for certificates;"
                        + " expected client_certificate = \"requested\" or \"required\""
                ])
        #expect(
            try problems(
                service("\(Self.certified)client_public_keys = \"keys\"\n[service.a.clients]\ndeny = \"cn:a\"")) == [
                    "dtlsd.toml:6: service.a.clients: its rules are about certificates, and nothing says which are valid;"
                        + " expected ca beside it, or an allow list of \"sha256:\" fingerprints"
                ])
        #expect(
            try problems(client("server_public_keys = \"keys\"\nverify = false")) == [
                "dtlsd.toml:4: client.a.server_public_keys: it has no effect with verify = false; expected only one of the two"
            ])
        #expect(
            try problems(client("ca = \"ca.pem\"\nraw_public_key = true")) == [
                "dtlsd.toml:1: client.a.private_key: missing; expected the path of a PEM file with the certificate's private key"
            ])
        try folder.write("keys.psk", "a:00112233445566778899aabbccddeeff\n")
        let psk = try problems(
            client("server_public_keys = \"keys\"\nraw_public_key = true\n[client.a.psk]\nfile = \"keys.psk\""))
        #expect(psk.count == 2 && psk.allSatisfy { $0.contains("it has no effect with [client.NAME.psk]") }, "\(psk)")
    }

    @Test func `private keys without certificates that cannot be used are reported`() throws {
        let material = try TestMaterial.shared.get()
        for (name, text) in [
            ("encrypted.key", material.encryptedKey), ("ed.key", material.ed25519Key), ("other.key", material.otherKey),
            ("no.key", "nothing"),
        ] { try folder.write(name, text) }
        func found(_ keys: String) throws -> [String] {
            try problems(service("private_key = \(keys)\nraw_public_key = true"))
        }
        let beginning = "dtlsd.toml:3: service.a.private_key: "
        #expect(
            try found("\"ed.key\"") == [
                "\(beginning)\"ed.key\": OpenSSL has no cipher suites of DTLS for servers with ED25519 keys;"
                    + " expected the path of a PEM file with a private key, RSA or ECDSA"
            ])
        #expect(
            try found("[\"server.key\", \"other.key\"]") == [
                "\(beginning)\"other.key\": an ECDSA key, as in \"server.key\"; expected one of each kind (RSA, ECDSA)"
            ])
        #expect(
            try found("\"encrypted.key\"") == [
                "\(beginning)\"encrypted.key\": the private key is encrypted and no passphrase is given;"
                    + " expected a passphrase_file beside it"
            ])
        #expect(try found("\"no.key\"").map { $0.hasPrefix("\(beginning)\"no.key\": not a valid PEM") } == [true])
        try folder.write("passphrase", "wrong\n")
        #expect(
            try problems(
                service("private_key = \"encrypted.key\"\npassphrase_file = \"passphrase\"\nraw_public_key = true"))
                == [
                    "dtlsd.toml:4: service.a.passphrase_file: it does not decrypt the private key of \"encrypted.key\";"
                        + " expected the path of a file with the private key's passphrase in its first line"
                ])
        try folder.write("open.key", material.privateKey, mode: 0o644)
        #expect(try found("\"open.key\"").map { $0.contains("every user may use \"open.key\" (mode 644)") } == [true])
    }

    @Test func `a rule about keys needs a service that takes them`() throws {
        let text = """
            [service.a]
            \(Self.certified)
            handler = "forward"
            [service.a.forward]
            backend = "udp:127.0.0.1:7"
            [service.a.forward.rule.b]
            public_key = "sensor-*"
            refuse = true
            """
        let configuration = try folder.read(text)
        #expect(
            configuration.warnings.map(\.description).contains {
                $0.contains("service.a.forward.rule.b.public_key: no client of the service has one")
                    && $0.hasSuffix("expected client_public_keys in the service")
            })
    }
}
