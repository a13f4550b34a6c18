import DTLSEngine
import TestSupport
import Testing

@Suite struct PresharedKeyTests {
    private static let key = PresharedKey(identity: Array("sensor-7".utf8), key: Array(repeating: 0xa5, count: 16))

    private func server(_ keys: [PresharedKey] = [key], hint: String? = nil, ciphers: String? = nil) -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [], ciphers: ciphers)
        settings.presharedKeys = PresharedKeys(keys: keys, hint: hint.map { Array($0.utf8) })
        return settings
    }

    private func client(_ key: PresharedKey = key, ciphers: String? = nil) -> ClientSettings {
        ClientSettings(presharedKey: key, ciphers: ciphers)
    }

    @Test func `the suite with forward secrecy comes first`() throws {
        let pair = try EnginePair(client: client(), server: server(hint: "gateway"))
        pair.handshake()
        #expect(pair.server.isEstablished)
        #expect(pair.client.isEstablished)
        #expect(pair.server.engine?.cipher == "ECDHE-PSK-CHACHA20-POLY1305")
        #expect(pair.server.engine?.peerName == PeerName(presharedKeyIdentity: "sensor-7"))
        try pair.send(Array("hello".utf8), from: .client)
        pair.run { !$0.server.messages.isEmpty }
        #expect(pair.server.messages == [Array("hello".utf8)])
    }

    /// TLS_PSK_WITH_AES_128_CCM_8 is what CoAP devices must have (RFC 7252, section 9.1.3.1).
    @Test(arguments: ["PSK-AES128-CCM8", "PSK-AES128-CCM", "PSK-AES128-GCM-SHA256", "PSK-AES256-CCM8"])
    func `a client that knows one suite alone is served`(_ suite: String) throws {
        let pair = try EnginePair(client: client(ciphers: suite), server: server())
        pair.handshake()
        #expect(pair.server.isEstablished)
        #expect(pair.server.engine?.cipher == suite)
    }

    @Test func `an unknown identity is answered with its alert`() throws {
        let stranger = PresharedKey(identity: Array("nobody".utf8), key: Self.key.key)
        let pair = try EnginePair(client: client(stranger), server: server())
        pair.handshake()
        let reason = try #require(pair.server.error)
        #expect("\(reason)".contains("unknown PSK identity \"nobody\""), "\(reason)")
        // RFC 4279, section 2: unknown_psk_identity(115).
        let alert = try #require(pair.client.error)
        #expect("\(alert)".contains("unknown psk identity"), "\(alert)")
        #expect(pair.server.engine?.peerName?.presharedKeyIdentity != "sensor-7")
    }

    @Test func `a wrong key proves nothing`() throws {
        let wrong = PresharedKey(identity: Self.key.identity, key: Array(repeating: 1, count: 16))
        let pair = try EnginePair(client: client(wrong), server: server())
        pair.handshake()
        #expect(!pair.server.isEstablished)
        #expect(!pair.client.isEstablished)
        #expect(pair.server.engine?.presharedKeyRemark.contains("sensor-7") == true)
    }

    /// RFC 4279, section 5.1, wants UTF-8; what comes is up to the client.
    @Test func `identities are compared as bytes`() throws {
        let odd = PresharedKey(identity: [0xff, 0x0a, 0x80, 0x22], key: Self.key.key)
        let longest = PresharedKey(
            identity: Array(repeating: 0xfe, count: PresharedKeys.maximumIdentityLength), key: Array(1...64))
        for key in [odd, longest] {
            let pair = try EnginePair(client: client(key), server: server([odd, longest]))
            pair.handshake()
            #expect(pair.server.isEstablished)
            let text = try #require(pair.server.engine?.peerName?.presharedKeyIdentity)
            #expect(text == (key == odd ? "#ff0a8022" : "#" + String(repeating: "fe", count: 255)))
        }
    }

    /// As the file of keys writes it, so that an operator finds it there.
    @Test func `an identity that is not UTF-8 is hexadecimal in texts`() throws {
        #expect(PresharedKeys.text(of: Array("sensor-7".utf8)) == "sensor-7")
        #expect(PresharedKeys.text(of: Array("ä:b".utf8)) == "ä:b")
        #expect(PresharedKeys.text(of: [0xff, 0x0a]) == "#ff0a")
        // Else it would be the text of another one, too.
        #expect(PresharedKeys.text(of: Array("#ff0a".utf8)) == "#2366663061")
        let pair = try EnginePair(
            client: client(PresharedKey(identity: [0xff, 0x0a], key: Self.key.key)), server: server())
        pair.handshake()
        let reason = try #require(pair.server.error)
        #expect("\(reason)".contains("unknown PSK identity \"#ff0a\""), "\(reason)")
    }

    /// OpenSSL takes what stands before the NUL for the whole, and that is another client here.
    @Test func `an identity with a NUL is refused, and not taken for a shorter one`() throws {
        let short = PresharedKey(identity: Array("sensor".utf8), key: Self.key.key)
        let pair = try EnginePair(
            client: client(ciphers: "PSK-AES128-GCM-SHA256"), server: server([short, Self.key]))
        pair.tamper = { datagram in
            var datagram = datagram
            if let place = datagram.firstRange(of: Self.key.identity) { datagram[place.lowerBound + 6] = 0 }
            return datagram
        }
        pair.handshake()
        let reason = try #require(pair.server.error)
        #expect("\(reason)".contains("the PSK identity \"sensor\\u{0}7\" has a NUL byte in it"), "\(reason)")
        #expect("\(try #require(pair.client.error))".contains("unknown psk identity"))
    }

    @Test func `a service with both serves clients of either kind`() throws {
        let certificates = try TestCertificates.make()
        var both = server()
        both.certifiedKeys = [
            CertifiedKey(
                certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        ]
        let withKey = try EnginePair(client: client(), server: both)
        withKey.handshake()
        #expect(withKey.server.engine?.cipher == "ECDHE-PSK-CHACHA20-POLY1305")
        let withCertificates = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority), server: both)
        withCertificates.handshake()
        #expect(withCertificates.server.engine?.cipher == "ECDHE-ECDSA-AES128-GCM-SHA256")
    }

    /// The server's name chooses another context, which has the keys too.
    @Test func `a server name changes nothing for a client with a key`() throws {
        let certificates = try TestCertificates.make()
        let certified = CertifiedKey(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        var both = server()
        both.certifiedKeys = [certified]
        both.names = [VirtualHost(name: "localhost", certifiedKeys: [certified])]
        for suite in [nil, "PSK-AES128-CCM8"] {
            let pair = try EnginePair(client: client(ciphers: suite), server: both, serverName: "localhost")
            pair.handshake()
            #expect(pair.server.engine?.serverName == "localhost")
            #expect(pair.server.engine?.peerName?.presharedKeyIdentity == "sensor-7")
        }
    }

    @Test func `a server without keys serves nobody who has only a key`() throws {
        let certificates = try TestCertificates.make()
        let pair = try EnginePair(
            client: client(),
            server: ServerSettings(
                certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey,
                ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256:PSK-AES128-GCM-SHA256"))
        pair.handshake()
        #expect(!pair.server.isEstablished)
    }

    /// A session that was begun in one way is none of a service that wants another one.
    @Test func `a session does not replace another kind of proof`() throws {
        let certificates = try TestCertificates.make()
        let keys = server()
        var certified = server()
        certified.presharedKeys = nil
        certified.certifiedKeys = [
            CertifiedKey(
                certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        ]
        var both = certified
        both.presharedKeys = keys.presharedKeys
        let stranger = ClientSettings(certificateAuthorities: certificates.authority)
        for (client, before, now) in [
            (client(), keys, certified), (client(), both, certified), (stranger, certified, keys),
            (stranger, both, keys),
        ] {
            let first = try resume(client, before, nil)
            let session = try #require(first.client.session)
            #expect(try resume(client, before, session).server.engine?.isResumed == true)
            #expect(try !resume(client, now, session).server.isEstablished)
        }
    }

    /// OpenSSL does not look whether the suite of a session is one of the list.
    @Test func `a session ends with its cipher suite`() throws {
        let first = try resume(client(), server(), nil)
        let session = try #require(first.client.session)
        let next = try resume(client(), server(ciphers: "PSK-AES128-GCM-SHA256"), session)
        #expect(next.server.engine?.isResumed == false)
        #expect(next.server.engine?.cipher == "PSK-AES128-GCM-SHA256")
    }

    private func resume(
        _ client: ClientSettings, _ server: ServerSettings, _ session: ResumableSession?
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: client, server: server, ticketKeys: Array(repeating: 7, count: ServerContext.ticketKeyLength),
            session: session)
        pair.handshake()
        return pair
    }

    @Test func `identities and keys that cannot be used are refused`() {
        #expect(throws: CredentialsError.ciphers("it has no cipher suite for pre-shared keys (PSK-…)")) {
            try ServerContext(server(ciphers: "ECDHE-ECDSA-AES128-GCM-SHA256"))
        }
        for key in [
            PresharedKey(identity: [], key: [1]), PresharedKey(identity: [1], key: []),
            PresharedKey(identity: [1, 0], key: [1]),
            PresharedKey(identity: Array(repeating: 1, count: 256), key: [1]),
            PresharedKey(identity: [1], key: Array(repeating: 1, count: 513)),
        ] {
            #expect(throws: CredentialsError.self) { try ClientContext(client(key)) }
        }
    }
}
