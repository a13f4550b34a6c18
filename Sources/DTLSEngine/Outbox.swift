/// Datagrams to be sent, one after the other in one buffer, in the order they were written.
public final class Outbox {
    /// The most bytes and datagrams that an outbox holds. What does not fit is dropped and counted, as on any wire.
    public static let byteCapacity = 256 * 1024
    public static let datagramCapacity = 512

    public private(set) var count = 0
    public private(set) var byteCount = 0
    /// Datagrams that did not fit, since the start.
    public private(set) var dropped: UInt64 = 0
    private let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: Outbox.byteCapacity, alignment: 16)
    private let sizes = UnsafeMutablePointer<Int>.allocate(capacity: Outbox.datagramCapacity)

    public init() {}

    deinit {
        bytes.deallocate()
        sizes.deallocate()
    }

    @inline(__always)
    public var isEmpty: Bool { count == 0 }

    /// Whether more than half is used, so that it should be sent before the next engine is called.
    @inline(__always)
    public var isFilling: Bool { count > Self.datagramCapacity / 2 || byteCount > Self.byteCapacity / 2 }

    @discardableResult
    public func append(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard count < Self.datagramCapacity, datagram.count <= Self.byteCapacity - byteCount,
            let target = bytes.baseAddress, let source = datagram.baseAddress
        else {
            dropped &+= 1
            return false
        }
        (target + byteCount).copyMemory(from: source, byteCount: datagram.count)
        sizes[count] = datagram.count
        count &+= 1
        byteCount &+= datagram.count
        return true
    }

    /// Appends one datagram that consists of two parts.
    @discardableResult
    public func append(_ head: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer) -> Bool {
        let size = head.count + rest.count
        guard count < Self.datagramCapacity, size <= Self.byteCapacity - byteCount, let target = bytes.baseAddress,
            let headSource = head.baseAddress, let restSource = rest.baseAddress
        else {
            dropped &+= 1
            return false
        }
        (target + byteCount).copyMemory(from: headSource, byteCount: head.count)
        (target + byteCount + head.count).copyMemory(from: restSource, byteCount: rest.count)
        sizes[count] = size
        count &+= 1
        byteCount &+= size
        return true
    }

    /// Appends one datagram that `write` makes where it is to be.
    /// - Parameter write: is given the datagram's bytes, which it fills; false where it has failed. It is not called where
    ///   there is no room.
    /// - Returns: false where `write` has failed.
    @inline(__always)
    func append(byteCount size: Int, _ write: (UnsafeMutableRawBufferPointer) -> Bool) -> Bool {
        guard count < Self.datagramCapacity, size <= Self.byteCapacity - byteCount else {
            dropped &+= 1
            return true
        }
        guard write(UnsafeMutableRawBufferPointer(rebasing: bytes[byteCount..<(byteCount + size)])) else {
            return false
        }
        sizes[count] = size
        count &+= 1
        byteCount &+= size
        return true
    }

    /// The datagrams that were appended since, or `nil` where there are none.
    func datagrams(since checkpoint: Checkpoint) -> (bytes: [UInt8], sizes: [Int])? {
        guard checkpoint.count < count else { return nil }
        return ([UInt8](bytes[checkpoint.byteCount..<byteCount]), (checkpoint.count..<count).map { sizes[$0] })
    }

    /// The amount that the outbox holds at one moment, to be compared with later.
    struct Checkpoint: Equatable {
        fileprivate let count: Int
        fileprivate let byteCount: Int
    }

    @inline(__always)
    var checkpoint: Checkpoint { Checkpoint(count: count, byteCount: byteCount) }

    /// The bytes of the largest datagram that was appended since; 0 where there is none.
    func largestDatagram(since checkpoint: Checkpoint) -> Int {
        guard checkpoint.count < count else { return 0 }
        return (checkpoint.count..<count).reduce(0) { max($0, sizes[$1]) }
    }

    func count(since checkpoint: Checkpoint) -> Int { count - checkpoint.count }

    func byteCount(since checkpoint: Checkpoint) -> Int { byteCount - checkpoint.byteCount }

    /// Removes what was appended since the checkpoint.
    func truncate(to checkpoint: Checkpoint) {
        guard checkpoint.count <= count, checkpoint.byteCount <= byteCount else { return }
        count = checkpoint.count
        byteCount = checkpoint.byteCount
    }

    /// Changes the last datagram where it is.
    /// - Parameter change: returns the size that the datagram has afterwards, which is not more than before; or `nil`,
    ///   where it has failed.
    /// - Returns: whether the datagram was changed.
    func rewriteLast(_ change: (UnsafeMutableRawBufferPointer) -> Int?) -> Bool {
        guard count > 0 else { return false }
        let size = sizes[count - 1]
        let start = byteCount - size
        let datagram = UnsafeMutableRawBufferPointer(rebasing: bytes[start..<byteCount])
        guard let newSize = change(datagram), newSize <= size else { return false }
        sizes[count - 1] = newSize
        byteCount = start + newSize
        return true
    }

    /// The number of the first record that was appended since; `nil` where none was, or it is not of epoch 0.
    func firstRecordNumber(since checkpoint: Checkpoint) -> UInt64? {
        guard checkpoint.count < count else { return nil }
        let end = checkpoint.byteCount + sizes[checkpoint.count]
        let datagram = UnsafeRawBufferPointer(rebasing: bytes[checkpoint.byteCount..<end])
        guard let record = Record(of: datagram), !record.isProtected else { return nil }
        return record.sequenceNumber
    }

    /// Adds `offset` to the record numbers of epoch 0 in what was appended since; nothing protects these.
    func renumber(since checkpoint: Checkpoint, by offset: UInt64) {
        guard checkpoint.count <= count else { return }
        var position = checkpoint.byteCount
        for index in checkpoint.count..<count {
            let end = position + sizes[index]
            MutableRecord.renumber(UnsafeMutableRawBufferPointer(rebasing: bytes[position..<end]), by: offset)
            position = end
        }
    }

    /// The datagrams' bytes, one after the other, and their sizes, valid until the next change.
    @inline(__always)
    public func withDatagrams<Result>(
        _ body: (UnsafeMutableRawBufferPointer, UnsafeBufferPointer<Int>) -> Result
    ) -> Result {
        body(
            UnsafeMutableRawBufferPointer(rebasing: bytes[..<byteCount]),
            UnsafeBufferPointer(start: sizes, count: count))
    }

    @inline(__always)
    public func removeAll() {
        count = 0
        byteCount = 0
    }
}

/// Which numbers the records of a server's handshake have.
///
/// They go on from the number of the ClientHello with the cookie (RFC 6347, section 4.2.1): a client that was answered
/// more than once drops others as replays. OpenSSL begins at that number after `DTLSv1_listen` up to 3.1. From 3.2 on
/// it begins at 1 whatever the hello's number is (increment_sequence_ctr; seen with 3.5 and 3.6), and after exchanges
/// that the engine has had it repeat, behind those. So the first record that it writes tells what all have to be
/// changed by.
struct RecordNumbering {
    /// The number of the first record, until that is written; then what the numbers of all are changed by, modulo 2^48.
    private var number: UInt64 = 0
    private var hasBegun = true

    /// OpenSSL's own numbers.
    init() {}

    init(from first: UInt64) {
        number = first
        hasBegun = false
    }

    @inline(__always)
    var changesNumbers: Bool { !hasBegun || number != 0 }

    /// Renumbers what OpenSSL has written since.
    mutating func apply(to outbox: Outbox, since checkpoint: Outbox.Checkpoint) {
        if !hasBegun {
            guard let first = outbox.firstRecordNumber(since: checkpoint) else { return }
            number = (number &- first) & Record.sequenceNumberMask
            hasBegun = true
        }
        if number != 0 { outbox.renumber(since: checkpoint, by: number) }
    }
}
