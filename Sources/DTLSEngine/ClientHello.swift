/// The first ClientHello record of a UDP datagram, read in place: nothing is copied and nothing is allocated.
///
/// A value holds offsets into the datagram that it was parsed from, and is **valid only while that buffer is**.
/// Parsing is total: every byte string gives one of the three outcomes, and no byte string traps.
///
/// Sources: RFC 6347, sections 4.1 (record), 4.2.1 (cookie) and 4.2.2 (handshake header);
/// RFC 5246, section 7.4.1.2 (ClientHello).
public struct ClientHello {
    /// The kind of a datagram.
    public enum Outcome {
        case hello(ClientHello)
        /// Another record type, another epoch, another handshake message, a later fragment, or not DTLS at all.
        case notClientHello
        /// The headers say that it is a ClientHello, and its lengths contradict each other or the datagram.
        case malformed
    }

    private static let randomSize = 32

    /// The whole datagram, with whatever follows the hello.
    public let datagram: UnsafeRawBufferPointer
    /// The version in the record header. Many clients say 0xfeff (DTLS 1.0) here and ask for more in `clientVersion`.
    public let recordVersion: UInt16
    /// 48 bits. A HelloVerifyRequest repeats it (RFC 6347, section 4.2.1).
    public let recordSequence: UInt64
    /// 0 in a client's first hello, one more after each HelloVerifyRequest that it got.
    public let messageSequence: UInt16
    /// The highest version that the client offers outside extensions, on the wire form (0xfefd is DTLS 1.2).
    public let clientVersion: UInt16
    /// False when the record holds only a first fragment. Then at least everything up to the compression methods is
    /// here.
    public let isComplete: Bool

    /// The message without its headers, as far as the record has it.
    private let body: UnsafeRawBufferPointer
    // Where fields are in `body`.
    private let sessionIDRange: Range<Int>
    private let cookieRange: Range<Int>
    private let compressionEnd: Int

    /// The random follows the two bytes of client_version.
    private static let randomOffset = 2

    /// 32 bytes.
    public var random: UnsafeRawBufferPointer { slice(Self.randomOffset..<Self.randomOffset + Self.randomSize) }
    /// 0 to 32 bytes.
    public var sessionID: UnsafeRawBufferPointer { slice(sessionIDRange) }
    /// 0 to 255 bytes; none in a client's first hello.
    public var cookie: UnsafeRawBufferPointer { slice(cookieRange) }

    /// The random as a value that outlives the datagram, to tell a repeated hello from a new one.
    public var randomValue: ClientRandom { ClientRandom(random) }

    /// Version, random and session id, with the session id's length: what stands before the cookie.
    var beforeCookie: UnsafeRawBufferPointer { slice(0..<sessionIDRange.upperBound) }
    /// Cipher suites and compression methods, with their lengths: what stands after the cookie, extensions left out.
    var afterCookie: UnsafeRawBufferPointer { slice(cookieRange.upperBound..<compressionEnd) }

    /// Whether the hello names the versions that it offers (supported_versions: RFC 8446, section 4.2.1), and none of
    /// them is known here: DTLS 1.3 alone. OpenSSL does not look at the extension before 4.1; it would choose DTLS 1.2,
    /// and then find that no cipher suite is in common. False where a first fragment does not reach the extension.
    public var offersNoKnownVersion: Bool {
        guard !RecordFilter.knowsDTLS13, let content = contentOfExtension(Self.supportedVersions) else { return false }
        var versions = Reader(bytes: content)
        guard let length = versions.uint8(), length >= 2, length.isMultiple(of: 2), length == versions.left else {
            return false
        }
        while let version = versions.uint16() {
            if ProtocolVersion(rawValue: version) != nil { return false }
        }
        return true
    }

    /// The name of the session that the client wants to resume: what its ticket begins with (session_ticket: RFC 5077,
    /// section 3.2), or, where it has none, its session ID. `nil` where both are shorter than a name, and where a first
    /// fragment does not reach the extension's content.
    package var offeredSession: SessionName? {
        SessionName(contentOfExtension(Self.sessionTicket) ?? sessionID) ?? SessionName(sessionID)
    }

    // The types of extensions.
    private static let supportedVersions: UInt16 = 43
    private static let sessionTicket: UInt16 = 35

    /// The content of the first extension of a type; `nil` where the record has none, or not the whole of it.
    private func contentOfExtension(_ type: UInt16) -> UnsafeRawBufferPointer? {
        var reader = Reader(bytes: body, offset: compressionEnd)
        guard reader.uint16() != nil else { return nil }
        while let next = reader.uint16(), let content = reader.vector16() {
            if next == type { return slice(content) }
        }
        return nil
    }

    private func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: body[range])
    }

    /// Says cheaply whether a datagram could be a ClientHello, or a later fragment of one: a handshake record of epoch
    /// 0 whose first message has the type of a ClientHello. Nothing else is checked.
    public static func couldBePart(of datagram: UnsafeRawBufferPointer) -> Bool {
        Record(of: datagram).map(couldBePart) ?? false
    }

    private static func couldBePart(of record: Record) -> Bool {
        record.isPlaintextHandshake && record.fragment.first == HandshakeType.clientHello.rawValue
    }

    /// Reads the first record of `datagram`.
    ///
    /// A first fragment is enough if it reaches to the end of the compression methods: all that a cookie covers is
    /// there. Unknown versions, cipher suites and extensions are the handshake's business, not this parser's.
    public static func parse(_ datagram: UnsafeRawBufferPointer) -> Outcome {
        guard let record = Record(of: datagram), couldBePart(of: record) else { return .notClientHello }
        guard record.isComplete, record.length <= Record.maximumPlaintextLength,
            let fragment = HandshakeFragment(record.fragment)
        else { return .malformed }
        guard fragment.offset == 0 else { return fragment.fitsMessage ? .notClientHello : .malformed }
        // A second message behind it in its record has no sense; a second fragment is joined: see HelloFragments.
        guard fragment.fitsMessage, let body = fragment.body, fragment.rest.isEmpty else { return .malformed }
        var reader = Reader(bytes: body)
        guard let clientVersion = reader.uint16(), UInt8(clientVersion >> 8) == ProtocolVersion.major,
            reader.skip(randomSize),
            let sessionID = reader.vector8(), sessionID.count <= 32,
            let cookie = reader.vector8(),
            let cipherSuites = reader.vector16(), cipherSuites.count >= 2, cipherSuites.count.isMultiple(of: 2),
            let compression = reader.vector8(), !compression.isEmpty,
            extensionsFit(reader, left: fragment.messageLength - compression.upperBound)
        else { return .malformed }
        return .hello(
            ClientHello(
                datagram: datagram, recordVersion: record.version, recordSequence: record.sequenceNumber,
                messageSequence: fragment.messageSequence, clientVersion: clientVersion,
                isComplete: fragment.length == fragment.messageLength, body: body, sessionIDRange: sessionID,
                cookieRange: cookie, compressionEnd: compression.upperBound))
    }

    /// The rest of a hello is nothing, or one vector of extensions that fills it (RFC 5246, section 7.4.1.2).
    private static func extensionsFit(_ reader: Reader, left: Int) -> Bool {
        if left == 0 { return true }
        var reader = reader
        guard let length = reader.uint16() else { return left >= 2 && reader.left < 2 }
        return Int(length) == left - 2
    }
}

/// A ClientHello's random as a value of fixed size.
public struct ClientRandom: Hashable, Sendable {
    /// The bytes of what is kept of a random.
    package static let byteCount = 16

    /// The two halves of the 32 bytes, one XORed with the other: room is scarce where randoms are kept. Two honest
    /// randoms still differ, and who makes one that does not could as well copy the other.
    private let words: (UInt64, UInt64)

    fileprivate init(_ bytes: UnsafeRawBufferPointer) {
        words = (
            bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)
                ^ bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self),
            bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
                ^ bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
        )
    }

    /// The random that was written down as ``byteCount`` bytes.
    package init?(writtenDown bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.byteCount else { return nil }
        words = (
            bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self),
            bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        )
    }

    package func withBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeBytes(of: words) { body($0) }
    }

    public static func == (one: ClientRandom, other: ClientRandom) -> Bool { one.words == other.words }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }
}

/// Reads big-endian numbers and TLS vectors. Each step says by `nil` or `false` that there are too few bytes; `offset`
/// never passes the buffer's end.
private struct Reader {
    let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    init(bytes: UnsafeRawBufferPointer, offset: Int = 0) {
        self.bytes = bytes
        self.offset = min(offset, bytes.count)
    }

    var left: Int { bytes.count - offset }

    mutating func skip(_ count: Int) -> Bool {
        guard count <= left else { return false }
        offset += count
        return true
    }

    private mutating func number(_ count: Int) -> Int? {
        guard count <= left else { return nil }
        var value = 0
        for index in offset..<offset + count { value = value << 8 | Int(bytes[index]) }
        offset += count
        return value
    }

    mutating func uint16() -> UInt16? { number(2).map { UInt16(truncatingIfNeeded: $0) } }

    mutating func uint8() -> Int? { number(1) }

    /// The content of a vector whose length is one byte.
    mutating func vector8() -> Range<Int>? { vector(number(1)) }
    /// The content of a vector whose length is two bytes.
    mutating func vector16() -> Range<Int>? { vector(number(2)) }

    private mutating func vector(_ count: Int?) -> Range<Int>? {
        guard let count, count <= left else { return nil }
        let start = offset
        offset += count
        return start..<offset
    }
}
