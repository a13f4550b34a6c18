import COpenSSL
import Primitives

/// A session that a server has given a client in an earlier handshake, for the client to resume (RFC 5077; RFC 5246,
/// section 7.4.1.3). It holds secrets, and stands for the certificate that the server has shown then; so it must be
/// used with the same context and server name only.
public final class ResumableSession {
    /// An SSL_SESSION that this object owns a reference to.
    let pointer: OpaquePointer

    fileprivate init(owning pointer: OpaquePointer) { self.pointer = pointer }

    deinit { SSL_SESSION_free(pointer) }

    /// A session that ``encoded`` has given, in another process perhaps.
    public init?(decoding bytes: [UInt8]) {
        guard let session = SessionBytes.decode(bytes) else { return nil }
        pointer = session
    }

    /// The session as bytes (DER), secrets included.
    public var encoded: [UInt8] { SessionBytes.encoded(pointer) }
}

/// A session as bytes (DER), secrets included.
enum SessionBytes {
    /// - Returns: empty where OpenSSL cannot encode the SSL_SESSION.
    static func encoded(_ session: OpaquePointer) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(max(0, i2d_SSL_SESSION(session, nil))))
        bytes.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            if position != nil { _ = i2d_SSL_SESSION(session, &position) }
        }
        return bytes
    }

    /// - Returns: a reference to an SSL_SESSION that the caller owns; `nil` for bytes that are none.
    static func decode(_ bytes: [UInt8]) -> OpaquePointer? {
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        FreedMemory.sessionBegins()
        defer { FreedMemory.sessionEnds() }
        return bytes.withUnsafeBufferPointer { buffer in
            var position = buffer.baseAddress
            return d2i_SSL_SESSION(nil, &position, buffer.count)
        }
    }
}

extension OpenSSLConnection {
    /// Offers a session to the server, which may take it up or do a full handshake. To be called before the first
    /// `next(now:)`.
    ///
    /// One whose ticket makes the hello larger than a datagram is not offered: a server need not put hellos together
    /// (Mbed TLS does not), and would refuse this one for ever. OpenSSL's servers put the client's certificate
    /// into a ticket, which then has up to 2 KB; ours does not (``SessionNotes``).
    func resume(_ session: ResumableSession) {
        OpenSSLError.clear()
        guard let size = helloSize(offering: session), size + Self.cookieSize <= payloadSize else {
            return OpenSSLError.clear()
        }
        offer(session)
    }

    /// Bytes that a cookie may add to a hello: one of HMAC with SHA-512. Those of OpenSSL's and Mbed TLS's servers have
    /// 32, as this one's have.
    private static let cookieSize = 64

    /// Bytes of the datagrams of a hello with this session, which a client that is otherwise like this one writes.
    private func helloSize(offering session: ResumableSession) -> Int? {
        guard let context = context as? ClientContext else { return nil }
        let name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name).map { String(cString: $0) }
        let checkpoint = bio.outbox.checkpoint
        defer { bio.outbox.truncate(to: checkpoint) }
        let size = Engine.payloadSizes.upperBound
        guard
            let other = try? OpenSSLConnection(
                connecting: context, over: bio, payloadSize: size, serverName: name,
                connectionID: connectionIDs?.own)
        else {
            return nil
        }
        other.offer(session)
        _ = try? other.next(now: .distantPast)
        return bio.outbox.byteCount(since: checkpoint)
    }

    private func offer(_ session: ResumableSession) {
        // A copy, which this connection may spoil (see `resumableSession`).
        guard let copy = SSL_SESSION_dup(session.pointer) else { return OpenSSLError.clear() }
        defer { SSL_SESSION_free(copy) }
        // Without it, the handshake is a full one.
        if SSL_set_session(ssl, copy) != 1 { OpenSSLError.clear() }
    }

    /// The session of an established client's connection, for the next one; `nil` where the server gave none.
    ///
    /// It is a copy: OpenSSL spoils the connection's own when that ends without close_notify, which says nothing about
    /// a server's sessions over UDP.
    var resumableSession: ResumableSession? {
        guard let session = SSL_get_session(ssl), SSL_SESSION_is_resumable(session) == 1,
            let copy = SSL_SESSION_dup(session)
        else { return nil }
        return ResumableSession(owning: copy)
    }
}
