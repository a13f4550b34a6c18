import COpenSSL
import DTLSEngine
import Testing

/// Which certificates are too weak to prove anything, also where DTLS 1.0 is spoken.
@Suite struct CertificateStrengthTests {
    /// What may be weak about the certificate that one side shows to the other.
    enum Weakness: CaseIterable, Sendable {
        case none, sha1, rsa1024, md5, rsa512

        func certificate(_ name: String, issuer: MadeCertificate) throws -> MadeCertificate {
            let names: [MadeCertificate.Name] = [.dns("localhost")]
            switch self {
            case .none: return try MadeCertificate(name, names: names, issuer: issuer)
            case .sha1: return try MadeCertificate(name, names: names, issuer: issuer, digest: EVP_sha1())
            case .md5: return try MadeCertificate(name, names: names, issuer: issuer, digest: EVP_md5())
            case .rsa1024: return try MadeCertificate(name, names: names, issuer: issuer, key: Key(.rsa, bits: 1024))
            case .rsa512: return try MadeCertificate(name, names: names, issuer: issuer, key: Key(.rsa, bits: 512))
            }
        }

        /// What OpenSSL says of it where it is refused.
        var complaint: String {
            switch self {
            case .none: ""
            case .sha1, .md5: "CA signature digest algorithm too weak"
            case .rsa1024, .rsa512: "EE certificate key too weak"
            }
        }
    }

    let root: MadeCertificate
    let good: MadeCertificate

    /// Of RSA, since OpenSSL has no MD5 with ECDSA; made once, and never changed.
    nonisolated(unsafe) private static let sharedRoot = Result {
        try MadeCertificate("Root", isAuthority: true, key: Key(.rsa))
    }

    init() throws {
        root = try Self.sharedRoot.get()
        good = try Weakness.none.certificate("good", issuer: root)
    }

    private func handshake(
        client: MadeCertificate, server: MadeCertificate, _ policy: (client: ProtocolVersion, server: ServerSettings)
    ) throws -> EnginePair {
        let (clientIdentity, serverIdentity) = (try client.identity(), try server.identity())
        var settings = policy.server
        settings.certifiedKeys = [
            CertifiedKey(certificate: serverIdentity.certificate, privateKey: serverIdentity.privateKey)
        ]
        settings.clients = PeerVerification(mode: .required, authorities: try root.pem())
        let pair = try EnginePair(
            client: ClientSettings(
                certificateAuthorities: try root.pem(), certificate: clientIdentity.certificate,
                privateKey: clientIdentity.privateKey, minimumVersion: policy.client), server: settings)
        pair.handshake()
        return pair
    }

    /// Of a policy, of one with an oldest version, and without either.
    private func server(_ policy: CipherPolicy, _ minimumVersion: ProtocolVersion) -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [], minimumVersion: minimumVersion)
        settings.policy = policy
        return settings
    }

    /// The newest version that both know is 1.2; the level is that of the settings all the same.
    @Test(arguments: Weakness.allCases, [CipherPolicy.legacy, .modern])
    func `a server of DTLS 1.0 accepts SHA-1 and RSA-1024 certificates and no weaker ones`(
        _ weakness: Weakness, _ policy: CipherPolicy
    ) throws {
        let pair = try handshake(
            client: weakness.certificate("weak", issuer: root), server: good, (.dtls10, server(policy, .dtls10)))
        try expect(weakness, [.none, .sha1, .rsa1024], pair.server)
    }

    @Test(arguments: Weakness.allCases)
    func `a client of DTLS 1.0 accepts SHA-1 and RSA-1024 certificates and no weaker ones`(_ weakness: Weakness) throws
    {
        let pair = try handshake(
            client: good, server: weakness.certificate("weak", issuer: root), (.dtls10, server(.legacy, .dtls10)))
        try expect(weakness, [.none, .sha1, .rsa1024], pair.client)
    }

    @Test(arguments: Weakness.allCases)
    func `without DTLS 1.0 no weak certificate is accepted`(_ weakness: Weakness) throws {
        let weak = try weakness.certificate("weak", issuer: root)
        try expect(weakness, [.none], handshake(client: weak, server: good, (.dtls10, server(.modern, .dtls12))).server)
        try expect(weakness, [.none], handshake(client: good, server: weak, (.dtls12, server(.legacy, .dtls10))).client)
    }

    private func expect(
        _ weakness: Weakness, _ taken: Set<Weakness>, _ side: EnginePair.Endpoint,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        #expect(
            side.isEstablished == taken.contains(weakness), "\(String(describing: side.error))",
            sourceLocation: sourceLocation)
        guard !taken.contains(weakness) else { return }
        let reason = try #require(side.error?.verification, sourceLocation: sourceLocation)
        #expect(reason.contains(weakness.complaint), "\(reason)", sourceLocation: sourceLocation)
    }
}
