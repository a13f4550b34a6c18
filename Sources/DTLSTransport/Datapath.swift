import DTLSEngine
import LinuxSystem
import Primitives

/// The part that all connections of one thread share: the loop, and the memory that datagrams pass through.
package final class Datapath {
    package let loop: EventLoop
    let buffers: EngineBuffers
    /// The datagrams that a connection's socket yields while it is read.
    let batch = ReceiveBatch(capacity: 32)
    /// The datagrams that a socket still holds when it is closed, which can happen while another connection's `batch` is
    /// worked through.
    let finalBatch = ReceiveBatch(capacity: 8)
    private let sender = DatagramSender()
    private var handshakeTurns = HandshakeTurns<WaitingHandshake>()
    private var hasScheduledHandshakes = false
    /// Who is told what passes; `nil` mostly.
    package var trace: ClientTrace?
    /// Where connections are kept that outlive this process; `nil` where none do.
    package var slots: SlotFile? {
        didSet {
            currentWork = slots?.currentWork
            buffers.slots = slots
        }
    }
    /// See ``noteWork(on:)``; `slots` keeps it valid.
    private var currentWork: UnsafeMutableRawPointer?

    package init(loop: EventLoop) throws(OpenSSLError) {
        self.loop = loop
        buffers = try EngineBuffers()
    }

    /// Has a connection whose handshake goes on read its socket when it is its turn.
    func readInTurn(_ connection: Connection) {
        handshakeTurns.add(WaitingHandshake(connection))
        scheduleHandshakes()
    }

    /// Has a connection wait no more that is being freed.
    func forget(waiting connection: Connection) {
        handshakeTurns.remove { $0.isOf(connection) }
    }

    private func scheduleHandshakes() {
        guard !hasScheduledHandshakes else { return }
        hasScheduledHandshakes = true
        loop.atEndOfTurn { [weak self] in
            self?.hasScheduledHandshakes = false
            self?.continueHandshakes()
        }
    }

    /// A connection that waits. It is not retained, so that a loop that nobody polls any more keeps neither it nor this; nor
    /// is the reference weak, which would make each use of the connection slower for as long as it lives. A connection
    /// that is freed while it waits is taken out (``forget(waiting:)``).
    private struct WaitingHandshake {
        private let unretained: Unmanaged<Connection>

        init(_ connection: Connection) { unretained = .passUnretained(connection) }

        var connection: Connection { unretained.takeUnretainedValue() }

        /// Asks without retaining it.
        func isOf(_ other: Connection) -> Bool { unretained.toOpaque() == Unmanaged.passUnretained(other).toOpaque() }
    }

    private func continueHandshakes() {
        var now = Instant.now()
        handshakeTurns.begin(now: now)
        var isFirst = true
        while let waiting = handshakeTurns.take(now: now, isFirst: isFirst) {
            isFirst = false
            waiting.connection.readHandshake()
            now = Instant.now()
        }
        if !handshakeTurns.isEmpty { scheduleHandshakes() }
    }

    func slot(_ index: Int?) -> ConnectionSlot? {
        guard let index, let slots, (0..<slots.capacity).contains(index) else { return nil }
        return slots[index]
    }

    /// Notes which connection is worked on, for the case that this process dies of it; -1: none.
    @inline(__always)
    func noteWork(on index: Int32) {
        if let currentWork { SharedWord.store(UInt64(truncatingIfNeeded: Int64(index) + 1), currentWork) }
    }

    /// Whether a datagram holds a record that nobody but the peer of the established connection in a slot can have made,
    /// and that has not come before. It stays so: nothing is marked as received.
    package func authenticates(_ datagram: UnsafeRawBufferPointer, of slot: ConnectionSlot, at index: Int)
        -> RecordState.Authenticity
    {
        noteWork(on: Int32(truncatingIfNeeded: index))
        defer { noteWork(on: -1) }
        return RecordState.authenticates(datagram, at: slot.records, over: buffers.bio)
    }

    /// What a connection's engine has done before the connection could be made.
    package var notes: EngineNotes { buffers.bio.notes }

    /// Seals the close_notify of the established connection in a slot, which has no socket. Nobody may go on with the
    /// connection after it.
    /// - Parameters:
    ///   - flow: where its peer was last.
    ///   - send: is given the datagram, which is valid during the call.
    package func writeCloseNotify(
        of slot: ConnectionSlot, at index: Int, _ flow: FlowKey, _ send: (UnsafeRawBufferPointer) -> Void
    ) {
        noteWork(on: Int32(truncatingIfNeeded: index))
        defer { noteWork(on: -1) }
        buffers.outbox.lend(
            to: self,
            sending: { outbox in
                outbox.withDatagrams { datagram, _ in
                    trace?.sent(UnsafeRawBufferPointer(datagram), by: flow)
                    send(UnsafeRawBufferPointer(datagram))
                }
            },
            { _ in RecordState.writeCloseNotify(at: slot.records, over: buffers.bio) })
        trace?.note(flow.peer, "the connection, which has no socket, is ended here")
    }

    /// Wipes the key schedules of all connections. Those that are in use are made again, in 0.3 µs each.
    package func releaseKeySchedules() { buffers.bio.contexts.releaseAll() }

    /// Sends one datagram, without waiting.
    func send(_ datagram: UnsafeMutableRawBufferPointer, over socket: borrowing FileDescriptor)
        -> DatagramSender.Outcome
    {
        withUnsafePointer(to: datagram.count) {
            sender.send(datagram, sizes: UnsafeBufferPointer(start: $0, count: 1), over: socket)
        }
    }

    /// Sends what is in the outbox, without waiting.
    func send(_ outbox: Outbox, over socket: borrowing FileDescriptor) -> DatagramSender.Outcome {
        outbox.withDatagrams { sender.send($0, sizes: $1, over: socket) }
    }
}
