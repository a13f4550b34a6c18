/// The settings that a ``ServerContext`` is made from. They hold PEM texts, never paths.
public struct ServerSettings: Codable, Equatable, Sendable {
    /// The server's certificates: one of each kind of key (RSA, ECDSA) at most. The client's offer decides between
    /// them.
    public var certifiedKeys: [CertifiedKey]
    /// Private keys without certificates, one of each kind at most, for clients that take raw public keys (RFC 7250). They are
    /// in the place of `certifiedKeys`.
    public var bareKeys: [BareKey] = []
    /// Whether clients that ask for it get the public key of a certificate, and not the certificate (RFC 7250). With
    /// `bareKeys`, they always do.
    public var offersRawPublicKeys = false
    /// The certificates for clients that ask for other names (SNI).
    public var names: [VirtualHost] = []
    /// Whether a client is refused that asks for a name which neither `names` nor the service's own certificates have;
    /// otherwise it gets the service's own certificate.
    public var refusesUnknownNames = false
    /// Whether a client that asks for no name gets the certificate for the address that it has sent to: that of the
    /// virtual host whose name is this address, else the first that names the address.
    public var choosesByAddress = false
    /// The application protocols (ALPN, RFC 7301), best first, each of 1 to 255 bytes; none: what clients offer is
    /// ignored.
    public var applicationProtocols: [String] = []
    /// The certificates that clients are asked for.
    public var clients: PeerVerification
    /// The keys that clients may authenticate with instead of a certificate.
    public var presharedKeys: PresharedKeys?
    /// The handshakes that wait until somebody has said whether the client may come in (``Engine/authorize(_:)``). It is
    /// not to be combined with renegotiation, in which nobody is asked.
    public var authorization = AuthorizationScope.none
    /// Decides on the cipher suites where `ciphers` does not.
    public var policy = CipherPolicy.modern
    /// OpenSSL's cipher list (TLS 1.2 and below); `nil`: the policy's.
    public var ciphers: String?
    /// The groups that keys are exchanged in, best first, as SSL_CTX_set1_groups_list(3) has them (`"X25519:P-256"`);
    /// `nil`: X25519, P-256, P-384 and P-521. The curve of a client's ECDSA certificate has to be among them (RFC 8422,
    /// section 5.1.1).
    public var groups: String?
    /// The signature algorithms of both sides, best first, as SSL_CTX_set1_sigalgs_list(3) has them
    /// (`"ECDSA+SHA256:RSA-PSS+SHA256"`); `nil`: OpenSSL's. DTLS 1.0 negotiates none.
    public var signatureAlgorithms: String?
    public var minimumVersion: ProtocolVersion
    public var maximumVersion: ProtocolVersion?
    /// Whether clients may renegotiate.
    public var allowsRenegotiation: Bool
    public var sessions = SessionSettings()
    /// Whether clients' offers of connection IDs (RFC 9146), and of return routability checks with them (RFC 9853), are
    /// answered where an engine has a connection ID. It has no effect where renegotiation is allowed.
    public var connectionIDs = false
    /// Whether all certificates that a client shows can be asked for when its handshake is over
    /// (``Engine/peerCertificates``).
    public var keepsPeerCertificates = false
    /// The profiles of SRTP that clients may agree on (use_srtp, RFC 5764), best first, by OpenSSL's names.
    public var srtpProfiles: [String] = []

    public init(
        certifiedKeys: [CertifiedKey], clients: PeerVerification = PeerVerification(), ciphers: String? = nil,
        minimumVersion: ProtocolVersion = .dtls12, maximumVersion: ProtocolVersion? = nil,
        allowsRenegotiation: Bool = false
    ) {
        self.certifiedKeys = certifiedKeys
        self.clients = clients
        self.ciphers = ciphers
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.allowsRenegotiation = allowsRenegotiation
    }

    /// With one certificate; where there are CAs, clients must show a certificate that one of them signed.
    public init(
        certificate: String, privateKey: String, passphrase: String? = nil, certificateAuthorities: String? = nil,
        ciphers: String? = nil, minimumVersion: ProtocolVersion = .dtls12, maximumVersion: ProtocolVersion? = nil,
        allowsRenegotiation: Bool = false
    ) {
        self.init(
            certifiedKeys: [
                CertifiedKey(certificate: certificate, privateKey: privateKey, passphrase: passphrase)
            ],
            clients: certificateAuthorities.map { PeerVerification(mode: .required, authorities: $0) }
                ?? PeerVerification(),
            ciphers: ciphers, minimumVersion: minimumVersion, maximumVersion: maximumVersion,
            allowsRenegotiation: allowsRenegotiation)
    }
}

extension ServerSettings {
    /// The newest version that is spoken; `nil`: the newest that OpenSSL knows. Who asks for an authorization knows the
    /// messages of DTLS 1.2, who holds keys what is signed in it, and OpenSSL 4.1 brings DTLS 1.3.
    var newestVersion: ProtocolVersion? { maximumVersion ?? (authorization == .none && !hasHeldKeys ? nil : .dtls12) }

    /// Whether another process has private keys of this server.
    private var hasHeldKeys: Bool {
        (certifiedKeys + names.flatMap(\.certifiedKeys)).contains { $0.privateKey.isHeld }
            || bareKeys.contains { $0.privateKey.isHeld }
    }

    /// Whether clients can authenticate the server by a certificate or a raw public key.
    var hasKeys: Bool { !certifiedKeys.isEmpty || !bareKeys.isEmpty }

    /// The active OpenSSL cipher list.
    var cipherList: String {
        ciphers
            ?? CipherPolicy.cipherList(
                policy: policy, hasCertificates: hasKeys, hasPresharedKeys: presharedKeys != nil,
                minimumVersion: minimumVersion)
    }
}

extension ServerSettings {
    /// Tells sessions that were begun under these settings from those under others, as far as the settings say who may
    /// connect: OpenSSL asks a resumed session neither for a certificate nor for a key, and does not check that its
    /// cipher suite is still in the list.
    var sessionIDContext: String {
        let proofs = "\(hasKeys ? "certificates" : "")\0\(presharedKeys == nil ? "" : "keys")"
        let lists = [groups.map { "groups:\($0)" }, signatureAlgorithms.map { "signatures:\($0)" }].compactMap(\.self)
        return ([clients.sessionIDContext, proofs, cipherList] + lists).joined(separator: "\0")
    }
}

/// Whether and how long clients may resume their sessions.
public struct SessionSettings: Codable, Equatable, Sendable {
    /// The lifetimes that a session may have: up to a week, as in RFC 8446, section 4.6.1.
    public static let lifetimes = Duration.seconds(1)...Duration.seconds(604_800)

    /// Whether sessions can be resumed at all: by tickets, and by their IDs where there is a ``SessionCache``.
    public var resumption: Bool
    /// Whether session tickets are issued and accepted.
    public var tickets: Bool
    /// The time from the full handshake on in which a session can be resumed: one of ``lifetimes``. Two hours are
    /// OpenSSL's default.
    public var lifetime: Duration

    public init(resumption: Bool = true, tickets: Bool = true, lifetime: Duration = .seconds(7_200)) {
        self.resumption = resumption
        self.tickets = tickets
        self.lifetime = lifetime
    }
}
