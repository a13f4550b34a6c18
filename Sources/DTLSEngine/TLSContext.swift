import COpenSSL

/// An SSL_CTX that is freed with its last user: what ``ServerContext`` and ``ClientContext`` have in common.
public class TLSContext {
    /// An SSL_CTX that this object owns a reference to. Each SSL made from it holds one of its own.
    let pointer: OpaquePointer
    /// Whether the peer may begin another handshake on an established connection.
    let allowsRenegotiation: Bool
    /// Whether its connections can agree on connection IDs.
    private(set) var negotiatesConnectionIDs = false
    /// `nil`: the newest that OpenSSL knows.
    let maximumVersion: ProtocolVersion?
    /// The data of this context for OpenSSL's callbacks.
    let exData: ContextExData
    /// Asks for what takes a private key that another process holds; `nil` where no key is held.
    let heldKeys: HeldKeys?

    /// P-521 for peers with certificates of such keys: in DTLS 1.2 the list is about these too (RFC 8422, section
    /// 5.1.1).
    private static let groups = "X25519:P-256:P-384:P-521"

    /// - Parameters:
    ///   - ciphers: an OpenSSL cipher list; see ``CipherPolicy``.
    ///   - groups: a list for SSL_CTX_set1_groups_list(3); `nil`: X25519, P-256, P-384 and P-521.
    ///   - signatureAlgorithms: a list for SSL_CTX_set1_sigalgs_list(3); `nil`: OpenSSL's.
    ///   - heldKeys: who is asked to use private keys that another process holds.
    init(
        method: OpaquePointer?, ciphers: String, groups: String?, signatureAlgorithms: String?,
        minimumVersion: ProtocolVersion, maximumVersion: ProtocolVersion?, allowsRenegotiation: Bool,
        heldKeys: HeldKeys?
    ) throws(CredentialsError) {
        self.allowsRenegotiation = allowsRenegotiation
        self.maximumVersion = maximumVersion
        self.heldKeys = heldKeys
        ERR_clear_error()
        guard let context = SSL_CTX_new(method) else { throw .context("\(OpenSSLError.drain())") }
        pointer = context
        guard let exData = ContextExData.attach(to: context) else {
            SSL_CTX_free(context)
            throw .context("\(OpenSSLError.drain())")
        }
        self.exData = exData
        try limit(minimumVersion: minimumVersion, maximumVersion: maximumVersion)
        try use(ciphers: ciphers)
        acceptShortTags()
        noteAlerts()
        setCertificateStrength()
        try use(groups: groups ?? Self.groups)
        if let signatureAlgorithms { try use(signatureAlgorithms: signatureAlgorithms) }
        // The MTU is configured, and never asked of the BIO: one BIO serves all connections of a thread.
        SSL_CTX_set_options(context, CO_SSL_OP_NO_QUERY_MTU | CO_SSL_OP_NO_COMPRESSION)
        // With Encrypt-then-MAC (RFC 7366), OpenSSL ends a connection for any record whose MAC is wrong, where RFC
        // 6347, section 4.1.2.7, wants it dropped: one forged datagram would do (tls1_enc: "SSL_AD_BAD_RECORD_MAC";
        // seen with 3.0.19 and 3.0.22). It is about AES-CBC alone, whose records are dropped as they should without it.
        SSL_CTX_set_options(context, CO_SSL_OP_NO_ENCRYPT_THEN_MAC)
        // A peer gets the chain of the file and nothing else: for a leaf that is alone in its file, OpenSSL would build
        // one from what is trusted, which on a server is the clients' CAs (ssl3_output_cert_chain).
        _ = co_ssl_ctx_set_mode(context, Int(SSL_MODE_NO_AUTO_CHAIN))
        // Since OpenSSL 3.0 a client's wish for it is refused by default.
        SSL_CTX_set_options(
            context, allowsRenegotiation ? CO_SSL_OP_ALLOW_CLIENT_RENEGOTIATION : CO_SSL_OP_NO_RENEGOTIATION)
    }

    deinit { SSL_CTX_free(pointer) }

    /// - Parameter groups: a list for SSL_CTX_set1_groups_list(3).
    private func use(groups: String) throws(CredentialsError) {
        ERR_clear_error()
        guard co_ssl_ctx_set_groups_list(pointer, groups) == 1 else {
            _ = OpenSSLError.drain()
            throw .context("OpenSSL knows no such groups: \"\(groups)\"")
        }
    }

    /// - Parameter signatureAlgorithms: a list for SSL_CTX_set1_sigalgs_list(3).
    private func use(signatureAlgorithms: String) throws(CredentialsError) {
        ERR_clear_error()
        guard co_ssl_ctx_set_sigalgs_list(pointer, signatureAlgorithms) == 1 else {
            _ = OpenSSLError.drain()
            throw .signatures("OpenSSL knows no such signature algorithms: \"\(signatureAlgorithms)\"")
        }
    }

    /// Checks that a certificate of this side has a signature algorithm in the list, without which OpenSSL never uses the
    /// certificate.
    /// - Parameter list: the list of the settings; `nil`: OpenSSL's own, which has algorithms for all keys.
    func checkSignatures(of certificate: OwnCertificate, in list: String?) throws(CredentialsError) {
        try checkSignatures(ofKind: certificate.keyKind, in: list)
    }

    /// - Parameter kind: of a key of this side; see ``KeyKind``.
    func checkSignatures(ofKind kind: String, in list: String?) throws(CredentialsError) {
        // The signatures of DTLS 1.0 are not negotiated (RFC 4346, section 7.4.3).
        guard let list, maximumVersion != .dtls10 else { return }
        guard !SignatureAlgorithms.has(keyKind: kind, in: list, securityLevel: SSL_CTX_get_security_level(pointer))
        else { return }
        throw .signatures("it has no signature algorithm that the policy allows for certificates with \(kind) keys")
    }

    /// Has connections that have a connection ID negotiate it. A renegotiation would agree once more in the middle of a
    /// connection, so contexts that allow it do not.
    func negotiateConnectionIDs() throws(CredentialsError) {
        guard !allowsRenegotiation else { return }
        guard ConnectionIDNegotiation.enable(in: pointer) else {
            throw .context("connection IDs cannot be negotiated with this OpenSSL: \(OpenSSLError.drain())")
        }
        negotiatesConnectionIDs = true
    }

    private func limit(minimumVersion: ProtocolVersion, maximumVersion: ProtocolVersion?) throws(CredentialsError) {
        if let maximumVersion, maximumVersion < minimumVersion {
            throw .version("the minimum \(minimumVersion.name) is above the maximum \(maximumVersion.name)")
        }
        guard co_ssl_ctx_set_min_version(pointer, Int32(minimumVersion.rawValue)) == 1,
            co_ssl_ctx_set_max_version(pointer, Int32(maximumVersion?.rawValue ?? 0)) == 1
        else { throw .version("\(OpenSSLError.drain())") }
    }
}

/// The data of a context for OpenSSL's callbacks. It lives as long as the SSL_CTX: connections keep that alive, also
/// when the ``TLSContext`` is gone.
final class ContextExData {
    /// The server that chooses a certificate for a ClientHello; `nil` for a virtual host's context, whose clients have
    /// been chosen for already, and for a client's.
    weak var server: ServerContext?
    /// Whether connections keep what their peers show; see ``ShownCertificates``.
    var keepsPeerCertificates = false
    /// What a server checks its clients' certificates with; `nil` where it asks for none.
    var verifier: PeerVerifier?
    /// What a client checks the raw public key or certificate of its server with, where it knows such keys.
    var serverVerifier: ServerVerifier?
    /// The raw public keys of peers.
    var publicKeys: PublicKeyTable?
    /// Whether a server has no certificate, and shows the public key of its private key alone.
    var hasBareKeysAlone = false
    /// A server's pre-shared keys.
    var presharedKeys: PresharedKeyTable?
    /// A client's own identity, and what has its pre-shared key.
    var ownPresharedKey: (identity: [UInt8], table: PresharedKeyTable)?
    /// A server's certificates, and what is stapled to each.
    var certificates: [(certificate: OwnCertificate, staple: OCSPStaple?)] = []
    /// A server's application protocols, best first.
    var applicationProtocols: [[UInt8]] = []
    var ticketKeys: TicketKeyRing?
    /// A server's sessions that clients resume by their IDs; `nil` where there are only tickets.
    var sessions: SessionCache?
    var keyLog: KeyLog?

    private static let slot = ExDataSlot<ContextExData>(of: .context)

    /// Makes an SSL_CTX the owner of an object of its own.
    /// - Returns: `nil` when OpenSSL has no memory.
    static func attach(to context: OpaquePointer) -> ContextExData? {
        let exData = ContextExData()
        return slot.set(exData, in: context) ? exData : nil
    }

    /// The object of the context that a connection has now: a server name may have changed the context.
    static func of(_ ssl: OpaquePointer) -> ContextExData? {
        SSL_get_SSL_CTX(ssl).flatMap { slot.value(in: $0) }
    }
}

/// The strength that the certificates of peers must have. OpenSSL has one security level for this and for handshakes,
/// and the handshakes of DTLS 1.0, whose signatures are of MD5 and SHA-1, need level 0, at which any certificate would
/// do.
///
/// A certificate is valid for years and can be forged at leisure, so it is judged by level 1 at least: 80 bits, which
/// RSA keys of 1024 bits have, and shorter ones and MD5 have not. SHA-1 has 63 for OpenSSL 3.0, but the devices that
/// DTLS 1.0 is spoken for have certificates of its time; to forge one of these takes an authority that signs with SHA-1
/// to this day.
extension TLSContext {
    func setCertificateStrength() {
        X509_VERIFY_PARAM_set_auth_level(SSL_CTX_get0_param(pointer), max(1, SSL_CTX_get_security_level(pointer)))
    }

    /// Whether the error that a check has called back with is a SHA-1 signature, and the security level is 0.
    static func toleratesSHA1(_ store: OpaquePointer) -> Bool {
        guard X509_STORE_CTX_get_error(store) == X509_V_ERR_CA_MD_TOO_WEAK,
            let ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()).map(OpaquePointer.init),
            SSL_get_security_level(ssl) == 0, let certificate = X509_STORE_CTX_get_current_cert(store)
        else { return false }
        var digest = NID_undef
        return X509_get_signature_info(certificate, &digest, nil, nil, nil) == 1 && digest == NID_sha1
    }
}

/// A log of the secrets of connections, so that captured traffic can be decrypted: one line each in the NSS key log
/// format, which Wireshark reads (SSLKEYLOGFILE). It is for debugging only.
public final class KeyLog {
    private let write: (UnsafeRawBufferPointer) -> Void

    /// - Parameter write: is given whole lines, each with its newline.
    public init(_ write: @escaping (UnsafeRawBufferPointer) -> Void) { self.write = write }

    fileprivate func add(_ line: UnsafePointer<CChar>) {
        var bytes = Array(UnsafeRawBufferPointer(start: line, count: strlen(line)))
        bytes.append(UInt8(ascii: "\n"))
        bytes.withUnsafeBytes { write($0) }
        OPENSSL_cleanse(&bytes, bytes.count)
    }
}

extension ServerContext {
    /// Writes the secrets of all connections from now on, those of its virtual hosts too.
    public func logKeys(to log: KeyLog) {
        logOwnKeys(to: log)
        for virtualHost in virtualHosts.values { virtualHost.logOwnKeys(to: log) }
    }
}

extension TLSContext {
    /// Writes the secrets of all connections of this context when they have them.
    public func logOwnKeys(to log: KeyLog) {
        exData.keyLog = log
        SSL_CTX_set_keylog_callback(pointer) { ssl, line in
            guard let ssl, let line else { return }
            ContextExData.of(ssl)?.keyLog?.add(line)
        }
    }
}
