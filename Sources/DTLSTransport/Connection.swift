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
    /// The keys of a new handshake's sessions are wanted, as the material has said: with these, the datagram, which is
    /// valid during the call, is to be received again.
    func connection(_ connection: Connection, wantsKeysFor datagram: UnsafeRawBufferPointer)
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
    /// The peer is at another flow now (RFC 9146): the connection wants a socket that is connected there. It is given by
    /// ``Connection/move(to:over:)``, or the answer is ``Connection/moveFailed()``, after this call.
    func connection(_ connection: Connection, wantsSocketAt flow: FlowKey)
    /// A datagram is to be sent to the peer of a flow that no socket is connected to yet. It is valid during the call.
    func connection(_ connection: Connection, send datagram: UnsafeRawBufferPointer, to flow: FlowKey)
    /// The peer has answered a path_challenge (RFC 9853), so it knows the connection.
    func connectionAnswered(_ connection: Connection)
    /// The connection has a socket that is connected to another flow than before.
    func connectionMoved(_ connection: Connection, from flow: FlowKey)
    /// Records of the peer have come from the flow, and nobody has answered the challenges there (RFC 9853).
    func connection(_ connection: Connection, checkFailedAt flow: FlowKey)
    /// A client waits in its handshake until it is known whether it may come in: ``Connection/authorize(_:_:)`` with the
    /// number says so, in this call or later.
    func connection(_ connection: Connection, asks question: AuthorizationQuestion, _ number: UInt32)
    /// The connection's engine has done what may be counted: sent a flight again, sent or received an alert. It is valid
    /// during the call. After the end of a handshake or of the connection, this call comes first.
    func connection(_ connection: Connection, noted notes: EngineNotes)
    /// The connection has ended, and its socket is closed. Called once.
    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending)
}

extension ConnectionDelegate {
    package func connection(_ connection: Connection, socketFailed errno: Int32) {}
    package func connectionIsSilent(_ connection: Connection) {}
    package func connection(_ connection: Connection, wantsKeysFor datagram: UnsafeRawBufferPointer) {}
    package func connection(_ connection: Connection, wantsSocketAt flow: FlowKey) {}
    package func connection(_ connection: Connection, send datagram: UnsafeRawBufferPointer, to flow: FlowKey) {}
    package func connectionAnswered(_ connection: Connection) {}
    package func connectionMoved(_ connection: Connection, from flow: FlowKey) {}
    package func connection(_ connection: Connection, checkFailedAt flow: FlowKey) {}
    package func connection(_ connection: Connection, noted notes: EngineNotes) {}
    package func connection(_ connection: Connection, asks question: AuthorizationQuestion, _ number: UInt32) {
        connection.authorize(number, .refused(reason: "nobody can be asked about the client"))
    }
}

/// A live connection: an ``Association`` and its connected UDP socket, in a loop.
///
/// Its delegate must live until the connection has ended, or has been given up.
package final class Connection: TimerTarget, EventHandler {
    /// The last errno that the socket gave, an ICMP error mostly; see ``takeError()``.
    package private(set) var lastError: Int32 = 0

    let association: Association
    let datapath: Datapath
    /// The index of the association's slot in ``Datapath/slots``; -1 where it has none.
    let slotIndex: Int32
    private var socket: FileDescriptor
    private var registration: EventLoop.Registration?
    /// Unowned, since a weak reference costs 48 bytes and makes each use of its object slower: 2 % of an echo.
    private unowned var delegate: (any ConnectionDelegate)?
    /// Whether the association is being worked on: its end is carried out after that.
    private var isWorking = false
    /// Whether the delegate has had messages since it was last told that a batch is complete.
    private var hasMessages = false
    /// Whether the socket held one datagram when it was last read empty, so that the next one is likely to come alone too.
    private var expectsOne = false
    /// The turn of the loop in which the socket was read last.
    private var turnOfReading: UInt32 = 0
    /// Whether its handshake goes on, and is to read the socket later.
    private var waitsForTurn = false
    /// Where the peer is, if it may change its address.
    private var paths = PathCheck()
    /// What a connection that has ended had, once its slot is wiped.
    private var finalConnectionIDs: Boxed<ConnectionIDs>?
    /// Whether the slot says that the peer's address is not proven.
    private var notesPath = false
    /// Whether the datagram that is worked on has been answered with the last flight.
    private var hasAnsweredRepetition = false
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

    deinit {
        if waitsForTurn { datapath.forget(waiting: self) }
    }

    // MARK: Lifecycle

    /// A server's connection over a connected socket, from the hello of a client whose address is proven. Call
    /// ``start(with:)`` next.
    /// - Parameters:
    ///   - slot: the index of the slot in ``Datapath/slots`` that keeps what another process needs to go on with the
    ///     connection, from the end of its handshake on.
    ///   - connectionID: what the client is to put into its records, where it has offered to (RFC 9146).
    ///   - resumptionKeys: the keys of the handshake's sessions, in place of the context's.
    ///   - traffic: where it counts what passes.
    package static func accept(
        on socket: consuming FileDescriptor, _ flow: FlowKey, slot: Int? = nil, hello: consuming VerifiedHello,
        context: ServerContext, connectionID: ConnectionID? = nil, resumptionKeys: ResumptionKeys? = nil,
        limits: Limits, traffic: TrafficCounters = .ignored, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let association = try Association.accept(
            hello, flow, slot: datapath.slot(slot), context: context, connectionID: connectionID,
            resumptionKeys: resumptionKeys, limits: limits, traffic: traffic, buffers: datapath.buffers,
            now: datapath.loop.now)
        return Connection(association, socket, slot, datapath, delegate)
    }

    /// A client's connection over a connected socket. Call ``start(with:)`` next.
    /// - Parameters:
    ///   - serverName: see ``Engine/init(connecting:over:payloadSize:serverName:)``.
    ///   - session: what an earlier connection to the same server has left to be resumed. It is not offered where the
    ///     hello would need more than one datagram for it.
    ///   - connectionID: what the server is to put into its records (RFC 9146), an empty one only to send the server's;
    ///     `nil`: nothing is offered.
    ///   - slot: as for ``accept(on:_:slot:hello:context:connectionID:limits:traffic:datapath:delegate:)``.
    package static func connect(
        over socket: consuming FileDescriptor, _ flow: FlowKey, slot: Int? = nil, context: ClientContext,
        serverName: String?,
        resuming session: ResumableSession? = nil, connectionID: ConnectionID? = nil, limits: Limits,
        traffic: TrafficCounters = .ignored, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let pathMTU = try? UDPSocket.pathMTU(of: socket, flow.local.family)
        let association = try Association.connect(
            flow, slot: datapath.slot(slot), context: context, serverName: serverName, resuming: session,
            connectionID: connectionID, limits: limits, traffic: traffic, pathMTU: pathMTU, buffers: datapath.buffers,
            now: datapath.loop.now)
        return Connection(association, socket, slot, datapath, delegate)
    }

    /// An established connection over a connected socket, from what a slot holds of it. Nobody else may go on with the
    /// slot. Call ``start(with:)`` next.
    ///
    /// Where the slot says that the peer has not shown yet that it is at the address that the socket is connected to, what
    /// is sent there is bounded.
    package static func resume(
        over socket: consuming FileDescriptor, _ flow: FlowKey, slot index: Int, isServer: Bool,
        limits: Limits, traffic: TrafficCounters = .ignored, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(InvalidRecordState) -> Connection {
        guard let slot = datapath.slot(index) else {
            throw InvalidRecordState("there is no memory file with its state")
        }
        let association = try Association.resume(
            slot, flow, isServer: isServer, limits: limits, traffic: traffic, buffers: datapath.buffers,
            now: datapath.loop.now)
        let connection = Connection(association, socket, index, datapath, delegate)
        if let allowance = slot.unprovenAllowance {
            connection.paths = .unproven(allowance: allowance)
            connection.notesPath = true
        }
        return connection
    }

    /// Begins the handshake, or goes on with an established connection. The delegate may be called before this returns.
    /// - Parameter datagrams: what the same peer has sent after the hello, if it was read already.
    /// - Returns: why the connection has ended already, which the delegate has been told; `nil` where it goes on.
    package func start(with datagrams: [UnsafeRawBufferPointer] = []) throws(SystemError) -> Ending? {
        registration = try datapath.loop.add(socket, .readable, self)
        if let pathMTU { association.fitFlights(toMTU: pathMTU) }
        if datapath.trace != nil { traceNote("a socket of the worker is connected to the peer, from \(local)") }
        work { lease in
            handOutEvents(lease)
            for datagram in datagrams {
                countReceived(1, byteCount: datagram.count)
                receive(datagram, lease)
            }
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
        if !datapath.buffers.bio.notes.isEmpty { reportNotes() }
        if let ending = association.ending { return finish(ending) }
        if notesPath || !paths.isSettled { notePath() }
        if association.mayHaveEarlierDeadline || !paths.isSettled { rearm() }
    }

    /// Notes in the slot whether the peer's address is proven, for the process that goes on with the connection.
    private func notePath() {
        notesPath = !paths.isSettled
        association.notePath(unprovenAllowance: paths.unprovenAllowance)
    }

    @inline(never)
    private func reportNotes() {
        let notes = datapath.buffers.bio.notes
        association.traffic.add(notes.retransmittedFlights, .flightsRetransmitted)
        delegate?.connection(self, noted: notes)
        notes.removeAll()
    }

    @inline(__always)
    private func countReceived(_ count: Int, byteCount: Int) {
        association.traffic.add(count, .datagramsReceived)
        association.traffic.add(byteCount, .datagramBytesReceived)
    }

    @inline(__always)
    private func countSent(_ count: Int, byteCount: Int) {
        association.traffic.add(count, .datagramsSent)
        association.traffic.add(byteCount, .datagramBytesSent)
    }

    private func rearm() {
        datapath.loop.timers.arm(self, at: min(association.deadline(now: datapath.loop.now), paths.deadline))
    }

    // MARK: Receiving

    package func ready(_ events: EventLoop.Events) {
        guard association.isHandshaking else { return readSocket() }
        if waitsForTurn { return }
        waitsForTurn = true
        datapath.readInTurn(self)
    }

    /// Reads the socket, after ``Datapath/readInTurn(_:)``.
    func readHandshake() {
        waitsForTurn = false
        // It may have ended meanwhile, or have been given up.
        if registration != nil { readSocket() }
    }

    @inline(__always)
    private func readSocket() {
        // Where many peers wait for an answer to each message, the only datagram is read by itself, which is cheaper. Where
        // there were more, the socket is ready in the next turn, too.
        let turn = datapath.loop.turn
        let readsOne = expectsOne && turn != turnOfReading &+ 1
        turnOfReading = turn
        let count: Int
        do throws(SystemError) {
            count = try readsOne ? datapath.batch.receiveOne(from: socket) : datapath.batch.receive(from: socket)
        } catch {
            return socketFailed(error.errno)
        }
        if readsOne {
            if count == 1 { receiveOne() }
            return
        }
        expectsOne = count == 1
        receiveBatch(count)
    }

    /// Takes a datagram that was read without its source. It is the peer's, since the socket has been empty since it was
    /// connected (rule 2).
    @inline(__always)
    private func receiveOne() {
        let datagram = datapath.batch[0]
        work { lease in
            countReceived(1, byteCount: datagram.count)
            receiveFromSocket(datagram, lease)
        }
    }

    @inline(__always)
    private func receiveBatch(_ count: Int) {
        let batch = datapath.batch
        work { lease in
            var received = 0
            var byteCount = 0
            for index in 0..<count {
                // Rule 2: a connected socket can hold what came for it before it was connected.
                guard let source = batch.source(index), source == peer else {
                    if let source = batch.source(index) {
                        delegate?.connection(self, misdelivered: batch[index], from: source)
                    }
                    continue
                }
                received += 1
                byteCount += batch[index].count
                receiveFromSocket(batch[index], lease)
            }
            countReceived(received, byteCount: byteCount)
        }
    }

    @inline(__always)
    private func receiveFromSocket(_ datagram: UnsafeRawBufferPointer, _ lease: borrowing OutboxLease) {
        if datapath.trace != nil { traceReceived(datagram, from: association.flow) }
        if paths.isSettled { return receive(datagram, lease) }
        receive(datagram, from: association.flow, wasRead: true, lease)
    }

    /// An ICMP error (ECONNREFUSED and the like), which anybody can forge. Reading has cleared it.
    private func socketFailed(_ errno: Int32) {
        lastError = errno
        if errno == EMSGSIZE {
            association.countUnsent(0, tooLarge: 1)
            association.pathHasShrunk(toMTU: pathMTU)
        }
        if errno == ECONNREFUSED { association.peerWasRefused() }
        delegate?.connection(self, socketFailed: errno)
    }

    /// Takes a datagram that was read elsewhere.
    /// - Parameter flow: the flow that it has come by: the connection's own, or another one that the peer may have moved
    ///   to (RFC 9146). A datagram of another flow must hold a record of the connection, unless its handshake goes on.
    package func receive(_ datagram: UnsafeRawBufferPointer, from flow: FlowKey? = nil) {
        guard !isWorking, association.isOpen else { return }
        countReceived(1, byteCount: datagram.count)
        if datapath.trace != nil { traceReceived(datagram, from: flow ?? association.flow) }
        work { lease in receive(datagram, from: flow ?? association.flow, wasRead: false, lease) }
    }

    @inline(__always)
    private func receive(_ datagram: UnsafeRawBufferPointer, _ lease: borrowing OutboxLease) {
        if association.receiveRecords(datagram) { handOutEvents(lease) } else { receiveRarity(datagram, lease) }
    }

    /// Takes a datagram that may be something else than the records of an established association.
    @inline(never)
    private func receiveRarity(_ datagram: UnsafeRawBufferPointer, _ lease: borrowing OutboxLease) {
        switch association.receive(datagram, now: datapath.loop.now, lease, offer: { rehandshakeOffer }) {
        case .taken: handOutEvents(lease, of: datagram.count)
        case .wantsKeys: delegate?.connection(self, wantsKeysFor: datagram)
        case .misdelivered: returnToListener(datagram, from: peer)
        }
    }

    /// Takes a datagram whose way is to be looked at.
    /// - Parameter wasRead: whether it was read from the connection's socket.
    @inline(never)
    private func receive(
        _ datagram: UnsafeRawBufferPointer, from source: FlowKey, wasRead: Bool, _ lease: borrowing OutboxLease
    ) {
        let newest = association.newestReceived
        hasAnsweredRepetition = false
        switch association.receive(datagram, now: datapath.loop.now, lease, offer: { rehandshakeOffer }) {
        case .taken: handOutEvents(lease, of: datagram.count, from: source)
        case .wantsKeys: delegate?.connection(self, wantsKeysFor: datagram)
        case .misdelivered:
            // A record that has come by its connection ID, and is of another connection all the same, is nobody's.
            if wasRead || ClientHello.couldBePart(of: datagram) { returnToListener(datagram, from: source.peer) }
            return
        }
        // Without a connection ID of this side's, nobody but who is at the address can be the peer.
        guard association.isOpen, association.connectionIDs?.own.isEmpty == false else { return }
        // What has come in it has been answered in full measure.
        if hasAnsweredRepetition { return }
        let isNewest = association.newestReceived > newest
        // Of what has come by the connection's own flow, only a newer record is known to be the peer's.
        guard isNewest || source != association.flow else { return }
        perform(
            paths.received(
                datagram.count, from: source, present: association.flow, isNewest: isNewest,
                checks: association.checksReturnRoutability, now: datapath.loop.now, cookie: { Self.cookie() }))
    }

    private static func cookie() -> UInt64 { .random(in: .min ... .max) }

    private func perform(_ actions: [PathCheck.Action]) {
        for action in actions {
            switch action {
            case .challenge(let cookie, let flow): sendChallenge(cookie, to: flow)
            case .wantSocket(let flow): delegate?.connection(self, wantsSocketAt: flow)
            case .giveUp(let flow): delegate?.connection(self, checkFailedAt: flow)
            }
        }
    }

    /// Sends a challenge before what has been written already, and nowhere but to the flow.
    private func sendChallenge(_ cookie: UInt64, to flow: FlowKey) {
        datapath.buffers.outbox.lend(
            to: association, sending: { sendChallenges($0, to: flow) },
            { _ in association.sendPathChallenge(cookie) })
    }

    private func sendChallenges(_ outbox: Outbox, to flow: FlowKey) {
        forEachDatagram(of: outbox) { datagram in
            guard paths.take(datagram.count, to: flow) else { return }
            if flow == association.flow {
                sendOverSocket(datagram)
            } else {
                countSent(1, byteCount: datagram.count)
                delegate?.connection(self, send: UnsafeRawBufferPointer(datagram), to: flow)
            }
        }
    }

    /// The record of the peer's Finished has come once more: the peer gets the last flight where it has asked from, which
    /// may be another address than before, but at most three times the bytes of the datagram, since it may be anybody's.
    private func answerRepetition(_ byteCount: Int, from flow: FlowKey) {
        hasAnsweredRepetition = true
        datapath.buffers.outbox.lend(
            to: association,
            sending: { outbox in
                var size = 0
                forEachDatagram(of: outbox) { size += $0.count }
                guard size > 0, size <= PathCheck.amplification * byteCount else { return }
                association.traffic.add(1, .flightsRetransmitted)
                forEachDatagram(of: outbox) { datagram in
                    if flow == association.flow {
                        sendOverSocket(datagram)
                    } else {
                        delegate?.connection(self, send: UnsafeRawBufferPointer(datagram), to: flow)
                    }
                }
            },
            { _ in association.sendLastFlight(now: datapath.loop.now) })
    }

    /// Whether a datagram from another address than the peer's may be what it asks for the last flight with, though all of
    /// its records have come before; see ``receive(_:from:)``.
    package func mayRepeatFlight(for datagram: UnsafeRawBufferPointer) -> Bool {
        association.holdsRepeatedFinished(datagram)
    }

    private var rehandshakeOffer: RehandshakeOffer? {
        guard let material = delegate?.rehandshakeMaterial(for: self) else { return nil }
        return RehandshakeOffer(material: material, minute: .now(), pathMTU: pathMTU)
    }

    /// - Parameters:
    ///   - byteCount: of the datagram that was received.
    ///   - source: the flow that it has come by, where that may matter.
    @inline(__always)
    private func handOutEvents(_ lease: borrowing OutboxLease, of byteCount: Int = 0, from source: FlowKey? = nil) {
        while true {
            switch association.next(now: datapath.loop.now, lease) {
            case .needsInput:
                return
            case .message(let message):
                if !message.isEmpty { hasMessages = true }
                delegate?.connection(self, received: message)
                lease.sendIfFilling { send($0) }
            case .established:
                if datapath.trace != nil { traceNote("the handshake is done") }
                association.noteHandshakeDuration(Instant.now() - association.started)
                delegate?.connectionEstablished(self)
                association.releaseDetails()
            case .replaced:
                // What the lost association has said is its own: it must not be taken for the new one's.
                endBatch()
                delegate?.connectionReplaced(self)
            case .rehandshakeFailed(let ending):
                delegate?.connection(self, rehandshakeFailed: ending)
            case .needsAuthorization(let number):
                if datapath.trace != nil { traceNote("the handshake waits for an authorization") }
                if let question = association.question(number) {
                    delegate?.connection(self, asks: question, number)
                }
            case .pathResponse(let cookie):
                let flow = association.flow
                perform(paths.receivedResponse(cookie, from: source ?? flow, present: flow))
                delegate?.connectionAnswered(self)
            case .finishedRepeated:
                answerRepetition(byteCount, from: source ?? association.flow)
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
        guard ClientHello.couldBePart(of: datagram) || Record(of: datagram)?.contentType == .connectionID else {
            return
        }
        if association.isOpen {
            delegate?.connection(self, misdelivered: datagram, from: source)
        } else {
            misdelivered.append(([UInt8](datagram), source))
        }
    }

    /// Lets a client in or keeps it out, as was asked. Nothing happens where its handshake is over meanwhile.
    package func authorize(_ number: UInt32, _ answer: AuthorizationAnswer) {
        guard association.isOpen else { return }
        // Within the delegate's call, what follows comes after that.
        if isWorking { return association.authorize(number, answer) }
        work { lease in
            association.authorize(number, answer)
            handOutEvents(lease)
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
                if !association.isKnownToFit(message.count) {
                    try association.checkFits(message.count, enforcedMTU: enforcedMTU)
                }
                try association.send(message, now: datapath.loop.now, lease)
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
        if datapath.trace != nil { traceSent(outbox) }
        guard paths.isSettled else { return sendByPath(outbox) }
        let count = outbox.count
        let outcome = datapath.send(outbox, over: socket)
        countSent(outcome.sent, byteCount: outbox.byteCount)
        guard outcome.sent < count else { return }
        association.countUnsent(count - outcome.sent - outcome.tooLarge, tooLarge: outcome.tooLarge)
        lastError = outcome.error
        if outcome.tooLarge > 0 { association.pathHasShrunk(toMTU: pathMTU) }
    }

    /// Sends each datagram to where the peer is, within the bounds for addresses that are not proven.
    private func sendByPath(_ outbox: Outbox) {
        forEachDatagram(of: outbox) { datagram in
            switch paths.route(datagram.count) {
            case .socket: sendOverSocket(datagram)
            case .candidate(let flow):
                countSent(1, byteCount: datagram.count)
                delegate?.connection(self, send: UnsafeRawBufferPointer(datagram), to: flow)
            case .nowhere: association.countUnsent(1, tooLarge: 0)
            }
        }
    }

    private func forEachDatagram(of outbox: Outbox, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
        outbox.withDatagrams { bytes, sizes in
            var offset = 0
            for size in sizes {
                body(UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<(offset + size)]))
                offset += size
            }
        }
    }

    private func sendOverSocket(_ datagram: UnsafeMutableRawBufferPointer) {
        let outcome = datapath.send(datagram, over: socket)
        countSent(outcome.sent, byteCount: datagram.count)
        if outcome.sent == 1 { return }
        association.countUnsent(1 - outcome.tooLarge, tooLarge: outcome.tooLarge)
        lastError = outcome.error
        if outcome.tooLarge > 0 { association.pathHasShrunk(toMTU: pathMTU) }
    }

    // MARK: Paths

    /// Whether the peer seems to be at another address, and the connection waits for a socket, or for the answer to a
    /// challenge.
    package var isMoving: Bool { paths.hasCandidate }

    /// Gives the connection a socket that is connected to another flow, in place of the one that it has, which is read
    /// empty first. The connection may end by that.
    package func move(to flow: FlowKey, over socket: consuming FileDescriptor) throws(SystemError) {
        readAll()
        guard association.isOpen else { return }
        let registration = try datapath.loop.add(socket, .readable, self)
        if let former = self.registration { datapath.loop.remove(self.socket, former) }
        self.registration = registration
        self.socket = socket
        expectsOne = false
        lastError = 0
        let former = association.flow
        association.move(to: flow)
        let actions = paths.moved(to: flow, from: former)
        if datapath.trace != nil {
            traceNote("the connection has a socket that is connected to the peer's new address")
        }
        delegate?.connectionMoved(self, from: former)
        work { _ in perform(actions) }
    }

    /// Asks the peer whether it knows the connection, by a path_challenge over the present path (RFC 9853), which each peer
    /// that has agreed on them answers. The delegate is told of an answer.
    package func askPeer() {
        guard association.isOpen else { return }
        work { _ in association.sendPathChallenge(Self.cookie()) }
    }

    /// There is no socket that the connection has wanted. It stays with the one that it has.
    package func moveFailed() {
        guard association.isOpen else { return }
        let actions = paths.moveFailed()
        work { _ in perform(actions) }
    }

    // MARK: Timers

    package override func timerFired(now: Instant) {
        guard association.isOpen else { return }
        if datapath.trace != nil { traceTimer() }
        defer { datapath.trace?.isTimedOut = false }
        work { lease in
            association.handleTimeout(now: now, lease)
            handOutEvents(lease)
            if !paths.isSettled, association.isOpen {
                perform(paths.handleTimeout(present: association.flow, now: now, cookie: { Self.cookie() }))
            }
        }
        if association.isSilent(now: now), !paths.hasCandidate { delegate?.connectionIsSilent(self) }
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
        if datapath.trace != nil { traceNote("the connection gives its socket up, and is kept without one") }
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
        if datapath.trace != nil { traceEnd(ending) }
        // Rule 3: the peer may already be back on the same port.
        let batch = datapath.finalBatch
        batch.receiveAll(from: socket) { index in
            if let source = batch.source(index) { returnToListener(batch[index], from: source) }
        }
        stopWatching()
        _ = socket.take()
        finalConnectionIDs = association.connectionIDs.map { Boxed($0) }
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
        _ suspended: SuspendedAssociation, over socket: consuming FileDescriptor, limits: Limits,
        traffic: TrafficCounters = .ignored, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(InvalidRecordState) -> Connection {
        let association = try Association.resume(
            suspended, limits: limits, traffic: traffic, buffers: datapath.buffers, now: datapath.loop.now)
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
    package var flow: FlowKey { association.flow }
    /// What was agreed on by RFC 9146; `nil` where nothing was, and before the handshake is done.
    package var connectionIDs: ConnectionIDs? {
        association.isOpen ? association.connectionIDs : finalConnectionIDs?.value
    }
    /// Whether return routability checks were agreed on (RFC 9853).
    package var checksReturnRoutability: Bool { association.checksReturnRoutability }
    package var counters: Counters { association.counters }
    /// What the handshake has agreed on; nothing before it is done.
    package var session: SessionDetails { association.session }
    /// From the start of the present association's handshake to its end, as far as that is kept in a slot.
    package var handshakeDuration: Duration { association.handshakeDuration }
    /// The flights of a client's handshake. They are to be asked for in `connectionEstablished`, or, where the handshake has
    /// failed, in `connectionClosed`.
    package var flights: [HandshakeFlight] { association.flights }
    /// The certificate that the peer has shown, DER; as ``flights``.
    package var peerCertificate: [UInt8]? { association.peerCertificate }
    /// All certificates that the peer has shown, DER, its own first, where they are kept; as ``flights``.
    package var peerCertificates: [[UInt8]] { association.peerCertificates }
    /// What keys of other protocols can be derived from. It is to be asked for in `connectionEstablished`.
    package var exporterSecret: ExporterSecret? { association.exporterSecret }
    /// What is known of a handshake that has failed; as ``flights``.
    package var unfinishedDetails: SessionDetails? { association.unfinishedDetails }
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
