/// What a ``ServerContext`` is made of: PEM texts, never paths.
public struct ServerSettings: Codable, Equatable, Sendable {
    /// What the server proves itself with: one of each kind of key (RSA, ECDSA) at most, the client's offer decides.
    public var certifiedKeys: [CertifiedKey]
    /// What it proves itself with to clients that ask for other names (SNI).
    public var names: [VirtualHost] = []
    /// Whether a client is turned away that asks for a name which neither `names` nor the service's own certificates
    /// have; else it gets the service's own.
    public var refusesUnknownNames = false
    /// Whether a client that asks for no name gets the certificate for the address which it has come to: that of the
    /// name which is this address, else one that names it (reference: ipcert).
    public var choosesByAddress = false
    /// The application protocols (ALPN, RFC 7301), best first, each of 1 to 255 bytes; none: what clients offer is
    /// ignored.
    public var applicationProtocols: [String] = []
    /// Which certificates clients are asked for.
    public var clients: PeerVerification
    /// Keys that clients may prove themselves with instead of a certificate.
    public var presharedKeys: PresharedKeys?
    /// Decides on the cipher suites where `ciphers` does not.
    public var policy = CipherPolicy.modern
    /// OpenSSL's cipher list (TLS 1.2 and below); `nil`: the policy's.
    public var ciphers: String?
    public var minimumVersion: ProtocolVersion
    public var maximumVersion: ProtocolVersion?
    /// Whether clients may renegotiate (reference: renegotiate).
    public var allowsRenegotiation: Bool
    public var sessions = SessionSettings()

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
    /// The OpenSSL cipher list that is in force.
    var cipherList: String {
        ciphers
            ?? CipherPolicy.cipherList(
                policy: policy, hasCertificates: !certifiedKeys.isEmpty, hasPresharedKeys: presharedKeys != nil,
                minimumVersion: minimumVersion)
    }
}

extension ServerSettings {
    /// What tells sessions that were begun under these settings from those under others, as far as that says who may
    /// come in: OpenSSL asks a resumed session neither for a certificate nor for a key, and does not look whether its
    /// cipher suite is still in the list.
    var sessionMark: String {
        let proofs = "\(certifiedKeys.isEmpty ? "" : "certificates")\0\(presharedKeys == nil ? "" : "keys")"
        return "\(clients.sessionMark)\0\(proofs)\0\(cipherList)"
    }
}

/// A certificate and its private key.
public struct CertifiedKey: Codable, Equatable, Sendable {
    /// The certificate and the chain above it, PEM, leaf first.
    public var certificate: String
    /// PEM; may be encrypted with `passphrase`.
    public var privateKey: String
    public var passphrase: String?
    /// What the certificate's authority says of it, for clients that ask.
    public var staple: OCSPStaple?

    public init(certificate: String, privateKey: String, passphrase: String? = nil) {
        self.certificate = certificate
        self.privateKey = privateKey
        self.passphrase = passphrase
    }
}
