import COpenSSL

/// Keeps from OpenSSL what it would end a connection for, or keep in bulk, although anybody can have sent it: such
/// records are dropped, as RFC 6347, section 4.1.2.7, wants it of all that is invalid.
///
/// A datagram is cut off at the first one: whoever has forged it has sent also what comes after it.
struct RecordFilter {
    /// Bytes that the shortest protected record has behind its header.
    ///
    /// OpenSSL answers one that is shorter than AEAD's nonce and tag with the alert internal_error, and is at its end.
    /// (tls1_enc: "pad <= 0"; seen with 3.0.19, with AES-GCM, AES-CCM and ChaCha20-Poly1305; Debian's 3.0.22 drops it.)
    private var shortest = unknownCipherShortest
    /// Bytes of the longest record behind its header.
    private var longest = maximumRecordSize
    /// On the wire, of the connection.
    private var version: UInt16 = 0
    /// Whether the peer's ChangeCipherSpec has come: from then on protected records are read at once.
    private var hasKeys = false
    /// Protected records that were let through before that.
    private var early = 0

    /// Where no cipher is chosen yet: the longest nonce and tag that there are. The first protected record is a
    /// Finished, which has at least 24 bytes more.
    private static let unknownCipherShortest = 24
    /// What protection adds at most (SSL3_RT_MAX_ENCRYPTED_OVERHEAD).
    private static let overhead = 320
    private static let maximumRecordSize = Record.maximumPlaintextLength + overhead
    /// OpenSSL keeps what comes before there are keys: 100 records before 3.0.22, of 17 KiB each however short they
    /// are. A peer sends one in each flight, and what it says right after its last.
    private static let earlyLimit = 16
    /// OpenSSL 4.1 brings DTLS 1.3, with other headers and content types (RFC 9147, section 4): it judges them itself.
    private static let knowsDTLS13 = co_version() >= 0x4010_0000

    /// Takes note of how far the handshake has come.
    /// - Parameter payloadSize: what OpenSSL has been told that a datagram takes.
    mutating func measure(_ ssl: OpaquePointer, payloadSize: Int) {
        let state = SSL_get_state(ssl)
        hasKeys = state == TLS_ST_SR_CHANGE || state == TLS_ST_CR_CHANGE
        version = UInt16(truncatingIfNeeded: SSL_version(ssl))
        if let session = SSL_get_session(ssl) {
            // 1 to 4 stand for 512 to 4096 bytes (RFC 6066, section 4).
            let limit = Int(SSL_SESSION_get_max_fragment_length(session))
            longest = (1...4).contains(limit) ? 256 << limit + Self.overhead : Self.maximumRecordSize
        }
        guard let cipher = SSL_get_current_cipher(ssl) else {
            shortest = Self.unknownCipherShortest
            return
        }
        // OpenSSL tells this only as what is left of a datagram. Without AEAD it drops all lengths as it should.
        let isAEAD = SSL_CIPHER_is_aead(cipher) == 1
        shortest = isAEAD ? payloadSize - Record.headerSize - DTLS_get_data_mtu(ssl) : 0
    }

    /// What an established connection accepts of a datagram.
    @inline(__always)
    func established(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        for record in Records(of: datagram) where !isWellFormed(record) {
            return Self.knowsDTLS13 ? datagram : record.precedingBytes
        }
        return datagram
    }

    /// Where a header is of no use to it, OpenSSL goes on right behind that, in the midst of the record
    /// (dtls1_get_record): such a record could hold another one that must not be seen.
    @inline(__always)
    private func isWellFormed(_ record: Record) -> Bool {
        let hasVersion = record.version == version || record.contentType == .alert && record.isDTLS
        guard hasVersion, record.length <= longest, record.isComplete else { return false }
        return record.length >= shortest || !record.isProtected
    }

    /// What a handshake accepts of a datagram.
    mutating func handshaking(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        for record in Records(of: datagram) {
            if Self.knowsDTLS13, !record.contentType.isKnown { return datagram }
            guard accepts(record) else { return record.precedingBytes }
        }
        return datagram
    }

    private mutating func accepts(_ record: Record) -> Bool {
        guard record.contentType.isKnown else { return record.isProtected }
        if record.isProtected {
            guard record.length >= shortest, hasKeys || early < Self.earlyLimit else { return false }
            if !hasKeys { early += 1 }
            return true
        }
        // In plain text OpenSSL ends the handshake for all that is out of place ("unexpected record", "bad change
        // cipher spec"). Alerts are looked at elsewhere (PlaintextAlert).
        switch record.contentType {
        case .changeCipherSpec: return record.length == 1 && record.fragment.first == 1
        case .handshake: return record.length >= HandshakeFragment.headerSize
        default: return record.contentType == .alert
        }
    }
}
