import COpenSSL

/// What OpenSSL's callbacks need of a context. It lives as long as the SSL_CTX: connections keep that alive, also when
/// the ``Context`` is gone.
final class ContextExData {
    var presharedKeys: PresharedKeyTable?
    /// A client's.
    var ownPresharedKey: PresharedKey?
    /// A server's certificates, and what is stapled to each.
    var certificates: [(certificate: OwnCertificate, staple: OCSPStaple?)] = []
    /// A server's application protocols, best first.
    var applicationProtocols: [[UInt8]] = []
    var ticketKeys: TicketKeyRing?
    var keyLog: KeyLog?

    /// SSL_CTX_get_ex_new_index, once; it is freed with the SSL_CTX.
    private static let index = co_ssl_ctx_get_ex_new_index { _, attached, _, _, _, _ in
        if let attached { Unmanaged<ContextExData>.fromOpaque(attached).release() }
    }

    /// - Returns: `nil` when OpenSSL has no memory.
    static func attach(to context: OpaquePointer) -> ContextExData? {
        let attachments = ContextExData()
        let retained = Unmanaged.passRetained(attachments)
        guard index >= 0, SSL_CTX_set_ex_data(context, index, retained.toOpaque()) == 1 else {
            retained.release()
            return nil
        }
        return attachments
    }

    /// Of the context that a connection has now: a server name may have changed it.
    static func of(_ ssl: OpaquePointer) -> ContextExData? {
        guard let context = SSL_get_SSL_CTX(ssl), let attached = SSL_CTX_get_ex_data(context, index) else { return nil }
        return Unmanaged<ContextExData>.fromOpaque(attached).takeUnretainedValue()
    }
}
