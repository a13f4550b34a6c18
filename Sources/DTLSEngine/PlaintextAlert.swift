import COpenSSL

/// An alert without protection, as both sides send them before they have keys. Anybody can forge one who knows the two
/// addresses, so it must not end a handshake that goes on (RFC 6347, section 4.1.2.7).
///
/// It is held back, and believed once the peer has said nothing else while its flight was sent again: that takes two
/// timeouts, 3 seconds by the timers of RFC 6347, section 4.2.4.1.
struct PlaintextAlert {
    /// The record, with its header.
    let record: [UInt8]
    /// Whether it can end a handshake: it is fatal, or close_notify (RFC 5246, section 7.2).
    let endsHandshake: Bool
    private var timeouts = 0

    /// The alert that a record of epoch 0 holds: its level, and its description (RFC 5246, section 7.2). `nil` for
    /// other records, for those with more or fewer bytes than an alert has, and for those that are not complete.
    init?(_ record: Record) {
        guard let content = record.plaintextAlert else { return nil }
        endsHandshake = content.level == UInt8(SSL3_AL_FATAL) || content.description == UInt8(SSL_AD_CLOSE_NOTIFY)
        self.record = [UInt8](record.bytes)
    }

    /// The first record of epoch 0 in a datagram whose type says that it is an alert, whatever its content is.
    static func firstRecord(in datagram: UnsafeRawBufferPointer) -> Record? {
        Records(of: datagram).first { $0.contentType == .alert && !$0.isProtected }
    }

    /// Counts a timeout in which the peer has sent nothing else.
    /// - Returns: whether the alert is to be believed now.
    mutating func timeoutPassed() -> Bool {
        timeouts += 1
        return timeouts > 1
    }
}
