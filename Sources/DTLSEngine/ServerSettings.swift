/// What a ``ServerContext`` is made of: PEM texts, never paths.
public struct ServerSettings: Sendable, Equatable {
    /// The server's certificate and the chain above it, PEM, leaf first.
    public var certificate: String
    /// PEM; may be encrypted with `passphrase`.
    public var privateKey: String
    public var passphrase: String?
    /// Trusted CAs, PEM. Where there are any, clients must show a certificate that one of them signed.
    public var certificateAuthorities: String?
    /// OpenSSL's cipher list (TLS 1.2 and below); `nil`: AEAD with forward secrecy.
    public var ciphers: String?
    public var minimumVersion: ProtocolVersion
    public var maximumVersion: ProtocolVersion?
    /// Whether clients may renegotiate (reference: renegotiate).
    public var allowsRenegotiation: Bool

    public init(
        certificate: String, privateKey: String, passphrase: String? = nil, certificateAuthorities: String? = nil,
        ciphers: String? = nil, minimumVersion: ProtocolVersion = .dtls12, maximumVersion: ProtocolVersion? = nil,
        allowsRenegotiation: Bool = false
    ) {
        self.certificate = certificate
        self.privateKey = privateKey
        self.passphrase = passphrase
        self.certificateAuthorities = certificateAuthorities
        self.ciphers = ciphers
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.allowsRenegotiation = allowsRenegotiation
    }
}

/// A DTLS version, with its number on the wire.
public enum ProtocolVersion: UInt16, Sendable, CaseIterable, Comparable {
    case dtls10 = 0xfeff
    case dtls12 = 0xfefd

    /// `"1.0"` or `"1.2"`, as configurations and logs write it.
    public var name: String {
        switch self {
        case .dtls10: "1.0"
        case .dtls12: "1.2"
        }
    }

    public init?(name: String) {
        guard let version = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = version
    }

    /// Later versions have lower numbers on the wire (RFC 6347, section 4.1).
    public static func < (one: ProtocolVersion, other: ProtocolVersion) -> Bool { one.rawValue > other.rawValue }
}
