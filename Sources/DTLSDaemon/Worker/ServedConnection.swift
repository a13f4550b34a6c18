import DTLSEngine
import DTLSTransport
import LinuxSystem

/// A client's connection together with the handler that serves it, in a worker.
final class ServedConnection: ConnectionDelegate {
    let id: ConnectionNumber
    private let service: ServiceRuntime
    private unowned let worker: Worker
    private var connection: Connection?
    /// `nil` until the handshake is done.
    private var handler: (any Handler)?
    private var traffic: TrafficLimiter?
    private var hasBeenEstablished = false

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
            on: socket, handover.flow, hello: hello, context: service.context, limits: service.limits,
            datapath: worker.datapath, delegate: self)
    }

    /// Begins the handshake. The connection may be closed, and removed from the worker, before this returns.
    /// - Parameter datagrams: what the client has sent after the hello.
    func start(with datagrams: [UnsafeRawBufferPointer]) {
        guard let connection else { return }
        do throws(SystemError) {
            // Where the connection has ended already, `connectionClosed` has been called.
            _ = try connection.start(with: datagrams)
        } catch {
            self.connection = nil
            worker.countFailure()
            worker.logs.handshakeFailed(peer: connection.peer, service, "\(error)")
            worker.remove(self)
        }
    }

    /// Takes a datagram of this connection's peer that was read from another socket.
    func receive(_ datagram: UnsafeRawBufferPointer) { connection?.receive(datagram) }

    func close() { connection?.close() }

    // MARK: What the connection reports

    func connectionEstablished(_ connection: Connection) {
        if !hasBeenEstablished { worker.reportEstablished(id) }
        hasBeenEstablished = true
        worker.countHandshake(resumed: connection.session.isResumed)
        worker.logs.opened(connection, service)
        let handler = service.makeHandler(for: connection, worker.handlerResources)
        self.handler = handler
        handler.opened(connection)
    }

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        if let excess = traffic?.excess(message.count, now: worker.datapath.loop.now) {
            return drop(excess, on: connection)
        }
        // An empty record has said that the client is there. Handlers and those behind them get messages.
        if !message.isEmpty { handler?.received(message, on: connection) }
    }

    private func drop(_ excess: TrafficExcess, on connection: Connection) {
        worker.countDropped(excess)
        // Logged once for each connection. The entry about its end has the number of all that were dropped.
        if traffic?.dropped == 1 { worker.logs.trafficLimited(excess, connection, service) }
    }

    func connectionHasRead(_ connection: Connection) { handler?.batchEnded(on: connection) }

    func connection(_ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress) {
        worker.reinject(datagram, FlowKey(peer: peer, local: connection.local))
    }

    func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial? {
        worker.rehandshakeMaterial(for: service, connection.peer)
    }

    func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending) {
        worker.countFailure()
        worker.logs.handshakeFailed(
            peer: connection.peer, service, "\(ending); this was a re-handshake, and the connection goes on as it was")
    }

    func connectionReplaced(_ connection: Connection) {
        worker.logs.closed(connection, service, .replaced, dropped: traffic?.dropped ?? 0)
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
                peer: connection.peer, service, ending.description + connection.presharedKeyRemark,
                client: connection.peerRejection?.client)
        }
        worker.remove(self)
    }
}
