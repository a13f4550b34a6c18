import COpenSSL

/// A session that a client may resume: what a server has given it in an earlier handshake (RFC 5077, RFC 5246
/// section 7.4.1.3). It holds secrets, and stands for the certificate that the server has shown then; so it is to be
/// used with the same context and server name alone.
public final class ResumableSession {
    /// Owned.
    fileprivate let pointer: OpaquePointer

    fileprivate init(owning pointer: OpaquePointer) { self.pointer = pointer }

    deinit { SSL_SESSION_free(pointer) }
}

extension Engine {
    /// Offers a session to the server, which may take it up or do a full handshake. To be called before the first
    /// `next()`.
    public func resume(_ session: ResumableSession) {
        OpenSSLError.clear()
        // A copy, which this connection may spoil (see `resumableSession`).
        guard let copy = SSL_SESSION_dup(session.pointer) else { return OpenSSLError.clear() }
        defer { SSL_SESSION_free(copy) }
        // Without it, the handshake is a full one.
        if withSSL({ SSL_set_session($0, copy) }) != 1 { OpenSSLError.clear() }
    }

    /// The session of an established client's connection, for the next one; `nil` where the server gave none.
    ///
    /// It is a copy: OpenSSL spoils the connection's own when that ends without close_notify, which says nothing about
    /// a server's sessions over UDP.
    public var resumableSession: ResumableSession? {
        guard let session = withSSL({ SSL_get_session($0) }), SSL_SESSION_is_resumable(session) == 1,
            let copy = SSL_SESSION_dup(session)
        else { return nil }
        return ResumableSession(owning: copy)
    }
}

/// The CA certificates that the system trusts.
public enum SystemAuthorities {
    /// The file that this OpenSSL takes them from where SSL_CERT_FILE names no other: a bundle in PEM.
    public static var file: String { X509_get_default_cert_file().map { String(cString: $0) } ?? "" }
}

extension EngineError {
    /// Why the peer's certificate was refused, in OpenSSL's words ("certificate has expired"), where that was it.
    public var verification: String? {
        if case .handshake(_, let verification) = self { return verification }
        return nil
    }
}
