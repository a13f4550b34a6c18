import COpenSSL

/// How OpenSSL is put past a cookie exchange that somebody else has done.
extension Engine {
    /// How often a client can be asked for a cookie before its hello is taken: what each costs is a hello more to
    /// parse.
    static let maximumHelloSequence: UInt16 = 16

    /// Gives OpenSSL a ClientHello whose cookie is good.
    ///
    /// `DTLSv1_listen` is made for this, and knows one order of things: the client was asked once, so its hello has
    /// message_seq 1, and so has the answer. A client that was asked again, its first cookie having become too old,
    /// counts on; and some never count.
    func accept(_ hello: consuming VerifiedHello) throws(OpenSSLError) {
        guard hello.messageSequence == 1 else { return try repeatExchange(upTo: hello) }
        guard let address = BIO_ADDR_new() else { throw OpenSSLError.drain() }
        defer { BIO_ADDR_free(address) }
        let result = hello.datagram.withUnsafeBytes { datagram in
            bio.lend(datagram)
            defer { bio.lend(nil) }
            OpenSSLError.clear()
            return DTLSv1_listen(ssl, address)
        }
        guard result == 1 else { throw OpenSSLError.drain() }
    }

    /// Has OpenSSL ask for a cookie as often as the client was asked, so that both count messages alike, and keeps the
    /// hello for ``next()``. What OpenSSL writes meanwhile was written long ago.
    private func repeatExchange(upTo hello: borrowing VerifiedHello) throws(OpenSSLError) {
        guard hello.messageSequence <= Self.maximumHelloSequence else {
            throw OpenSSLError(
                reasons: ["the client has been asked for a cookie \(hello.messageSequence) times"], library: 0,
                reason: 0)
        }
        let mark = bio.outbox.mark
        defer { bio.outbox.truncate(to: mark) }
        if hello.messageSequence > 0 { SSL_set_options(ssl, CO_SSL_OP_COOKIE_EXCHANGE) }
        for sequence in 0..<hello.messageSequence {
            let result = Self.helloWithoutCookie(sequence).withUnsafeBytes { datagram in
                bio.lend(datagram)
                defer { bio.lend(nil) }
                OpenSSLError.clear()
                return SSL_do_handshake(ssl)
            }
            guard SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ else { throw OpenSSLError.drain() }
        }
        // The records of the answer go on from that of the hello (RFC 6347, section 4.2.1), where OpenSSL goes on from
        // those that it has just written.
        recordOffset = hello.recordSequence &- UInt64(hello.messageSequence)
        keptHello = hello.datagram
    }

    /// The smallest ClientHello, to be answered with a HelloVerifyRequest.
    private static func helloWithoutCookie(_ sequence: UInt16) -> [UInt8] {
        let sequence = [UInt8(truncatingIfNeeded: sequence >> 8), UInt8(truncatingIfNeeded: sequence)]
        let random = [UInt8](repeating: 0, count: 32)
        // version, random, no session id, no cookie, one cipher suite, no compression
        let body = [0xfe, 0xfd] + random + [0, 0, 0, 2, 0xc0, 0x2b, 1, 0]
        let size = UInt8(body.count)
        let message = [1, 0, 0, size] + sequence + [0, 0, 0, 0, 0, size] + body
        return [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0] + sequence + [0, UInt8(message.count)] + message
    }
}
