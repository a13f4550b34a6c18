import COpenSSL

/// The type of a record's content (RFC 5246, section 6.2.1). Every byte is a value, also one that has no name here.
public struct ContentType: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt8

    @inline(__always)
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let changeCipherSpec = ContentType(rawValue: 20)
    public static let alert = ContentType(rawValue: 21)
    public static let handshake = ContentType(rawValue: 22)
    public static let applicationData = ContentType(rawValue: 23)
    /// RFC 6520, section 3.
    public static let heartbeat = ContentType(rawValue: 24)
    /// A record with a connection ID, which stands between number and length (tls12_cid; RFC 9146, section 4).
    public static let connectionID = ContentType(rawValue: 25)

    /// RFC 9853.
    public static let returnRoutabilityCheck = ContentType(rawValue: 27)

    /// Whether DTLS 1.2 or earlier defines the type: change_cipher_spec to heartbeat.
    var isKnown: Bool { (Self.changeCipherSpec.rawValue...Self.heartbeat.rawValue).contains(rawValue) }
}

/// The type of a handshake message (RFC 5246, section 7.4; RFC 6347, section 4.3.2). Every byte is a value.
public struct HandshakeType: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt8

    @inline(__always)
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// RFC 5246, section 7.4.1.1.
    static let helloRequest = HandshakeType(rawValue: 0)
    public static let clientHello = HandshakeType(rawValue: 1)
    public static let serverHello = HandshakeType(rawValue: 2)
    public static let helloVerifyRequest = HandshakeType(rawValue: 3)
    /// RFC 5077, section 3.3.
    static let newSessionTicket = HandshakeType(rawValue: 4)
    static let clientKeyExchange = HandshakeType(rawValue: 16)
    static let finished = HandshakeType(rawValue: 20)
}

/// A DTLS version, with its number on the wire (RFC 6347, section 4.1).
public enum ProtocolVersion: UInt16, Codable, Sendable, CaseIterable, Comparable {
    case dtls10 = 0xfeff
    case dtls12 = 0xfefd

    /// The first byte of the number of every DTLS version.
    public static let major: UInt8 = 0xfe

    /// `"1.0"` or `"1.2"`, as configurations and logs write it.
    public var name: String {
        switch self {
        case .dtls10: "1.0"
        case .dtls12: "1.2"
        }
    }

    public init?(name: String) {
        guard let version = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = version
    }

    /// Later versions have lower numbers on the wire (RFC 6347, section 4.1).
    public static func < (one: ProtocolVersion, other: ProtocolVersion) -> Bool { one.rawValue > other.rawValue }
}

/// One record of a datagram, read in place (RFC 6347, section 4.1). Nothing is copied and nothing is allocated.
///
/// A value exists only where the datagram holds all bytes of the record's header, so that every property can be read of
/// every value, whatever the bytes are. It is **valid only while the datagram's buffer is**.
public struct Record {
    /// The size of a record's header in bytes.
    public static let headerSize = 13
    /// The longest plaintext of a record, in bytes (RFC 6347, section 4.1.1; RFC 5246, section 6.2.1).
    public static let maximumPlaintextLength = 1 << 14

    /// The datagram that the record is in.
    public let datagram: UnsafeRawBufferPointer
    /// The position in ``datagram`` at which the record's header begins.
    public let offset: Int
    /// The bytes of the connection ID in the header.
    private let connectionIDLength: Int

    /// The record whose header begins at `offset`, or `nil` where no header fits between there and the datagram's end.
    /// - Parameter connectionIDLength: the bytes of the connection ID of records that have one (RFC 9146), which the
    ///   header does not tell; 0 where none was agreed on.
    @inline(__always)
    public init?(of datagram: UnsafeRawBufferPointer, at offset: Int = 0, connectionIDLength: Int = 0) {
        guard offset >= 0, offset <= datagram.count - Self.headerSize else { return nil }
        self.datagram = datagram
        self.offset = offset
        guard connectionIDLength > 0, datagram[offset] == ContentType.connectionID.rawValue else {
            self.connectionIDLength = 0
            return
        }
        guard offset <= datagram.count - Self.headerSize - connectionIDLength else { return nil }
        self.connectionIDLength = connectionIDLength
    }

    @inline(__always)
    public var contentType: ContentType { ContentType(rawValue: datagram[offset]) }

    /// The number of the version as it is on the wire; see ``ProtocolVersion``.
    @inline(__always)
    public var version: UInt16 { uint16(at: 1) }

    /// Whether the version is one of DTLS, which all have the same first byte.
    @inline(__always)
    public var isDTLS: Bool { datagram[offset + 1] == ProtocolVersion.major }

    /// The epoch: 0 until the sender's first ChangeCipherSpec, and one more with each.
    @inline(__always)
    public var epoch: UInt16 { uint16(at: 3) }

    /// Whether the record says that it is encrypted: only records of epoch 0 are in plain text.
    @inline(__always)
    public var isProtected: Bool { epoch != 0 }

    /// The record's number within its epoch: 48 bits.
    @inline(__always)
    public var sequenceNumber: UInt64 { number & Self.sequenceNumberMask }

    /// ``epoch`` and ``sequenceNumber`` as one number, by which the records of one sender are in order.
    @inline(__always)
    public var number: UInt64 { datagram.loadUnaligned(fromByteOffset: offset + 3, as: UInt64.self).bigEndian }

    /// The number of bytes behind the header according to the header. The datagram may hold fewer.
    @inline(__always)
    public var length: Int { Int(uint16(at: ConnectionID.offsetInRecord + connectionIDLength)) }

    /// The connection ID in the header; empty where there is none.
    @inline(__always)
    public var connectionID: UnsafeRawBufferPointer {
        let start = offset + ConnectionID.offsetInRecord
        return UnsafeRawBufferPointer(rebasing: datagram[start..<(start + connectionIDLength)])
    }

    /// The position behind the header.
    @inline(__always)
    private var fragmentOffset: Int { offset + Self.headerSize + connectionIDLength }

    /// Whether the datagram holds all of the record.
    @inline(__always)
    public var isComplete: Bool { length <= datagram.count - fragmentOffset }

    /// The ``length`` bytes behind the header, or those of them that the datagram holds.
    @inline(__always)
    public var fragment: UnsafeRawBufferPointer {
        let start = fragmentOffset
        return UnsafeRawBufferPointer(rebasing: datagram[start..<min(start + length, datagram.count)])
    }

    /// Header and fragment, as far as the datagram holds them.
    public var bytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: datagram[offset..<min(end, datagram.count)])
    }

    /// The datagram's bytes before this record: a datagram without it and all that follows it.
    @inline(__always)
    public var precedingBytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: datagram[..<offset]) }

    /// Whether it looks like one that a peer sends over an established connection: a whole record of DTLS 1.0 or 1.2
    /// that is protected, with a connection ID (RFC 9146) or without. Anybody can send such a thing.
    public var isOfConnection: Bool {
        if contentType == .connectionID { return isDTLS && isProtected }
        return contentType.isKnown && isDTLS && isProtected && isComplete
    }

    /// Whether it may hold handshake messages in the clear.
    var isPlaintextHandshake: Bool { contentType == .handshake && isDTLS && !isProtected }

    /// Level and description of an alert in the clear (RFC 5246, section 7.2); `nil` for every other record, and for
    /// one with more or fewer bytes than an alert has.
    var plaintextAlert: (level: UInt8, description: UInt8)? {
        guard contentType == .alert, !isProtected, length == 2, isComplete else { return nil }
        return (fragment[0], fragment[1])
    }

    /// The position at which the next record would begin. It is beyond the datagram's end for an incomplete record.
    @inline(__always)
    public var end: Int { fragmentOffset + length }

    /// Writes the header of a record of epoch 0 into the first ``headerSize`` bytes of a buffer that has them.
    static func writeHeader(
        _ type: ContentType, version: UInt16, sequenceNumber: UInt64, length: Int,
        to buffer: UnsafeMutableRawBufferPointer
    ) {
        guard buffer.count >= headerSize else { return }
        buffer[0] = type.rawValue
        buffer.storeBytes(of: version.bigEndian, toByteOffset: 1, as: UInt16.self)
        // Epoch and number are eight bytes together.
        buffer.storeBytes(of: (sequenceNumber & sequenceNumberMask).bigEndian, toByteOffset: 3, as: UInt64.self)
        buffer.storeBytes(of: UInt16(truncatingIfNeeded: length).bigEndian, toByteOffset: 11, as: UInt16.self)
    }

    static let sequenceNumberMask: UInt64 = 0xffff_ffff_ffff

    @inline(__always)
    private func uint16(at position: Int) -> UInt16 {
        datagram.loadUnaligned(fromByteOffset: offset + position, as: UInt16.self).bigEndian
    }
}

/// The records of a datagram, in their order. What follows the last complete header is in none of them.
///
/// Only the last record can be incomplete: there is nothing behind it.
public struct Records: Sequence {
    private let datagram: UnsafeRawBufferPointer
    private let connectionIDLength: Int

    /// - Parameter connectionIDLength: see ``Record/init(of:at:connectionIDLength:)``.
    @inline(__always)
    public init(of datagram: UnsafeRawBufferPointer, connectionIDLength: Int = 0) {
        self.datagram = datagram
        self.connectionIDLength = connectionIDLength
    }

    /// The first record, or `nil` for a datagram that is too short for a header.
    @inline(__always)
    public var first: Record? { Record(of: datagram, connectionIDLength: connectionIDLength) }

    @inline(__always)
    public func makeIterator() -> Iterator { Iterator(datagram: datagram, connectionIDLength: connectionIDLength) }

    public struct Iterator: IteratorProtocol {
        fileprivate let datagram: UnsafeRawBufferPointer
        private let connectionIDLength: Int
        private var offset = 0

        @inline(__always)
        fileprivate init(datagram: UnsafeRawBufferPointer, connectionIDLength: Int) {
            self.datagram = datagram
            self.connectionIDLength = connectionIDLength
        }

        @inline(__always)
        public mutating func next() -> Record? {
            guard let record = Record(of: datagram, at: offset, connectionIDLength: connectionIDLength) else {
                return nil
            }
            offset = record.end
            return record
        }
    }
}

/// A record of a datagram that may be changed where it is: of what OpenSSL has written, before it is sent.
///
/// Only records of epoch 0 may be: a change breaks the protection of all others.
struct MutableRecord {
    private let datagram: UnsafeMutableRawBufferPointer
    private let record: Record

    init?(of datagram: UnsafeMutableRawBufferPointer, at offset: Int = 0) {
        guard let record = Record(of: UnsafeRawBufferPointer(datagram), at: offset), !record.isProtected else {
            return nil
        }
        self.datagram = datagram
        self.record = record
    }

    /// The record's number: of a new one, the lower 48 bits are taken.
    var sequenceNumber: UInt64 {
        get { record.sequenceNumber }
        nonmutating set {
            // Epoch and number are eight bytes together; the epoch is 0.
            datagram.storeBytes(
                of: (newValue & Record.sequenceNumberMask).bigEndian, toByteOffset: record.offset + 3, as: UInt64.self)
        }
    }

    /// The bytes behind the header, as far as the datagram holds them.
    var fragment: UnsafeMutableRawBufferPointer {
        let start = record.offset + Record.headerSize
        return UnsafeMutableRawBufferPointer(rebasing: datagram[start..<(start + record.fragment.count)])
    }

    /// Puts another description into the last record of a datagram, if that is a fatal alert.
    static func replaceFatalAlert(in datagram: UnsafeMutableRawBufferPointer, by description: UInt8) {
        var last: Record?
        for record in Records(of: UnsafeRawBufferPointer(datagram)) { last = record }
        guard let last, last.plaintextAlert?.level == UInt8(SSL3_AL_FATAL) else { return }
        MutableRecord(of: datagram, at: last.offset)?.fragment[1] = description
    }

    /// Adds `offset` to the numbers of all records of epoch 0 in a datagram.
    static func renumber(_ datagram: UnsafeMutableRawBufferPointer, by offset: UInt64) {
        for record in Records(of: UnsafeRawBufferPointer(datagram)) where !record.isProtected {
            MutableRecord(of: datagram, at: record.offset)?.sequenceNumber = record.sequenceNumber &+ offset
        }
    }
}

/// A handshake message in the clear, or a fragment of one, read in place (RFC 6347, section 4.2.2).
///
/// A value exists only where all bytes of its header are there. It is **valid only while the buffer is**.
struct HandshakeFragment {
    /// The size of the header in bytes.
    static let headerSize = 12

    private let bytes: UnsafeRawBufferPointer

    /// The fragment that begins where `bytes` do, or `nil` where these are fewer than a header has.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.headerSize else { return nil }
        self.bytes = bytes
    }

    var type: HandshakeType { HandshakeType(rawValue: bytes[0]) }
    /// The size of the whole message in bytes.
    var messageLength: Int { uint24(at: 1) }
    /// The number of the message among those of its sender, from 0 on.
    var messageSequence: UInt16 { bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self).bigEndian }
    /// The position of the fragment in the message.
    var offset: Int { uint24(at: 6) }
    /// The size of the fragment in bytes according to its header. The buffer may hold fewer.
    var length: Int { uint24(at: 9) }
    /// Whether the fragment lies within its message.
    var fitsMessage: Bool { offset + length <= messageLength }

    /// The fragment's ``length`` bytes, or `nil` where they are not all there.
    var body: UnsafeRawBufferPointer? {
        guard length <= bytes.count - Self.headerSize else { return nil }
        return UnsafeRawBufferPointer(rebasing: bytes[Self.headerSize..<(Self.headerSize + length)])
    }

    /// The bytes that follow the fragment in its record. They are empty where the fragment is not all there.
    var rest: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes.dropFirst(Self.headerSize + length))
    }

    /// Writes the header of a message, or of a fragment of it, into the first ``headerSize`` bytes of a buffer that
    /// has them.
    static func writeHeader(
        _ type: HandshakeType, messageSequence: UInt16, messageLength: Int, fragmentOffset: Int = 0,
        fragmentLength: Int, to buffer: UnsafeMutableRawBufferPointer
    ) {
        guard buffer.count >= headerSize else { return }
        buffer[0] = type.rawValue
        write24(messageLength, to: buffer, at: 1)
        buffer.storeBytes(of: messageSequence.bigEndian, toByteOffset: 4, as: UInt16.self)
        write24(fragmentOffset, to: buffer, at: 6)
        write24(fragmentLength, to: buffer, at: 9)
    }

    private static func write24(_ value: Int, to buffer: UnsafeMutableRawBufferPointer, at position: Int) {
        for index in 0..<3 { buffer[position + index] = UInt8(truncatingIfNeeded: value >> (16 - 8 * index)) }
    }

    private func uint24(at position: Int) -> Int {
        Int(bytes[position]) << 16 | Int(bytes[position + 1]) << 8 | Int(bytes[position + 2])
    }
}
