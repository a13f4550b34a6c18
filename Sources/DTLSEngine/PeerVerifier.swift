import COpenSSL

/// Checks the certificates that clients show during their handshakes: what OpenSSL calls instead of its own check.
///
/// It belongs to an SSL_CTX and ends with it, since an SSL can outlive the ``ServerContext`` that it was made from
/// (when the certificate of a name is replaced).
final class PeerVerifier {
    private let allow: PeerRules
    private let deny: PeerRules
    /// Whether a certificate must have been signed by a trusted CA: otherwise its fingerprint is what counts.
    private let checksChain: Bool

    init(_ clients: PeerVerification) {
        allow = PeerRules(clients.allow)
        deny = PeerRules(clients.deny)
        checksChain = clients.authorities != nil
    }

    func install(in context: OpaquePointer) throws(CredentialsError) {
        let own = Unmanaged.passRetained(self)
        guard SSL_CTX_set_ex_data(context, Self.contextIndex, own.toOpaque()) == 1 else {
            own.release()
            throw .context("\(OpenSSLError.drain())")
        }
        SSL_CTX_set_cert_verify_callback(
            context,
            { store, verifier in
                guard let store, let verifier else { return 0 }
                return Unmanaged<PeerVerifier>.fromOpaque(verifier)._withUnsafeGuaranteedRef { $0.verify(store) }
            }, own.toOpaque())
    }

    /// Where an SSL_CTX keeps its verifier, and an SSL its refusal; OpenSSL calls the last function when it is freed.
    private static let contextIndex = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL_CTX, 0, nil, nil, nil) {
        _, verifier, _, _, _, _ in
        if let verifier { Unmanaged<PeerVerifier>.fromOpaque(verifier).release() }
    }
    private static let refusalIndex = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_SSL, 0, nil, nil, nil) {
        _, refusal, _, _, _, _ in
        if let refusal { Unmanaged<RefusalBox>.fromOpaque(refusal).release() }
    }

    private final class RefusalBox {
        let refusal: PeerRejection
        init(_ refusal: PeerRejection) { self.refusal = refusal }
    }

    /// Why a client's certificate was refused, if it was.
    static func refusal(of ssl: OpaquePointer) -> PeerRejection? {
        SSL_get_ex_data(ssl, refusalIndex).map { Unmanaged<RefusalBox>.fromOpaque($0).takeUnretainedValue().refusal }
    }

    private func verify(_ store: OpaquePointer) -> Int32 {
        guard let leaf = X509_STORE_CTX_get0_cert(store) else { return 0 }
        if checksChain, !Self.checkChain(store) { return 0 }
        if let fault = fault(of: leaf) {
            X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
            Self.refuse(.rule(fault), store)
            return 0
        }
        // X509_verify_cert, which would have said so, is not called where fingerprints are all that counts.
        X509_STORE_CTX_set_error(store, X509_V_OK)
        return 1
    }

    private static func checkChain(_ store: OpaquePointer) -> Bool {
        X509_STORE_CTX_set_verify_cb(store) { good, store in
            guard good == 0, let store else { return good }
            guard PeerVerifier.excusesTrustedCertificate(store) || TLSContext.excusesDigest(store) else {
                // Now, since the revocation list in question is known only during the call.
                PeerVerifier.refuse(.chain(ChainFault(store)), store)
                return 0
            }
            X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        if X509_verify_cert(store) == 1 { return true }
        // Where OpenSSL could not even begin, it has not called back.
        refuse(.chain(ChainFault(store)), store)
        return false
    }

    /// Who is trusted by name needs no revocation list above it to prove that (RFC 5280, section 6.1); where there is
    /// one that revokes it, that counts. It is the last of the chain, which is whole when OpenSSL looks at the lists.
    private static func excusesTrustedCertificate(_ store: OpaquePointer) -> Bool {
        guard let chain = X509_STORE_CTX_get0_chain(store),
            X509_STORE_CTX_get_error_depth(store) == OPENSSL_sk_num(chain) - 1
        else { return false }
        switch X509_STORE_CTX_get_error(store) {
        case X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER, X509_V_ERR_CRL_SIGNATURE_FAILURE,
            X509_V_ERR_CRL_HAS_EXPIRED, X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_DIFFERENT_CRL_SCOPE,
            X509_V_ERR_KEYUSAGE_NO_CRL_SIGN, X509_V_ERR_CRL_PATH_VALIDATION_ERROR:
            return true
        default:
            return false
        }
    }

    /// What the rules have against a certificate.
    private func fault(of leaf: OpaquePointer) -> PeerRejection.RuleFault? {
        if allow.isEmpty, deny.isEmpty { return nil }
        guard let fingerprint = PeerName.digest(leaf) else { return .unreadable }
        let names = allow.concernNames || deny.concernNames ? CertificateNames(of: leaf) : nil
        // What a deny rule cannot read might be what it means.
        if let names, !names.isWhole { return .unreadable }
        if let rule = deny.match(fingerprint: fingerprint, names) { return .denied(rule.text) }
        if !allow.isEmpty, allow.match(fingerprint: fingerprint, names) == nil { return .notAllowed }
        return nil
    }

    /// Keeps the first reason that there is.
    private static func refuse(_ reason: @autoclosure () -> PeerRejection.Reason, _ store: OpaquePointer) {
        guard let ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()).map(OpaquePointer.init),
            SSL_get_ex_data(ssl, refusalIndex) == nil, let leaf = X509_STORE_CTX_get0_cert(store)
        else { return }
        let refusal = PeerRejection(client: PeerName(certificate: leaf), reason: reason())
        let box = Unmanaged.passRetained(RefusalBox(refusal))
        if SSL_set_ex_data(ssl, refusalIndex, box.toOpaque()) != 1 { box.release() }
    }
}
