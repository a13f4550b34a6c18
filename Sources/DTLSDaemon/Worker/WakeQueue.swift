import DTLSTransport

/// The connections without a socket that need one, and what their peers have sent until they have it. It does no I/O.
///
/// What is kept has been authenticated, so only peers can fill it, and it is bounded for each of them and for all.
struct WakeQueue {
    static let datagramsPerConnection = 8
    static let maximumDatagrams = 4_096
    static let maximumBytes = 8 << 20

    private var waiting: [ConnectionNumber: [[UInt8]]] = [:]
    private var datagramCount = 0
    private var byteCount = 0
    /// The connections that the main process has not been asked about yet.
    private var unasked: [ConnectionNumber] = []

    var isEmpty: Bool { waiting.isEmpty }

    /// Whether another datagram of the connection would be dropped, so that nobody need look at it.
    func isFull(_ id: ConnectionNumber) -> Bool {
        waiting[id].map { $0.count >= Self.datagramsPerConnection } ?? false
    }

    /// The connection needs a socket.
    /// - Returns: whether that is news, so that the main process is to be asked for one (``takeUnasked()``).
    @discardableResult
    mutating func wake(_ id: ConnectionNumber) -> Bool {
        guard waiting[id] == nil else { return false }
        waiting[id] = []
        unasked.append(id)
        return true
    }

    /// The connection needs a socket for an authentic datagram, which is kept if there is room.
    /// - Returns: as ``wake(_:)``.
    mutating func wake(_ id: ConnectionNumber, with datagram: UnsafeRawBufferPointer) -> Bool {
        let isNews = wake(id)
        if !isFull(id), datagramCount < Self.maximumDatagrams, datagram.count <= Self.maximumBytes - byteCount {
            waiting[id]?.append([UInt8](datagram))
            datagramCount += 1
            byteCount += datagram.count
        }
        return isNews
    }

    /// The connection has a socket now, or gets none: what was kept for it is given out, and the next datagram wakes it
    /// again.
    @discardableResult
    mutating func remove(_ id: ConnectionNumber) -> [[UInt8]] {
        guard let datagrams = waiting.removeValue(forKey: id) else { return [] }
        datagramCount -= datagrams.count
        byteCount -= datagrams.reduce(0) { $0 + $1.count }
        return datagrams
    }

    /// The connections that the main process is to be asked about, at most `count` of them.
    mutating func takeUnasked(_ count: Int) -> [ConnectionNumber] {
        // A connection may have ended meanwhile.
        unasked.removeAll { waiting[$0] == nil }
        let ids = Array(unasked.prefix(count))
        unasked.removeFirst(ids.count)
        return ids
    }
}

/// A walk over the slots of a worker in steps, so that a million of them hold nobody up.
struct SlotWalk {
    private var next = 0

    /// The slots of the next step, of those from the first to `used`; `nil` once all have been visited, and the walk
    /// begins again after that.
    mutating func step(_ count: Int, of used: Int) -> Range<Int>? {
        guard next < used else {
            next = 0
            return nil
        }
        let range = next..<min(used, next + count)
        next = range.upperBound
        return range
    }
}
