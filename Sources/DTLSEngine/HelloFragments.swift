/// Puts a ClientHello together that comes as several fragments in **one** datagram: in several records, or several in
/// one. Nothing is kept from one datagram to the next, so this is stateless, and bounded by one record.
///
/// `DTLSv1_listen` looks at the first fragment of a datagram alone, and drops whatever is behind it.
public final class HelloFragments {
    /// One record that holds what has been put together.
    private let joined: UnsafeMutableRawBufferPointer
    private static let capacity = ClientHello.recordHeaderSize + ClientHello.maximumRecordLength

    public init() { joined = .allocate(byteCount: Self.capacity, alignment: 8) }

    deinit { joined.deallocate() }

    /// The datagram itself, unless it begins with a fragment of a ClientHello and has more of it: then a datagram with
    /// all of the hello that is there in one record, valid until the next call.
    ///
    /// Fragments are taken in order; one may repeat bytes of those before it. What does not go on with the same message
    /// ends it, and is dropped.
    public func join(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard let first = Record(of: datagram, at: 0), let start = Fragment(of: datagram, at: first.content.lowerBound),
            start.offset == 0, start.bytes.count < start.length, start.bytes.upperBound <= first.content.upperBound
        else { return datagram }
        var message = Message(start: start, end: start.bytes.upperBound)
        joined.copyMemory(from: UnsafeRawBufferPointer(rebasing: datagram[..<message.end]))
        var position = start.bytes.upperBound
        var record = first
        while message.count < start.length {
            if position == record.content.upperBound {
                guard let next = Record(of: datagram, at: position) else { break }
                record = next
                position = next.content.lowerBound
            }
            guard let fragment = Fragment(of: datagram, at: position),
                fragment.bytes.upperBound <= record.content.upperBound, append(fragment, of: datagram, to: &message)
            else { break }
            position = fragment.bytes.upperBound
        }
        guard message.end > start.bytes.upperBound else { return datagram }
        write(message.end - ClientHello.recordHeaderSize, count: 2, at: ClientHello.recordHeaderSize - 2)
        write(message.count, count: 3, at: ClientHello.recordHeaderSize + ClientHello.handshakeHeaderSize - 3)
        return UnsafeRawBufferPointer(rebasing: joined[..<message.end])
    }

    /// The hello as far as it is in `joined`.
    private struct Message {
        let start: Fragment
        /// Behind its last byte in `joined`.
        var end: Int
        var count: Int { end - ClientHello.recordHeaderSize - ClientHello.handshakeHeaderSize }
    }

    private func append(
        _ fragment: Fragment, of datagram: UnsafeRawBufferPointer, to message: inout Message
    ) -> Bool {
        let known = message.count - fragment.offset
        guard fragment.length == message.start.length, fragment.sequence == message.start.sequence, known >= 0,
            fragment.offset + fragment.bytes.count <= fragment.length
        else { return false }
        let new = fragment.bytes.dropFirst(known)
        guard message.end + new.count <= joined.count else { return false }
        UnsafeMutableRawBufferPointer(rebasing: joined[message.end...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: datagram[new]))
        message.end += new.count
        return true
    }

    private func write(_ value: Int, count: Int, at offset: Int) {
        for index in 0..<count {
            joined[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - index)))
        }
    }

    /// A handshake record of epoch 0 (RFC 6347, section 4.1).
    private struct Record {
        let content: Range<Int>

        init?(of datagram: UnsafeRawBufferPointer, at offset: Int) {
            guard datagram.count - offset >= ClientHello.recordHeaderSize,
                datagram[offset] == ClientHello.handshakeRecordType,
                datagram[offset + 1] == ClientHello.versionMajor, datagram[offset + 3] == 0, datagram[offset + 4] == 0
            else { return nil }
            let start = offset + ClientHello.recordHeaderSize
            let length = HelloFragments.read(2, of: datagram, at: start - 2)
            guard length <= ClientHello.maximumRecordLength, length <= datagram.count - start else { return nil }
            content = start..<(start + length)
        }
    }

    /// A fragment of a ClientHello (RFC 6347, section 4.2.2).
    private struct Fragment {
        /// Of the whole message.
        let length: Int
        let sequence: Int
        let offset: Int
        /// Where its part of the message is in the datagram.
        let bytes: Range<Int>

        init?(of datagram: UnsafeRawBufferPointer, at position: Int) {
            let start = position + ClientHello.handshakeHeaderSize
            guard start <= datagram.count, datagram[position] == ClientHello.clientHelloType else { return nil }
            length = HelloFragments.read(3, of: datagram, at: position + 1)
            sequence = HelloFragments.read(2, of: datagram, at: position + 4)
            offset = HelloFragments.read(3, of: datagram, at: position + 6)
            let count = HelloFragments.read(3, of: datagram, at: position + 9)
            guard count <= datagram.count - start else { return nil }
            bytes = start..<(start + count)
        }
    }

    private static func read(_ count: Int, of bytes: UnsafeRawBufferPointer, at offset: Int) -> Int {
        bytes[offset..<(offset + count)].reduce(0) { $0 << 8 | Int($1) }
    }
}
