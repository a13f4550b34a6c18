import COpenSSL

/// Drops records that OpenSSL would end a connection for, or would store in bulk, although anybody can have sent them.
/// RFC 6347, section 4.1.2.7, wants all invalid records dropped.
///
/// A datagram is cut off at the first such record: its forger has sent what comes after it, too.
struct RecordFilter {
    /// The fewest bytes that a protected record has behind its header.
    ///
    /// OpenSSL answers a record that is shorter than AEAD's nonce and tag with the alert internal_error, and the
    /// connection has ended. (tls1_enc: "pad <= 0"; seen with 3.0.19, with AES-GCM, AES-CCM and ChaCha20-Poly1305;
    /// Debian's 3.0.22 drops it.)
    private var minimumLength = UInt16(unknownCipherMinimumLength)
    /// The most bytes that a record may have behind its header.
    private var maximumLength = UInt16(Record.maximumPlaintextLength + overhead)
    /// The connection's version as it is on the wire.
    private var version: UInt16 = 0
    /// Whether the peer's ChangeCipherSpec has come: from then on protected records are read at once.
    private var hasKeys = false
    /// The number of protected records that were accepted before that.
    private var early: UInt8 = 0

    /// The minimum as long as no cipher is chosen: the longest nonce and tag that there are. The first protected record
    /// is a Finished, which has at least 24 bytes more.
    private static let unknownCipherMinimumLength = 24
    /// The most bytes that protection adds to a record (SSL3_RT_MAX_ENCRYPTED_OVERHEAD).
    static let overhead = 320
    /// OpenSSL stores protected records that come before there are keys: 100 records before 3.0.22, and 17 KiB for each
    /// however short it is. A peer sends one in each flight, and its first messages right after its last flight.
    private static let earlyLimit: UInt8 = 16
    /// The longest fragment of a record without content in a suite without AEAD: an initialization vector, a SHA-384
    /// and a block of padding, of 16 bytes each.
    private static let longestEmptyCBC = 16 + 48 + 16
    /// OpenSSL 4.1 brings DTLS 1.3, with other headers and content types (RFC 9147, section 4): it judges them itself.
    static let knowsDTLS13 = OpenSSL_version_num() >= 0x4010_0000

    /// Adapts the limits to the present state of the handshake.
    /// - Parameter payloadSize: the bytes of a datagram's payload that OpenSSL has been told.
    mutating func measure(_ ssl: OpaquePointer, payloadSize: Int) {
        hasKeys = HandshakeState(ssl) == .changeCipherSpecRead
        version = UInt16(truncatingIfNeeded: SSL_version(ssl))
        maximumLength = UInt16(Self.maximumPlaintextLength(ssl) + Self.overhead)
        guard let cipher = SSL_get_current_cipher(ssl) else {
            minimumLength = UInt16(Self.unknownCipherMinimumLength)
            return
        }
        // OpenSSL tells this only as what is left of a datagram. Without AEAD it drops all lengths as it should.
        let isAEAD = SSL_CIPHER_is_aead(cipher) == 1
        minimumLength = isAEAD ? UInt16(clamping: payloadSize - Record.headerSize - DTLS_get_data_mtu(ssl)) : 0
    }

    /// The most bytes that a record may hold in either direction, as far as the handshake has got: the length that the
    /// client has asked for, if the server has agreed to it (RFC 6066, section 4).
    private static func maximumPlaintextLength(_ ssl: OpaquePointer) -> Int {
        guard let session = SSL_get_session(ssl) else { return Record.maximumPlaintextLength }
        // 1 to 4 stand for 512 to 4096 bytes.
        let code = Int(SSL_SESSION_get_max_fragment_length(session))
        return (1...4).contains(code) ? 256 << code : Record.maximumPlaintextLength
    }

    /// The most bytes that a record's content may have in either direction.
    @inline(__always)
    var contentLimit: Int { Int(maximumLength) - Self.overhead }

    /// Whether a record may be application data without content, by its header.
    func mayBeEmpty(_ record: Record) -> Bool {
        guard record.contentType == .applicationData, record.isProtected, record.isComplete else { return false }
        return minimumLength > 0 ? record.length == Int(minimumLength) : record.length <= Self.longestEmptyCBC
    }

    /// The beginning of a datagram that an established connection accepts.
    @inline(__always)
    func established(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        for record in Records(of: datagram) where !isWellFormed(record) {
            return Self.knowsDTLS13 ? datagram : record.precedingBytes
        }
        return datagram
    }

    /// OpenSSL drops only the header of a record that is not well formed, and goes on right behind it, within the
    /// record (dtls1_get_record): such a record could hide another one that must not be seen.
    @inline(__always)
    private func isWellFormed(_ record: Record) -> Bool {
        let hasVersion = record.version == version || record.contentType == .alert && record.isDTLS
        guard hasVersion, record.length <= Int(maximumLength), record.isComplete else { return false }
        return record.length >= Int(minimumLength) || !record.isProtected
    }

    /// The beginning of a datagram that a handshake accepts.
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
            guard record.length >= Int(minimumLength), hasKeys || early < Self.earlyLimit else { return false }
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
