import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging

/// A client's connection together with the handler that serves it, in a worker.
///
/// It may be without a socket: parked, with a handler that stays. A parked connection whose handler does not stay has no
/// such object.
final class ServedConnection: ConnectionDelegate {
    let id: ConnectionNumber
    let service: ServiceRuntime
    private unowned let worker: Worker
    /// `nil` while the connection has no socket.
    private var connection: Connection?
    /// `nil` until the handshake is done.
    private var handler: (any Handler)?
    private var traffic: TrafficLimiter?
    private var hasBeenEstablished = false
    /// The keys of the sessions of the re-handshake whose hello is received.
    private var keysOfRehandshake: ResumptionKeys?
    /// Whether the connection gives its socket up at the end of this turn.
    var isGoingToPark = false
    /// Whether its address is another client's now, so that it gives its socket up even where it is never silent.
    var mustGiveUpSocket = false
    /// Whether OpenSSL has neither the connection's handshake nor its records.
    var hasLeftOpenSSL = false

    /// Takes over a connection that was handed over. Call ``start(with:)`` next.
    /// - Throws: where OpenSSL does not accept the ClientHello.
    init(
        _ handover: MessageToWorker.Handover, _ hello: consuming VerifiedHello, socket: consuming FileDescriptor,
        service: ServiceRuntime, worker: Worker
    ) throws(OpenSSLError) {
        id = handover.id
        self.service = service
        self.worker = worker
        traffic = TrafficLimiter(service.configuration.limits.traffic)
        connection = try Connection.accept(
            on: socket, handover.flow, slot: handover.id.slot, hello: hello, context: service.context,
            connectionID: handover.connectionID, resumptionKeys: handover.resumptionKeys.flatMap { ResumptionKeys($0) },
            limits: service.limits, traffic: service.counters.traffic,
            datapath: worker.datapath, delegate: self)
    }

    /// A connection that is in a slot, without a socket. Call ``resume(over:_:with:)`` or ``prepareHandler(_:_:)`` next.
    init(parked id: ConnectionNumber, service: ServiceRuntime, worker: Worker) {
        self.id = id
        self.service = service
        self.worker = worker
        hasBeenEstablished = true
        hasLeftOpenSSL = true
        traffic = TrafficLimiter(service.configuration.limits.traffic)
    }

    var hasSocket: Bool { connection != nil }
    var isEstablished: Bool { handler != nil }
    /// Whether no other worker has taken the connection when it was released, so that it goes on here for now.
    var hasComeBack = false
    /// Whether the connection could give its socket up for its silence.
    var mayPark: Bool { canPark && service.limits.parkAfter > .zero && connection?.isMoving == false }
    /// Whether the connection can go on without a socket. Where its service is gone from the configuration, so are the
    /// listeners that would get its client's records.
    var canPark: Bool {
        service.parking != .never && connection?.isMovable ?? false
            && worker.isActive(SlotTarget.service(service.configuration.name))
    }
    /// The flow of the socket; `nil` without one.
    var flow: FlowKey? { connection?.flow }
    /// Whether its client's records say whose they are, whatever address they come from.
    var hasConnectionID: Bool { connection?.connectionIDs?.own.isEmpty == false }
    /// Whether the connection can go on elsewhere by what is in its slot.
    var isMovable: Bool { handler != nil && connection?.isMovable ?? true }

    /// Begins the handshake. The connection may be closed, and removed from the worker, before this returns.
    /// - Parameter datagrams: what the client has sent after the hello.
    func start(with datagrams: [UnsafeRawBufferPointer]) {
        guard let connection else { return }
        do throws(SystemError) {
            // Where the connection has ended already, `connectionClosed` has been called.
            _ = try connection.start(with: datagrams)
        } catch {
            self.connection = nil
            service.counters.count(HandshakeResult.failed)
            worker.logs.handshakeFailed(peer: connection.peer, service, "\(error)")
            worker.remove(self)
        }
    }

    /// Takes the hello of a re-handshake once more, with the keys that were asked for.
    func receive(_ hello: UnsafeRawBufferPointer, with keys: ResumptionKeys) {
        keysOfRehandshake = keys
        connection?.receive(hello)
        keysOfRehandshake = nil
    }

    /// Takes a datagram of this connection's peer that was read from another socket.
    func receive(_ datagram: UnsafeRawBufferPointer) { connection?.receive(datagram) }

    /// Takes a datagram that came to a listener by a flow, of this connection's client or in its name.
    func receive(_ datagram: UnsafeRawBufferPointer, from flow: FlowKey) { connection?.receive(datagram, from: flow) }

    /// Whether a datagram that came to a listener may ask for the last flight of the handshake, though it is a replay.
    func mayRepeatFlight(for datagram: UnsafeRawBufferPointer) -> Bool {
        connection?.mayRepeatFlight(for: datagram) ?? false
    }

    func close(_ ending: Connection.Ending = .closedHere) { connection?.close(ending) }

    // MARK: Another address

    /// Gives the connection a socket at the flow that its client is at now.
    func move(to flow: FlowKey, over socket: consuming FileDescriptor) {
        guard let connection else { return }
        do throws(SystemError) {
            try connection.move(to: flow, over: socket)
        } catch {
            worker.logs.limited(
                .internalError,
                "the socket of a client's new address \(flow.peer) cannot be watched: \(error); the connection waits"
                    + " without a socket for more", service)
            worker.parking.parkUnwatched(self)
        }
    }

    func moveFailed() { connection?.moveFailed() }

    func connection(_ connection: Connection, wantsSocketAt flow: FlowKey) {
        worker.send(MessageFromWorker.encode(rebind: id, flow: flow))
    }

    func connection(_ connection: Connection, send datagram: UnsafeRawBufferPointer, to flow: FlowKey) {
        worker.sendFromListener(datagram, to: flow)
    }

    func connectionMoved(_ connection: Connection, from flow: FlowKey) { noteMove(of: connection, from: flow.peer) }

    /// - Parameter former: where the client was before, as far as that is known.
    private func noteMove(of connection: Connection, from former: SocketAddress?) {
        service.counters.count(ConnectionMove.address)
        worker.logs.moved(connection, from: former, service)
        handler?.moved(connection)
    }

    func connection(_ connection: Connection, checkFailedAt flow: FlowKey) {
        service.counters.block.add(to: .addressesUnconfirmed)
        worker.logs.checkFailed(connection, at: flow.peer, service)
    }

    // MARK: Without a socket

    /// Makes the handler of a connection without a socket that needs one all the same.
    /// - Parameter far: its socket to the other side, where another process has had one; not open otherwise.
    func prepareHandler(_ client: ServedClient, _ far: consuming FileDescriptor) {
        let handler = service.makeHandler(for: client, worker.handlerResources)
        self.handler = handler
        if far.isOpen { handler.adopt(far) }
        handler.parked(self)
    }

    /// Gives the connection a socket again.
    /// - Parameters:
    ///   - hasMoved: whether the client is at another address than it was when the connection had a socket last.
    ///   - far: as for ``prepareHandler(_:_:)``.
    ///   - datagrams: what the peer has sent meanwhile.
    /// - Throws: where what is in the slot is nothing to go on with.
    func resume(
        over socket: consuming FileDescriptor, _ client: ServedClient, hasMoved: Bool,
        _ far: consuming FileDescriptor, with datagrams: [WakeQueue.Kept]
    ) throws(InvalidRecordState) {
        let connection = try Connection.resume(
            over: socket, client.flow, slot: id.slot, isServer: true, limits: service.limits,
            traffic: service.counters.traffic, datapath: worker.datapath, delegate: self)
        self.connection = connection
        service.counters.block.add(to: .connectionsWoken)
        mustGiveUpSocket = false
        if hasMoved { noteMove(of: connection, from: nil) }
        if let handler {
            handler.resumed(connection)
        } else {
            let handler = service.makeHandler(for: client, worker.handlerResources)
            self.handler = handler
            if far.isOpen { handler.adopt(far) }
            handler.opened(connection)
        }
        // The handler may have closed it.
        guard self.connection != nil else { return }
        var failure: SystemError?
        do throws(SystemError) { _ = try connection.start() } catch { failure = error }
        for datagram in datagrams {
            datagram.bytes.withUnsafeBytes { self.connection?.receive($0, from: datagram.flow) }
        }
        guard let failure, self.connection != nil else { return }
        worker.logs.limited(
            .internalError,
            "the socket of a connection cannot be watched: \(failure); what its client had sent is answered, and the"
                + " connection waits without a socket for more", service, ["PEER": "\(connection.peer)"])
        worker.parking.parkUnwatched(self)
    }

    /// Gives the socket up, once the main process knows: what is in it is read first.
    /// - Returns: whether the connection is one to be remembered without a socket, since its handler stays.
    func park() -> Bool {
        connection?.readAll()
        // What was read may have been the end.
        guard let connection, let handler else { return false }
        _ = connection.detach()
        self.connection = nil
        service.counters.block.add(to: .connectionsParked)
        handler.parked(self)
        if service.parking == .handlerStays { return true }
        handler.closed()
        self.handler = nil
        return false
    }

    /// The handler has something for the client.
    func wake() { worker.parking.wake(id) }

    /// There is no socket for what the handler has.
    func resumeFailed() { if connection == nil { handler?.resumeFailed() } }

    /// Gives the connection up to its slot, for another process, without a word to anybody.
    /// - Parameter body: is given the sockets, which are not open where there are none. What comes over them from now on
    ///   is not read here.
    func leave(_ body: (consuming FileDescriptor, consuming FileDescriptor) -> Void) {
        let far = handler?.takeSocket() ?? FileDescriptor(owning: -1)
        let socket = connection?.detach() ?? FileDescriptor(owning: -1)
        connection = nil
        handler?.closed()
        handler = nil
        body(socket, far)
    }

    /// Reads what is in the socket, before the connection is left to another process.
    func readAll() { connection?.readAll() }

    /// A connection without a socket has ended.
    func closeParked() {
        handler?.closed()
        handler = nil
    }

    func hasBeenSilent(for duration: Duration) -> Bool { connection?.hasBeenSilent(for: duration) ?? false }

    // MARK: What the connection reports

    func connectionEstablished(_ connection: Connection) {
        if !hasBeenEstablished { worker.reportEstablished(self, isMovable: connection.isMovable) }
        hasBeenEstablished = true
        service.counters.countEstablished(connection.session, after: connection.handshakeDuration)
        worker.logs.opened(connection, id, service)
        let handler = service.makeHandler(
            for: ServedClient(connection, worker.slot(id)), worker.handlerResources)
        self.handler = handler
        handler.opened(connection)
    }

    func connection(_ connection: Connection, asks question: AuthorizationQuestion, _ number: UInt32) {
        // A re-handshake goes by the active configuration.
        let active = hasBeenEstablished ? worker.active(service) : nil
        let asking = active.flatMap { $0.asksAuthorizer ? $0 : nil } ?? service
        asking.authorize(question, of: connection.peer, at: connection.local) { [weak connection] answer in
            connection?.authorize(number, answer)
        }
    }

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        if let excess = traffic?.excess(message.count, now: worker.datapath.loop.now) {
            return drop(excess, on: connection)
        }
        // An empty record has said that the client is there. Handlers and those behind them get messages.
        if !message.isEmpty { handler?.received(message, on: connection) }
    }

    private func drop(_ excess: TrafficExcess, on connection: Connection) {
        service.counters.countDropped(DropReason(excess))
        // Logged once for each connection. The entry about its end has the number of all that were dropped.
        if traffic?.dropped == 1 { worker.logs.trafficLimited(excess, connection, service) }
    }

    func connectionHasRead(_ connection: Connection) { handler?.batchEnded(on: connection) }

    func connection(_ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress) {
        worker.reinject(datagram, FlowKey(peer: peer, local: connection.local))
    }

    func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial? {
        worker.rehandshakeMaterial(
            for: service, connection.peer, staysBeside: worker.slot(id)?.ownConnectionID != nil, keysOfRehandshake)
    }

    func connection(_ connection: Connection, wantsKeysFor datagram: UnsafeRawBufferPointer) {
        worker.send(MessageFromWorker.encode(rehandshake: id, hello: datagram))
    }

    func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending) {
        service.counters.count(HandshakeResult(ending))
        worker.logs.handshakeFailed(
            peer: connection.peer, service, "\(ending); this was a re-handshake, and the connection goes on as it was",
            client: ending.refusedClient)
    }

    func connection(_ connection: Connection, noted notes: EngineNotes) { service.counters.count(notes) }

    func connectionReplaced(_ connection: Connection) {
        service.counters.count(CloseReason.replaced)
        worker.logs.closed(
            connection.peer, id, connection.connectionIDs, connection.counters, service, .replaced,
            dropped: traffic?.dropped ?? 0)
        traffic?.restart()
        handler?.closed()
        handler = nil
        // To its backend, the client that comes is another one: it gets a socket, and so a port, of its own.
        worker.slot(id)?.farSide = .none
        worker.slot(id)?.farGroup = 0
    }

    func connectionIsSilent(_ connection: Connection) { worker.parking.park(self) }

    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        self.connection = nil
        if let handler {
            service.counters.count(CloseReason(ending))
            worker.logs.closed(
                connection.peer, id, connection.connectionIDs, connection.counters, service, ending,
                dropped: traffic?.dropped ?? 0)
            handler.closed()
            self.handler = nil
        } else {
            service.counters.count(HandshakeResult(ending))
            worker.logs.handshakeFailed(
                peer: connection.peer, service, ending.description + connection.presharedKeyRemark,
                client: connection.peerRejection?.client ?? ending.refusedClient)
        }
        worker.remove(self)
    }
}

extension Connection.Ending {
    /// The client that was refused by who was asked about it, as far as it is known.
    fileprivate var refusedClient: PeerName? {
        if case .failed(.unauthorized(let refusal)) = self { refusal.client } else { nil }
    }
}
