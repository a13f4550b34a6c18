import COpenSSL
import DTLSEngine
import Testing

/// Cipher lists that are refused, since no handshake could succeed with them, or since it would mean nothing.
@Suite struct CipherSuiteTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func server(
        _ ciphers: String?, rsa: Bool = false, versions: ClosedRange<ProtocolVersion> = .dtls12...(.dtls12)
    ) -> ServerSettings {
        let identity = rsa ? certificates.rsaServer : certificates.ecdsaServer
        return ServerSettings(
            certificate: identity.certificate, privateKey: identity.privateKey, ciphers: ciphers,
            minimumVersion: versions.lowerBound, maximumVersion: versions.upperBound)
    }

    @Test(arguments: ["aNULL:@SECLEVEL=0", "eNULL:@SECLEVEL=0", "ADH-AES128-GCM-SHA256:ECDHE-RSA-NULL-SHA:@SECLEVEL=0"])
    func `a cipher list without a usable suite is refused`(_ ciphers: String) {
        let expected = CredentialsError.ciphers("only suites without authentication or encryption match \"\(ciphers)\"")
        #expect(throws: expected) { try ServerContext(server(ciphers, rsa: true)) }
        #expect(throws: expected) { try ClientContext(ClientSettings(ciphers: ciphers)) }
    }

    /// Without a certificate, an anonymous suite is all that they could agree on.
    @Test func `suites without authentication or encryption are left out of a list`() throws {
        let all = "ALL:@SECLEVEL=0"
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority, ciphers: all),
            server: ServerSettings(certifiedKeys: [], ciphers: all))
        pair.handshake()
        #expect(!pair.client.isEstablished && !pair.server.isEstablished)
    }

    private static let noECDSA = "it has no cipher suite for certificates with ECDSA keys"
    /// From OpenSSL 3.2 on it is the version itself that is forbidden above security level 0.
    private static let forbidsVersion = OpenSSL_version_num() >= 0x3020_0000
    private static let tooStrict =
        forbidsVersion
        ? "this OpenSSL speaks DTLS 1.0 at its security level 0 only, and the level is 1: add \"@SECLEVEL=0\" to the list"
        : "DTLS 1.0 needs OpenSSL's security level 0 for its signatures: add \"@SECLEVEL=0\" to the list"
    private static let old = ProtocolVersion.dtls10...(.dtls10)

    @Test func `a server's certificate needs a suite`() {
        let cases: [(ServerSettings, String)] = [
            (server("ECDHE-RSA-AES128-GCM-SHA256"), Self.noECDSA), (server("PSK"), Self.noECDSA),
            (server("ECDHE+aECDSA", rsa: true), "it has no cipher suite for certificates with RSA keys"),
            (server("ECDHE+AESGCM:@SECLEVEL=0", versions: Self.old), "\(Self.noECDSA) that DTLS 1.0 knows"),
            (server("ECDHE+AES:@SECLEVEL=1", versions: Self.old), Self.tooStrict),
            (server("AES128-SHA:@SECLEVEL=1", rsa: true, versions: Self.old), Self.tooStrict),
        ]
        for (settings, expected) in cases {
            #expect(throws: CredentialsError.ciphers(expected)) { try ServerContext(settings) }
        }
    }

    /// Each of these is good for something: a handshake succeeds.
    @Test(
        arguments: [
            ("ECDHE+AES:@SECLEVEL=0", false, old), ("AES128-SHA:@SECLEVEL=0", true, old),
            ("ECDHE+AESGCM", false, .dtls10...(.dtls12)), (nil, false, old), (nil, true, old),
        ] as [(String?, Bool, ClosedRange<ProtocolVersion>)])
    func `a usable combination is accepted`(_ ciphers: String?, _ rsa: Bool, _ versions: ClosedRange<ProtocolVersion>)
        throws
    {
        let client = ClientSettings(
            rejectUnauthorized: false, ciphers: ciphers, minimumVersion: versions.lowerBound,
            maximumVersion: versions.upperBound)
        let pair = try EnginePair(client: client, server: server(ciphers, rsa: rsa, versions: versions))
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.server.error))")
    }

    @Test func `a virtual host's certificate needs a suite too`() {
        var settings = server("ECDHE+aECDSA")
        settings.names = [
            VirtualHost(
                name: "b",
                certifiedKeys: [
                    CertifiedKey(
                        certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey)
                ])
        ]
        #expect(throws: CredentialsError.ciphers("it has no cipher suite for certificates with RSA keys")) {
            try ServerContext(settings)
        }
    }

    @Test func `a client's certificate or key needs a suite`() {
        let key = PresharedKey(identity: [1], key: [1])
        #expect(throws: CredentialsError.ciphers("it has no cipher suite for pre-shared keys (PSK-…)")) {
            try ClientContext(ClientSettings(presharedKey: key, ciphers: "ECDHE+AESGCM"))
        }
        #expect(throws: CredentialsError.ciphers("it has no cipher suite for servers with certificates")) {
            try ClientContext(ClientSettings(ciphers: "PSK"))
        }
        #expect(throws: CredentialsError.ciphers(Self.tooStrict)) {
            try ClientContext(
                ClientSettings(ciphers: "ECDHE+AES:@SECLEVEL=1", minimumVersion: .dtls10, maximumVersion: .dtls10))
        }
    }

    /// Without a signature, the security level does not matter, as far as OpenSSL speaks the version at that level.
    @Test func `pre-shared keys need no signature`() throws {
        let key = PresharedKey(identity: [1], key: Array(repeating: 7, count: 16))
        let suite = "PSK-AES128-CBC-SHA:@SECLEVEL=1"
        var server = ServerSettings(
            certifiedKeys: [], ciphers: suite, minimumVersion: .dtls10, maximumVersion: .dtls10)
        server.presharedKeys = PresharedKeys(keys: [key])
        let client = ClientSettings(
            presharedKey: key, ciphers: suite, minimumVersion: .dtls10, maximumVersion: .dtls10)
        guard !Self.forbidsVersion else {
            #expect(throws: CredentialsError.ciphers(Self.tooStrict)) { try ServerContext(server) }
            #expect(throws: CredentialsError.ciphers(Self.tooStrict)) { try ClientContext(client) }
            return
        }
        let pair = try EnginePair(client: client, server: server)
        pair.handshake()
        #expect(pair.server.isEstablished)
    }

    // MARK: Suites with a short tag

    /// RFC 7252, section 9.1.3.3, wants it of every CoAP device with a certificate. From OpenSSL 3.2 on its tag counts
    /// as 64 bits of security.
    @Test(arguments: ["ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES256-CCM8"])
    func `a CCM-8 suite with certificates is served at the usual security level`(_ suite: String) throws {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority, ciphers: suite),
            server: server(suite))
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.server.error))")
        #expect(pair.server.engine?.cipher == suite)
    }

    /// The policy's own list, and a virtual host's context.
    @Test(arguments: [false, true])
    func `CCM-8 suites of either kind are served beside each other`(_ isVirtualHost: Bool) throws {
        let key = PresharedKey(identity: Array("sensor".utf8), key: Array(repeating: 7, count: 16))
        var settings = server(nil)
        settings.presharedKeys = PresharedKeys(keys: [key])
        if isVirtualHost {
            settings.names = [VirtualHost(name: "localhost", certifiedKeys: settings.certifiedKeys)]
        }
        for client in [
            ClientSettings(certificateAuthorities: certificates.authority, ciphers: "ECDHE-ECDSA-AES128-CCM8"),
            ClientSettings(presharedKey: key, ciphers: "PSK-AES128-CCM8"),
        ] {
            let pair = try EnginePair(client: client, server: settings)
            pair.handshake()
            #expect(pair.server.isEstablished, "\(String(describing: pair.server.error))")
            #expect(pair.server.engine?.cipher == client.ciphers)
        }
    }

    /// A suite's 128 bits are none of a certificate's.
    @Test func `a weak certificate is refused with a CCM-8 suite, too`() throws {
        let root = try MadeCertificate("Root", isAuthority: true)
        let weak = try MadeCertificate(
            "weak", names: [.dns("localhost")], issuer: root, digest: EVP_sha1()
        ).identity()
        var settings = server("ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0")
        settings.certifiedKeys = [CertifiedKey(certificate: weak.certificate, privateKey: weak.privateKey)]
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: try root.pem(), ciphers: "ECDHE-ECDSA-AES128-CCM8"),
            server: settings)
        pair.handshake()
        let reason = try #require(pair.client.error?.verification)
        #expect(reason.contains("CA signature digest algorithm too weak"), "\(reason)")
    }

    // MARK: Old clients with keys

    /// Of a policy, or of a minimum version alone.
    @Test(arguments: [(CipherPolicy.legacy, ProtocolVersion.dtls10), (.modern, .dtls10), (.legacy, .dtls12)])
    func `old clients with pre-shared keys are served`(_ policy: CipherPolicy, _ minimumVersion: ProtocolVersion) throws
    {
        let key = PresharedKey(identity: Array("old".utf8), key: Array(repeating: 7, count: 16))
        var server = ServerSettings(certifiedKeys: [], minimumVersion: minimumVersion)
        server.policy = policy
        server.presharedKeys = PresharedKeys(keys: [key])
        for suite in ["PSK-AES128-CBC-SHA", "ECDHE-PSK-AES128-CBC-SHA"] {
            let client = ClientSettings(
                presharedKey: key, ciphers: "\(suite):@SECLEVEL=0", minimumVersion: minimumVersion,
                maximumVersion: minimumVersion)
            let pair = try EnginePair(client: client, server: server)
            pair.handshake()
            #expect(pair.server.engine?.cipher == suite)
            #expect(pair.client.isEstablished && pair.server.isEstablished)
        }
    }
}
