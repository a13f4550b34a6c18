import COpenSSL

/// An SSL_CTX that is freed with its last user: what ``ServerContext`` and ``ClientContext`` have in common.
public class TLSContext {
    /// Owned; connections made from it hold a reference of their own inside OpenSSL.
    let pointer: OpaquePointer
    /// Whether the peer may begin another handshake on an established connection.
    let allowsRenegotiation: Bool
    /// `nil`: the newest that OpenSSL knows.
    let maximumVersion: ProtocolVersion?
    /// What OpenSSL's callbacks find again.
    let attachments: ContextExData

    /// P-521 for peers with certificates of such keys: in DTLS 1.2 the list is about these too (RFC 8422, section
    /// 5.1.1).
    private static let groups = "X25519:P-256:P-384:P-521"

    /// - Parameter ciphers: an OpenSSL cipher list; see ``CipherPolicy``.
    init(
        method: OpaquePointer?, ciphers: String, minimumVersion: ProtocolVersion, maximumVersion: ProtocolVersion?,
        allowsRenegotiation: Bool
    ) throws(CredentialsError) {
        self.allowsRenegotiation = allowsRenegotiation
        self.maximumVersion = maximumVersion
        ERR_clear_error()
        guard let context = SSL_CTX_new(method) else { throw .context("\(OpenSSLError.drain())") }
        pointer = context
        guard let attachments = ContextExData.attach(to: context) else {
            SSL_CTX_free(context)
            throw .context("\(OpenSSLError.drain())")
        }
        self.attachments = attachments
        try limit(minimumVersion: minimumVersion, maximumVersion: maximumVersion)
        try use(ciphers: ciphers)
        judgeCertificates()
        guard co_ssl_ctx_set_groups_list(context, Self.groups) == 1 else {
            throw .context("\(OpenSSLError.drain())")
        }
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

    private func limit(minimumVersion: ProtocolVersion, maximumVersion: ProtocolVersion?) throws(CredentialsError) {
        if let maximumVersion, maximumVersion < minimumVersion {
            throw .version("the minimum \(minimumVersion.name) is above the maximum \(maximumVersion.name)")
        }
        guard co_ssl_ctx_set_min_version(pointer, Int32(minimumVersion.rawValue)) == 1,
            co_ssl_ctx_set_max_version(pointer, Int32(maximumVersion?.rawValue ?? 0)) == 1
        else { throw .version("\(OpenSSLError.drain())") }
    }
}
