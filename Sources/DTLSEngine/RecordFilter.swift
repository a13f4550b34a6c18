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
    private static let maximumRecordSize = ClientHello.maximumRecordLength + overhead
    /// OpenSSL keeps what comes before there are keys: 100 records before 3.0.22, of 17 KiB each however short they
    /// are. A peer sends one in each flight, and what it says right after its last.
    private static let earlyLimit = 16
    private static let headerSize = ClientHello.recordHeaderSize
    private static let changeCipherSpec: UInt8 = 20
    private static let alert: UInt8 = 21
    private static let handshake: UInt8 = 22
    /// change_cipher_spec to heartbeat.
    private static let contentTypes: ClosedRange<UInt8> = 20...24
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
        shortest = isAEAD ? payloadSize - Self.headerSize - DTLS_get_data_mtu(ssl) : 0
    }

    /// What an established connection takes of a datagram.
    @inline(__always)
    func established(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var record = 0
        while datagram.count - record >= Self.headerSize {
            let size = Self.size(of: record, in: datagram)
            guard isWellFormed(record, size, in: datagram) else {
                return Self.knowsDTLS13 ? datagram : UnsafeRawBufferPointer(rebasing: datagram[..<record])
            }
            record += Self.headerSize + size
        }
        return datagram
    }

    /// Where a header is of no use to it, OpenSSL goes on right behind that, in the midst of the record
    /// (dtls1_get_record): such a record could hold another one that must not be seen.
    @inline(__always)
    private func isWellFormed(_ record: Int, _ size: Int, in datagram: UnsafeRawBufferPointer) -> Bool {
        let hasVersion =
            datagram[record + 1] == UInt8(truncatingIfNeeded: version >> 8)
            && (datagram[record + 2] == UInt8(truncatingIfNeeded: version) || datagram[record] == Self.alert)
        guard hasVersion, size <= longest, size <= datagram.count - record - Self.headerSize else { return false }
        return size >= shortest || !Self.isProtected(record, in: datagram)
    }

    /// What a handshake takes of a datagram.
    mutating func handshaking(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var record = 0
        while datagram.count - record >= Self.headerSize {
            if Self.knowsDTLS13, !Self.contentTypes.contains(datagram[record]) { return datagram }
            guard takes(record, in: datagram) else { return UnsafeRawBufferPointer(rebasing: datagram[..<record]) }
            record += Self.headerSize + Self.size(of: record, in: datagram)
        }
        return datagram
    }

    private mutating func takes(_ record: Int, in datagram: UnsafeRawBufferPointer) -> Bool {
        let size = Self.size(of: record, in: datagram)
        guard Self.contentTypes.contains(datagram[record]) else { return Self.isProtected(record, in: datagram) }
        if Self.isProtected(record, in: datagram) {
            guard size >= shortest, hasKeys || early < Self.earlyLimit else { return false }
            if !hasKeys { early += 1 }
            return true
        }
        // In plain text OpenSSL ends the handshake for all that is out of place ("unexpected record", "bad change
        // cipher spec"). Alerts are looked at elsewhere (PlaintextAlert).
        switch datagram[record] {
        case Self.changeCipherSpec:
            return size == 1 && datagram.count > record + Self.headerSize && datagram[record + Self.headerSize] == 1
        case Self.handshake: return size >= ClientHello.handshakeHeaderSize
        default: return datagram[record] == Self.alert
        }
    }

    @inline(__always)
    private static func size(of record: Int, in datagram: UnsafeRawBufferPointer) -> Int {
        Int(datagram[record + 11]) << 8 | Int(datagram[record + 12])
    }

    /// Whether it is of epoch 1 or later.
    @inline(__always)
    private static func isProtected(_ record: Int, in datagram: UnsafeRawBufferPointer) -> Bool {
        datagram[record + 3] != 0 || datagram[record + 4] != 0
    }
}
