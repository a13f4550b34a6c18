import Primitives

/// The flight that ends a handshake, on the side that sends last: nobody answers it. So it is kept for as long as the
/// peer may still ask for it, by sending its own Finished once more (RFC 6347, section 4.2.4).
///
/// It is sent again as it was, but that its records of epoch 0 have new numbers each time. With the old ones OpenSSL as a
/// client never finishes where the ticket was lost and the ChangeCipherSpec behind it was not: it drops that one, since it
/// came too early, and drops it again as a replay (seen with 3.0.19). The Finished is the record that it was.
struct LastFlight {
    /// How long it is kept after the handshake, and after the last time that the peer has asked for it. OpenSSL and
    /// Mbed TLS ask after a minute at last, so it is a little more.
    static let lifetime = Duration.seconds(65)

    private var bytes: [UInt8]
    /// The sizes of the datagrams; empty where there is one, as there mostly is.
    private var sizes: [Int]
    private var payloadSize: Int
    /// Bytes of the connection ID in its protected records.
    private let connectionIDLength: Int
    /// How often it was sent again.
    private var repetitions: UInt8 = 0
    /// The first number of epoch 0 that was not used.
    private var nextNumber: UInt64 = 0

    /// - Parameters:
    ///   - datagrams: as they were sent.
    ///   - payloadSize: bytes of the UDP payload that they were made to fit.
    ///   - connectionIDLength: bytes of the connection ID in their protected records.
    init(_ datagrams: (bytes: [UInt8], sizes: [Int]), payloadSize: Int, connectionIDLength: Int = 0) {
        self.connectionIDLength = connectionIDLength
        bytes = datagrams.bytes
        sizes = datagrams.sizes.count > 1 ? datagrams.sizes : []
        self.payloadSize = payloadSize
        var number: UInt64 = 0
        forEachRecord { _, record in
            if !record.isProtected { number = max(number, record.sequenceNumber + 1) }
        }
        nextNumber = number
    }

    /// Writes it once more: two times as it was, and then in smaller datagrams each time, since it may be their size that
    /// it is lost for.
    mutating func send(to outbox: Outbox) {
        let largest = min(payloadSize, sizes.max() ?? bytes.count)
        // To the smallest again where it has that size: OpenSSL takes too little for the seal of its Finished, so that a
        // datagram can be some bytes longer than it has been told.
        if repetitions >= SizeEvidence.sendings - 1 { cut(to: FlightSize.next(below: largest) ?? payloadSize) }
        repetitions = min(repetitions + 1, SizeEvidence.sendings)
        var number = nextNumber
        forEachRecord { datagram, record in
            guard let record = MutableRecord(of: datagram, at: record.offset) else { return }
            record.sequenceNumber = number
            number += 1
        }
        nextNumber = number
        bytes.withUnsafeBytes { bytes in
            var start = 0
            for size in sizes.isEmpty ? [bytes.count] : sizes {
                outbox.append(UnsafeRawBufferPointer(rebasing: bytes[start..<(start + size)]))
                start += size
            }
        }
    }

    // MARK: In another process

    /// The flight in bytes, for a process that goes on with the connection.
    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.integer(UInt16(clamping: payloadSize))
        writer.integer(UInt8(clamping: connectionIDLength))
        writer.integer(nextNumber)
        writer.list(sizes) { $0.integer(UInt16(clamping: $1)) }
        writer.data(bytes)
        return writer.bytes
    }

    /// A flight that another process has encoded.
    /// - Parameter age: since it was encoded. The other process may have sent it meanwhile, so its records of epoch 0 get
    ///   numbers that are as far away as it may have got: one in each millisecond is more than any peer asks for.
    init?(decoding bytes: [UInt8], age: Duration) {
        let decoded = bytes.withUnsafeBytes { bytes -> LastFlight? in
            var reader = ByteReader(bytes)
            do throws(MalformedBytes) {
                let payloadSize: UInt16 = try reader.integer()
                let connectionIDLength: UInt8 = try reader.integer()
                let number: UInt64 = try reader.integer()
                let sizes = try reader.list { reader throws(MalformedBytes) in Int(try reader.integer(UInt16.self)) }
                let content = [UInt8](try reader.data())
                guard sizes.isEmpty || sizes.reduce(0, +) == content.count else { return nil }
                var flight = LastFlight(
                    (content, sizes), payloadSize: Int(payloadSize), connectionIDLength: Int(connectionIDLength))
                flight.nextNumber = max(flight.nextNumber, number) + 64 + UInt64(clamping: age.milliseconds)
                return flight
            } catch {
                return nil
            }
        }
        guard let decoded else { return nil }
        self = decoded
    }

    private mutating func forEachRecord(_ body: (UnsafeMutableRawBufferPointer, Record) -> Void) {
        let sizes = sizes.isEmpty ? [bytes.count] : sizes
        bytes.withUnsafeMutableBytes { bytes in
            var start = 0
            for size in sizes {
                let datagram = UnsafeMutableRawBufferPointer(rebasing: bytes[start..<(start + size)])
                let records = Records(
                    of: UnsafeRawBufferPointer(datagram), connectionIDLength: connectionIDLength)
                for record in records { body(datagram, record) }
                start += size
            }
        }
    }

    /// Puts the records into datagrams of at most so many bytes, and handshake messages in the clear, a session ticket
    /// mostly, into more records where they are too long (RFC 6347, section 4.2.3).
    private mutating func cut(to size: Int) {
        payloadSize = size
        var packer = Packer(limit: size)
        forEachRecord { _, record in packer.add(record) }
        bytes = packer.bytes
        sizes = packer.sizes
    }

    private struct Packer {
        let limit: Int
        var bytes: [UInt8] = []
        var sizes: [Int] = []

        init(limit: Int) { self.limit = limit }

        mutating func add(_ record: Record) {
            guard record.bytes.count > limit, record.isPlaintextHandshake,
                let message = HandshakeFragment(record.fragment),
                let body = message.body
            else { return add([UInt8](record.bytes)) }
            let room = limit - Record.headerSize - HandshakeFragment.headerSize
            var offset = 0
            while offset < body.count {
                let part = body[offset..<min(offset + room, body.count)]
                var header = [UInt8](repeating: 0, count: Record.headerSize + HandshakeFragment.headerSize)
                header.withUnsafeMutableBytes { header in
                    Record.writeHeader(
                        .handshake, version: record.version, sequenceNumber: 0,
                        length: HandshakeFragment.headerSize + part.count, to: header)
                    HandshakeFragment.writeHeader(
                        message.type, messageSequence: message.messageSequence, messageLength: message.messageLength,
                        fragmentOffset: message.offset + offset, fragmentLength: part.count,
                        to: UnsafeMutableRawBufferPointer(rebasing: header[Record.headerSize...]))
                }
                add(header + part)
                offset += part.count
            }
        }

        private mutating func add(_ record: [UInt8]) {
            if let last = sizes.last, last + record.count <= limit {
                sizes[sizes.count - 1] = last + record.count
            } else {
                sizes.append(record.count)
            }
            bytes += record
        }
    }
}

/// The sizes that flights are made smaller to, when they get lost (RFC 6347, section 4.1.1.1).
enum FlightSize {
    /// The UDP payloads that most paths take (IPv6's smallest MTU), that nearly all take (576 over IPv4), and that are
    /// the smallest which `mtu` can be set to, each less the headers of IP and UDP.
    private static let sizes = [1_232, 548, 228]

    static func next(below size: Int) -> Int? { sizes.first { $0 < size } }
}
