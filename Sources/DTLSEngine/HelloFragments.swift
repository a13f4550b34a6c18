/// Puts a ClientHello together that comes as several fragments in **one** datagram: in several records, or several in
/// one. Nothing is kept from one datagram to the next, so this is stateless, and bounded by one record.
///
/// `DTLSv1_listen` looks at the first fragment of a datagram alone, and drops whatever is behind it.
public final class HelloFragments {
    /// One record that holds what has been put together.
    private let joined: UnsafeMutableRawBufferPointer
    private static let bodyOffset = Record.headerSize + HandshakeFragment.headerSize

    public init() {
        joined = .allocate(byteCount: Record.headerSize + Record.maximumPlaintextLength, alignment: 8)
    }

    deinit { joined.deallocate() }

    /// The datagram itself, unless it begins with a fragment of a ClientHello and has more of it: then a datagram with
    /// all of the hello that is there in one record, valid until the next call.
    ///
    /// Fragments must come in order. One may repeat bytes of those before it. A record or fragment that does not
    /// continue the same message ends it, and is dropped.
    public func join(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var records = Records(of: datagram).makeIterator()
        guard let record = records.next(), Self.mayHoldHello(record), let first = HandshakeFragment(record.fragment),
            first.type == .clientHello, first.offset == 0, let start = first.body, start.count < first.messageLength
        else { return datagram }
        var count = 0
        guard append(start, at: &count) else { return datagram }
        var rest = first.rest
        while count < first.messageLength {
            if rest.isEmpty {
                guard let next = records.next(), Self.mayHoldHello(next) else { break }
                rest = next.fragment
            }
            guard let fragment = HandshakeFragment(rest), append(fragment, to: first, at: &count) else { break }
            rest = fragment.rest
        }
        guard count > start.count else { return datagram }
        Record.writeHeader(
            .handshake, version: record.version, sequenceNumber: record.sequenceNumber,
            length: HandshakeFragment.headerSize + count, to: joined)
        HandshakeFragment.writeHeader(
            .clientHello, messageSequence: first.messageSequence, messageLength: first.messageLength,
            fragmentLength: count, to: UnsafeMutableRawBufferPointer(rebasing: joined[Record.headerSize...]))
        return UnsafeRawBufferPointer(rebasing: joined[..<(Self.bodyOffset + count)])
    }

    private static func mayHoldHello(_ record: Record) -> Bool {
        record.isPlaintextHandshake && record.isComplete && record.length <= Record.maximumPlaintextLength
    }

    /// Appends what is new in a fragment, if it goes on with the message of which `count` bytes are there.
    private func append(_ fragment: HandshakeFragment, to first: HandshakeFragment, at count: inout Int) -> Bool {
        let known = count - fragment.offset
        guard fragment.type == .clientHello, fragment.messageLength == first.messageLength,
            fragment.messageSequence == first.messageSequence, known >= 0, fragment.fitsMessage,
            let body = fragment.body
        else { return false }
        return append(UnsafeRawBufferPointer(rebasing: body.dropFirst(known)), at: &count)
    }

    private func append(_ bytes: UnsafeRawBufferPointer, at count: inout Int) -> Bool {
        let place = joined[(Self.bodyOffset + count)...]
        guard bytes.count <= place.count else { return false }
        UnsafeMutableRawBufferPointer(rebasing: place).copyMemory(from: bytes)
        count += bytes.count
        return true
    }
}
