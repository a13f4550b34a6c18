import COpenSSL
import Primitives

/// Checks what the server shows to a client that knows the server's raw public key (RFC 7250): what OpenSSL calls instead of its
/// own check.
///
/// OpenSSL 3.2.0 to 3.2.3, 3.3.0 to 3.3.2 and 3.4.0 go on with a handshake whose raw public key the check has refused
/// (CVE-2024-12797), so the key is looked at once more when the handshake is done; see ``finalFault(of:)``.
final class ServerVerifier {
    /// Whether a server that does not know raw public keys may show a certificate of a trusted CA.
    private let takesCertificates: Bool

    init(takesCertificates: Bool) { self.takesCertificates = takesCertificates }

    fileprivate func verify(_ store: OpaquePointer, for ssl: OpaquePointer) -> Int32 {
        ShownCertificates.note(store, for: ssl)
        guard let fault = fault(co_x509_store_ctx_raw_public_key(store), of: ssl) else {
            X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        if takesCertificates, co_x509_store_ctx_raw_public_key(store) == nil { return X509_verify_cert(store) }
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED)
        HandshakeRefusal.record(.server(fault), for: ssl)
        return 0
    }

    /// What is wrong with the key that the server has shown; `nil` for one that is known.
    /// - Parameter key: an EVP_PKEY; `nil`: the server has shown something else.
    private func fault(_ key: OpaquePointer?, of ssl: OpaquePointer) -> String? {
        guard let key else { return "the server has shown a certificate, and not its raw public key" }
        guard let fingerprint = RawPublicKeys.fingerprint(of: key) else {
            return "the server's raw public key cannot be read"
        }
        guard ContextExData.of(ssl)?.publicKeys?.name(of: fingerprint) == nil else { return nil }
        return "the server's raw public key sha256:\(Hexadecimal.text(fingerprint)) is not among those that are known"
    }

    /// Why a client must not use a connection whose handshake is done; `nil` where it may, and for all others.
    ///
    /// A session that is resumed has the key of its first handshake.
    static func finalFault(of ssl: OpaquePointer) -> String? {
        guard let verifier = ContextExData.of(ssl)?.serverVerifier else { return nil }
        guard let fault = verifier.fault(co_ssl_peer_raw_public_key(ssl), of: ssl) else { return nil }
        guard verifier.takesCertificates, co_ssl_peer_raw_public_key(ssl) == nil else { return fault }
        let isVerified =
            SSL_get0_peer_certificate(ssl) != nil && SSL_get_verify_result(ssl) == Int(X509_V_OK)
        return isVerified ? nil : "the server has shown neither a known raw public key nor a certificate that is valid"
    }
}

extension ClientContext {
    /// Checks the server by its raw public key, where the settings have some that are known.
    func verifyRawPublicKeys(_ settings: ClientSettings) {
        guard let known = settings.serverPublicKeys, settings.rejectUnauthorized else { return }
        exData.publicKeys = PublicKeyTable(known)
        exData.serverVerifier = ServerVerifier(takesCertificates: settings.takesCertificates)
        SSL_CTX_set_cert_verify_callback(
            pointer,
            { store, _ in
                guard let store, let ssl = PeerVerifier.connection(of: store) else { return 0 }
                return ContextExData.of(ssl)?.serverVerifier?.verify(store, for: ssl) ?? 0
            }, nil)
    }
}
