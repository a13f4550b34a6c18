import COpenSSL

/// The memory that the engines of one thread exchange datagrams with OpenSSL through.
///
/// One serves any number of engines: they work one after the other, so a connection needs no buffers of its own here.
/// What OpenSSL writes gathers in ``outbox`` until the owner of the sockets sends it.
public final class DatagramBIO {
    /// Datagrams that wait to be sent; all of them belong to the engine that was called last.
    public let outbox: Outbox
    /// This object owns a reference, and so does every engine's SSL.
    let pointer: OpaquePointer
    /// The decrypted record that `Engine.next()` hands out; one for all, valid until the next call.
    let plaintext: UnsafeMutableRawBufferPointer
    private let incoming: UnsafeMutablePointer<Incoming>

    /// The data that the C callbacks find behind the BIO. It lives as long as the DatagramBIO, which every engine
    /// retains.
    private struct Incoming {
        /// The datagram that OpenSSL is to read next.
        var datagram: UnsafeRawBufferPointer?
        /// The datagram that was lent last, which OpenSSL may have read.
        var lastDatagram: UnsafeRawBufferPointer?
        /// What was written with keys since this was asked for last.
        var protectedWrites = ProtectedWrites()
        let outbox: Unmanaged<Outbox>
        let notes: Unmanaged<EngineNotes>
    }

    private static let type = BIO_get_new_index() | co_bio_flags_source_sink()

    /// The method table of all such BIOs: made once, read-only afterwards, never freed.
    private nonisolated(unsafe) static let method: OpaquePointer? = {
        guard let method = BIO_meth_new(type, "datagrams") else { return nil }
        BIO_meth_set_create(method) { bio in
            BIO_set_init(bio, 1)
            return 1
        }
        BIO_meth_set_read(method, DatagramBIO.read)
        BIO_meth_set_write(method, DatagramBIO.write)
        BIO_meth_set_ctrl(method, DatagramBIO.control)
        return method
    }()

    /// What the engines have done that may be counted.
    public let notes = EngineNotes()
    /// The key schedules of the connections whose records are not OpenSSL's.
    public let contexts: CipherContexts

    /// - Parameter scheduleCapacity: how many connections have key schedules at a time.
    public init(scheduleCapacity: Int = CipherContexts.defaultCapacity) throws(OpenSSLError) {
        guard let method = Self.method, let bio = BIO_new(method) else { throw OpenSSLError.drain() }
        pointer = bio
        outbox = Outbox()
        // A record is decrypted where its ciphertext was.
        plaintext = .allocate(byteCount: Record.maximumPlaintextLength + RecordFilter.overhead, alignment: 16)
        contexts = CipherContexts(capacity: scheduleCapacity)
        incoming = .allocate(capacity: 1)
        incoming.initialize(to: Incoming(datagram: nil, outbox: .passUnretained(outbox), notes: .passUnretained(notes)))
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
    func lend(_ datagram: UnsafeRawBufferPointer?) {
        incoming.pointee.datagram = datagram
        incoming.pointee.lastDatagram = datagram
    }

    /// The datagram that is lent, whether OpenSSL has taken it or not.
    var lastDatagram: UnsafeRawBufferPointer? { incoming.pointee.lastDatagram }

    /// Takes what OpenSSL has written with keys since the last call, whether there was room for it in the outbox or not.
    func takeProtectedWrites() -> ProtectedWrites {
        defer { incoming.pointee.protectedWrites = ProtectedWrites() }
        return incoming.pointee.protectedWrites
    }

    /// Whether OpenSSL has taken the datagram that was lent.
    @inline(__always)
    var isTaken: Bool { incoming.pointee.datagram == nil }

    /// The ``notes`` of the object that a BIO belongs to; `nil` for a BIO of another kind.
    static func notes(of bio: OpaquePointer) -> EngineNotes? {
        guard BIO_method_type(bio) == type else { return nil }
        return BIO_get_data(bio)?.assumingMemoryBound(to: Incoming.self).pointee.notes.takeUnretainedValue()
    }

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
            // An empty datagram is hidden from OpenSSL: it would read 0 as the end of the stream, which anybody could
            // then send.
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
        let datagram = UnsafeRawBufferPointer(start: bytes, count: Int(count))
        state.pointee.protectedWrites.note(datagram)
        _ = state.pointee.outbox._withUnsafeGuaranteedRef { $0.append(datagram) }
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
