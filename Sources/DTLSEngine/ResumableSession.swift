import COpenSSL

/// A session that a server has given a client in an earlier handshake, for the client to resume (RFC 5077; RFC 5246,
/// section 7.4.1.3). It holds secrets, and stands for the certificate that the server has shown then; so it must be
/// used with the same context and server name only.
public final class ResumableSession {
    /// An SSL_SESSION that this object owns a reference to.
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
