/// An alert without protection, as both sides send them before they have keys. Anybody can forge one who knows the two
/// addresses, so it must not end a handshake that goes on (RFC 6347, section 4.1.2.7).
///
/// It is held back, and believed once the peer has said nothing else while its flight was sent again: that takes two
/// timeouts, 3 seconds by the timers of RFC 6347, section 4.2.4.1.
struct PlaintextAlert {
    /// The record, with its header.
    let record: [UInt8]
    private var timeouts = 0

    private static let contentType: UInt8 = 21
    private static let headerSize = 13
    private static let contentSize = 2

    /// Looks for the first alert of epoch 0 among the records of a datagram.
    /// - Returns: the alert, and where it begins; `nil` for the alert where it has not an alert's size.
    static func find(in datagram: UnsafeRawBufferPointer) -> (alert: PlaintextAlert?, offset: Int)? {
        var offset = 0
        while datagram.count - offset >= headerSize {
            let length = Int(datagram[offset + 11]) << 8 | Int(datagram[offset + 12])
            let end = offset + headerSize + length
            if datagram[offset] == contentType, datagram[offset + 3] == 0, datagram[offset + 4] == 0 {
                guard length == contentSize, end <= datagram.count else { return (nil, offset) }
                return (PlaintextAlert(record: [UInt8](datagram[offset..<end])), offset)
            }
            offset = end
        }
        return nil
    }

    private init(record: [UInt8]) { self.record = record }

    /// Whether it can end a handshake: fatal, or close_notify (RFC 5246, section 7.2).
    var endsHandshake: Bool { record[Self.headerSize] == 2 || record[Self.headerSize + 1] == 0 }

    /// One timeout more has passed in which the peer has said nothing else.
    /// - Returns: whether it is to be believed now.
    mutating func timeoutPassed() -> Bool {
        timeouts += 1
        return timeouts > 1
    }
}
