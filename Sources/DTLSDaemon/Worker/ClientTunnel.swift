import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// One local sender of a client: its connected socket, and the DTLS connection to the server that its datagrams leave
/// over. One datagram is one message, both ways.
///
/// The connection may go and come again meanwhile (``TunnelState``); datagrams that come in between wait, up to a
/// bound, and those above it are dropped, as by a socket whose buffer is full.
final class ClientTunnel: TimerTarget, EventHandler, ConnectionDelegate {
    let id: UInt64
    let key: FlowKey
    private(set) var client: ClientRuntime
    unowned let worker: Worker
    private let resources: HandlerResources
    /// The local sender's socket. It is not open before ``start(over:with:)``.
    private let socket: MessageSocket
    private var course = TunnelState()
    private var connection: Connection?
    /// What waits for a connection.
    private(set) var waiting: PendingQueue
    private(set) var counters = Counters()
    /// When the last datagram came, from either side, or was taken by the sender.
    private var lastActive: Instant
    /// When the present connection was established; `nil` while there is none.
    private var establishedAt: Instant?
    /// When the first datagram was sent that the server has sent nothing since.
    private var unansweredSince: Instant?
    /// Why the connection is being closed, where it is the tunnel that knows.
    private var endingReason: String?

    /// Datagrams that were lost here.
    struct Counters {
        /// There was no connection, and no room to wait, or no end of it.
        var unconnected: UInt64 = 0
        /// Too large for a record or the path, or empty.
        var unsuited: UInt64 = 0
        /// The sender's socket did not take them.
        var undelivered: UInt64 = 0
    }

    /// A connection that has lived this long was of use, even if the server has never said anything.
    private var goodLife: Duration {
        let timeout = client.configuration.answerTimeout
        return timeout > .zero ? min(timeout, .seconds(10)) : .seconds(10)
    }

    init(_ id: UInt64, _ key: FlowKey, client: ClientRuntime, worker: Worker) {
        self.id = id
        self.key = key
        self.client = client
        self.worker = worker
        resources = worker.handlerResources
        socket = MessageSocket(resources)
        waiting = PendingQueue(resources.pendingBudget)
        lastActive = resources.loop.now
        super.init()
    }

    /// - Parameters:
    ///   - socket: connected to the local sender.
    ///   - datagrams: what the sender has sent already.
    func start(over socket: consuming FileDescriptor, with datagrams: [UnsafeRawBufferPointer]) {
        do throws(SystemError) {
            try self.socket.open(socket, .udp, for: self)
        } catch {
            worker.logs.limited(.internalError, "a sender's socket cannot be watched: \(error)", fields: fields)
            return close(.closedHere)
        }
        for datagram in datagrams { take(datagram) }
        sendTaken()
        rearm()
    }

    /// Takes a datagram of this sender's that somebody else has read.
    func receive(_ datagram: UnsafeRawBufferPointer) {
        take(datagram)
        sendTaken()
    }

    // MARK: From the sender to the server

    func ready(_ events: EventLoop.Events) {
        let batch = resources.received
        // An error is an ICMP message: the sender has gone, for the moment at least.
        guard let count = try? socket.receive(), count > 0 else { return }
        for index in 0..<count {
            // Rule 2: a connected socket can hold what came for it before it was connected.
            if let source = batch.source(index), source != key.peer {
                worker.giveBack(batch[index], FlowKey(peer: source, local: key.local))
            } else {
                take(batch[index])
            }
        }
        sendTaken()
    }

    private func take(_ datagram: UnsafeRawBufferPointer) {
        lastActive = resources.loop.now
        guard !datagram.isEmpty, datagram.count <= Engine.maximumMessageSize else { return refuse(datagram.count) }
        switch course.datagramCame() {
        case .send:
            guard let connection else { return }
            guard !isForgotten else {
                let patience = client.configuration.answerTimeout / 1_000
                end(connection, because: "the server has sent nothing for \(patience) s")
                return take(datagram)
            }
            send(datagram, over: connection)
        case .keep:
            keep(datagram)
        case .keepAndConnect:
            keep(datagram)
            connect()
        case .drop:
            break
        }
    }

    private func send(_ datagram: UnsafeRawBufferPointer, over connection: Connection) {
        do throws(EngineError) {
            try connection.send(datagram)
        } catch {
            // Larger than the path takes, as far as that is known; told here, and not once more after the batch.
            counters.unsuited &+= 1
            if connection.lastError == EMSGSIZE { _ = connection.takeError() }
            let told = tellSender(of: datagram.count)
            worker.logs.limited(.datagramRefused, "a datagram was dropped: \(error)\(told)", fields: fields)
        }
    }

    /// Whether the server may have lost its state without a word, so that nothing that is sent arrives. There is no
    /// other way to see it: DTLS has no sign of life (OpenSSL knows RFC 6520 no more), and who does not know a
    /// connection says nothing about its records.
    private var isForgotten: Bool {
        let timeout = client.configuration.answerTimeout
        let now = resources.loop.now
        let start = unansweredSince ?? now
        unansweredSince = start
        return timeout > .zero && now >= start + timeout
    }

    /// What was encrypted leaves.
    private func sendTaken() {
        guard course.state == .established, let connection else { return }
        connection.flush()
        let error = connection.lastError
        if error != 0 { failed(connection, error) }
    }

    private func keep(_ datagram: UnsafeRawBufferPointer) {
        if waiting.append(datagram) { return }
        counters.unconnected &+= 1
        worker.logs.limited(
            .datagramRefused,
            "datagrams are dropped: there is no connection to the server \(client.configuration.server), and"
                + " \(waiting.count) wait for it already", fields: fields)
    }

    private func refuse(_ size: Int) {
        counters.unsuited &+= 1
        let told = size > 0 ? tellSender(of: size) : ""
        worker.logs.limited(
            .datagramRefused,
            "a datagram of \(size) bytes was dropped: a message over DTLS has 1 to \(Engine.maximumMessageSize)"
                + "\(told)", fields: fields)
    }

    /// Reports a datagram that was too large, where this process may.
    /// - Returns: words for the log.
    private func tellSender(of size: Int) -> String {
        do throws(SystemError) {
            try worker.notices.tell(key.peer, of: size, sentTo: key.local)
            return "; its sender was told (ICMP)"
        } catch {
            return "; its sender was not told (ICMP): \(error)"
        }
    }

    /// The socket to the server gave an error.
    private func failed(_ connection: Connection, _ error: Int32) {
        _ = connection.takeError()
        switch error {
        case EMSGSIZE:
            // A router has said so of one that has left already.
            counters.unsuited &+= 1
            let told = tellSender(of: connection.largestMessage + 1)
            worker.logs.limited(
                .datagramRefused,
                "a datagram was dropped: it is too large for the path to the server \(client.configuration.server),"
                    + " which takes messages of at most \(connection.largestMessage) bytes\(told)",
                fields: fields)
        case EAGAIN, ENOBUFS:
            break
        case ECONNREFUSED:
            // Nobody listens there any more. If that is forged, it costs a new handshake and no more.
            end(connection, because: "nothing listens there (\(String(cString: strerror(error))))")
        default:
            // Another try later is better than to wait for the handshake's end.
            if course.state == .connecting { end(connection, because: String(cString: strerror(error))) }
        }
    }

    private func end(_ connection: Connection, because reason: String) {
        guard connection === self.connection else { return }
        endingReason = reason
        connection.close()
    }

    // MARK: The connection

    private func connect() {
        // What the configuration says by now, whatever the sender began with.
        client = worker.client(named: client.configuration.name) ?? client
        do {
            let connection = try makeConnection()
            self.connection = connection
            try connection.start()
            if connection.lastError != 0 { failed(connection, connection.lastError) }
        } catch {
            connection = nil
            connectionEnded(wasUseful: false, reason: "\(error)")
        }
    }

    private func makeConnection() throws -> Connection {
        let configuration = client.configuration
        var options = configuration.socket
        // The interface is the one that senders come by.
        options.interface = nil
        let socket = try UDPSocket.open(configuration.server.family, options: options)
        try UDPSocket.connect(socket, to: configuration.server)
        // A connected UDP socket has an address.
        let local = try UDPSocket.localAddress(of: socket) ?? .anyAddress(configuration.server.family, port: 0)
        let connection = try Connection.createClient(
            socket, local: local, peer: configuration.server, context: client.context,
            serverName: configuration.serverName, limits: client.limits, datapath: worker.datapath, delegate: self)
        if configuration.resumes, let session = client.session(now: resources.loop.now) {
            connection.engine.resume(session)
        }
        return connection
    }

    func connectionEstablished(_ connection: Connection) {
        course.opened()
        establishedAt = resources.loop.now
        unansweredSince = nil
        worker.countHandshake(resumed: connection.engine.isResumed)
        logOpened(connection)
        if client.configuration.resumes { client.keepSession(of: connection.engine, now: resources.loop.now) }
        waiting.readAll { send($0, over: connection) }
        waiting.removeAll()
    }

    func connection(_ connection: Connection, socketFailed errno: Int32) { failed(connection, errno) }

    /// Another's datagram on a socket whose port nobody else has bound: it is lost.
    func connection(_ connection: Connection, foreign datagram: UnsafeRawBufferPointer, from peer: SocketAddress) {}

    func restartMaterial(for connection: Connection) -> RehandshakeMaterial? { nil }

    func connectionRestarts(_ connection: Connection) {}

    func connection(_ connection: Connection, refusedRestart ending: Connection.Ending) {}

    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        guard connection === self.connection else { return }
        self.connection = nil
        let reason = endingReason ?? ending.description
        endingReason = nil
        let established = establishedAt
        establishedAt = nil
        // A server that does not like the session must not be offered it again and again (RFC 5246, section 7.2.2).
        if case .failed = ending { client.dropSession() }
        if course.state == .connecting {
            worker.countFailure()
            let verification = if case .failed(let error) = ending { error.verification } else { String?.none }
            return connectionEnded(wasUseful: false, reason: reason, verification: verification)
        }
        // A sender's time can be over during the handshake.
        guard let established else { return }
        logClosed(connection, reason)
        let wasUseful = connection.counters.messagesIn > 0 || resources.loop.now - established >= goodLife
        connectionEnded(wasUseful: wasUseful, reason: reason)
    }

    private func connectionEnded(wasUseful: Bool, reason: String, verification: String? = nil) {
        let failed = course.state == .connecting
        let next = course.connectionEnded(
            wasUseful: wasUseful, now: resources.loop.now, chance: Double.random(in: 0...1))
        if failed, case .pause(let length) = next { logFailed(reason, verification, nextTryIn: length) }
        // One whose table is gone from the configuration has no further try.
        if course.state != .closed, worker.client(named: client.configuration.name) == nil {
            return close(.closedHere)
        }
        rearm()
    }

    /// A configuration has come into force. Without its table, a tunnel that has no connection never gets one again.
    func reconfigured() {
        if connection == nil, worker.client(named: client.configuration.name) == nil { close(.closedHere) }
    }

    // MARK: From the server to the sender

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        unansweredSince = nil
        if socket.isBatchFilling { deliver() }
        socket.append(message)
    }

    func connectionHasRead(_ connection: Connection) { deliver() }

    private func deliver() {
        socket.finishBatch {
            let outcome = socket.sendBatch()
            counters.undelivered &+= UInt64(truncatingIfNeeded: socket.batchCount - outcome.sent)
            // A server that goes on sending to a sender that has left does not keep the connection open.
            if outcome.error != ECONNREFUSED { lastActive = resources.loop.now }
        }
    }

    // MARK: Time

    private var idleEnd: Instant {
        let timeout = client.configuration.idleTimeout
        return timeout > .zero ? lastActive + timeout : .distantFuture
    }

    private func rearm() {
        guard course.state != .closed else { return }
        var next = idleEnd
        if case .pausing(let end) = course.state { next = min(next, end) }
        resources.loop.timers.arm(self, at: next)
    }

    override func timerFired(now: Instant) {
        if now >= idleEnd { return close(.idle) }
        if course.timePassed(now: now, hasKept: !waiting.isEmpty) == .connect { connect() }
        rearm()
    }

    // MARK: The end

    /// Says close_notify to the server, and gives the sender's socket up.
    func close(_ ending: Connection.Ending) {
        guard course.close() else { return }
        if !waiting.isEmpty {
            counters.unconnected &+= UInt64(waiting.count)
            logForsaken(ending)
        }
        connection?.close(ending)
        resources.loop.timers.disarm(self)
        // Rule 3: what the sender sends now is a new sender's.
        let batch = worker.leftovers
        socket.receiveAll(into: batch) { index in
            let source = batch.source(index) ?? key.peer
            worker.giveBack(batch[index], FlowKey(peer: source, local: key.local))
        }
        socket.close()
        socket.removeMessages()
        waiting.removeAll()
        worker.forget(self)
    }
}
