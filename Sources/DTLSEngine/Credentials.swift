import COpenSSL

/// The part of a server's or client's keys, certificates and settings that cannot be used, and the reason.
public enum CredentialsError: Error, Sendable, Equatable, CustomStringConvertible {
    case certificate(String)
    case privateKey(String)
    /// The private key is encrypted, and there is no passphrase or a wrong one.
    case passphrase(String)
    /// Certificate and private key do not belong together.
    case mismatch(String)
    case authorities(String)
    case presharedKey(String)
    case ciphers(String)
    case version(String)
    /// The list of signature algorithms.
    case signatures(String)
    /// Raw public keys (RFC 7250), which this OpenSSL does not have, or not with these settings.
    case rawPublicKeys(String)
    /// OpenSSL could not make the context at all.
    case context(String)

    public var description: String {
        switch self {
        case .certificate(let reason): "certificate: \(reason)"
        case .privateKey(let reason): "private key: \(reason)"
        case .passphrase(let reason): "passphrase: \(reason)"
        case .mismatch(let reason): reason
        case .authorities(let reason): "CA certificates: \(reason)"
        case .presharedKey(let reason): "pre-shared key: \(reason)"
        case .ciphers(let reason): "cipher list: \(reason)"
        case .version(let reason): "version: \(reason)"
        case .signatures(let reason): "signature algorithms: \(reason)"
        case .rawPublicKeys(let reason): reason
        case .context(let reason): "TLS context: \(reason)"
        }
    }
}

/// A certificate and its private key.
public struct CertifiedKey: Codable, Equatable, Sendable {
    /// The certificate and the chain above it, PEM, leaf first.
    public var certificate: String
    public var privateKey: PrivateKeySource
    /// What `privateKey` is encrypted with.
    public var passphrase: String?
    /// The OCSP response about the certificate, for clients that ask for one.
    public var staple: OCSPStaple?

    public init(certificate: String, privateKey: String, passphrase: String? = nil) {
        self.certificate = certificate
        self.privateKey = .pem(privateKey)
        self.passphrase = passphrase
    }
}

extension TLSContext {
    /// Loads certificate, chain and key into the context and checks that they belong together.
    @discardableResult
    func use(
        certificate: String, privateKey: PrivateKeySource, passphrase: String?
    ) throws(CredentialsError) -> OwnCertificate {
        let leaf = try use(certificateChain: certificate)
        try use(privateKey: privateKey, passphrase: passphrase, of: leaf)
        return leaf
    }

    private func use(certificateChain text: String) throws(CredentialsError) -> OwnCertificate {
        guard let source = PEMSource(text) else { throw .certificate("too large") }
        let chain: [OpaquePointer]
        do { chain = try source.certificates() } catch { throw .certificate("not valid PEM (\(error))") }
        defer { for certificate in chain { X509_free(certificate) } }
        guard let leaf = chain.first else { throw .certificate("no PEM certificate in it") }
        ERR_clear_error()
        guard SSL_CTX_use_certificate(pointer, leaf) == 1 else { throw .certificate("\(OpenSSLError.drain())") }
        for certificate in chain.dropFirst() where co_ssl_ctx_add_chain_cert(pointer, certificate) != 1 {
            throw .certificate("chain: \(OpenSSLError.drain())")
        }
        X509_up_ref(leaf)
        return OwnCertificate(owning: leaf)
    }

    private func use(
        privateKey source: PrivateKeySource, passphrase: String?, of certificate: OwnCertificate
    ) throws(CredentialsError) {
        let key = try OwnKey(source, passphrase: passphrase, heldKeys)
        // Asked here, since SSL_CTX_use_PrivateKey takes a key of another kind for that of another certificate.
        guard X509_check_private_key(certificate.pointer, key.pointer) == 1 else {
            ERR_clear_error()
            throw .mismatch("the private key does not belong to the certificate")
        }
        guard SSL_CTX_use_PrivateKey(pointer, key.pointer) == 1 else { throw .privateKey("\(OpenSSLError.drain())") }
    }

    /// Trusts the certificates of a PEM text, each on its own: a CA below another one without that one, and a peer's
    /// own certificate without its issuer's (X509_V_FLAG_PARTIAL_CHAIN). On a server their names go into the
    /// CertificateRequest too, each once and if they are not too many. Without names, clients show what they have (RFC
    /// 5246, section 7.4.4).
    func trust(authorities text: String, announce: Bool) throws(CredentialsError) {
        guard let source = PEMSource(text) else { throw .authorities("too large") }
        let list: [OpaquePointer]
        do { list = try source.certificates() } catch { throw .authorities("not valid PEM (\(error))") }
        defer { for certificate in list { X509_free(certificate) } }
        guard !list.isEmpty else { throw .authorities("no PEM certificate in it") }
        let store = SSL_CTX_get_cert_store(pointer)
        for certificate in list {
            ERR_clear_error()
            guard X509_STORE_add_cert(store, certificate) == 1 else { throw .authorities("\(OpenSSLError.drain())") }
        }
        X509_STORE_set_flags(store, UInt(X509_V_FLAG_PARTIAL_CHAIN))
        if announce { try announceNames(of: list) }
    }

    /// The most bytes that all names may have together. The message has two bytes for their length, so that more than
    /// 65,535 end every handshake; and some clients take no handshake message above 16 KiB.
    private static let maximumNamesLength = 16_000

    private func announceNames(of authorities: [OpaquePointer]) throws(CredentialsError) {
        var seen: Set<[UInt8]> = []
        let distinct = authorities.filter { seen.insert(Self.encodedName(of: $0)).inserted }
        guard seen.reduce(0, { $0 + 2 + $1.count }) <= Self.maximumNamesLength else { return }
        for certificate in distinct where SSL_CTX_add_client_CA(pointer, certificate) != 1 {
            throw .authorities("\(OpenSSLError.drain())")
        }
    }

    /// The subject, DER.
    private static func encodedName(of certificate: OpaquePointer) -> [UInt8] {
        let name = X509_get_subject_name(certificate)
        var bytes = [UInt8](repeating: 0, count: Int(max(0, i2d_X509_NAME(name, nil))))
        bytes.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            if position != nil { _ = i2d_X509_NAME(name, &position) }
        }
        return bytes
    }
}
