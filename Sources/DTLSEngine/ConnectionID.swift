import COpenSSL
import Primitives

/// A connection ID (RFC 9146): what its owner has asked the other side to put into each protected record, so that the
/// owner knows the connection whatever address the record comes from. It has 0 to ``maximumCount`` bytes, which are
/// held in the value itself.
public struct ConnectionID: Hashable, Sendable, CustomStringConvertible {
    /// The most bytes that this program makes and takes, of the 255 that RFC 9146, section 3, allows.
    public static let maximumCount = 32

    /// The number of bytes.
    public let count: Int
    /// The bytes in their order in memory, and zeros behind them.
    private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    /// The connection ID without bytes: its owner does not want any, and sends the other side's where that has some.
    public static let empty = ConnectionID(count: 0)

    private init(count: Int) { self.count = count }

    /// `nil` for more than ``maximumCount`` bytes.
    @inline(__always)
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count <= Self.maximumCount else { return nil }
        count = bytes.count
        withUnsafeMutableBytes(of: &words) { $0.copyBytes(from: bytes) }
    }

    /// `nil` for more than ``maximumCount`` bytes.
    public init?(_ bytes: [UInt8]) {
        guard let id = bytes.withUnsafeBytes({ ConnectionID($0) }) else { return nil }
        self = id
    }

    /// Random bytes. Throws where OpenSSL has none.
    /// - Parameter count: 0 to ``maximumCount``; what is beyond is cut to that.
    public static func random(count: Int) throws(OpenSSLError) -> ConnectionID {
        var id = ConnectionID(count: min(max(0, count), maximumCount))
        let isRandom = withUnsafeMutableBytes(of: &id.words) { words in
            RAND_bytes(words.baseAddress?.assumingMemoryBound(to: UInt8.self), Int32(id.count)) == 1
        }
        guard isRandom else { throw OpenSSLError.drain() }
        return id
    }

    /// The connection ID of the record that a datagram begins with, where that ID tells its own length in the five low
    /// bits of its first byte, as ``ConnectionIDCipher`` makes them; `nil` for a record without one, for one of epoch 0,
    /// which cannot have one, and where the datagram is too short.
    @inline(__always)
    public init?(selfDescribedIn datagram: UnsafeRawBufferPointer) {
        guard datagram.count > Record.headerSize, datagram[0] == ContentType.connectionID.rawValue,
            datagram[1] == ProtocolVersion.major, datagram[3] | datagram[4] != 0
        else { return nil }
        let count = Int(datagram[Self.offsetInRecord] & 0x1f) + 1
        guard datagram.count >= Record.headerSize + count else { return nil }
        self.init(UnsafeRawBufferPointer(rebasing: datagram[Self.offsetInRecord..<(Self.offsetInRecord + count)]))
    }

    /// Where the connection ID stands in a record: behind the number (RFC 9146, section 4).
    static let offsetInRecord = 11

    @inline(__always)
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try Swift.withUnsafeBytes(of: words) { words throws(Failure) in
            try body(UnsafeRawBufferPointer(rebasing: words[..<count]))
        }
    }

    public var bytes: [UInt8] { withUnsafeBytes { [UInt8]($0) } }

    public var isEmpty: Bool { count == 0 }

    /// The bytes in hexadecimal; `""` for none.
    public var description: String { withUnsafeBytes { Hexadecimal.text($0) } }

    @inline(__always)
    public static func == (one: ConnectionID, other: ConnectionID) -> Bool {
        one.count == other.count && one.words == other.words
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(count)
        withUnsafeBytes { hasher.combine(bytes: $0) }
    }
}

/// The connection IDs that both sides of a connection have agreed on (RFC 9146, section 3).
public struct ConnectionIDs: Hashable, Sendable {
    /// The one in the records that this side receives. An empty one is in none.
    public var own: ConnectionID
    /// The one in the records that this side sends. An empty one is in none.
    public var peer: ConnectionID

    public init(own: ConnectionID, peer: ConnectionID) {
        self.own = own
        self.peer = peer
    }
}
