import Glibc
import LinuxSystem

/// A connected socket over which a connection's messages leave, each as one datagram, and on which datagrams come back:
/// a backend's (handler "forward"), a program's (handler "exec"), or a local sender's (client mode).
///
/// The messages of one batch are gathered with `append`, and leave together in one system call. Messages that the
/// other side has no room for wait in a bounded queue until the socket is writable. What the socket's errors mean for
/// its owner is the owner's decision.
///
/// The owner is called by the loop, and so is not retained by the socket; `close()` ends that.
final class MessageSocket {
    /// What the socket is, which says how it may be sent over.
    enum Transport {
        case udp
        /// Any Unix socket that keeps the boundaries of messages. Writes of nothing are possible, UDP_SEGMENT is not.
        case unix
    }

    private let resources: HandlerResources
    private(set) var transport = Transport.udp
    private var socket = FileDescriptor(owning: -1)
    private var registration: EventLoop.Registration?
    /// What the owner waits for; room is waited for in addition where there are pending messages.
    private var interest: EventLoop.Events = []
    private var isWaitingForRoom = false
    private let batch: OutgoingBatch
    private var pending: PendingQueue

    init(_ resources: HandlerResources) {
        self.resources = resources
        batch = resources.batchMemory.makeBatch()
        pending = PendingQueue(resources.pendingBudget)
    }

    // MARK: Lifecycle

    var isOpen: Bool { socket.isOpen }

    /// Goes on with another socket; the last one must have been closed. It is closed at once where the loop does not
    /// take it.
    /// - Parameter owner: is called when the socket is ready. It is retained until `close()`.
    func open(
        _ socket: consuming FileDescriptor, _ transport: Transport, watching interest: EventLoop.Events = .readable,
        for owner: any EventHandler
    ) throws(SystemError) {
        registration = try resources.loop.add(socket, interest, owner)
        self.socket = socket
        self.transport = transport
        self.interest = interest
        isWaitingForRoom = false
        updateInterest()
    }

    /// Closes the socket. Messages stay: the owner may go on with another socket.
    func close() {
        if let registration { resources.loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
    }

    /// Gives the socket away, as it is. Messages stay.
    func take() -> FileDescriptor {
        if let registration { resources.loop.remove(socket, registration) }
        registration = nil
        return socket.take()
    }

    /// The address that the socket is bound to; `nil` for a Unix socket.
    var localAddress: SocketAddress? { try? UDPSocket.localAddress(of: socket) }

    func connect(toPath path: String) throws(SystemError) { try UDPSocket.connect(socket, toPath: path) }

    // MARK: Sending

    /// Whether the messages gathered so far are to be sent before the next is appended.
    @inline(__always)
    var isBatchFilling: Bool { batch.isFilling }

    @inline(__always)
    var isBatchEmpty: Bool { batch.isEmpty }

    @inline(__always)
    var batchCount: Int { batch.count }

    @inline(__always)
    func append(_ message: UnsafeRawBufferPointer) { batch.append(message) }

    /// Appends one message that consists of two parts.
    @inline(__always)
    func append(_ head: UnsafeRawBufferPointer, _ message: UnsafeRawBufferPointer) { batch.append(head, message) }

    /// Ends the batch: `send` sends the messages, or moves them to the queue, and what it leaves is dropped.
    @inline(__always)
    func finishBatch(_ send: () -> Void) {
        if batch.isEmpty { return }
        send()
        batch.removeAll()
    }

    /// Sends the messages of the batch from number `first` on. They stay in the batch.
    /// - Parameter retrying: false where an ICMP error for an earlier datagram is to end the call, with nothing sent.
    func sendBatch(from first: Int = 0, retrying: Bool = true) -> DatagramSender.Outcome {
        batch.withMessages { bytes, sizes in
            let offset = sizes.prefix(first).reduce(0, +)
            return resources.sender.send(
                UnsafeMutableRawBufferPointer(rebasing: bytes[offset...]),
                sizes: UnsafeBufferPointer(rebasing: sizes.dropFirst(first)), over: socket,
                segmenting: transport == .udp, retrying: retrying)
        }
    }

    /// What the errno of a call that has sent messages says about those that are left.
    enum Remainder: Equatable {
        /// All messages are done with.
        case none
        /// The other side's queue is full: what is left may wait until there is room.
        case waits
        /// The other side takes no messages now. To wait for room would be to spin: a socket with an error is always
        /// writable.
        case refused

        init(after error: Int32, over transport: Transport) {
            switch error {
            case 0, EMSGSIZE: self = .none
            // The full queue of an interface has dropped a datagram, which only sockets with IP_RECVERR hear of. The
            // others of the batch are lost as well: to wait for room would be to spin, since the socket itself has room
            // all the time.
            // The same holds for a kernel that has no memory left for a datagram.
            case ENOBUFS where transport == .udp, ENOMEM where transport == .udp: self = .none
            case EAGAIN, ENOBUFS, ENOMEM: self = .waits
            default: self = .refused
            }
        }
    }

    func remainder(after error: Int32) -> Remainder { Remainder(after: error, over: transport) }

    // MARK: Messages that wait for room

    /// Whether messages wait. Those that come now go behind them.
    @inline(__always)
    var hasPending: Bool { !pending.isEmpty }

    /// Moves the messages of the batch from number `first` on to the queue, and waits for room.
    /// - Returns: how many were dropped, since the queue has a bound.
    func keepBatch(from first: Int = 0) -> Int {
        let dropped = pending.append(batch, from: first)
        updateInterest()
        return dropped
    }

    /// Puts the messages that wait into the batch, in front of those that are there, to be sent over another socket.
    /// - Returns: how many were dropped, since the queue has a bound.
    func gatherPending() -> Int {
        let dropped = pending.append(batch, from: 0)
        batch.removeAll()
        pending.copy(to: batch)
        pending.removeAll()
        updateInterest()
        return dropped
    }

    /// Sends the messages of the queue. Those that are refused stay in the batch: the owner may send what is left, from
    /// number `handled` on, over another socket inside `retry`. What is left after that is dropped.
    func sendPending(retrying: Bool = true, _ retry: (DatagramSender.Outcome) -> Void = { _ in }) {
        batch.removeAll()
        pending.copy(to: batch)
        let outcome = sendBatch(retrying: retrying)
        switch remainder(after: outcome.error) {
        case .none:
            pending.removeAll()
        case .waits:
            pending.removeFirst(outcome.handled)
        case .refused:
            pending.removeAll()
            retry(outcome)
        }
        batch.removeAll()
        updateInterest()
    }

    /// Drops the messages of the batch and of the queue.
    /// - Returns: how many there were.
    @discardableResult
    func removeMessages() -> Int {
        defer { updateInterest() }
        let count = batch.count + pending.count
        batch.removeAll()
        pending.removeAll()
        return count
    }

    private func updateInterest() {
        guard let registration, isWaitingForRoom != hasPending else { return }
        isWaitingForRoom = hasPending
        // Fails for want of kernel memory alone; the queue is bounded, and its messages leave with the next change.
        try? resources.loop.modify(socket, hasPending ? interest.union(.writable) : interest, registration)
    }

    // MARK: Receiving

    /// Reads what is there, without waiting, into a batch: ``HandlerResources/received`` by default.
    /// - Returns: how many datagrams there are; 0 when there is nothing.
    func receive(into batch: ReceiveBatch? = nil) throws(SystemError) -> Int {
        try (batch ?? resources.received).receive(from: socket)
    }

    /// Reads the socket empty, and calls `body` with the index of each datagram in the batch, which may close the
    /// socket. An ICMP error ends a read, and datagrams may lie behind it. Bounded, since the other side can send for
    /// ever.
    func receiveAll(into batch: ReceiveBatch? = nil, _ body: (Int) -> Void) {
        for _ in 0..<16 where isOpen {
            guard let count = try? receive(into: batch) else { continue }
            if count == 0 { return }
            for index in 0..<count { body(index) }
        }
    }

    /// Makes hosts and networks that cannot be reached errors of this UDP socket too.
    func reportAllErrors(_ family: SocketAddress.Family) throws(SystemError) {
        try UDPSocket.reportAllErrors(family, of: socket)
    }

    /// Empties the queue of errors.
    /// - Returns: the errno of the last one that says that the other side cannot be reached, or 0.
    func takeErrors() -> Int32 { UDPSocket.takeErrors(of: socket) }
}
