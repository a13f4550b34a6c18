import COpenSSL
import TestSupport
import Testing

@testable import DTLSEngine

/// Which certificate a client gets, and what else the handshake agrees on, over the simulated wire.
@Suite struct ServerIdentityTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func key(_ identity: TestCertificates.Identity) -> CertifiedKey {
        CertifiedKey(certificate: identity.certificate, privateKey: identity.privateKey)
    }

    /// An ECDSA certificate for localhost, and the client's for the name `client`.
    private var server: ServerSettings {
        var settings = ServerSettings(certifiedKeys: [key(certificates.ecdsaServer)])
        settings.names = [VirtualHost(name: "client", certifiedKeys: [key(certificates.client)])]
        return settings
    }

    private var client: ClientSettings { ClientSettings(certificateAuthorities: certificates.authority) }

    private func handshake(
        _ client: ClientSettings, _ server: ServerSettings, name: String?,
        conditions: WireConditions = .perfect
    ) throws -> EnginePair {
        let pair = try EnginePair(client: client, server: server, conditions: conditions, serverName: name)
        pair.handshake()
        return pair
    }

    // MARK: Names

    /// The client checks the name that it asks for against the certificate that it gets.
    @Test(arguments: ["localhost", "client", "CLIENT"])
    func `the server name decides on the certificate`(_ name: String) throws {
        let pair = try handshake(client, server, name: name)
        #expect(pair.client.isEstablished, "\(String(describing: pair.client.error))")
        #expect(pair.server.engine?.serverName == name)
    }

    @Test func `a name without a table gets the service's own certificate`() throws {
        let pair = try handshake(client, server, name: "elsewhere")
        // Which the client takes for another's.
        #expect("\(try #require(pair.client.error))".contains("ostname mismatch"))
        var trusting = client
        trusting.rejectUnauthorized = false
        #expect(try handshake(trusting, server, name: "elsewhere").server.isEstablished)
    }

    @Test(arguments: [WireConditions.perfect, WireConditions(loss: 20)])
    func `an unknown name is refused with an alert`(_ conditions: WireConditions) throws {
        var refusing = server
        refusing.refusesUnknownNames = true
        let pair = try handshake(client, refusing, name: "elsewhere", conditions: conditions)
        #expect(
            pair.server.error
                == .unknownServerName("elsewhere"))
        if conditions.loss == 0 {
            #expect("\(try #require(pair.client.error))".contains("unrecognized name"))
        }
        for name in ["localhost", "client", nil] {
            #expect(try handshake(client, refusing, name: name).server.isEstablished)
        }
    }

    /// RFC 6066, section 3, has no addresses as names, but there are clients that ask for them.
    @Test(arguments: ["192.0.2.7", "2001:DB8::7"])
    func `an address as a name is one that a certificate with this address has`(_ name: String) throws {
        let root = try MadeCertificate("Root", isAuthority: true)
        let v6: [UInt8] = [0x20, 1, 0xd, 0xb8] + Array(repeating: 0, count: 11) + [7]
        let certificate = try MadeCertificate("a", names: [.ip([192, 0, 2, 7]), .ip(v6)], issuer: root)
        var settings = ServerSettings(certifiedKeys: [key(try certificate.identity())])
        settings.refusesUnknownNames = true
        let trusting = ClientSettings(certificateAuthorities: try root.pem())
        for (asked, isServed) in [(name, true), ("192.0.2.8", false), ("192.0.2.70", false), ("2001:db8::8", false)] {
            let pair = try EnginePair(client: trusting, server: settings, serverName: name, askingFor: asked)
            pair.handshake()
            #expect(pair.server.isEstablished == isServed, "\(asked): \(String(describing: pair.server.error))")
        }
        // Where the certificate with the address is another name's.
        settings.names = [VirtualHost(name: "a.example", certifiedKeys: settings.certifiedKeys)]
        settings.certifiedKeys = [key(certificates.ecdsaServer)]
        for choosesByAddress in [false, true] {
            settings.choosesByAddress = choosesByAddress
            let pair = try EnginePair(client: trusting, server: settings, serverName: name, askingFor: name)
            pair.handshake()
            #expect(pair.client.isEstablished, "\(String(describing: pair.server.error))")
        }
    }

    /// As many devices have it.
    @Test func `a certificate may have an address for a DNS name`() throws {
        let root = try MadeCertificate("Root", isAuthority: true)
        let certificate = try MadeCertificate("a", names: [.dns("localhost"), .dns("192.0.2.7")], issuer: root)
        var settings = ServerSettings(certifiedKeys: [key(try certificate.identity())])
        settings.refusesUnknownNames = true
        for (asked, isServed) in [("192.0.2.7", true), ("192.0.2.8", false)] {
            let pair = try EnginePair(
                client: ClientSettings(certificateAuthorities: try root.pem()), server: settings, askingFor: asked)
            pair.handshake()
            #expect(pair.server.isEstablished == isServed, "\(asked): \(String(describing: pair.server.error))")
        }
    }

    @Test func `a certificate with a key that next to no client takes says so`() throws {
        func fault(_ key: Key) throws -> String? {
            try OwnCertificate(pem: MadeCertificate("x", key: key).pem()).rareKey
        }
        for curve in [NID_X9_62_prime256v1, NID_secp384r1, NID_secp521r1] {
            #expect(try fault(Key(.ecdsa, curve: curve)) == nil)
        }
        #expect(try fault(Key(.rsa)) == nil)
        for (curve, name) in [
            (NID_brainpoolP256r1, "brainpoolP256r1"), (NID_secp256k1, "secp256k1"), (NID_secp224r1, "secp224r1"),
        ] {
            #expect(
                try fault(Key(.ecdsa, curve: curve))
                    == "has a key on the curve \(name), which next to no client knows; P-256 is known to all")
        }
        #expect(
            try fault(Key(.rsa, bits: 1024)) == "has an RSA key of 1024 bits, and clients want 2048 at least")
    }

    /// The whole name goes before the asterisk, which stands for one label.
    @Test func `an asterisk stands for exactly one label`() throws {
        var settings = ServerSettings(certifiedKeys: [key(certificates.ecdsaServer)])
        settings.refusesUnknownNames = true
        settings.names = ["*.example.org", "a.example.org"].map {
            VirtualHost(
                name: $0, certifiedKeys: [key($0.hasPrefix("*") ? certificates.rsaServer : certificates.client)])
        }
        var trusting = client
        trusting.rejectUnauthorized = false
        for (name, cipher) in [("a.example.org", "ECDSA"), ("b.example.org", "RSA"), ("B.Example.Org", "RSA")] {
            let pair = try handshake(trusting, settings, name: name)
            #expect(pair.server.engine?.cipher.contains("ECDHE-\(cipher)-") == true)
        }
        for name in ["example.org", "a.b.example.org", "b.example.org.uk"] {
            #expect(try handshake(trusting, settings, name: name).server.error != nil)
        }
    }

    /// Whether there are tables or not: what is told of the client (logs, programs, backends) has the session's name.
    @Test func `a session of one name is not resumed for another`() throws {
        let ticketKeys = [UInt8](repeating: 7, count: ServerContext.ticketKeyLength)
        var trusting = client
        trusting.rejectUnauthorized = false
        let plain = ServerSettings(certifiedKeys: [key(certificates.ecdsaServer)])
        for settings in [plain, server] {
            func pair(_ name: String?, _ session: ResumableSession? = nil) throws -> EnginePair {
                let pair = try EnginePair(
                    client: trusting, server: settings, serverName: name, ticketKeys: ticketKeys, session: session)
                pair.handshake()
                return pair
            }
            let sessions = try ["a.example", nil].map { try #require(pair($0).client.session) }
            for (name, expected) in [
                ("a.example", [true, false]), ("A.example", [true, false]), ("b.example", [false, false]),
                (nil, [false, true]),
            ] {
                for (session, isResumed) in zip(sessions, expected) {
                    let next = try pair(name, session)
                    #expect(next.server.isEstablished)
                    #expect(next.server.engine?.isResumed == isResumed, "\(name ?? "none")")
                    #expect(next.server.engine?.serverName?.lowercased() == name?.lowercased())
                }
            }
        }
    }

    /// The name that was given to it decides, whether or not the certificate names the address.
    @Test(arguments: [[192, 0, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 2]] as [[UInt8]])
    func `the table of the address goes before a certificate that names it`(_ address: [UInt8]) throws {
        let named = try MadeCertificate("here", names: [.ip([192, 0, 2, 2])])
        func serve(_ name: String, own: CertifiedKey, _ other: CertifiedKey) throws -> String? {
            var settings = ServerSettings(certifiedKeys: [own])
            settings.names = [VirtualHost(name: name, certifiedKeys: [other])]
            settings.choosesByAddress = true
            let pair = try EnginePair(
                client: ClientSettings(rejectUnauthorized: false), server: settings, serverName: nil,
                localAddress: address)
            pair.handshake()
            return pair.server.engine?.cipher
        }
        let rsa = key(certificates.rsaServer)
        let ecdsa = key(certificates.ecdsaServer)
        let here = try key(named.identity())
        #expect(try serve("192.0.2.2", own: ecdsa, rsa)?.hasPrefix("ECDHE-RSA") == true)
        #expect(try serve("192.0.2.2", own: here, rsa)?.hasPrefix("ECDHE-RSA") == true)
        // Without such a name, the certificates decide, one's own first.
        #expect(try serve("elsewhere", own: rsa, here)?.hasPrefix("ECDHE-ECDSA") == true)
        #expect(try serve("elsewhere", own: here, rsa)?.hasPrefix("ECDHE-ECDSA") == true)
        #expect(try serve("192.0.2.3", own: ecdsa, rsa)?.hasPrefix("ECDHE-ECDSA") == true)
    }

    /// An IPv6 socket that serves IPv4 too has mapped addresses.
    @Test(arguments: [[192, 0, 2, 9], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 9]] as [[UInt8]])
    func `the address decides where there is no server name`(_ address: [UInt8]) throws {
        let numbered = try MadeCertificate("numbered", names: [.ip([192, 0, 2, 9])])
        var settings = server
        settings.names.append(VirtualHost(name: "192.0.2.9", certifiedKeys: [key(try numbered.identity())]))
        settings.choosesByAddress = true
        let asking = ClientSettings(certificateAuthorities: try numbered.pem())
        let pair = try EnginePair(
            client: asking, server: settings, serverName: "192.0.2.9", localAddress: address)
        pair.handshake()
        #expect(pair.client.isEstablished, "\(String(describing: pair.client.error))")
        // Elsewhere it gets the service's own.
        let elsewhere = try handshake(asking, settings, name: "192.0.2.9")
        #expect(elsewhere.client.error != nil)
    }

    /// The chain is the file's, and not what the trusted CAs of clients would make it.
    @Test(arguments: [nil, PeerVerification.Mode.requested])
    func `a leaf that is alone in its file is sent alone`(_ mode: PeerVerification.Mode?) throws {
        let root = try MadeCertificate("Root", isAuthority: true)
        let leaf = try MadeCertificate("leaf", names: [.dns("localhost")], issuer: root)
        let asking = ClientSettings(certificateAuthorities: try root.pem())
        for (chain, count) in [([], 1), ([root], 2)] {
            var settings = ServerSettings(certifiedKeys: [key(try leaf.identity(chain: chain))])
            if let mode { settings.clients = PeerVerification(mode: mode, authorities: try root.pem()) }
            let pair = try handshake(asking, settings, name: "localhost")
            #expect(pair.client.isEstablished)
            let shown = pair.client.shownCertificates
            #expect(shown == Int32(count))
        }
    }

    @Test(arguments: [("ECDHE+aRSA", "ECDHE-RSA"), ("ECDHE+aECDSA", "ECDHE-ECDSA"), ("ECDHE", "ECDHE-ECDSA")])
    func `the client's offer decides on the kind of key`(_ ciphers: String, _ expected: String) throws {
        let both = ServerSettings(certifiedKeys: [key(certificates.rsaServer), key(certificates.ecdsaServer)])
        var limited = client
        limited.ciphers = ciphers
        let pair = try handshake(limited, both, name: "localhost")
        #expect(pair.client.isEstablished)
        #expect(pair.server.engine?.cipher.hasPrefix(expected) == true)
    }

    @Test func `two certificates of one kind are refused`() throws {
        let twice = ServerSettings(certifiedKeys: [key(certificates.ecdsaServer), key(certificates.client)])
        #expect(throws: CredentialsError.certificate("there is a second one with an ECDSA key")) {
            try ServerContext(twice)
        }
    }

    /// OpenSSL has a place for each kind of key, and would take this one for the other certificate's.
    @Test func `a key of another kind does not hide its mismatch`() throws {
        let mixed = ServerSettings(certifiedKeys: [
            key(certificates.ecdsaServer),
            CertifiedKey(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey),
        ])
        #expect(throws: CredentialsError.mismatch("the private key does not belong to the certificate")) {
            try ServerContext(mixed)
        }
    }

    // MARK: Application protocols (RFC 7301)

    @Test(
        arguments: [
            (["a", "b"], ["b", "a"], "a"), (["a", "b"], ["b"], "b"), (["coap", "co"], ["c", "co"], "co"),
            ([], ["a"], nil), (["a"], [], nil),
        ] as [([String], [String], String?)])
    func `the server's first protocol that both know is chosen`(
        _ server: [String], _ client: [String], _ expected: String?
    ) throws {
        var (serving, asking) = (self.server, self.client)
        serving.applicationProtocols = server
        asking.applicationProtocols = client
        // The name's identity speaks the same.
        for name in ["localhost", "client"] {
            let pair = try handshake(asking, serving, name: name)
            #expect(pair.client.isEstablished)
            #expect(pair.server.engine?.applicationProtocol == expected)
            #expect(pair.client.engine?.applicationProtocol == expected)
        }
    }

    @Test func `a client without a common protocol gets an alert`() throws {
        var (serving, asking) = (server, client)
        serving.applicationProtocols = ["coap"]
        asking.applicationProtocols = ["http/1.1", "coa", "coapp"]
        let pair = try handshake(asking, serving, name: "localhost")
        #expect("\(try #require(pair.client.error))".contains("no application protocol"))
        #expect("\(try #require(pair.server.error))".contains("no application protocol"))
    }

    @Test func `protocol names that do not fit are refused`() throws {
        for name in ["", String(repeating: "x", count: 256)] {
            var settings = client
            settings.applicationProtocols = [name]
            #expect(throws: CredentialsError.self) { try ClientContext(settings) }
        }
    }

    // MARK: Policies

    /// What OpenSSL makes of a policy's list.
    private func suites(_ policy: CipherPolicy, _ minimumVersion: ProtocolVersion) throws -> [String] {
        let list = CipherPolicy.cipherList(
            policy: policy, hasCertificates: true, hasPresharedKeys: false, minimumVersion: minimumVersion)
        let context = try #require(SSL_CTX_new(DTLS_server_method()))
        defer { SSL_CTX_free(context) }
        #expect(SSL_CTX_set_cipher_list(context, list) == 1)
        let ciphers = SSL_CTX_get_ciphers(context)
        return (0..<co_sk_ssl_cipher_num(ciphers)).compactMap { index in
            let cipher = co_sk_ssl_cipher_value(ciphers, index)
            guard SSL_CIPHER_get_kx_nid(cipher) != NID_kx_any else { return nil }
            return SSL_CIPHER_get_name(cipher).map { String(cString: $0) }
        }
    }

    @Test func `the modern policy is authenticated encryption with forward secrecy`() throws {
        let modern = try suites(.modern, .dtls12)
        #expect(modern.prefix(2) == ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"])
        let authenticated = ["GCM", "CHACHA20", "CCM"]
        #expect(modern.allSatisfy { name in name.hasPrefix("ECDHE-") && authenticated.contains { name.contains($0) } })
    }

    @Test func `the legacy policy has old suites and no broken ones`() throws {
        let legacy = try suites(.legacy, .dtls10)
        let modern = try suites(.modern, .dtls12)
        #expect(legacy.starts(with: modern))
        #expect(Set(["AES128-SHA", "DHE-RSA-AES128-SHA", "ECDHE-RSA-AES128-SHA"]).isSubset(of: legacy))
        let broken = ["NULL", "RC4", "DES", "EXP", "ADH", "AECDH", "DSS", "MD5", "PSK", "SEED", "CAMELLIA"]
        #expect(!legacy.contains { name in broken.contains { name.contains($0) } }, "\(legacy)")
    }
}
