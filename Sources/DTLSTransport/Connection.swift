import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Who is told what happens to a ``Connection``. Each call may close the connection.
package protocol ConnectionDelegate: AnyObject {
    /// A handshake is done: the first one, or one that the peer has done in place of an association that it has lost.
    func connectionEstablished(_ connection: Connection)
    /// `message` is valid during the call. It is empty for an empty record, which says that the peer is there and
    /// nothing else.
    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer)
    /// All messages that one read of the socket has brought have been handed out. What was sent meanwhile leaves next.
    func connectionHasRead(_ connection: Connection)
    /// The socket has yielded a datagram that is not this connection's: another peer's, or, after `connectionClosed`, a
    /// ClientHello that was still in the socket. It is to be reinjected into the listener (rules 1 to 3 of UDP, in
    /// docs/udp-rules.md).
    func connection(_ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress)
    /// Whether the peer may do a new handshake on this connection's socket, and with what; `nil`: it may not.
    func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial?
    /// The peer has lost its state, and has done a new handshake: the association that it had is over.
    /// `connectionEstablished` follows.
    func connectionReplaced(_ connection: Connection)
    /// The peer has begun a new handshake, which has failed: the association that was there goes on.
    func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending)
    /// Reading the socket gave an error, which the call has cleared: an ICMP message (ECONNREFUSED and the like), which
    /// anybody can forge.
    func connection(_ connection: Connection, socketFailed errno: Int32)
    /// Nothing has passed for ``Connection/Limits/parkAfter``, and all that there is of the connection is in its slot:
    /// it may be given up to that (``Connection/readAll()``, ``Connection/detach()``).
    func connectionIsSilent(_ connection: Connection)
    /// The connection has ended, and its socket is closed. Called once.
    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending)
}

extension ConnectionDelegate {
    package func connection(_ connection: Connection, socketFailed errno: Int32) {}
    package func connectionIsSilent(_ connection: Connection) {}
}

/// A live connection: an ``Association`` and its connected UDP socket, in a loop.
///
/// Its delegate must live until the connection has ended, or has been given up.
package final class Connection: TimerTarget, EventHandler {
    /// The last errno that the socket gave, an ICMP error mostly; see ``takeError()``.
    package private(set) var lastError: Int32 = 0

    private let association: Association
    private let datapath: Datapath
    /// The index of the association's slot in ``Datapath/slots``; -1 where it has none.
    private let slotIndex: Int32
    private var socket: FileDescriptor
    private var registration: EventLoop.Registration?
    /// Unowned, since a weak reference costs 48 bytes and makes each use of its object slower: 2 % of an echo.
    private unowned var delegate: (any ConnectionDelegate)?
    /// Whether the association is being worked on: its end is carried out after that.
    private var isWorking = false
    /// Whether the delegate has had messages since it was last told that a batch is complete.
    private var hasMessages = false
    /// Misdelivered datagrams that came when the association had ended. The delegate gets them after the end.
    private var misdelivered: [(datagram: [UInt8], source: SocketAddress)] = []

    private init(
        _ association: Association, _ socket: consuming FileDescriptor, _ slotIndex: Int?, _ datapath: Datapath,
        _ delegate: any ConnectionDelegate
    ) {
        self.association = association
        self.slotIndex = Int32(truncatingIfNeeded: slotIndex ?? -1)
        self.socket = socket
        self.datapath = datapath
        self.delegate = delegate
        super.init()
    }

    // MARK: Lifecycle

    /// A server's connection over a connected socket, from the hello of a client whose address is proven. Call
    /// ``start(with:)`` next.
    /// - Parameter slot: the index of the slot in ``Datapath/slots`` that keeps what another process needs to go on with
    ///   the connection, from the end of its handshake on.
    package static func accept(
        on socket: consuming FileDescriptor, _ flow: FlowKey, slot: Int? = nil, hello: consuming VerifiedHello,
        context: ServerContext, limits: Limits, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let association = try Association.accept(
            hello, flow, slot: datapath.slot(slot), context: context, limits: limits, buffers: datapath.buffers,
            now: datapath.loop.now)
        return Connection(association, socket, slot, datapath, delegate)
    }

    /// A client's connection over a connected socket. Call ``start(with:)`` next.
    /// - Parameters:
    ///   - serverName: see ``Engine/init(connecting:over:payloadSize:serverName:)``.
    ///   - session: what an earlier connection to the same server has left to be resumed. It is not offered where the
    ///     hello would need more than one datagram for it.
    ///   - slot: as for ``accept(on:_:slot:hello:context:limits:datapath:delegate:)``.
    package static func connect(
        over socket: consuming FileDescriptor, _ flow: FlowKey, slot: Int? = nil, context: ClientContext,
        serverName: String?,
        resuming session: ResumableSession? = nil, limits: Limits, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let pathMTU = try? UDPSocket.pathMTU(of: socket, flow.local.family)
        let association = try Association.connect(
            flow, slot: datapath.slot(slot), context: context, serverName: serverName, resuming: session,
            limits: limits, pathMTU: pathMTU, buffers: datapath.buffers, now: datapath.loop.now)
        return Connection(association, socket, slot, datapath, delegate)
    }

    /// An established connection over a connected socket, from what a slot holds of it. Nobody else may go on with the
    /// slot. Call ``start(with:)`` next.
    package static func resume(
        over socket: consuming FileDescriptor, _ flow: FlowKey, slot index: Int, isServer: Bool, limits: Limits,
        datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(InvalidRecordState) -> Connection {
        guard let slot = datapath.slot(index) else {
            throw InvalidRecordState("there is no memory file with its state")
        }
        let association = try Association.resume(
            slot, flow, isServer: isServer, limits: limits, buffers: datapath.buffers, now: datapath.loop.now)
        return Connection(association, socket, index, datapath, delegate)
    }

    /// Begins the handshake, or goes on with an established connection. The delegate may be called before this returns.
    /// - Parameter datagrams: what the same peer has sent after the hello, if it was read already.
    /// - Returns: why the connection has ended already, which the delegate has been told; `nil` where it goes on.
    package func start(with datagrams: [UnsafeRawBufferPointer] = []) throws(SystemError) -> Ending? {
        registration = try datapath.loop.add(socket, .readable, self)
        if let pathMTU { association.fitFlights(toMTU: pathMTU) }
        work { lease in
            handOutEvents(lease)
            for datagram in datagrams { receive(datagram, lease) }
        }
        return association.ending
    }

    /// Works on the association. What is written meanwhile leaves at the end, and where the association has ended, so
    /// does the connection.
    @inline(__always)
    private func work(_ body: (borrowing OutboxLease) -> Void) {
        let isOutermost = !isWorking
        isWorking = true
        if isOutermost { datapath.noteWork(on: slotIndex) }
        datapath.buffers.outbox.lend(
            to: self, sending: { send($0) },
            { lease in
                body(lease)
                if isOutermost { endBatch() }
            })
        if isOutermost { concludeWork() }
    }

    @inline(__always)
    private func concludeWork() {
        isWorking = false
        association.updateSlot()
        datapath.noteWork(on: -1)
        if let ending = association.ending { return finish(ending) }
        if association.mayHaveEarlierDeadline { rearm() }
    }

    private func rearm() {
        datapath.loop.timers.arm(self, at: association.deadline(now: datapath.loop.now))
    }

    // MARK: Receiving

    package func ready(_ events: EventLoop.Events) {
        let batch = datapath.batch
        let count: Int
        do throws(SystemError) {
            count = try batch.receive(from: socket)
        } catch {
            return socketFailed(error.errno)
        }
        receiveBatch(count)
    }

    @inline(__always)
    private func receiveBatch(_ count: Int) {
        let batch = datapath.batch
        work { lease in
            for index in 0..<count {
                // Rule 2: a connected socket can hold what came for it before it was connected.
                guard let source = batch.source(index), source == peer else {
                    if let source = batch.source(index) {
                        delegate?.connection(self, misdelivered: batch[index], from: source)
                    }
                    continue
                }
                receive(batch[index], lease)
            }
        }
    }

    /// An ICMP error (ECONNREFUSED and the like), which anybody can forge. Reading has cleared it.
    private func socketFailed(_ errno: Int32) {
        lastError = errno
        if errno == EMSGSIZE {
            association.countUnsent(0, tooLarge: 1)
            association.pathHasShrunk(toMTU: pathMTU)
        }
        delegate?.connection(self, socketFailed: errno)
    }

    /// Takes a datagram of this connection's peer that was read elsewhere.
    package func receive(_ datagram: UnsafeRawBufferPointer) {
        guard !isWorking, association.isOpen else { return }
        work { lease in receive(datagram, lease) }
    }

    @inline(__always)
    private func receive(_ datagram: UnsafeRawBufferPointer, _ lease: borrowing OutboxLease) {
        switch association.receive(datagram, now: datapath.loop.now, lease, offer: { rehandshakeOffer }) {
        case .taken: handOutEvents(lease)
        case .misdelivered: returnToListener(datagram, from: peer)
        }
    }

    private var rehandshakeOffer: RehandshakeOffer? {
        guard let material = delegate?.rehandshakeMaterial(for: self) else { return nil }
        return RehandshakeOffer(material: material, minute: .now(), pathMTU: pathMTU)
    }

    @inline(__always)
    private func handOutEvents(_ lease: borrowing OutboxLease) {
        while true {
            switch association.next(now: datapath.loop.now, lease) {
            case .needsInput:
                return
            case .message(let message):
                if !message.isEmpty { hasMessages = true }
                delegate?.connection(self, received: message)
                lease.sendIfFilling { send($0) }
            case .established:
                association.noteHandshakeDuration(Instant.now() - association.started)
                delegate?.connectionEstablished(self)
                association.releaseDetails()
            case .replaced:
                // What the lost association has said is its own: it must not be taken for the new one's.
                endBatch()
                delegate?.connectionReplaced(self)
            case .rehandshakeFailed(let ending):
                delegate?.connection(self, rehandshakeFailed: ending)
            }
        }
    }

    /// Tells the delegate that the messages of a batch, or of an association that was replaced within it, are complete.
    @inline(__always)
    private func endBatch() {
        guard hasMessages else { return }
        hasMessages = false
        delegate?.connectionHasRead(self)
    }

    private func returnToListener(_ datagram: UnsafeRawBufferPointer, from source: SocketAddress) {
        guard ClientHello.couldBePart(of: datagram) else { return }
        if association.isOpen {
            delegate?.connection(self, misdelivered: datagram, from: source)
        } else {
            misdelivered.append(([UInt8](datagram), source))
        }
    }

    /// Lets datagrams wait in the socket, or reads them again: for a reader that does not keep up.
    package func setReading(_ on: Bool) {
        guard association.isOpen, let registration else { return }
        try? datapath.loop.modify(socket, on ? .readable : [], registration)
    }

    // MARK: Sending

    /// Sends a message of up to 16,384 bytes as one datagram; an empty one is an empty record. Throws, and counts, one
    /// that is larger than ``largestMessage``. Within ``batch(_:)``, and in the delegate's calls, it leaves at the
    /// end of these.
    @inline(__always)
    package func send(_ message: UnsafeRawBufferPointer) throws(EngineError) {
        guard association.isOpen else { throw .notEstablished }
        var failure: EngineError?
        work { lease in
            lease.sendIfFilling { send($0) }
            do throws(EngineError) {
                try association.send(message, now: datapath.loop.now, lease, enforcedMTU: { enforcedMTU })
            } catch {
                failure = error
            }
        }
        guard let failure else { return }
        switch failure {
        case .path, .fragment: lastError = EMSGSIZE
        default: break
        }
        throw failure
    }

    /// Has all that `body` sends over this connection leave together.
    @inline(__always)
    package func batch(_ body: () -> Void) {
        guard association.isOpen else { return body() }
        work { _ in body() }
    }

    /// Sends what is in the outbox. What the socket does not take is lost, as on the wire, and counted.
    private func send(_ outbox: Outbox) {
        let count = outbox.count
        let outcome = datapath.send(outbox, over: socket)
        guard outcome.sent < count else { return }
        association.countUnsent(count - outcome.sent - outcome.tooLarge, tooLarge: outcome.tooLarge)
        lastError = outcome.error
        if outcome.tooLarge > 0 { association.pathHasShrunk(toMTU: pathMTU) }
    }

    // MARK: Timers

    package override func timerFired(now: Instant) {
        guard association.isOpen else { return }
        work { lease in
            association.handleTimeout(now: now, lease)
            handOutEvents(lease)
        }
        if association.isSilent(now: now) { delegate?.connectionIsSilent(self) }
    }

    /// Whether all that there is of the connection is in its slot, so that another process can go on with it.
    package var isMovable: Bool { association.isMovable }

    /// Whether nothing has passed for `duration`, and the connection can be given up to its slot.
    package func hasBeenSilent(for duration: Duration) -> Bool {
        association.hasBeenSilent(for: duration, now: datapath.loop.now)
    }

    // MARK: Shutdown

    /// Ends the connection with close_notify, or without a word where the handshake is not done. The delegate is told
    /// before this returns, unless it is called from the delegate.
    package func close(_ ending: Ending = .closedHere) {
        guard association.isOpen else { return }
        work { lease in association.close(ending, lease) }
    }

    /// Ends the connection as ``close(_:)`` does, for a delegate that is about to go: it is told nothing more.
    package func closeForDepartingDelegate() {
        delegate = nil
        close()
    }

    /// Ends the connection without a word to the peer: another process goes on with it.
    package func abandon() {
        guard association.isOpen else { return }
        work { _ in association.abandon() }
    }

    /// Reads the socket empty, and does what follows. The connection may end by it.
    package func readAll() {
        for _ in 0..<16 where association.isOpen {
            guard let count = try? datapath.batch.receive(from: socket) else { continue }
            if count == 0 { return }
            receiveBatch(count)
        }
    }

    /// Gives the connection up to its slot, without a word to the peer and to the delegate. Nothing is called after it.
    /// - Returns: the socket, which is as it was: what has come over it meanwhile is in it.
    package func detach() -> FileDescriptor {
        association.abandon()
        delegate = nil
        stopWatching()
        return socket.take()
    }

    private func stopWatching() {
        if let registration { datapath.loop.remove(socket, registration) }
        registration = nil
        datapath.loop.timers.disarm(self)
    }

    private func finish(_ ending: Ending) {
        // Rule 3: the peer may already be back on the same port.
        let batch = datapath.finalBatch
        batch.receiveAll(from: socket) { index in
            if let source = batch.source(index) { returnToListener(batch[index], from: source) }
        }
        stopWatching()
        _ = socket.take()
        association.wipeSlot()
        let delegate = delegate
        delegate?.connectionClosed(self, ending)
        // Only now: the place that a new client needs may be the one that this connection had.
        for (datagram, source) in misdelivered {
            datagram.withUnsafeBytes { delegate?.connection(self, misdelivered: $0, from: source) }
        }
        misdelivered = []
    }
}

// MARK: - Suspension

extension Connection {
    /// Gives the connection up without a word to the peer and to the delegate, so that another one goes on with it, in
    /// another process perhaps. What is in the socket stays there.
    /// - Returns: `nil` where the connection is not established, or its records are OpenSSL's; then it goes on.
    package func suspend() -> SuspendedConnection? {
        guard let association = association.suspend() else { return nil }
        delegate = nil
        if let registration { datapath.loop.remove(socket, registration) }
        registration = nil
        datapath.loop.timers.disarm(self)
        return SuspendedConnection(association: association, socket: socket.take())
    }

    /// Whether ``suspend()`` can give it up.
    package var canSuspend: Bool { association.canSuspend }

    /// A connection that was suspended, over its socket or one like it. Call ``start(with:)`` next.
    package static func resume(
        _ suspended: SuspendedAssociation, over socket: consuming FileDescriptor, limits: Limits, datapath: Datapath,
        delegate: any ConnectionDelegate
    ) throws(InvalidRecordState) -> Connection {
        let association = try Association.resume(
            suspended, limits: limits, buffers: datapath.buffers, now: datapath.loop.now)
        return Connection(association, socket, nil, datapath, delegate)
    }
}

/// A connection that was given up, and its socket.
package struct SuspendedConnection: ~Copyable {
    package let association: SuspendedAssociation
    package var socket: FileDescriptor
}

// MARK: - Queries

extension Connection {
    package var local: SocketAddress { association.flow.local }
    package var peer: SocketAddress { association.flow.peer }
    package var counters: Counters { association.counters }
    /// What the handshake has agreed on; nothing before it is done.
    package var session: SessionDetails { association.session }
    /// From the start of the present association's handshake to its end, as far as that is kept in a slot.
    package var handshakeDuration: Duration { association.handshakeDuration }
    /// Why the client's certificate was refused, where the handshake has failed for that.
    package var peerRejection: PeerRejection? { association.peerRejection }
    /// What a log adds to the reason of a failed handshake with a pre-shared key.
    package var presharedKeyRemark: String { association.presharedKeyRemark }
    /// What the next connection to the same server can resume. It is to be asked for in `connectionEstablished`.
    package var resumableSession: ResumableSession? { association.resumableSession }

    /// The socket's number, or -1 once it is closed.
    package var descriptor: Int32 { socket.rawValue }

    /// The last error that the socket gave, or 0; asking clears it.
    package func takeError() -> Int32 {
        defer { lastError = 0 }
        if lastError == 0, socket.isOpen { return (try? UDPSocket.takeError(of: socket)) ?? 0 }
        return lastError
    }

    /// Bytes of the largest message that the peer has agreed to take, and that the path takes now in one piece where
    /// the socket must not fragment, as far as the kernel knows; 0 before the handshake is done.
    package var largestMessage: Int { association.largestMessage(enforcedMTU: enforcedMTU) }

    /// Bytes of the largest IP packet that the kernel knows the path to take: the interface's MTU, or less where a
    /// router has said so.
    private var pathMTU: Int? {
        guard socket.isOpen else { return nil }
        return try? UDPSocket.pathMTU(of: socket, local.family)
    }

    /// ``pathMTU``, where the socket does not fragment and refuses what is larger.
    private var enforcedMTU: Int? {
        guard socket.isOpen, (try? UDPSocket.refusesLarge(socket, local.family)) == true else { return nil }
        return pathMTU
    }
}

extension Connection {
    /// Why a connection has ended.
    package enum Ending: Error, Equatable, CustomStringConvertible {
        case closedByPeer
        /// The peer has come back without its state, and has done a new handshake, or is to do one as a new client.
        case replaced
        case closedHere
        case idle
        case handshakeTimedOut
        /// OpenSSL's reason.
        indirect case failed(EngineError)

        package var description: String {
            switch self {
            case .closedByPeer: "closed by the peer"
            case .replaced: "the peer has begun a new handshake"
            case .closedHere: "closed here"
            case .idle: "idle"
            case .handshakeTimedOut: "the handshake took too long"
            case .failed(let error): error.description
            }
        }
    }

    /// The timeouts and sizes that a connection lives by.
    package struct Limits: Equatable, Sendable {
        // Each connection has its own, so the times are milliseconds in 4 bytes, up to 49 days, in place of 16.
        private let handshakeMilliseconds: UInt32
        private let idleMilliseconds: UInt32
        private let parkMilliseconds: UInt32
        private var packetSize: UInt16

        /// For the handshake.
        package var handshakeTimeout: Duration { .milliseconds(Int64(handshakeMilliseconds)) }
        /// Without a datagram from the peer; zero: no limit.
        package var idleTimeout: Duration { .milliseconds(Int64(idleMilliseconds)) }
        /// Without a datagram in either direction, after which the delegate hears that the connection is silent; zero:
        /// never.
        package var parkAfter: Duration { .milliseconds(Int64(parkMilliseconds)) }
        /// Largest IP packet of a handshake flight, in bytes.
        package var mtu: Int {
            get { Int(packetSize) }
            set { packetSize = UInt16(clamping: newValue) }
        }

        package init(
            handshakeTimeout: Duration = .seconds(60), idleTimeout: Duration = .zero, parkAfter: Duration = .zero,
            mtu: Int = 1_400
        ) {
            handshakeMilliseconds = Self.milliseconds(handshakeTimeout)
            idleMilliseconds = Self.milliseconds(idleTimeout)
            parkMilliseconds = Self.milliseconds(parkAfter)
            packetSize = UInt16(clamping: mtu)
        }

        /// What is not zero does not become zero.
        private static func milliseconds(_ duration: Duration) -> UInt32 {
            UInt32(clamping: (duration.nanoseconds + 999_999) / 1_000_000)
        }

        /// Bytes of an IP and a UDP header.
        static func headerSize(_ family: SocketAddress.Family) -> Int { family == .ipv4 ? 28 : 48 }

        /// Bytes of the UDP payload that fits the MTU.
        func payloadSize(_ family: SocketAddress.Family) -> Int { mtu - Self.headerSize(family) }
    }

    /// What has passed, application data alone; and datagrams that could not be sent.
    package struct Counters {
        package var messagesIn: UInt64 = 0
        package var bytesIn: UInt64 = 0
        package var messagesOut: UInt64 = 0
        package var bytesOut: UInt64 = 0
        package var unsent: UInt64 = 0
        /// Messages that were larger than the peer or the path takes; see ``Connection/send(_:)``.
        package var tooLarge: UInt64 = 0
    }
}
