import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// The three lines that a client needs at least, if the system has CA certificates.
private let least = """
    [client.out]
    listen = "127.0.0.1:5000"
    connect = "192.0.2.1:4433"

    """

@Suite struct ConfigurationClientTests {
    private let folder: ConfigurationFolder

    init() throws { folder = try ConfigurationFolder() }

    /// An environment in which the CA certificates of the test machine are not used.
    private var environment: [String: String] { ["SSL_CERT_FILE": "\(folder.path)/server.pem"] }

    private func problems(_ lines: String, _ text: String = least) throws -> [String] {
        try folder.problems(text + lines, environment: environment)
    }

    @Test func `a client of three lines gets the defaults`() throws {
        let configuration = try folder.read(least, environment: environment)
        #expect(configuration.services.isEmpty && configuration.warnings.isEmpty)
        let material = try TestMaterial.shared.get()
        let server = try #require(SocketAddress("192.0.2.1:4433"))
        #expect(
            configuration.clients == [
                ClientConfiguration(
                    name: "out", listen: [try #require(SocketAddress("127.0.0.1:5000"))], server: .address(server),
                    serverName: "192.0.2.1", tls: ClientSettings(certificateAuthorities: material.certificate),
                    handshakeTimeout: .milliseconds(60_000), idleTimeout: .milliseconds(300_000),
                    answerTimeout: .milliseconds(60_000), mtu: 1_400, resumes: true,
                    socket: SocketOptions(fragmentation: false))
            ])
    }

    @Test func `every value of a client is read`() throws {
        let material = try TestMaterial.shared.get()
        try folder.write("encrypted.key", material.encryptedKey)
        try folder.write("passphrase", "sesame\n")
        let configuration = try folder.read(
            """
            [client."b.c"]
            listen = ["[::1]:5000", "127.0.0.1:5000"]
            connect = "[2001:db8::1]:4433"
            server_name = "coap.example.org"
            ca = "server.pem"
            certificate = "server.pem"
            private_key = "encrypted.key"
            passphrase_file = "passphrase"
            ciphers = "ECDHE+AESGCM"
            minimum_version = "1.0"
            maximum_version = "1.2"
            mtu = 256
            handshake_timeout = 2
            idle_timeout = 0
            answer_timeout = 0
            resumption = false
            [client."b.c".socket]
            receive_buffer = 65536
            """)
        let server = try #require(SocketAddress("[2001:db8::1]:4433"))
        #expect(
            configuration.clients == [
                ClientConfiguration(
                    name: "b.c", listen: try ["[::1]:5000", "127.0.0.1:5000"].map { try #require(SocketAddress($0)) },
                    server: .address(server), serverName: "coap.example.org",
                    tls: ClientSettings(
                        certificateAuthorities: material.certificate, certificate: material.certificate,
                        privateKey: material.encryptedKey, passphrase: "sesame", ciphers: "ECDHE+AESGCM",
                        minimumVersion: .dtls10, maximumVersion: .dtls12),
                    handshakeTimeout: .milliseconds(2_000), idleTimeout: .zero, answerTimeout: .zero, mtu: 256,
                    resumes: false,
                    socket: SocketOptions(receiveBuffer: 65_536, fragmentation: false))
            ])
    }

    @Test(arguments: [
        ("localhost.:1", "localhost"), ("localhost:1", "localhost"), ("192.0.2.1:1", "192.0.2.1"), ("[::1]:1", "::1"),
        ("[fe80::1%lo]:1", "fe80::1"),
    ])
    func `the server's name is the host without its interface and its last dot`(_ text: String, _ name: String) {
        #expect(HostAndPort(text)?.certificateName == name)
    }

    @Test(arguments: ["localhost:4433", "LOCALHOST:4433"])
    func `a host name is left to the resolver, and is the server's name`(_ text: String) throws {
        let configuration = try folder.read(
            "[client.a]\nlisten = \"127.0.0.1:5000\"\nconnect = \"\(text)\"", environment: environment)
        let client = try #require(configuration.clients.first)
        let host = String(text.prefix { $0 != ":" })
        #expect(client.server == .name(host, port: 4_433))
        #expect(client.serverName == host)
        #expect(configuration.names.map(\.host) == [host])
        #expect(
            configuration.names.first?.problem("why").description.hasSuffix(
                "dtlsd.toml:3: client.a.connect: the host name \"\(host)\" has no address (why); expected a name that"
                    + " resolves, or an address. Nothing can be sent there until it has one") == true)
    }

    @Test func `without verification the system's CA certificates are not needed, and a warning is given`() throws {
        let configuration = try folder.read(
            least + "verify = false", environment: ["SSL_CERT_FILE": "\(folder.path)/none.pem"])
        let client = try #require(configuration.clients.first)
        #expect(!client.tls.rejectUnauthorized && client.tls.certificateAuthorities == nil)
        #expect(configuration.warnings.map(\.key) == ["client.out.verify"])
        #expect(configuration.warnings.first?.message.hasPrefix("false: anybody who answers ") == true)
    }

    @Test func `missing CA certificates of the system are reported`() throws {
        let found = try folder.problems(least, environment: ["SSL_CERT_FILE": "\(folder.path)/none.pem"])
        #expect(found.count == 1)
        #expect(
            found.first?.hasPrefix(
                "dtlsd.toml:1: client.out.ca: missing, and the system's CA certificates are not there: cannot read"
                    + " \"none.pem\": No such file or directory (SSL_CERT_FILE); expected ") == true)
    }

    /// Each distribution has its bundle somewhere else.
    @Test func `the system's CA certificates are the first that are found`() throws {
        let material = try TestMaterial.shared.get()
        let (one, other) = (material.certificate, material.rsaCertificate)
        try folder.write("empty.pem", "")
        try folder.write("one.pem", one)
        try folder.write("certs/5ed36f99.0", one)
        try folder.write("certs/0a1b2c3d.12", other)
        try folder.write("certs/README", "-----BEGIN nothing")
        func file(_ name: String) -> String { "\(folder.path)/\(name)" }
        func read(_ environment: [String: String], _ files: [String], _ directory: String = "none") throws -> String {
            try SystemBundle(
                environment: environment, usual: (files: files.map(file), folder: file(directory))
            ).read()
        }
        #expect(try read([:], ["none", "empty.pem", "one.pem", "rsa.pem"]) == one)
        #expect(try read([:], ["none", "empty.pem"], "certs") == other + one)
        #expect(try read(["SSL_CERT_FILE": file("one.pem")], []) == one)
        #expect(try read(["SSL_CERT_DIR": "\(file("none")):\(file("certs"))"], []) == other + one)
        let missing = #expect(throws: SystemBundle.Missing.self) { try read([:], ["none", "empty.pem"], "nowhere") }
        #expect(
            missing?.tried == [
                "cannot read \"\(file("none"))\": No such file or directory",
                "\"\(file("empty.pem"))\" has no PEM certificate in it",
                "\"\(file("nowhere"))\" is no folder with certificates that `openssl rehash` has named",
            ])
        // What the operator names is all that counts.
        #expect(throws: SystemBundle.Missing.self) { try read(["SSL_CERT_FILE": file("none")], ["one.pem"]) }
        #expect(SystemBundle.bundles.contains("/etc/ssl/certs/ca-certificates.crt"))
    }

    @Test func `a client without connect is refused`() throws {
        #expect(
            try problems("", "[client.out]\nlisten = \"127.0.0.1:5000\"\n") == [
                "dtlsd.toml:1: client.out.connect: missing; expected \"HOST:PORT\" or \"[IPv6 ADDRESS]:PORT\""
            ])
    }

    @Test(arguments: ["localhost.", "a..b", ".", "-", "*.a", "fe80::1%lo", "a b"])
    func `a text that is not a server name is refused`(_ text: String) throws {
        #expect(
            try problems("server_name = \"\(text)\"") == [
                "dtlsd.toml:4: client.out.server_name: expected a host name or an IP address, without a port, found the"
                    + " string \"\(text)\""
            ])
    }

    @Test(arguments: ["0.0.0.0:1", "224.0.0.1:1", "[ff02::1]:1"])
    func `a server whose address is not that of a single machine is refused`(_ address: String) throws {
        #expect(
            try problems("", "[client.out]\nlisten = \"127.0.0.1:5000\"\nconnect = \"\(address)\"\n") == [
                "dtlsd.toml:3: client.out.connect: \(address) is not the address of a single machine; "
                    + "expected a unicast address"
            ])
    }

    @Test func `a certificate that peers will reject causes a warning`() throws {
        try folder.write("old.pem", TestMaterial.shared.get().expiredCertificate)
        let warnings = try folder.read(
            least
                + "ca = \"old.pem\"\ncertificate = \"old.pem\"\nprivate_key = \"server.key\"\nciphers = \"ECDHE:NOPE\""
        ).warnings
        #expect(warnings.map(\.key) == ["client.out.ca", "client.out.certificate", "client.out.ciphers"])
        #expect(warnings.first?.message.hasSuffix("; servers with a certificate of this CA are refused") == true)
        #expect(
            warnings.dropFirst().first?.message.hasSuffix("; servers that check it will refuse it") == true)
        #expect(warnings.last?.message == "no effect: \"NOPE\"; OpenSSL knows no cipher suite of this name")
    }

    static let wrongLines: [(String, String)] = [
        (
            "certificate = \"server.pem\"",
            "1: client.out.private_key: missing; expected the path of a PEM file with the certificate's private key"
        ),
        (
            "private_key = \"server.key\"",
            "1: client.out.certificate: missing; expected the path of a PEM file with the client's certificate and the"
                + " chain above it"
        ),
        (
            "passphrase_file = \"server.key\"",
            "4: client.out.passphrase_file: there is no private key that it could be for; expected private_key beside it"
        ),
        (
            "certificate = \"server.pem\"\nprivate_key = \"other.key\"",
            "5: client.out.private_key: \"other.key\": the private key does not belong to the certificate; expected"
                + " the key that the first certificate in \"server.pem\" was made for"
        ),
        (
            "ca = \"server.key\"",
            "4: client.out.ca: \"server.key\": no PEM certificate in it; expected the path of a PEM file with the CA"
                + " certificates that the server is checked against"
        ),
        (
            "verify = false\nca = \"server.pem\"",
            "5: client.out.ca: it has no effect with verify = false; expected only one of the two"
        ),
        ("verify = \"no\"", "4: client.out.verify: expected true or false, found the string \"no\""),
        (
            "server_name = \"coap example\"",
            "4: client.out.server_name: expected a host name or an IP address, without a port, found the string"
                + " \"coap example\""
        ),
        (
            "ciphers = \"NONSENSE\"",
            "4: client.out.ciphers: no cipher matches \"NONSENSE\"; expected an OpenSSL cipher list, as"
                + " `openssl ciphers -v LIST` takes it"
        ),
        (
            "idle_timeout = 1.5",
            "4: client.out.idle_timeout: expected a number of seconds, 2 to 34560000, or 0 for no limit, found less than 2"
        ),
        (
            "answer_timeout = 0.5",
            "4: client.out.answer_timeout: expected a number of seconds, 1 to 86400, or 0 for no limit, found less than 1"
        ),
        (
            "ciphers = \"eNULL:@SECLEVEL=0\"",
            "4: client.out.ciphers: only suites without authentication or encryption match \"eNULL:@SECLEVEL=0\"; expected an"
                + " OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
        ),
        (
            "ciphers = \"PSK\"",
            "4: client.out.ciphers: it has no cipher suite for servers with certificates; expected an OpenSSL cipher list"
        ),
        (
            "alpn = [\"\((100..<400).map { "\($0)" + String(repeating: "a", count: 250) }.joined(separator: "\", \""))\"]",
            "4: client.out.alpn: 76200 bytes, including a length byte for each name; expected at most 65535, the most"
                + " that fits into a ClientHello"
        ),
        ("resumption = 1", "4: client.out.resumption: expected true or false, found 1"),
        ("handler = \"echo\"", "4: client.out.handler: unknown key here; it belongs in [service.NAME]"),
        ("colour = \"x\"", "4: client.out.colour: unknown key; expected one of "),
    ]

    @Test(arguments: wrongLines)
    func `an error is reported with its line and key`(_ lines: String, _ message: String) throws {
        try folder.write("other.key", TestMaterial.shared.get().otherKey)
        let found = try problems(lines)
        #expect(found.count == 1)
        #expect(found.first?.hasPrefix("dtlsd.toml:\(message)") == true, "\(found)")
    }

    @Test func `a pre-shared key replaces certificates`() throws {
        try folder.write("one.psk", "sensor-7:00112233445566778899aabbccddeeff\n")
        try folder.write("two.psk", "a:00112233445566778899aabbccddeeff\nb:an old-fashioned pass phrase\n")
        let least = "[client.out]\nlisten = \"127.0.0.1:5000\"\nconnect = \"192.0.2.1:4433\"\n"
        func key(_ lines: String) throws -> PresharedKey? {
            // The CA certificates of the system are not read.
            let configuration = try folder.read(least + lines, environment: ["SSL_CERT_FILE": "/none"])
            return configuration.clients.first?.tls.presharedKey
        }
        #expect(
            try key("psk.file = \"one.psk\"")
                == PresharedKey(
                    identity: Array("sensor-7".utf8), key: (0...15).map { UInt8($0) * 0x11 }))
        #expect(
            try key("psk = { file = \"two.psk\", identity = \"b\" }")
                == PresharedKey(identity: [0x62], key: Array("an old-fashioned pass phrase".utf8)))
        #expect(
            try problems("psk.file = \"two.psk\"") == [
                "dtlsd.toml:4: client.out.psk.identity: missing; expected one of the identities in \"two.psk\""
            ])
        for other in ["c", "B"] {
            #expect(
                try problems("psk = { file = \"two.psk\", identity = \"\(other)\" }") == [
                    "dtlsd.toml:4: client.out.psk.identity: expected one of the identities in \"two.psk\", found the"
                        + " string \"\(other)\""
                ])
        }
        #expect(
            try problems("psk.file = \"none.psk\"\nciphers = \"ECDHE+AESGCM\"").map { $0.prefix { $0 != ";" } } == [
                "dtlsd.toml:4: client.out.psk.file: cannot read \"none.psk\": No such file or directory",
                "dtlsd.toml:5: client.out.ciphers: it has no cipher suite for pre-shared keys (PSK-…)",
            ])
        #expect(
            try problems("psk.file = \"one.psk\"\nca = \"server.pem\"") == [
                "dtlsd.toml:5: client.out.ca: it has no effect with [client.NAME.psk], whose key proves both sides;"
                    + " expected only one of the two"
            ])
    }

    @Test(arguments: ["nowhere", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", ":4433", "a b:1", "::1:4433"])
    func `a text that is not a host and port is refused as the server`(_ text: String) throws {
        #expect(
            try problems("", "[client.out]\nlisten = \"127.0.0.1:5000\"\nconnect = \"\(text)\"\n") == [
                "dtlsd.toml:3: client.out.connect: expected \"HOST:PORT\" or \"[IPv6 ADDRESS]:PORT\","
                    + " the port 1 to 65535, found the string \"\(text)\""
            ])
    }

    @Test(arguments: [
        String(repeating: "a", count: 64), "a..b", ".", "300.1.1.1", "192.0.2", "caf\u{e9}.example",
        Array(repeating: "abcdefghi", count: 26).joined(separator: "."),
    ])
    func `a name that no name server can know is refused`(_ name: String) throws {
        let found = try problems("", "[client.out]\nlisten = \"127.0.0.1:5000\"\nconnect = \"\(name):1\"\n")
        #expect(
            found == [
                "dtlsd.toml:3: client.out.connect: \(ReadContext.quoted(name)) is neither an address nor a host name;"
                    + " expected labels of 1 to 63 ASCII letters, digits, - and _, the last of them no number, and 253"
                    + " bytes at most"
            ])
    }

    @Test(arguments: [
        ("127.0.0.1:4433", "127.0.0.1:4433"), ("0.0.0.0:4433", "127.0.0.1:4433"), ("[::]:4433", "[::1]:4433"),
    ])
    func `a client that is its own server is refused`(_ listen: String, _ connect: String) throws {
        #expect(
            try problems("", "[client.out]\nlisten = \"\(listen)\"\nconnect = \"\(connect)\"\n") == [
                "dtlsd.toml:3: client.out.connect: \(connect) is where this client listens; expected the address of a"
                    + " DTLS server"
            ])
    }

    @Test func `a client cannot have the name or address of a service`() throws {
        let service = """
            [service.out]
            listen = "127.0.0.1:5000"
            certificate = "server.pem"
            private_key = "server.key"
            handler = "echo"

            """
        #expect(
            try problems("", service + least) == [
                "dtlsd.toml:6: client.out: a service already has this name (line 1); expected another",
                "dtlsd.toml:7: client.out.listen: 127.0.0.1:5000 collides with 127.0.0.1:5000 of service.out.listen"
                    + " (line 2); expected an address and port that nothing else listens on",
            ])
    }

    @Test func `a name with dots that is not quoted is reported`() throws {
        #expect(
            try problems("", least.replacing("client.out", with: "client.out.lan")) == [
                "dtlsd.toml:1: client.out.lan: unknown table; a name with dots needs quotes:"
                    + " [client.\"out.lan\"]"
            ])
    }

    @Test func `a bad name is refused`() throws {
        #expect(
            try problems("", least.replacing("client.out", with: "client.\"a b\"")) == [
                "dtlsd.toml:1: client.\"a b\": not a name for a client; expected ASCII letters, digits and the"
                    + " characters - _ ."
            ])
    }
}
