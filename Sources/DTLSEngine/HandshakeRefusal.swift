import COpenSSL

/// Why this side refuses a handshake, where OpenSSL's error queue cannot say it: found out in a callback, and read by
/// the ``Engine`` when the handshake has failed.
///
/// It belongs to the connection's SSL, so the reason of one client can never be taken for that of another.
final class HandshakeRefusal {
    enum Reason {
        /// The client asks for a server name (SNI) that is not served.
        case unknownServerName(String)
        case certificate(PeerRejection)
        /// A server has only a raw public key to show (RFC 7250), and the client takes none.
        case rawPublicKeyNotTaken
        /// The server that a client has come to is another one, as the text says.
        case server(String)
        /// The client has named an identity that there is no pre-shared key for.
        case unknownPresharedKeyIdentity([UInt8])
        /// The process that holds the pre-shared keys cannot be asked.
        case presharedKeyUnavailable(String)
        /// The client has named an identity that was asked about, and may not come in.
        case unauthorized(AuthorizationRefusal)
        /// The client has named an identity with a NUL in it, which is no client's.
        case presharedKeyIdentityWithNUL([UInt8])
        /// The server has a connection ID of so many bytes.
        case longConnectionID(Int)
        /// The server has agreed to connection IDs with a cipher suite whose records they cannot be in here.
        case connectionIDWithoutAEAD(suite: String)
    }

    let reason: Reason

    private init(_ reason: Reason) { self.reason = reason }

    private static let slot = ExDataSlot<HandshakeRefusal>(of: .connection)

    /// Records why a connection's handshake is refused. The first reason counts.
    static func record(_ reason: @autoclosure () -> Reason, for ssl: OpaquePointer) {
        if slot.value(in: ssl) == nil { slot.set(HandshakeRefusal(reason()), in: ssl) }
    }

    /// Why a connection's handshake was refused, if this side has refused it.
    static func reason(for ssl: OpaquePointer) -> Reason? { slot.value(in: ssl)?.reason }
}
