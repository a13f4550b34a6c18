import COpenSSL

/// The memory that the engines of one thread exchange datagrams with OpenSSL through.
///
/// One serves any number of engines: they work one after the other, so a connection needs no buffers of its own here.
/// What OpenSSL writes gathers in ``outbox`` until the owner of the sockets sends it.
public final class DatagramBIO {
    /// Datagrams that wait to be sent; all of them belong to the engine that was called last.
    public let outbox: Outbox
    /// Owned; every engine's SSL holds a reference too.
    let pointer: OpaquePointer
    /// The decrypted record that `Engine.next()` hands out; one for all, valid until the next call.
    let plaintext: UnsafeMutableRawBufferPointer
    private let incoming: UnsafeMutablePointer<Incoming>

    /// What the C callbacks find behind the BIO. It lives as long as the DatagramBIO, which every engine retains.
    private struct Incoming {
        var datagram: UnsafeRawBufferPointer?
        let outbox: Unmanaged<Outbox>
    }

    /// The method table of all such BIOs: made once, read-only afterwards, never freed.
    private nonisolated(unsafe) static let method: OpaquePointer? = {
        guard let method = BIO_meth_new(BIO_get_new_index() | co_bio_flags_source_sink(), "datagrams") else {
            return nil
        }
        BIO_meth_set_create(method) { bio in
            BIO_set_init(bio, 1)
            return 1
        }
        BIO_meth_set_read(method, DatagramBIO.read)
        BIO_meth_set_write(method, DatagramBIO.write)
        BIO_meth_set_ctrl(method, DatagramBIO.control)
        return method
    }()

    public init() throws(OpenSSLError) {
        guard let method = Self.method, let bio = BIO_new(method) else { throw OpenSSLError.drain() }
        pointer = bio
        outbox = Outbox()
        plaintext = .allocate(byteCount: Engine.maximumMessageSize, alignment: 16)
        incoming = .allocate(capacity: 1)
        incoming.initialize(to: Incoming(datagram: nil, outbox: .passUnretained(outbox)))
        BIO_set_data(bio, incoming)
    }

    deinit {
        BIO_free(pointer)
        incoming.deinitialize(count: 1)
        incoming.deallocate()
        plaintext.deallocate()
    }

    /// Lends a datagram to OpenSSL until it reads it, or `nil` is lent.
    @inline(__always)
    func lend(_ datagram: UnsafeRawBufferPointer?) { incoming.pointee.datagram = datagram }

    /// Whether OpenSSL has taken the datagram that was lent.
    @inline(__always)
    var isTaken: Bool { incoming.pointee.datagram == nil }

    private static let read: @convention(c) (OpaquePointer?, UnsafeMutablePointer<CChar>?, Int32) -> Int32 = {
        bio, buffer, capacity in
        co_bio_clear_retry_flags(bio)
        guard let state = BIO_get_data(bio)?.assumingMemoryBound(to: Incoming.self), let buffer,
            let datagram = state.pointee.datagram, let source = datagram.baseAddress
        else {
            co_bio_set_retry_read(bio)
            return -1
        }
        state.pointee.datagram = nil
        guard !datagram.isEmpty else {
            // Nothing to OpenSSL: 0 would be the end of the stream, which anybody could then send.
            co_bio_set_retry_read(bio)
            return -1
        }
        // As recv(2): what does not fit is cut off.
        let count = min(datagram.count, Int(capacity))
        UnsafeMutableRawPointer(buffer).copyMemory(from: source, byteCount: count)
        return Int32(truncatingIfNeeded: count)
    }

    private static let write: @convention(c) (OpaquePointer?, UnsafePointer<CChar>?, Int32) -> Int32 = {
        bio, bytes, count in
        co_bio_clear_retry_flags(bio)
        guard let state = BIO_get_data(bio)?.assumingMemoryBound(to: Incoming.self), let bytes, count > 0 else {
            return 0
        }
        _ = state.pointee.outbox._withUnsafeGuaranteedRef {
            $0.append(UnsafeRawBufferPointer(start: bytes, count: Int(count)))
        }
        return count
    }

    private static let control: @convention(c) (OpaquePointer?, Int32, Int, UnsafeMutableRawPointer?) -> Int = {
        _, command, _, _ in
        switch command {
        // "Flushed": SSL_do_handshake fails without it. The timer is the engine's owner's.
        case BIO_CTRL_FLUSH, BIO_CTRL_DGRAM_SET_NEXT_TIMEOUT: 1
        // The engine gives OpenSSL the size of the UDP payload itself, so this serves one purpose: a handshake fails
        // below 256 bytes less the overhead (dtls1_min_mtu), and 48 (IPv6 and UDP) makes that 208.
        case BIO_CTRL_DGRAM_GET_MTU_OVERHEAD: 48
        default: 0
        }
    }
}

/// Datagrams to be sent, one after the other in one buffer, in the order they were written.
public final class Outbox {
    /// Bytes and datagrams it holds; what does not fit is dropped and counted, as on any wire.
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

    /// Whether more than half is taken: time to send before the next engine is called.
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

    /// What it holds now, to be compared with later.
    struct Mark: Equatable {
        fileprivate let count: Int
        fileprivate let byteCount: Int
    }

    @inline(__always)
    var mark: Mark { Mark(count: count, byteCount: byteCount) }

    /// Forgets what was appended since.
    func truncate(to mark: Mark) {
        guard mark.count <= count, mark.byteCount <= byteCount else { return }
        count = mark.count
        byteCount = mark.byteCount
    }

    /// Adds `offset` to the record numbers of epoch 0 in what was appended since; nothing protects these.
    func renumber(since mark: Mark, by offset: UInt64) {
        guard mark.count <= count else { return }
        var position = mark.byteCount
        for index in mark.count..<count {
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
