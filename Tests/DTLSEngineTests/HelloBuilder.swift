import Testing

/// Writes a ClientHello field by field, right or wrong on purpose.
struct HelloBuilder {
    var recordType: UInt8 = 22
    var recordVersion: UInt16 = 0xfeff
    var epoch: UInt16 = 0
    var recordSequence: UInt64 = 0
    var handshakeType: UInt8 = 1
    var messageSequence: UInt16 = 0
    var fragmentOffset = 0
    /// Bytes of the message that the record has; `nil`: all.
    var fragmentLength: Int?
    /// What the headers say instead of the truth.
    var claimedRecordLength: Int?
    var claimedMessageLength: Int?
    var claimedFragmentLength: Int?
    var clientVersion: UInt16 = 0xfefd
    var random: [UInt8] = (0..<32).map { 0xa0 + $0 }
    var sessionID: [UInt8] = []
    var cookie: [UInt8] = []
    var cipherSuites: [UInt8] = [0xc0, 0x2f]
    var compression: [UInt8] = [0]
    /// Everything after the compression methods, with its length where it should have one.
    var rest: [UInt8] = []

    var body: [UInt8] {
        bigEndian(clientVersion, 2) + random + bigEndian(sessionID.count, 1) + sessionID
            + bigEndian(cookie.count, 1) + cookie + bigEndian(cipherSuites.count, 2) + cipherSuites
            + bigEndian(compression.count, 1) + compression + rest
    }

    var bytes: [UInt8] {
        let body = body
        let fragment = body.dropFirst(fragmentOffset).prefix(fragmentLength ?? body.count)
        let message =
            [handshakeType] + bigEndian(claimedMessageLength ?? body.count, 3) + bigEndian(messageSequence, 2)
            + bigEndian(fragmentOffset, 3) + bigEndian(claimedFragmentLength ?? fragment.count, 3) + fragment
        return [recordType] + bigEndian(recordVersion, 2) + bigEndian(epoch, 2) + bigEndian(recordSequence, 6)
            + bigEndian(claimedRecordLength ?? message.count, 2) + message
    }

    private func bigEndian(_ value: some BinaryInteger, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
    }
}

/// Something done to a hello, with a name for a parametrised test.
struct Change: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let apply: @Sendable (inout HelloBuilder) -> Void

    init(_ name: String, _ apply: @escaping @Sendable (inout HelloBuilder) -> Void) {
        testDescription = name
        self.apply = apply
    }
}
