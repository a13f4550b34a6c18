import DTLSTransport
import LinuxSystem

/// The connections without a socket that need one, and what their peers have sent until they have it. It does no I/O.
///
/// What is kept has been authenticated, so only peers can fill it, and it is bounded for each of them and for all.
struct WakeQueue {
    /// A peer that sends 32 messages at once may be on its way to another address with all of them.
    static let datagramsPerConnection = 32
    static let maximumDatagrams = 4_096
    static let maximumBytes = 8 << 20

    /// A datagram that was kept, and the flow that it has come by.
    struct Kept: Equatable {
        let flow: FlowKey
        let bytes: [UInt8]
    }

    /// The flow that a connection's peer seems to be at, other than the one in its slot.
    struct Sighting: Equatable {
        let flow: FlowKey
        /// The number of the record that has shown so.
        let number: UInt64
    }

    /// What has come for a connection.
    struct Waiting: Equatable {
        var datagrams: [Kept] = []
        /// Where the newest record has come from, where that is not the flow in the slot.
        var sighting: Sighting?
        /// Whether a socket for ``sighting`` was asked for, and not one for the flow in the slot.
        var isMove = false
    }

    private var waiting: [ConnectionNumber: Waiting] = [:]
    private var datagramCount = 0
    private var byteCount = 0
    /// The connections that the main process has not been asked about yet.
    private var unasked: [ConnectionNumber] = []

    var isEmpty: Bool { waiting.isEmpty }

    /// Whether the connection waits for a socket.
    func contains(_ id: ConnectionNumber) -> Bool { waiting[id] != nil }

    /// Whether another datagram of the connection would be dropped, so that nobody need look at it.
    func isFull(_ id: ConnectionNumber) -> Bool {
        waiting[id].map { $0.datagrams.count >= Self.datagramsPerConnection } ?? false
    }

    /// The connection needs a socket.
    /// - Returns: whether that is news, so that the main process is to be asked for one (``takeUnasked(_:)``).
    @discardableResult
    mutating func wake(_ id: ConnectionNumber) -> Bool {
        guard waiting[id] == nil else { return false }
        waiting[id] = Waiting()
        unasked.append(id)
        return true
    }

    /// The connection needs a socket for an authentic datagram, which is kept if there is room.
    /// - Parameter sighting: where the peer seems to be, if not at the flow in the slot; whether it is there is to be
    ///   checked when the connection has a socket.
    /// - Returns: as ``wake(_:)``.
    mutating func wake(
        _ id: ConnectionNumber, with datagram: UnsafeRawBufferPointer, from flow: FlowKey, sighting: Sighting? = nil
    ) -> Bool {
        let isNews = wake(id)
        note(sighting, of: id)
        keep(datagram, flow, of: id)
        return isNews
    }

    /// The connection needs a socket at another flow for an authentic datagram, which is kept if there is room.
    /// - Returns: whether the main process is to be asked for it.
    mutating func move(
        _ id: ConnectionNumber, with datagram: UnsafeRawBufferPointer, to sighting: Sighting
    ) -> Bool {
        let former = waiting[id]
        if former == nil { waiting[id] = Waiting() }
        note(sighting, of: id)
        keep(datagram, sighting.flow, of: id)
        waiting[id]?.isMove = true
        return former?.isMove != true || former?.sighting?.flow != waiting[id]?.sighting?.flow
    }

    /// There is no socket for the flow in the slot, which the connection was to be woken up with.
    /// - Returns: the other flow that a socket is to be asked for, where the peer was seen at one; `nil`: nothing is left
    ///   to be tried.
    mutating func moveInstead(_ id: ConnectionNumber) -> FlowKey? {
        guard let entry = waiting[id], !entry.isMove, let sighting = entry.sighting else { return nil }
        waiting[id]?.isMove = true
        return sighting.flow
    }

    private mutating func note(_ sighting: Sighting?, of id: ConnectionNumber) {
        guard let sighting, sighting.number > waiting[id]?.sighting?.number ?? 0 else { return }
        waiting[id]?.sighting = sighting
    }

    private mutating func keep(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, of id: ConnectionNumber) {
        guard !isFull(id), datagramCount < Self.maximumDatagrams, datagram.count <= Self.maximumBytes - byteCount else {
            return
        }
        waiting[id]?.datagrams.append(Kept(flow: flow, bytes: [UInt8](datagram)))
        datagramCount += 1
        byteCount += datagram.count
    }

    /// The connection has a socket now, or gets none: what was kept for it is given out, and the next datagram wakes it
    /// again.
    @discardableResult
    mutating func remove(_ id: ConnectionNumber) -> Waiting {
        guard let entry = waiting.removeValue(forKey: id) else { return Waiting() }
        datagramCount -= entry.datagrams.count
        byteCount -= entry.datagrams.reduce(0) { $0 + $1.bytes.count }
        return entry
    }

    /// The connections that the main process is to be asked about, at most `count` of them.
    mutating func takeUnasked(_ count: Int) -> [ConnectionNumber] {
        // A connection may have ended meanwhile, or is asked for at another flow.
        unasked.removeAll { waiting[$0]?.isMove != false }
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

    /// Visits a slot of the last step, and those after it, in the next step once more.
    mutating func goBack(to index: Int) { next = index }

    /// Whether it has not begun, or has visited all.
    var isAtStart: Bool { next == 0 }

    /// The slots that are still to be visited, of those from the first to `used`.
    func left(of used: Int) -> Int { max(0, used - next) }
}
