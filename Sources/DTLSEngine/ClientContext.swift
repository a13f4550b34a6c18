import COpenSSL

/// The settings that a ``ClientContext`` is made from.
public struct ClientSettings: Codable, Equatable, Sendable {
    /// Whether the server's certificate must be signed by a trusted CA and carry the expected name.
    public var rejectUnauthorized: Bool
    /// Whether the CAs of the system are trusted, too.
    public var loadDefaultCertificates: Bool
    /// Trusted CAs, PEM.
    public var certificateAuthorities: String?
    /// The raw public keys (RFC 7250) of which the server must show one. Where there are `certificateAuthorities` or
    /// `loadDefaultCertificates` beside them, a server that does not know raw public keys may show a certificate instead.
    public var serverPublicKeys: KnownPublicKeys?
    /// Whether the client shows the public key of `key` to servers that take it (RFC 7250). Without a `certificate`,
    /// it has nothing else to show.
    public var offersRawPublicKey = false
    /// The client's own certificate and chain, PEM, leaf first; with it goes `key`.
    public var certificate: String?
    public var key: PrivateKeySource?
    /// The PEM text of `key`, where it is one.
    public var privateKey: String? {
        get {
            if case .pem(let text) = key { text } else { nil }
        }
        set { key = newValue.map { .pem($0) } }
    }
    /// What `key` is encrypted with.
    public var passphrase: String?
    /// The key that both sides authenticate with instead of certificates. Only suites with pre-shared keys are offered
    /// then, unless `ciphers` says otherwise.
    public var presharedKey: PresharedKey?
    /// The table that another process holds for this one, with the key of the identity in ``presharedKey``, which has none.
    package var heldPresharedKeyTable: KeyID?
    public var ciphers: String?
    /// The groups that keys are exchanged in, best first, as SSL_CTX_set1_groups_list(3) has them (`"X25519:P-256"`);
    /// `nil`: X25519, P-256, P-384 and P-521.
    public var groups: String?
    /// The signature algorithms of both sides, best first, as SSL_CTX_set1_sigalgs_list(3) has them
    /// (`"ECDSA+SHA256:RSA-PSS+SHA256"`); `nil`: OpenSSL's. DTLS 1.0 negotiates none.
    public var signatureAlgorithms: String?
    /// Whether a server may do without secure renegotiation (RFC 5746). Somebody on the way can then put a handshake and
    /// data of their own in front of this client's, where such a server renegotiates.
    public var allowsLegacyServer = false
    public var minimumVersion: ProtocolVersion
    public var maximumVersion: ProtocolVersion?
    /// Whether the server may ask to renegotiate.
    public var allowsRenegotiation: Bool
    /// The application protocols that are offered (ALPN, RFC 7301), best first, each of 1 to 255 bytes.
    public var applicationProtocols: [String] = []
    /// Whether engines that have a connection ID (RFC 9146) offer it, and return routability checks with it (RFC 9853).
    /// It has no effect where renegotiation is allowed.
    public var connectionIDs = false
    /// Whether all certificates that the server shows can be asked for when the handshake is over
    /// (``Engine/peerCertificates``).
    public var keepsPeerCertificates = false
    /// The profiles of SRTP that are offered (use_srtp, RFC 5764), best first, by OpenSSL's names.
    public var srtpProfiles: [String] = []
    /// Whether the handshake waits until somebody has said whether the server is the right one
    /// (``Engine/authorize(_:)``). It is not to be combined with renegotiation, in which nobody is asked.
    public var asksAboutServer = false

    public init(
        rejectUnauthorized: Bool = true, loadDefaultCertificates: Bool = false, certificateAuthorities: String? = nil,
        certificate: String? = nil, privateKey: String? = nil, passphrase: String? = nil,
        presharedKey: PresharedKey? = nil, ciphers: String? = nil, minimumVersion: ProtocolVersion = .dtls12,
        maximumVersion: ProtocolVersion? = nil,
        allowsRenegotiation: Bool = false
    ) {
        self.rejectUnauthorized = rejectUnauthorized
        self.loadDefaultCertificates = loadDefaultCertificates
        self.certificateAuthorities = certificateAuthorities
        self.certificate = certificate
        key = privateKey.map { .pem($0) }
        self.passphrase = passphrase
        self.presharedKey = presharedKey
        self.ciphers = ciphers
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.allowsRenegotiation = allowsRenegotiation
    }
}

extension ClientSettings {
    /// Whether a server with known raw public keys may show a certificate all the same.
    var takesCertificates: Bool { certificateAuthorities != nil || loadDefaultCertificates }

    /// The newest version that is spoken, as ``ServerSettings/newestVersion`` has it.
    var newestVersion: ProtocolVersion? {
        maximumVersion ?? (asksAboutServer || key?.isHeld == true ? .dtls12 : nil)
    }
}

/// A client's SSL_CTX, made from ``ClientSettings``: what it trusts, and what it authenticates itself with.
public final class ClientContext: TLSContext {
    /// Whether handshakes wait for an answer.
    let asksAboutServer: Bool

    public convenience init(_ settings: ClientSettings) throws(CredentialsError) {
        try self.init(settings, heldKeys: nil)
    }

    /// - Parameter heldKeys: who is asked to use a private key that another process holds.
    package init(_ settings: ClientSettings, heldKeys: HeldKeys?) throws(CredentialsError) {
        asksAboutServer = settings.asksAboutServer
        try super.init(
            method: DTLS_client_method(),
            ciphers: settings.ciphers
                ?? CipherPolicy.cipherList(
                    policy: .modern, hasCertificates: settings.presharedKey == nil,
                    hasPresharedKeys: settings.presharedKey != nil,
                    minimumVersion: settings.minimumVersion),
            groups: settings.groups, signatureAlgorithms: settings.signatureAlgorithms,
            minimumVersion: settings.minimumVersion, maximumVersion: settings.newestVersion,
            allowsRenegotiation: settings.allowsRenegotiation, heldKeys: heldKeys)
        if settings.allowsLegacyServer { SSL_CTX_set_options(pointer, CO_SSL_OP_LEGACY_SERVER_CONNECT) }
        if let authorities = settings.certificateAuthorities { try trust(authorities: authorities, announce: false) }
        if settings.loadDefaultCertificates, SSL_CTX_set_default_verify_paths(pointer) != 1 {
            throw .authorities("\(OpenSSLError.drain())")
        }
        if let certificate = settings.certificate {
            guard let key = settings.key else { throw .privateKey("there is a certificate but no key") }
            let own = try use(certificate: certificate, privateKey: key, passphrase: settings.passphrase)
            try checkSignatures(of: own, in: settings.signatureAlgorithms)
        }
        try useRawPublicKeys(settings)
        if let key = settings.presharedKey {
            if let table = settings.heldPresharedKeyTable {
                try use(identity: key.identity, heldTable: table)
            } else {
                try use(key)
            }
        }
        if let fault = suiteFault(for: settings.presharedKey == nil ? .anyCertificate : .presharedKey) {
            throw .ciphers(fault)
        }
        try offer(applicationProtocols: settings.applicationProtocols)
        try negotiate(srtpProfiles: settings.srtpProfiles)
        if settings.connectionIDs { try negotiateConnectionIDs() }
        SSL_CTX_set_verify(pointer, settings.rejectUnauthorized ? SSL_VERIFY_PEER : SSL_VERIFY_NONE) { isValid, store in
            guard isValid == 0, let store else { return isValid }
            guard TLSContext.toleratesSHA1(store) else {
                RefusedCertificate.note(store)
                return 0
            }
            X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        exData.keepsPeerCertificates = settings.keepsPeerCertificates
        if settings.keepsPeerCertificates { noteShownCertificates() }
        verifyRawPublicKeys(settings)
        _ = co_ssl_ctx_set_session_cache_mode(pointer, Int(SSL_SESS_CACHE_OFF))
    }

    private func useRawPublicKeys(_ settings: ClientSettings) throws(CredentialsError) {
        var mayShow: CertificateTypes?
        if settings.offersRawPublicKey {
            mayShow = .both
            if settings.certificate == nil {
                guard let key = settings.key else {
                    throw .privateKey("there is none, whose public key is shown")
                }
                let own = try use(BareKey(privateKey: key, passphrase: settings.passphrase))
                try checkSignatures(ofKind: KeyKind.name(of: own.pointer), in: settings.signatureAlgorithms)
                mayShow = .rawPublicKeysAlone
            }
        }
        var mayTake: CertificateTypes?
        if settings.serverPublicKeys != nil { mayTake = settings.takesCertificates ? .both : .rawPublicKeysAlone }
        try negotiateRawPublicKeys(server: mayTake, client: mayShow)
    }
}
