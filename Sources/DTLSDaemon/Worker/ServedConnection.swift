import DTLSEngine
import DTLSTransport
import LinuxSystem

/// A connection together with the handler that serves it, in a worker.
final class ServedConnection: ConnectionDelegate {
    let id: UInt64
    private let service: ServiceRuntime
    private unowned let worker: Worker
    private(set) var connection: Connection?
    private var handler: (any Handler)?
    private var traffic: TrafficLimiter?
    private var hasBeenEstablished = false

    /// The connection has begun its handshake, or is gone again, when this returns.
    init(
        _ handover: MessageToWorker.Handover, _ hello: consuming VerifiedHello, socket: consuming FileDescriptor,
        service: ServiceRuntime, worker: Worker
    ) {
        id = handover.id
        self.service = service
        self.worker = worker
        traffic = TrafficLimiter(service.configuration.limits.traffic)
        do {
            let connection = try Connection.createByFd(
                socket, local: handover.flow.local, peer: handover.flow.peer, context: service.context,
                hello: hello, limits: service.limits, datapath: worker.datapath, delegate: self)
            self.connection = connection
            try connection.start(with: handover.datagrams)
        } catch {
            self.connection = nil
            worker.countFailure()
            worker.logs.handshakeFailed(peer: handover.flow.peer, service, "\(error)")
            worker.forget(self)
        }
    }

    func connectionEstablished(_ connection: Connection) {
        if !hasBeenEstablished { worker.reportEstablished(id) }
        hasBeenEstablished = true
        worker.countHandshake(resumed: connection.engine.isResumed)
        worker.logs.opened(connection, service)
        let handler = service.makeHandler(for: connection, worker.handlerResources)
        self.handler = handler
        handler.opened(connection)
    }

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        if let excess = traffic?.excess(message.count, now: worker.datapath.loop.now) {
            return drop(excess, on: connection)
        }
        handler?.received(message, on: connection)
    }

    private func drop(_ excess: TrafficExcess, on connection: Connection) {
        worker.countDropped(excess)
        // Once for each connection; the rest is in the line about its end.
        if traffic?.dropped == 1 { worker.logs.exceeds(excess, connection, service) }
    }

    func connectionHasRead(_ connection: Connection) { handler?.batchEnded(on: connection) }

    func connection(_ connection: Connection, foreign datagram: UnsafeRawBufferPointer, from peer: SocketAddress) {
        worker.giveBack(datagram, FlowKey(peer: peer, local: connection.local))
    }

    func restartMaterial(for connection: Connection) -> RehandshakeMaterial? {
        worker.restartMaterial(for: service, connection.peer)
    }

    func connection(_ connection: Connection, refusedRestart ending: Connection.Ending) {
        worker.countFailure()
        worker.logs.handshakeFailed(
            peer: connection.peer, service, "\(ending); the connection that was there goes on")
    }

    func connectionRestarts(_ connection: Connection) {
        worker.logs.closed(connection, service, .restarted, dropped: traffic?.dropped ?? 0)
        traffic?.restart()
        handler?.closed()
        handler = nil
    }

    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        self.connection = nil
        if let handler {
            worker.logs.closed(connection, service, ending, dropped: traffic?.dropped ?? 0)
            handler.closed()
            self.handler = nil
        } else {
            worker.countFailure()
            worker.logs.handshakeFailed(
                peer: connection.peer, service, ending.description + connection.engine.presharedKeyRemark,
                client: connection.engine.peerRejection?.client)
        }
        worker.forget(self)
    }
}
