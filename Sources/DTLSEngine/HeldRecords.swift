/// Records of epoch 1 that came while a handshake lasted, for the record layer that reads records after it.
///
/// OpenSSL gets none of them but handshake messages: so when the keys leave it, none is left in it. Of those messages a
/// copy is kept, so that their numbers count as received. Anybody can send such records, so their number and bytes are
/// bounded. A peer sends one in each flight, and its first messages right after its last flight.
struct HeldRecords {
    struct Held {
        let bytes: [UInt8]
        /// Whether OpenSSL has had it.
        let wasRead: Bool
    }

    private static let maximumCount = 16
    private static let maximumBytes = 64 * 1_024
    /// Bytes of the longest Finished whose copy is kept: with an explicit nonce, a header of 12 bytes, verify_data of 12,
    /// and a tag, it has 48.
    static let longestCopy = 256

    private var records: [Held] = []
    private var byteCount = 0

    @inline(__always)
    var isEmpty: Bool { records.isEmpty }

    /// Takes what is to be held of a datagram.
    /// - Returns: the datagram's bytes for OpenSSL, up to the first record that is held: what stands behind it and is not
    ///   held either is lost, as on the wire, and sent again by a peer that really writes such datagrams.
    mutating func split(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var rest = datagram
        for record in Records(of: datagram) where record.epoch == 1 && record.isComplete {
            if record.contentType != .handshake {
                if rest.count > record.offset { rest = record.precedingBytes }
                hold(record, wasRead: false)
            } else if rest.count == datagram.count, record.length <= Self.longestCopy {
                hold(record, wasRead: true)
            }
        }
        return rest
    }

    private mutating func hold(_ record: Record, wasRead: Bool) { hold(record.bytes, wasRead: wasRead) }

    /// Takes a whole record, which may have a connection ID.
    mutating func hold(_ bytes: UnsafeRawBufferPointer, wasRead: Bool) {
        guard records.count < Self.maximumCount, byteCount + bytes.count <= Self.maximumBytes else { return }
        records.append(Held(bytes: [UInt8](bytes), wasRead: wasRead))
        byteCount += bytes.count
    }

    /// The next one, in the order in which they came.
    mutating func removeFirst() -> Held? {
        guard !records.isEmpty else { return nil }
        let first = records.removeFirst()
        byteCount -= first.bytes.count
        // An array keeps its memory when it is empty.
        if records.isEmpty { records = [] }
        return first
    }
}
