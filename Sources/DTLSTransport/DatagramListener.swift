import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Who takes a listener's new connections.
package protocol DatagramListenerDelegate: AnyObject {
    /// Why there is no place for a connection of this flow; `nil` when there is one. Asked once the peer's address is
    /// proven, before anything is made.
    func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal?
    /// A peer whose address is proven has a connected socket. The delegate hands it on, or serves it.
    /// - Returns: the number by which the delegate knows this connection, or `nil` when it could not take it after all:
    ///   then the peer's next try counts as the first.
    func listener(_ listener: DatagramListener, admitted connection: consuming IncomingConnection) -> UInt64?
    /// A datagram has come to the listener that belongs to a connection which was admitted moments ago: it was sent
    /// before that one's own socket was connected (rule 4).
    /// - Returns: false when that connection is gone, with its worker for example.
    func listener(
        _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
    ) -> Bool
    /// A datagram has come that may be of a connection which is not served by a socket of its own: a protected record
    /// (`isProven` is false), or what would begin a connection once the peer's address is proven.
    func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, isProven: Bool
    ) -> Reception
    /// A datagram has come with a protected record that has a connection ID (RFC 9146). Its sender is not proven, and may
    /// be at another address than before.
    /// - Returns: whether the delegate has the connection of this ID, and has taken the datagram.
    func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, with id: ConnectionID
    ) -> Bool
    /// A record has come of a connection that is not here. It was dropped.
    func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress)
    /// A peer that is not served has sent a datagram, its source unproven. It was dropped, since the listener's
    /// ``DatagramListener/access`` does not allow the peer (`denied`); or it was a hello without a known version, and
    /// was answered with an alert (`version`).
    func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal)
    /// The kernel gave no socket for a connection of this peer.
    func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress)
}

extension DatagramListenerDelegate {
    /// All connections of a delegate that does not say otherwise have sockets.
    package func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, isProven: Bool
    ) -> Reception { .notTaken }

    /// No connection of a delegate that does not say otherwise has a connection ID.
    package func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, with id: ConnectionID
    ) -> Bool { false }
}

/// What a delegate does with a datagram of a flow that it may have a connection of.
package enum Reception {
    /// The delegate has no such connection.
    case notTaken
    /// The delegate has such a connection, and has taken the datagram for it.
    case taken
    /// The delegate keeps the datagram, and gives it back by ``DatagramListener/receive(postponed:_:)``, or says that it
    /// does not by ``DatagramListener/dropPostponed()``.
    case postponed
}

/// A listening UDP socket in a loop: the I/O around an ``Endpoint``. It makes a connected socket for each peer that the
/// endpoint admits.
package final class DatagramListener: TimerTarget, EventHandler {
    package let address: SocketAddress
    private var endpoint: Endpoint
    private var socket: FileDescriptor
    private let loop: EventLoop
    /// What the sockets of connections are made with.
    private var options: SocketOptions
    private let buffers: ListenerBuffers
    private unowned let delegate: any DatagramListenerDelegate
    private let isOwnedByAnother: Bool
    private let mayHaveDecoys: Bool
    private var decoys: DecoySockets?
    private var registration: EventLoop.Registration?
    private var pace = ReadingPace()
    private lazy var flood = FloodFilter(loop: loop) { [weak self] filter in
        guard let self else { return false }
        return DatagramFilter.install(filter, on: socket)
    }
    private var misdelivered = MisdeliveredDatagrams()
    private var drops: QueueDrops
    private var closedDecoyDrops: UInt64 = 0
    /// Whether its timer is armed for the flows that were admitted lately.
    private var forgetsFlows = false
    /// Batches read before others get their turn.
    private static let batchesPerTurn = 8

    /// - Parameters:
    ///   - socket: bound, non-blocking, with destinations reported (``UDPSocket/listen(on:options:)``).
    ///   - address: what it is bound to, the actual port included.
    ///   - isOwnedByAnother: the socket was made by another user (systemd's root), so that SO_REUSEPORT alone does not
    ///     let this process bind its address again.
    ///   - mayHaveDecoys: whether it may open more sockets of its address (``DecoySockets``). Not where listeners share
    ///     an address: they would get what is the others'.
    package init(
        socket: consuming FileDescriptor, address: SocketAddress, policy: Endpoint.Policy, options: SocketOptions,
        buffers: ListenerBuffers, loop: EventLoop, delegate: any DatagramListenerDelegate,
        isOwnedByAnother: Bool = false, mayHaveDecoys: Bool = false
    ) {
        drops = QueueDrops(of: socket)
        self.socket = socket
        self.address = address
        endpoint = Endpoint(policy)
        self.options = options
        self.buffers = buffers
        self.loop = loop
        self.delegate = delegate
        self.isOwnedByAnother = isOwnedByAnother
        // Connections that are bound to an interface themselves would be in the decoys' groups.
        self.mayHaveDecoys = mayHaveDecoys && options.interface == nil
        super.init()
    }

    package override func timerFired(now: Instant) {
        forgetsFlows = false
        if let next = endpoint.forgetExpiredFlows(now: now) { forgetFlows(at: max(next, now + .seconds(1))) }
    }

    private func forgetFlows(at instant: Instant) {
        forgetsFlows = true
        loop.timers.arm(self, at: instant)
    }

    private func noteFlow() {
        // Not with each that expires.
        if !forgetsFlows, isOpen { forgetFlows(at: loop.now + RecentFlows.lifetime * 2) }
    }

    package var counters: Endpoint.Counters { endpoint.counters }

    /// Returns what was counted, and begins again at 0: the listener is another service's from now on.
    package func takeCounters() -> Endpoint.Counters { endpoint.takeCounters() }

    /// Datagrams that the kernel has dropped since this process has the sockets: those for which there was no room in the
    /// receive buffer, of the listener and of its decoys, and those with a wrong checksum.
    package var queueDrops: UInt64 {
        drops.update(from: socket)
        return drops.total &+ (decoys?.queueDrops ?? 0) &+ closedDecoyDrops
    }

    /// Which peers are served: those that all of these allow. Others get no answer at all.
    package var access: [AccessList] {
        get { endpoint.access }
        set { endpoint.access = newValue }
    }

    /// Whether plain datagrams come here, not DTLS.
    package var isPlain: Bool {
        if case .none = endpoint.policy { return true }
        return false
    }

    /// Makes and checks cookies with `cookies` from now on; a client that has one of another authority must ask again.
    /// A listener for plain datagrams has no use for them.
    package func use(_ cookies: CookieAuthority) {
        if !isPlain { endpoint.policy = .cookies(cookies) }
    }

    // MARK: Lifecycle

    /// Starts to listen.
    package func open() throws(SystemError) {
        registration = try loop.add(socket, .readable, self)
        // A process that was killed during a flood leaves its program on a socket that another one goes on with.
        DatagramFilter.detach(from: socket)
        Self.raiseReceiveBuffer(of: socket, options)
        if mayHaveDecoys { decoys = DecoySockets(of: self, loop: loop) }
    }

    /// Bytes of a receive buffer that holds what some thousand clients send at once. The system's default holds 277 small
    /// datagrams; beside this process' work for each, 450 of 1,000 that came within 3 ms were lost.
    private static let receiveBuffer = 4 << 20

    /// Makes the buffer of a socket larger that gets what clients without sockets of their own send, unless the
    /// configuration says how large it is.
    static func raiseReceiveBuffer(of socket: borrowing FileDescriptor, _ options: SocketOptions) {
        if options.receiveBuffer == nil { UDPSocket.raiseReceiveBuffer(to: receiveBuffer, of: socket) }
    }

    /// Stops to read. Datagrams wait in the socket, for ``open()`` or for another process that has the socket, too.
    package func pause() {
        decoys?.close(afterReading: true)
        stopReading()
    }

    /// Stops, and closes the socket. Connections go on.
    package func close() {
        decoys?.close(afterReading: false)
        stopReading()
        _ = socket.take()
    }

    private func stopReading() {
        flood.remove()
        closedDecoyDrops &+= decoys?.queueDrops ?? 0
        decoys = nil
        if let registration { loop.remove(socket, registration) }
        registration = nil
        loop.timers.disarm(self)
        forgetsFlows = false
    }

    package var isOpen: Bool { registration != nil }

    /// The socket's number, or -1 once it is closed.
    package var descriptor: Int32 { socket.rawValue }

    /// Changes the socket, and what connections' sockets are made with. Throws, and changes nothing, where the kernel
    /// does not take it.
    package func apply(_ options: SocketOptions) throws(SystemError) {
        if options.ipv6Only != self.options.ipv6Only, address.family == .ipv6 {
            try replaceSocket(options)
        } else {
            try UDPSocket.apply(options, toBound: socket, address.family)
        }
        self.options = options
    }

    /// IPV6_V6ONLY cannot be changed once a socket is bound (ipv6(7)): another one takes over, and the old one is read
    /// empty before it goes.
    private func replaceSocket(_ options: SocketOptions) throws(SystemError) {
        var replacement = try UDPSocket.listen(on: address, options: options)
        let newRegistration = try loop.add(replacement, .readable, self)
        ready(.readable)
        if let registration { loop.remove(socket, registration) }
        drops.continue(with: replacement, after: socket)
        _ = socket.take()
        socket = replacement.take()
        registration = newRegistration
        flood.socketWasReplaced()
    }

    // MARK: Decoys

    /// Another listener is about to open on the same port: what comes to this one's decoys may be its from now on.
    package func closeDecoys() { decoys?.close(afterReading: true) }

    var decoyCount: Int { decoys?.count ?? 0 }

    /// A socket like its own, for what comes to one address over one interface.
    func openDecoy(on local: SocketAddress, interface: UInt32) throws(SystemError) -> FileDescriptor {
        let decoy = try UDPSocket.open(
            on: local, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options, interface: interface)
        Self.raiseReceiveBuffer(of: decoy, options)
        return decoy
    }

    // MARK: Receiving

    package func ready(_ events: EventLoop.Events) {
        let (start, admittedBefore) = (Instant.now(), counters.admitted)
        let (counts, isEmpty) = read(from: nil)
        // Without cookies each datagram may begin a connection: there are no kinds.
        if !isPlain, isOpen {
            flood.noteRead(
                counts, admitted: Int(clamping: counters.admitted &- admittedBefore), isEmpty: isEmpty, from: start)
        }
        guard isEmpty, let registration,
            let pause = pace.pause(after: counts.total, hellos: counts.hellos, now: loop.now)
        else { return }
        loop.pause(socket, .readable, registration, until: loop.now + pause)
    }

    /// - Parameter decoy: `nil`: its own socket.
    /// - Returns: how many datagrams have been read, and whether these were all.
    @discardableResult
    func read(from decoy: DecoySocket?) -> (counts: DatagramKind.Counts, isEmpty: Bool) {
        var counts = DatagramKind.Counts()
        for _ in 0..<Self.batchesPerTurn {
            guard let count = receive(from: decoy), count > 0 else { return (counts, true) }
            let admittedBefore = counters.admitted
            let minute = Minute.now()
            // Each plain datagram may begin a connection, as a ClientHello does.
            if isPlain { counts.count(.firstHello, count) }
            for index in 0..<count {
                endpoint.countDatagram(byteCount: buffers.received[index].count)
                if !isPlain { counts.count(DatagramKind(of: buffers.received[index])) }
                // A datagram with port 0 as its source cannot be answered.
                guard let peer = buffers.received.source(index), peer.port != 0,
                    let destination = buffers.received.destination(index, port: address.port),
                    !buffers.received.isTruncated(index)
                else {
                    endpoint.dropUnrelated()
                    continue
                }
                if decoy == nil { decoys?.notePassed(destination) }
                handle(buffers.received[index], FlowKey(peer: peer, local: destination.address), minute)
            }
            sendReplies()
            handleMisdelivered()
            guard isOpen, count == buffers.received.capacity else { return (counts, true) }
            // Without cookies, every datagram can be an admission, which costs several system calls: the other sockets
            // of this loop have their turn first.
            if isPlain, counters.admitted != admittedBefore { break }
        }
        return (counts, false)
    }

    /// `nil` is an ICMP error for one of our answers; this call has cleared it.
    private func receive(from decoy: DecoySocket?) -> Int? {
        guard let decoy else { return try? buffers.received.receive(from: socket) }
        return try? decoy.receive(into: buffers.received)
    }

    /// Takes a datagram that a connection's socket has yielded, as if it had come to this listener.
    package func reinject(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) {
        switch misdelivered.add(datagram, flow) {
        case .full, .waits: return
        case .needsTurn:
            loop.atEndOfTurn { [self] in
                misdelivered.turnHasCome()
                handleMisdelivered()
            }
        }
    }

    /// Takes a datagram again that the delegate has kept (``Reception/postponed``). A ClientHello counts once more.
    package func receive(postponed datagram: [UInt8], _ flow: FlowKey) {
        guard isOpen else { return }
        datagram.withUnsafeBytes { handle($0, flow, Minute.now()) }
        sendReplies()
    }

    /// A datagram that the delegate has kept is dropped.
    package func dropPostponed() { endpoint.refused(.busy) }

    private func handleMisdelivered() {
        while isOpen {
            let items = misdelivered.takeAll()
            if items.isEmpty { return }
            let minute = Minute.now()
            for (datagram, flow) in items {
                endpoint.countDatagram(byteCount: datagram.count)
                datagram.withUnsafeBytes { handle($0, flow, minute) }
            }
            sendReplies()
        }
    }

    private func handle(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, _ minute: Minute) {
        switch endpoint.receive(datagram, flow, now: loop.now, minute: minute, buffers.fragments) {
        case .reply(let request):
            trace(datagram, flow, "answered with a HelloVerifyRequest, since it has no valid cookie")
            if buffers.replies.count == buffers.replies.capacity { sendReplies() }
            buffers.replies.add(to: flow.peer, from: source(of: flow)) { request.write(into: $0) }
        case .refuse(let alert):
            trace(datagram, flow, "refused, since it offers no version of DTLS that is known here")
            if buffers.replies.count == buffers.replies.capacity { sendReplies() }
            buffers.replies.add(to: flow.peer, from: source(of: flow)) { alert.write(into: $0) }
            delegate.listener(self, doesNotServe: flow.peer, .version)
        case .admit(let opening):
            switch delegate.listener(self, received: datagram, of: flow, isProven: true) {
            case .notTaken: break
            case .taken:
                return trace(datagram, flow, "passed to the connection of this peer, which had no socket")
            case .postponed: return trace(datagram, flow, "it waits, since all workers are busy")
            }
            trace(datagram, flow, isPlain ? "it begins a connection" : "its cookie is valid: it begins a connection")
            admit(opening, flow)
        case .forward(let connection):
            if delegate.listener(self, misdelivered: datagram, of: connection) {
                return trace(datagram, flow, "passed to the connection that has just begun")
            }
            endpoint.forget(flow)
            handle(datagram, flow, minute)
        case .recordWithConnectionID(let id):
            if delegate.listener(self, received: datagram, of: flow, with: id) {
                return trace(datagram, flow, "passed to the connection that has this connection ID")
            }
            if let connection = endpoint.recentConnection(of: flow, now: loop.now),
                delegate.listener(self, misdelivered: datagram, of: connection)
            {
                return
            }
            trace(datagram, flow, "dropped, since there is no connection with this connection ID")
            dropOfNoConnection(flow)
        case .drop(.denied):
            trace(datagram, flow, "dropped, since the peer's address is denied, or not allowed")
            delegate.listener(self, doesNotServe: flow.peer, .denied)
        case .recordOfConnection:
            if case .taken = delegate.listener(self, received: datagram, of: flow, isProven: false) {
                return trace(datagram, flow, "passed to the connection of this peer, which has no socket")
            }
            trace(datagram, flow, "dropped, since there is no connection of this peer")
            dropOfNoConnection(flow)
        case .drop(let reason):
            trace(datagram, flow, "dropped: \(reason)")
        }
    }

    @inline(__always)
    private func trace(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, _ verdict: @autoclosure () -> String) {
        guard let trace = buffers.trace else { return }
        trace.received(datagram, from: flow.peer, "at the listener: \(verdict())")
    }

    private func dropOfNoConnection(_ flow: FlowKey) {
        endpoint.dropOfNoConnection()
        delegate.listener(self, droppedRecordOfNoConnectionFrom: flow.peer)
    }

    private func sendReplies() {
        guard buffers.replies.count > 0 else { return }
        endpoint.countUnsent(buffers.replies.send(over: socket))
    }

    /// The address that an answer leaves from (rule 5); `nil`: the one that the socket is bound to.
    private func source(of flow: FlowKey) -> SocketAddress? { flow.local == address ? nil : flow.local }

    /// Sends a datagram to a flow's peer, which no socket is connected to.
    package func send(_ datagram: UnsafeRawBufferPointer, to flow: FlowKey) {
        pass(datagram, to: flow)
        sendPassed()
    }

    /// Sends a datagram as ``send(_:to:)`` does, but with others, by ``sendPassed()`` at the latest.
    package func pass(_ datagram: UnsafeRawBufferPointer, to flow: FlowKey) {
        buffers.pass(datagram, to: flow, over: socket)
    }

    package func sendPassed() { buffers.sendPassed(over: socket) }

    // MARK: Sockets of connections

    /// Makes a socket for a connection that has none, as for a new one.
    /// - Parameter datagrams: what of the peer goes before that which the socket yields.
    package func makeSocket(
        for flow: FlowKey, with datagrams: [[UInt8]]
    ) throws(SystemError) -> IncomingConnection {
        let connected = try UDPSocket.openConnected(
            flow, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options)
        decoys?.countOpening(on: flow.local)
        return IncomingConnection(
            connected, flow, after: datagrams, through: buffers.firstBatch, misdelivered: reinject)
    }

    /// A connection has got the socket of ``makeSocket(for:with:)``. Datagrams that come to the listener although that
    /// is connected are the connection's: ``DatagramListenerDelegate/listener(_:misdelivered:of:)``.
    package func expectLateDatagrams(of flow: FlowKey, for connection: UInt64) {
        endpoint.expectLateDatagrams(of: flow, for: connection, now: loop.now)
        noteFlow()
    }

    private func admit(_ opening: consuming Endpoint.Opening, _ flow: FlowKey) {
        if let refusal = delegate.refusal(of: flow, on: self) {
            buffers.trace?.note(flow.peer, "the connection is refused: \(refusal)")
            return endpoint.refused(refusal)
        }
        let random = opening.random
        do throws(SystemError) {
            let connected = try UDPSocket.openConnected(
                flow, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options)
            let incoming = IncomingConnection(
                connected, flow, opening, through: buffers.firstBatch, misdelivered: reinject)
            guard let connection = delegate.listener(self, admitted: incoming) else { return endpoint.refused(.busy) }
            endpoint.admitted(random, flow, as: connection, now: loop.now)
            noteFlow()
            decoys?.countOpening(on: flow.local)
        } catch {
            endpoint.refused(Refusal(error))
            delegate.listener(self, failed: error, for: flow.peer)
        }
    }
}

/// The memory that all listeners of a process read and answer through.
package final class ListenerBuffers {
    let received = ReceiveBatch(capacity: 64, slotSize: 16_640, destinations: true)
    /// What a new connection's socket yields before it is handed on.
    let firstBatch = ReceiveBatch(capacity: 16, slotSize: 16_640)
    let replies = ReplyBatch(capacity: 64, slotSize: 128)
    /// Datagrams for peers that no socket is connected to.
    private let passed = ReplyBatch(capacity: 32, slotSize: 16_640)
    let fragments = HelloFragments()
    /// Who is told what comes; `nil` mostly.
    package var trace: ClientTrace?

    package init() {}

    /// Sends a datagram that other code has made to a flow's peer, with others over the same socket.
    package func pass(
        _ datagram: UnsafeRawBufferPointer, to flow: FlowKey, over socket: borrowing FileDescriptor
    ) {
        if passed.count == passed.capacity { sendPassed(over: socket) }
        passed.add(to: flow.peer, from: flow.local) { buffer in
            guard datagram.count <= buffer.count else { return 0 }
            buffer.copyMemory(from: datagram)
            return datagram.count
        }
    }

    package func sendPassed(over socket: borrowing FileDescriptor) { _ = passed.send(over: socket) }
}
