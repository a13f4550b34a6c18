import COpenSSL

/// How strong the certificates of peers have to be. OpenSSL has one security level for this and for handshakes, and the
/// handshakes of DTLS 1.0, whose signatures are of MD5 and SHA-1, need level 0, at which any certificate would do.
///
/// A certificate is good for years and can be forged at leisure, so it is judged by level 1 at least: 80 bits, which
/// RSA keys of 1024 bits have, and shorter ones and MD5 have not. SHA-1 has 63 for OpenSSL 3.0, but the devices that
/// DTLS 1.0 is spoken for have certificates of its time; to forge one of these takes an authority that signs with SHA-1
/// to this day.
extension TLSContext {
    func judgeCertificates() {
        X509_VERIFY_PARAM_set_auth_level(SSL_CTX_get0_param(pointer), max(1, SSL_CTX_get_security_level(pointer)))
    }

    /// Whether what OpenSSL has against a certificate, as it tells the callback of a check, is SHA-1 at level 0.
    static func excusesDigest(_ store: OpaquePointer) -> Bool {
        guard X509_STORE_CTX_get_error(store) == X509_V_ERR_CA_MD_TOO_WEAK,
            let ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()).map(OpaquePointer.init),
            SSL_get_security_level(ssl) == 0, let certificate = X509_STORE_CTX_get_current_cert(store)
        else { return false }
        var digest = NID_undef
        return X509_get_signature_info(certificate, &digest, nil, nil, nil) == 1 && digest == NID_sha1
    }
}
