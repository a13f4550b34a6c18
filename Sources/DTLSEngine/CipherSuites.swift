import COpenSSL

/// What a side of a handshake proves itself with, as far as that limits its cipher suites.
enum Proof {
    /// One's own certificate, with the NID_auth_… of the suites that are for its kind of key.
    case certificate(keyKind: String, authentication: Int32)
    /// A server's certificate that is not known yet.
    case anyCertificate
    case presharedKey

    fileprivate func fits(_ suite: OpaquePointer) -> Bool {
        let isForKeys = Self.keyExchanges.contains(SSL_CIPHER_get_kx_nid(suite))
        return switch self {
        case .certificate(_, let authentication): !isForKeys && SSL_CIPHER_get_auth_nid(suite) == authentication
        case .anyCertificate: !isForKeys
        case .presharedKey: isForKeys
        }
    }

    /// Whether OpenSSL needs a signature scheme for each of the suites. Those of DTLS 1.0 are made of SHA-1, for which
    /// every security level above 0 is too high. A server's certificate must have one even where it signs nothing
    /// (tls_choose_sigalg: "no suitable signature algorithm"; seen with 3.0.19 and AES128-SHA).
    fileprivate func needsSignature(_ suites: [OpaquePointer]) -> Bool {
        switch self {
        case .certificate: true
        case .anyCertificate: suites.allSatisfy { SSL_CIPHER_get_kx_nid($0) != NID_kx_rsa }
        case .presharedKey: false
        }
    }

    private static let keyExchanges = [NID_kx_psk, NID_kx_ecdhe_psk, NID_kx_dhe_psk, NID_kx_rsa_psk]

    /// After "a cipher suite for".
    fileprivate var name: String {
        switch self {
        case .certificate(let kind, _): "certificates with \(kind) keys"
        case .anyCertificate: "servers with certificates"
        case .presharedKey: "pre-shared keys (PSK-…)"
        }
    }
}

extension TLSContext {
    /// Uses an OpenSSL cipher list, without suites by which anybody could be the peer or anybody could read along: with
    /// "ALL:@SECLEVEL=0" a client would take an anonymous server for the one that it is to verify.
    func use(ciphers: String) throws(CredentialsError) {
        ERR_clear_error()
        guard SSL_CTX_set_cipher_list(pointer, ciphers) == 1 else {
            _ = OpenSSLError.drain()
            throw .ciphers("no cipher matches \"\(ciphers)\"")
        }
        guard SSL_CTX_set_cipher_list(pointer, "\(ciphers):!aNULL:!eNULL") == 1 else {
            _ = OpenSSLError.drain()
            throw .ciphers("only suites that prove or encrypt nothing match \"\(ciphers)\"")
        }
    }

    /// Why no handshake can use the context's cipher list with this proof, or `nil` where one can.
    func suiteFault(for proof: Proof) -> String? {
        let suites = usableSuites.filter(proof.fits)
        guard maximumVersion == .dtls10 else {
            return suites.isEmpty ? "it has no cipher suite for \(proof.name)" : nil
        }
        if suites.isEmpty { return "it has no cipher suite for \(proof.name) that DTLS 1.0 knows" }
        guard proof.needsSignature(suites), SSL_CTX_get_security_level(pointer) > 0 else { return nil }
        return "DTLS 1.0 signs at OpenSSL's security level 0 alone, which \"@SECLEVEL=0\" in the list sets"
    }

    /// Those that versions and security level leave of the cipher list.
    private var usableSuites: [OpaquePointer] {
        defer { ERR_clear_error() }
        guard let ssl = SSL_new(pointer) else { return [] }
        defer { SSL_free(ssl) }
        // OpenSSL answers for a client, which has suites with pre-shared keys only with this callback.
        SSL_set_psk_client_callback(ssl) { _, _, _, _, _, _ in 0 }
        guard let list = SSL_get1_supported_ciphers(ssl) else { return [] }
        defer { co_sk_ssl_cipher_free(list) }
        return (0..<co_sk_ssl_cipher_num(list)).compactMap { co_sk_ssl_cipher_value(list, $0) }
    }
}
