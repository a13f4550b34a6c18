import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Raw public keys in the place of certificates (RFC 7250).
@Suite(.enabled(if: RawPublicKeys.missing == nil, "OpenSSL has none"))
struct RawPublicKeyTests {
    private let certificates: TestCertificates
    private let serverKey: Key
    private let deviceKey: Key
    private let ticketKeys = [UInt8](repeating: 5, count: ServerContext.ticketKeyLength)

    init() throws {
        certificates = try TestCertificates.make()
        (serverKey, deviceKey) = (try Key(.ecdsa), try Key(.ecdsa))
    }

    private func known(_ keys: (String, Key)...) throws -> KnownPublicKeys {
        KnownPublicKeys(
            try keys.map { name, key in
                KnownPublicKey(name: name, fingerprint: try #require(RawPublicKeys.fingerprint(of: key.pointer)))
            })
    }

    /// A server without a certificate, that knows the device.
    private func server(
        _ own: Key? = nil, clients: PeerVerification? = nil, _ known: KnownPublicKeys? = nil
    ) throws -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [])
        settings.bareKeys = [BareKey(privateKey: try (own ?? serverKey).pem())]
        let known = try known ?? self.known(("device", deviceKey))
        settings.clients = clients ?? PeerVerification(mode: .required, publicKeys: known)
        return settings
    }

    /// A client that knows the server.
    private func client(_ own: Key?, of server: Key? = nil) throws -> ClientSettings {
        var settings = ClientSettings()
        settings.serverPublicKeys = try known(("server", server ?? serverKey))
        settings.privateKey = try own?.pem()
        settings.offersRawPublicKey = own != nil
        return settings
    }

    private func handshake(
        _ client: ClientSettings, _ server: ServerSettings, session: ResumableSession? = nil,
        sessions: SessionCache? = nil, prepareClient: (OpaquePointer) -> Void = { _ in }
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: client, server: server, ticketKeys: ticketKeys, session: session, sessions: sessions,
            prepareClient: prepareClient)
        pair.handshake()
        return pair
    }

    private func digits(_ key: Key) throws -> String {
        let fingerprint = try #require(RawPublicKeys.fingerprint(of: key.pointer))
        return Hexadecimal.text(fingerprint)
    }

    @Test(arguments: [Key.Kind.ecdsa, .rsa])
    func `both sides know each other by their keys`(_ kind: Key.Kind) throws {
        let (serverKey, deviceKey) = (try Key(kind), try Key(kind))
        let pair = try handshake(
            client(deviceKey, of: serverKey), server(serverKey, known(("other", self.deviceKey), ("device", deviceKey)))
        )
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(pair.client) \(pair.server)")
        let device = try PeerName(fingerprint: digits(deviceKey), publicKeyName: "device")
        #expect(pair.server.engine?.peerName == device && device.name == "device")
        #expect(try pair.client.engine?.peerName == PeerName(fingerprint: digits(serverKey), publicKeyName: "server"))
        #expect(pair.client.engine?.details?.verificationResult == 0)
        #expect(pair.client.engine?.peerCertificate == nil && pair.client.shownCertificates == nil)
        try pair.send([1, 2, 3], from: .client)
        pair.run()
        #expect(pair.server.messages == [[1, 2, 3]])
    }

    // MARK: Clients that are refused

    @Test func `a client with an unknown key is refused, and told so`() throws {
        let other = try Key(.ecdsa)
        let pair = try handshake(client(other), server())
        #expect(!pair.client.isEstablished && !pair.server.isEstablished)
        #expect(
            try pair.server.error?.verification
                == "the client's raw public key sha256:\(digits(other)) is not among those that are known")
        let name = try PeerName(fingerprint: digits(other))
        #expect(pair.server.engine?.peerRejection?.client == name)
        #expect(pair.client.error.map { "\($0)".contains("access denied") } == true, "\(pair.client)")
    }

    @Test func `a certificate is refused where keys are all that is known`() throws {
        var client = try client(nil)
        (client.certificate, client.privateKey) = (certificates.client.certificate, certificates.client.privateKey)
        let pair = try handshake(client, server())
        #expect(!pair.server.isEstablished)
        #expect(
            pair.server.error?.verification
                == "client certificate \"CN=client\" is none of the raw public keys, which are all that clients may show"
        )
    }

    @Test func `a client with nothing to show is served where its key is requested alone`() throws {
        let required = try handshake(client(nil), server())
        #expect(!required.server.isEstablished)
        #expect(required.server.error.map { "\($0)".contains("did not return a certificate") } == true)
        let requested = try handshake(
            client(nil), server(clients: PeerVerification(mode: .requested, publicKeys: known(("device", deviceKey)))))
        #expect(requested.server.isEstablished && requested.server.engine?.peerName == nil)
    }

    @Test func `a certificate of a CA and a known key are as good as each other where both are taken`() throws {
        let clients = try PeerVerification(
            mode: .required, authorities: certificates.authority, publicKeys: known(("device", deviceKey)))
        var member = try client(nil)
        (member.certificate, member.privateKey) = (certificates.client.certificate, certificates.client.privateKey)
        let certified = try handshake(member, server(clients: clients))
        #expect(certified.server.engine?.peerName?.commonName == "client")
        #expect(certified.server.engine?.peerName?.publicKeyName == nil)
        let bare = try handshake(client(deviceKey), server(clients: clients))
        #expect(bare.server.engine?.peerName?.publicKeyName == "device")
        // The key of a certificate is shown where the server takes it, and is another one.
        member.offersRawPublicKey = true
        let both = try handshake(member, server(clients: clients))
        #expect(both.server.error?.verification?.contains("is not among those that are known") == true)
        (member.certificate, member.privateKey) = (certificates.stranger.certificate, certificates.stranger.privateKey)
        member.offersRawPublicKey = false
        #expect(try handshake(member, server(clients: clients)).server.error?.verification != nil)
    }

    // MARK: Servers that are refused

    private static let unknown = "is not among those that are known"

    @Test func `a server with another key is refused`() throws {
        let pair = try handshake(client(deviceKey), server(Key(.ecdsa)))
        #expect(!pair.client.isEstablished && !pair.server.isEstablished)
        let fault = try #require(pair.client.error?.verification)
        #expect(fault.hasPrefix("the server's raw public key sha256:") && fault.hasSuffix(Self.unknown))
        #expect(pair.server.error.map { "\($0)".contains("bad certificate") } == true, "\(pair.server)")
    }

    /// As OpenSSL 3.2.0 to 3.4.0 did (CVE-2024-12797).
    @Test func `a server with another key is refused where OpenSSL goes on with the handshake`() throws {
        let pair = try handshake(client(deviceKey), server(Key(.ecdsa))) { SSL_set_verify($0, SSL_VERIFY_NONE, nil) }
        #expect(!pair.client.isEstablished)
        #expect(pair.client.error?.verification?.hasSuffix(Self.unknown) == true, "\(pair.client)")
        let good = try handshake(client(deviceKey), server()) { SSL_set_verify($0, SSL_VERIFY_NONE, nil) }
        #expect(good.client.isEstablished)
    }

    @Test func `a server that shows a certificate is refused by a client that knows keys alone`() throws {
        let identity = certificates.ecdsaServer
        let server = ServerSettings(certificate: identity.certificate, privateKey: identity.privateKey)
        let pair = try handshake(client(nil), server)
        #expect(
            pair.client.error?.verification == "the server has shown a certificate, and not its raw public key",
            "\(pair.client)")
        let lax = try handshake(client(nil), server) { SSL_set_verify($0, SSL_VERIFY_NONE, nil) }
        #expect(!lax.client.isEstablished)
        var both = try client(nil)
        both.certificateAuthorities = certificates.authority
        #expect(try handshake(both, server).client.isEstablished)
        both.certificateAuthorities = certificates.wrongAuthority
        #expect(try !handshake(both, server).client.isEstablished)
        let unchecked = try handshake(both, server) { SSL_set_verify($0, SSL_VERIFY_NONE, nil) }
        #expect(!unchecked.client.isEstablished)
    }

    @Test func `a server with a certificate shows its bare key to those who ask`() throws {
        let identity = certificates.ecdsaServer
        var server = ServerSettings(certificate: identity.certificate, privateKey: identity.privateKey)
        server.offersRawPublicKeys = true
        let ordinary = try handshake(ClientSettings(certificateAuthorities: certificates.authority), server)
        #expect(ordinary.client.engine?.peerName?.commonName == "localhost")
        var client = ClientSettings()
        let fingerprint = try #require(RawPublicKeys.fingerprint(ofPrivateKey: identity.privateKey))
        client.serverPublicKeys = KnownPublicKeys([KnownPublicKey(name: "server", fingerprint: fingerprint)])
        let bare = try handshake(client, server)
        #expect(bare.client.engine?.peerName?.publicKeyName == "server", "\(bare.client)")
    }

    @Test func `a client that takes no keys is told from one without a suite in common`() throws {
        var settings = try server(clients: PeerVerification())
        let ordinary = ClientSettings(certificateAuthorities: certificates.authority)
        let pair = try handshake(ordinary, settings)
        #expect(
            pair.server.error.map { "\($0)" }
                == "the client takes no raw public key (server_certificate_type, RFC 7250), and the service has no certificate"
        )
        #expect(pair.client.error.map { "\($0)".contains("unsupported certificate") } == true, "\(pair.client)")
        // Beside pre-shared keys, the client may have meant these.
        let key = PresharedKey(identity: Array("sensor".utf8), key: [UInt8](repeating: 7, count: 16))
        settings.presharedKeys = PresharedKeys(keys: [key])
        #expect(try handshake(ClientSettings(presharedKey: key), settings).server.isEstablished)
        #expect(try handshake(client(deviceKey), settings).server.isEstablished)
    }

    // MARK: Sessions

    private func ticketSize(_ pair: EnginePair) throws -> Int {
        let given = try #require(pair.client.session)
        let session = try #require(SessionBytes.decode(given.encoded))
        defer { SSL_SESSION_free(session) }
        var ticket: UnsafePointer<UInt8>?
        var count = 0
        SSL_SESSION_get0_ticket(session, &ticket, &count)
        return count
    }

    @Test(arguments: [Key.Kind.ecdsa, .rsa])
    func `a client that resumes is known by its key, which is not in its ticket`(_ kind: Key.Kind) throws {
        let deviceKey = try Key(kind)
        let known = try known(("device", deviceKey))
        let first = try handshake(client(deviceKey), server(nil, known))
        let name = first.server.engine?.peerName
        #expect(name?.publicKeyName == "device")
        let without = try handshake(
            client(nil), server(clients: PeerVerification(mode: .requested, publicKeys: known)))
        // Name, fingerprint, and a block of AES.
        #expect(try ticketSize(first) < ticketSize(without) + 80)
        var session = first.client.session
        for _ in 0..<2 {
            let next = try handshake(client(deviceKey), server(nil, known), session: session)
            #expect(next.server.engine?.isResumed == true)
            #expect(next.server.engine?.peerName == name)
            try next.send([4], from: .client)
            next.run()
            #expect(next.server.messages == [[4]])
            session = next.client.session ?? session
        }
    }

    @Test(arguments: [true, false])
    func `a session is resumed as long as its key is known by the same name, and no longer`(hasTickets: Bool) throws {
        let table = try #require(SessionTable(byteCount: 1 << 16))
        func server(_ known: KnownPublicKeys) throws -> ServerSettings {
            var settings = try self.server(nil, known)
            settings.sessions.tickets = hasTickets
            return settings
        }
        func again(_ known: KnownPublicKeys, _ session: ResumableSession?) throws -> EnginePair {
            try handshake(client(deviceKey), server(known), session: session, sessions: SessionCache(table))
        }
        let first = try again(known(("device", deviceKey)), nil)
        #expect(first.server.isEstablished && first.client.session != nil)
        let other = try Key(.ecdsa)
        let more = try again(known(("other", other), ("device", deviceKey)), first.client.session)
        #expect(more.server.engine?.isResumed == true && more.server.engine?.peerName?.publicKeyName == "device")
        let renamed = try again(known(("gateway", deviceKey)), first.client.session)
        #expect(renamed.server.engine?.isResumed == false)
        #expect(renamed.server.engine?.peerName?.publicKeyName == "gateway")
        let removed = try again(known(("other", other)), first.client.session)
        #expect(!removed.server.isEstablished)
        #expect(removed.server.error?.verification?.hasSuffix(Self.unknown) == true)
    }

    @Test func `who is asked about a client learns of its key`() throws {
        var settings = try server()
        settings.authorization = .all
        let pair = try EnginePair(client: client(deviceKey), server: settings)
        pair.authorize = { $0.publicKey?.publicKeyName == "device" ? .allowed() : .refused(reason: "\($0)") }
        pair.handshake()
        #expect(pair.server.isEstablished, "\(pair.server)")
        #expect(try pair.questions.map(\.publicKey?.fingerprint) == [digits(deviceKey)])
        #expect(pair.questions.allSatisfy { $0.certificate == nil && $0.presharedKeyIdentity == nil })
    }

    // MARK: Settings

    @Test func `keys that no suite is for are refused`() throws {
        var settings = try server()
        settings.bareKeys.append(settings.bareKeys[0])
        #expect(throws: CredentialsError.privateKey("there is a second one of the kind ECDSA")) {
            try ServerContext(settings)
        }
        settings.bareKeys = [BareKey(privateKey: "no key")]
        #expect(throws: CredentialsError.self) { try ServerContext(settings) }
        settings = try server()
        settings.ciphers = "ECDHE-RSA-AES128-GCM-SHA256"
        #expect(throws: CredentialsError.ciphers("it has no cipher suite for certificates with ECDSA keys")) {
            try ServerContext(settings)
        }
        (settings.ciphers, settings.minimumVersion, settings.maximumVersion) = (nil, .dtls10, .dtls10)
        #expect(
            throws: CredentialsError.rawPublicKeys("DTLS 1.0 has none, and no newer version is allowed")
        ) { try ServerContext(settings) }
        var client = ClientSettings()
        client.offersRawPublicKey = true
        #expect(throws: CredentialsError.privateKey("there is none, whose public key is shown")) {
            try ClientContext(client)
        }
    }
}

/// What needs no OpenSSL with raw public keys.
@Suite struct RawPublicKeyValueTests {
    @Test(.enabled(if: RawPublicKeys.missing != nil, "OpenSSL has them"))
    func `settings that ask for them are refused by an OpenSSL without them, by its name`() throws {
        let key = try Key(.ecdsa)
        let missing = try #require(RawPublicKeys.missing)
        #expect(missing.contains("need OpenSSL 3.2 or later") && missing.contains(OpenSSLVersion.text))
        let expected = CredentialsError.rawPublicKeys(missing)
        let identity = try TestCertificates.make().ecdsaServer
        let plain = ServerSettings(certificate: identity.certificate, privateKey: identity.privateKey)
        let known = KnownPublicKeys([KnownPublicKey(name: "a", fingerprint: [UInt8](repeating: 1, count: 32))])
        var settings = plain
        settings.offersRawPublicKeys = true
        #expect(throws: expected) { try ServerContext(settings) }
        settings = plain
        settings.clients = PeerVerification(mode: .required, publicKeys: known)
        #expect(throws: expected) { try ServerContext(settings) }
        settings = ServerSettings(certifiedKeys: [])
        settings.bareKeys = [BareKey(privateKey: try key.pem())]
        #expect(throws: expected) { try ServerContext(settings) }
        var client = ClientSettings()
        client.serverPublicKeys = known
        #expect(throws: expected) { try ClientContext(client) }
        client = ClientSettings(privateKey: try key.pem())
        client.offersRawPublicKey = true
        #expect(throws: expected) { try ClientContext(client) }
    }

    @Test func `notes of a session and details of a connection keep a key's name and fingerprint`() throws {
        let key = KnownPublicKey(name: "sensor-7", fingerprint: [UInt8](0..<32))
        let notes = SessionNotes(publicKey: key)
        let decoded = try notes.encoded.withUnsafeBytes { bytes throws(MalformedBytes) in
            try SessionNotes(decoding: bytes)
        }
        #expect(decoded == notes)
        var details = SessionDetails()
        details.peerName = PeerName(key)
        details.label = "gold"
        let bytes = details.encoded(inAtMost: 800)
        let read = try bytes.withUnsafeBytes { bytes throws(MalformedBytes) in
            var reader = ByteReader(bytes)
            return try SessionDetails(decoding: &reader)
        }
        #expect(read == details && read.peerName?.publicKeyName == "sensor-7")
        // As a program without raw public keys has written it.
        details.peerName = PeerName(presharedKeyIdentity: "a")
        let shorter = try details.encoded(inAtMost: 800).dropLast().withUnsafeBytes { bytes throws(MalformedBytes) in
            var reader = ByteReader(bytes)
            return try SessionDetails(decoding: &reader)
        }
        #expect(shorter == details)
    }

    @Test func `only whether keys are taken is a part of what tells sessions apart`() {
        func context(_ names: [String]?) -> String {
            let keys = names.map { names in
                KnownPublicKeys(names.map { KnownPublicKey(name: $0, fingerprint: Array(repeating: 1, count: 32)) })
            }
            return PeerVerification(mode: .required, authorities: "a", publicKeys: keys).sessionIDContext
        }
        #expect(context(["a"]) == context(["b", "c"]))
        #expect(context(["a"]) != context(nil))
    }
}

/// Files of public keys.
@Suite struct PublicKeyFileTests {
    private func parse(_ text: String) -> (keys: [KnownPublicKey], problems: [String]) {
        let (keys, problems) = PublicKeyFile.parse(Array(text.utf8))
        return (keys, problems.map { "\($0.line): \($0.message)" })
    }

    private static let digits = String(repeating: "0a", count: 32)
    private static let bytes = [UInt8](repeating: 10, count: 32)

    private func pem(_ key: Key) throws -> String { try text { PEM_write_bio_PUBKEY($0, key.pointer) } }

    @Test func `keys are read as fingerprints and in PEM`() throws {
        let (one, other) = (try Key(.ecdsa), try Key(.rsa))
        let colons = (0..<32).map { _ in "0B" }.joined(separator: ":")
        let (keys, problems) = parse(
            "\u{feff}# devices\n\nsensor-7 sha256:\(Self.digits)\r\nurn:dev:8\tSHA256:\(colons)\n"
                + "gateway\n\(try pem(one))\n\(try pem(other))")
        #expect(problems == [])
        let unnamed = try #require(RawPublicKeys.fingerprint(of: other.pointer))
        #expect(
            try keys == [
                KnownPublicKey(name: "sensor-7", fingerprint: Self.bytes),
                KnownPublicKey(name: "urn:dev:8", fingerprint: [UInt8](repeating: 11, count: 32)),
                KnownPublicKey(name: "gateway", fingerprint: #require(RawPublicKeys.fingerprint(of: one.pointer))),
                KnownPublicKey(name: Hexadecimal.text(unnamed), fingerprint: unnamed),
            ])
    }

    private static let expected = "expected NAME sha256:DIGITS, or NAME and a PEM public key below it"

    @Test(arguments: [
        ("a", "1: no key after the name \"a\"; \(expected)"),
        ("a\nb sha256:\(digits)", "1: no key after the name \"a\"; \(expected)"),
        (
            "a sha256:00",
            "1: expected \"sha256:\" and 64 hexadecimal digits after the name, with or without a colon between each two of them"
        ),
        (
            "a \(digits)",
            "1: expected \"sha256:\" and 64 hexadecimal digits after the name, with or without a colon between each two of them"
        ),
        ("a b c", "1: more than two words; \(expected)"),
        ("a\u{7} sha256:\(digits)", "1: a control character in the name; \(expected)"),
        (
            "\(String(repeating: "n", count: 65)) sha256:\(digits)",
            "1: a name of 65 bytes; expected 1 to 64 bytes"
        ),
        ("a\0 sha256:\(digits)", "1: not text; \(expected)"),
        ("a sha256:\(digits)\nb sha256:\(digits)", "2: the same key as in line 1; expected it once"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "1: \"-----BEGIN CERTIFICATE-----\"; expected a PUBLIC KEY (openssl x509 -noout -pubkey prints that of a certificate)"
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "1: \"-----BEGIN PRIVATE KEY-----\"; expected a PUBLIC KEY (openssl pkey -pubout prints that of a private key)"
        ),
        ("-----BEGIN PUBLIC KEY-----\nAAAA", "1: no line \"-----END PUBLIC KEY-----\" ends this key"),
    ])
    func `a wrong line is reported`(_ text: String, _ problem: String) {
        #expect(parse(text).problems == [problem])
    }

    @Test func `a broken key is reported by its first line, and the others are read`() {
        let (keys, problems) = parse(
            "a\n-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\nb sha256:\(Self.digits)")
        #expect(problems.count == 1 && problems[0].hasPrefix("2: not a valid PEM public key ("))
        #expect(keys.map(\.name) == ["b"])
    }
}
