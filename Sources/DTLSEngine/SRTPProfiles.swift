import COpenSSL

/// How DTLS agrees on SRTP for media beside it (use_srtp, RFC 5764).
extension TLSContext {
    /// Offers these profiles, or chooses of what a client offers, best first.
    /// - Parameter profiles: by OpenSSL's names (SSL_CTX_set_tlsext_use_srtp(3)); none: the extension is not used.
    func negotiate(srtpProfiles profiles: [String]) throws(CredentialsError) {
        guard !profiles.isEmpty else { return }
        ERR_clear_error()
        // 0 means success here.
        guard SSL_CTX_set_tlsext_use_srtp(pointer, profiles.joined(separator: ":")) == 0 else {
            throw .context("SRTP profiles \(profiles.joined(separator: ", ")): \(OpenSSLError.drain())")
        }
    }
}
