import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// One local sender of a client: its connected socket, and the DTLS connection to the server that its datagrams leave
/// over. One datagram is one message, both ways.
///
/// The connection may come and go (``TunnelState``). Datagrams that come while there is none wait, up to a bound; those
/// above it are dropped, as by a socket whose buffer is full.
final class ClientTunnel: TimerTarget, EventHandler, ConnectionDelegate {
    let id: ConnectionNumber
    private let flow: FlowKey
    private var client: ClientRuntime
    private unowned let worker: Worker
    private let resources: HandlerResources
    /// The local sender's socket. It is not open before ``start(over:with:)``.
    private let socket: MessageSocket
    private var state: TunnelState
    private var connection: Connection?
    /// Datagrams that wait for a connection.
    private var pending: PendingQueue
    private var counters = Counters()
    /// Why the connection is being closed, where the tunnel closes it.
    private var closeReason: String?
    /// What the timer is set to.
    private var alarm = Instant.distantFuture
    /// The server's address that the present connection, or the last one, was made to.
    private var attempted: SocketAddress?
    /// Whether the connection was given a session to be resumed.
    private var hasSession = false
    /// The interface that the socket to the server was bound to; 0 for none, and for a socket of another process.
    private var interfaceIndex: UInt32 = 0

    /// Datagrams that were lost here.
    private struct Counters {
        /// There was no connection, and no room to wait, or the tunnel ended before there was one.
        var unconnected: UInt64 = 0
        /// They were too large for a record or for the path.
        var unsuited: UInt64 = 0
        /// The sender's socket did not take them.
        var undelivered: UInt64 = 0
    }

    /// Call ``start(over:with:)`` next.
    init(_ id: ConnectionNumber, _ flow: FlowKey, client: ClientRuntime, worker: Worker) {
        self.id = id
        self.flow = flow
        self.client = client
        self.worker = worker
        resources = worker.handlerResources
        socket = MessageSocket(resources)
        pending = PendingQueue(resources.pendingBudget)
        state = TunnelState(client.timeouts, now: resources.loop.now)
        super.init()
    }

    // MARK: Lifecycle

    /// - Parameters:
    ///   - socket: connected to the local sender.
    ///   - datagrams: what the sender has sent already.
    func start(over socket: consuming FileDescriptor, with datagrams: [UnsafeRawBufferPointer]) {
        do throws(SystemError) {
            try self.socket.open(socket, .udp, for: self)
        } catch {
            worker.logs.limited(
                .internalError, "the socket of the local sender \(flow.peer) cannot be watched: \(error)",
                fields: fields)
            return close(.closedHere)
        }
        deliverBatch { for datagram in datagrams { deliver(datagram) } }
        rearm()
    }

    /// Goes on with a tunnel that another process has had, whose connection to the server is in a slot.
    /// - Parameters:
    ///   - socket: as for ``start(over:with:)``.
    ///   - far: the socket to the server, where that has come along; one with the same port is made otherwise.
    func resume(
        _ slot: ConnectionSlot, over socket: consuming FileDescriptor, _ far: consuming FileDescriptor,
        with datagrams: [UnsafeRawBufferPointer]
    ) {
        do {
            let resumed = try makeConnection(from: slot, far)
            connection = resumed
            state.resumed(
                survivesMoves: resumed.survivesOwnMoves, answersQuestions: resumed.checksReturnRoutability)
            _ = try connection?.start()
        } catch {
            connection = nil
            state.resumeFailed()
            worker.logs.limited(
                .serverUnreachable,
                "the connection to the server \(client.configuration.server) that another worker had cannot go on:"
                    + " \(error)", fields: fields)
        }
        start(over: socket, with: datagrams)
    }

    private func makeConnection(from slot: ConnectionSlot, _ far: consuming FileDescriptor) throws -> Connection {
        guard case .udp(let server, let local) = slot.farSide else { throw MalformedBytes() }
        let isKnownByID = RecordState.connectionIDs(at: slot.records)?.peer.isEmpty == false
        var flow = FlowKey(peer: server, local: local)
        let socket: FileDescriptor
        if far.isOpen {
            socket = far
        } else {
            do throws(SystemError) {
                socket = try UDPSocket.openConnected(
                    to: server, from: local, options: client.configuration.serverSocket)
            } catch {
                // The address is gone, or the port is another socket's.
                guard isKnownByID else { throw error }
                var other = try client.openSocket(to: server, now: resources.loop.now)
                socket = other.socket.take()
                flow = other.flow
                slot.farSide = .udp(server, local: flow.local)
            }
        }
        return try Connection.resume(
            over: socket, flow, slot: id.slot, isServer: false, limits: client.limits,
            traffic: client.counters.traffic, datapath: worker.datapath, delegate: self)
    }

    /// Whether another process can go on with the connection to the server.
    var isMovable: Bool { connection?.isMovable ?? false }

    /// Gives the tunnel up to its slot, for another process, without a word to the server. A tunnel without a connection
    /// that can move ends; the sender's next datagram begins another one.
    /// - Parameter body: is given the sender's socket and the one to the server.
    func leave(_ body: (consuming FileDescriptor, consuming FileDescriptor) -> Void) {
        guard let connection, connection.isMovable, state.close() else { return close(.closedHere) }
        resources.loop.timers.disarm(self)
        self.connection = nil
        let far = connection.detach()
        let own = socket.take()
        socket.removeMessages()
        pending.removeAll()
        worker.tunnels[id] = nil
        body(own, far)
    }

    /// Another configuration is active. Without its table, a tunnel that has no connection never gets one again.
    func reconfigure() {
        if connection == nil, worker.client(named: client.configuration.name) == nil { close(.closedHere) }
    }

    func isOf(_ client: ClientRuntime) -> Bool { self.client.configuration.name == client.configuration.name }

    /// The server's host name has addresses: where a connection waits to be made, it is made at once.
    func serverFound() {
        guard state.endPause(now: resources.loop.now) else { return }
        rearm()
    }

    /// Closes the connection to the server with close_notify, and the sender's socket.
    func close(_ ending: Connection.Ending) {
        guard state.close() else { return }
        if !pending.isEmpty {
            countUnconnected(pending.count)
            logPendingDropped(ending)
        }
        connection?.close(ending)
        resources.loop.timers.disarm(self)
        // Rule 3: what the sender sends from now on belongs to a new tunnel.
        let batch = worker.misdelivered
        socket.receiveAll(into: batch) { index in
            worker.reinject(batch[index], FlowKey(peer: batch.source(index) ?? flow.peer, local: flow.local))
        }
        socket.close()
        socket.removeMessages()
        pending.removeAll()
        worker.remove(self)
    }

    private func rearm() {
        alarm = state.takeDeadline()
        resources.loop.timers.arm(self, at: alarm)
    }

    /// The timer is set again only where it would come too late: it finds out what is due when it comes.
    private func rearmIfEarlier() {
        if state.hasEarlierDeadline, state.takeDeadline() < alarm { rearm() }
    }

    override func timerFired(now: Instant) {
        switch state.timePassed(now: now, hasPending: !pending.isEmpty) {
        case .closeIdle: return close(.idle)
        case .connect: connect()
        case .ask:
            connection?.askPeer()
            if let connection, connection.lastError != 0 { handle(connection.lastError, of: connection) }
        case .serverIsGone:
            close(
                connection,
                because: "the server does not know it: it has answered neither datagrams nor path challenges (RFC 9853)"
            )
        case .nothing: break
        }
        if state.phase != .closed { rearm() }
    }

    // MARK: From the sender to the server

    /// Takes a datagram of this sender that was read from another socket.
    func receive(_ datagram: UnsafeRawBufferPointer) {
        deliverBatch { deliver(datagram) }
    }

    func ready(_ events: EventLoop.Events) {
        let batch = resources.received
        // An error is an ICMP message: the sender has closed its socket, for the moment at least.
        guard let count = try? socket.receive(), count > 0 else { return }
        deliverBatch {
            for index in 0..<count {
                // Rule 2: a connected socket can hold what came before it was connected.
                if let source = batch.source(index), source != flow.peer {
                    worker.reinject(batch[index], FlowKey(peer: source, local: flow.local))
                } else {
                    deliver(batch[index])
                }
            }
        }
    }

    /// Has what `work` delivers leave together.
    private func deliverBatch(_ work: () -> Void) {
        if state.shallCheckRoute(now: resources.loop.now) { replaceSocket(evenIfAddressStays: false) }
        // This comes first, since a connection is closed only after its batch: the datagrams wait for the next one.
        if state.isServerSilent(now: resources.loop.now) {
            close(connection, because: "the server has sent nothing for \(state.timeouts.answer.seconds) s")
        }
        if let connection { connection.batch(work) } else { work() }
        rearmIfEarlier()
        guard state.phase == .established, let connection else { return }
        let error = connection.lastError
        if error != 0 { handle(error, of: connection) }
    }

    private func deliver(_ datagram: UnsafeRawBufferPointer) {
        let now = resources.loop.now
        state.noteSenderActive(now: now)
        guard datagram.count <= Engine.maximumMessageSize else { return refuse(datagram.count) }
        switch state.deliver(now: now) {
        case .send:
            if let connection { send(datagram, over: connection) }
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
            // It is larger than the path takes, as far as that is known. The sender is told here, and not once more
            // when the batch leaves.
            counters.unsuited &+= 1
            if connection.lastError == EMSGSIZE { _ = connection.takeError() }
            let told = tellSender(of: datagram.count)
            worker.logs.limited(.datagramRefused, "a datagram was dropped: \(error)\(told)", fields: fields)
        }
    }

    private func keep(_ datagram: UnsafeRawBufferPointer) {
        if pending.append(datagram) { return }
        countUnconnected(1)
        worker.logs.limited(
            .datagramRefused,
            "datagrams are dropped: there is no connection to the server \(client.configuration.server), and"
                + " \(pending.count) wait for it already", fields: fields)
    }

    private func countUnconnected(_ count: Int) {
        counters.unconnected &+= UInt64(truncatingIfNeeded: count)
        client.counters.countDropped(.noServer, count)
    }

    private func refuse(_ size: Int) {
        counters.unsuited &+= 1
        client.counters.countDropped(.tooLarge)
        let told = tellSender(of: size)
        worker.logs.limited(
            .datagramRefused,
            "a datagram of \(size) bytes was dropped: a message over DTLS has at most"
                + " \(Engine.maximumMessageSize)\(told)", fields: fields)
    }

    /// Tells the sender by ICMP that a datagram was too large, where this process may.
    /// - Returns: words for the log.
    private func tellSender(of size: Int) -> String {
        do throws(SystemError) {
            try worker.packetTooBig.send(to: flow.peer, size: size, sentTo: flow.local)
            return "; its sender was told (ICMP)"
        } catch {
            return "; its sender was not told (ICMP): \(error)"
        }
    }

    // MARK: The connection to the server

    private func connect() {
        // The active configuration counts, whatever the tunnel began with.
        client = worker.client(named: client.configuration.name) ?? client
        state.timeouts = client.timeouts
        do {
            let connection = try makeConnection()
            self.connection = connection
            _ = try connection.start()
            if connection.lastError != 0 { handle(connection.lastError, of: connection) }
        } catch let error as SystemError
            where error.errno == EADDRINUSE || LocalShortage(connecting: error, from: nil)?.refusal == .localPorts
        {
            connectionEnded(
                because: client.configuration.sources.isEmpty
                    ? "no local port is left for a socket to it (net.ipv4.ip_local_port_range)"
                    : "no local port is left for a socket to it; expected more addresses or ports in source, or a wider"
                        + " net.ipv4.ip_local_port_range")
        } catch {
            connection = nil
            connectionEnded(because: "\(error)")
        }
    }

    private func makeConnection() throws -> Connection {
        let configuration = client.configuration
        attempted = client.server
        guard let server = attempted else { throw UnresolvedServer() }
        interfaceIndex = client.configuration.interface.map { if_nametoindex($0) } ?? 0
        var socket = try client.openSocket(to: server, now: resources.loop.now)
        let session = configuration.resumes ? client.session(now: resources.loop.now) : nil
        hasSession = session != nil
        return try Connection.connect(
            over: socket.socket.take(), socket.flow, slot: id.slot, context: client.context,
            serverName: configuration.serverName, resuming: session,
            connectionID: configuration.connectionIDLength.map { length throws(OpenSSLError) in
                try ConnectionID.random(count: length)
            }, limits: client.limits, traffic: client.counters.traffic, datapath: worker.datapath, delegate: self)
    }

    func connectionEstablished(_ connection: Connection) {
        state.connectionEstablished(
            survivesMoves: connection.survivesOwnMoves, answersQuestions: connection.checksReturnRoutability,
            now: resources.loop.now)
        worker.slot(id)?.farSide = .udp(connection.peer, local: connection.local)
        client.counters.countEstablished(connection.session, after: connection.handshakeDuration)
        client.noteServer(isOut: false)
        client.noteEstablished()
        logOpened(connection)
        if client.configuration.resumes { client.keepSession(of: connection, now: resources.loop.now) }
        pending.readAll { send($0, over: connection) }
        pending.removeAll()
    }

    func connection(_ connection: Connection, socketFailed errno: Int32) { handle(errno, of: connection) }

    /// The socket to the server has given an error.
    private func handle(_ error: Int32, of connection: Connection) {
        _ = connection.takeError()
        if OwnAddressFault(errno: error) != nil {
            state.noteUnsent()
            if hasLostInterface, state.phase == .established, !connection.survivesOwnMoves {
                return close(connection, because: "its network interface was removed")
            }
        }
        switch state.socketFailed(error) {
        case .nothing:
            break
        case .reportTooLarge:
            counters.unsuited &+= 1
            let told = tellSender(of: connection.largestMessage + 1)
            worker.logs.limited(
                .datagramRefused,
                "a datagram was dropped: it is too large for the path to the server \(client.configuration.server),"
                    + " which takes messages of at most \(connection.largestMessage) bytes\(told)",
                fields: fields)
        case .serverIsGone:
            if state.phase == .established { client.noteFailure(of: connection.peer, now: resources.loop.now) }
            close(connection, because: "nothing listens there (\(String(cString: strerror(error))))")
        case .giveUpHandshake:
            close(connection, because: String(cString: strerror(error)))
        case .replaceSocket:
            replaceSocket(evenIfAddressStays: true)
        case .checkRoute:
            replaceSocket(evenIfAddressStays: false)
        }
    }

    /// Whether the interface of the socket to the server is not there any more. The socket stays with it, also where another
    /// one has its name by now.
    private var hasLostInterface: Bool {
        guard interfaceIndex != 0, let interface = client.configuration.interface else { return false }
        return if_nametoindex(interface) != interfaceIndex
    }

    /// Goes on over another socket to the same server, where the address of this machine has changed by which it is reached.
    /// - Parameter evenIfAddressStays: whether the socket is of no use any more, whatever its address is.
    private func replaceSocket(evenIfAddressStays isLost: Bool) {
        guard let connection else { return }
        do throws(SystemError) {
            let other = try client.openSocket(to: connection.peer, now: resources.loop.now)
            let index = client.configuration.interface.map { if_nametoindex($0) } ?? 0
            try connection.followOwnAddress(over: other, evenIfItStays: isLost || index != interfaceIndex)
            interfaceIndex = index
        } catch {
            worker.logs.limited(
                .serverUnreachable,
                "the server \(connection.peer) cannot be reached from any address of this machine: \(error);"
                    + " the connection goes on when it can", fields: fields)
        }
    }

    func connection(_ connection: Connection, noted notes: EngineNotes) { client.counters.count(notes) }

    func connectionAnswered(_ connection: Connection) { state.serverHasAnswered(now: resources.loop.now) }

    func connectionMoved(_ connection: Connection, from flow: FlowKey) {
        client.counters.count(ConnectionMove.address)
        worker.slot(id)?.farSide = .udp(connection.peer, local: connection.local)
        worker.logs.connectionEvent(
            .connectionMoved, "the address of this side has changed, and the connection to the server goes on",
            movedFields(connection, from: flow.local))
    }

    private func movedFields(_ connection: Connection, from local: SocketAddress) -> Logger.Metadata {
        var fields = fields
        fields["CONNECTION"] = "\(id.text)"
        fields["LOCAL"] = "\(connection.local)"
        fields["FORMER_LOCAL"] = "\(local)"
        return fields.merging(WorkerLogs.connectionIDFields(connection.connectionIDs)) { $1 }
    }

    private func close(_ connection: Connection?, because reason: String) {
        guard let connection, connection === self.connection else { return }
        closeReason = reason
        connection.close()
    }

    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        guard connection === self.connection else { return }
        self.connection = nil
        client.noteClosedSocket()
        let reason = closeReason ?? ending.description
        closeReason = nil
        var verification: String?
        switch ending {
        case .failed(let error):
            // A server that does not like the session must not be offered it again and again (RFC 5246, section 7.2.2).
            client.dropSession()
            verification = error.verification
        case .handshakeTimedOut where hasSession:
            // Perhaps it is the session that the server does not take: a smaller hello may get through, for example.
            client.dropTimedOutSession(now: resources.loop.now)
        default:
            break
        }
        connectionEnded(connection, because: reason, verification: verification, ending)
    }

    /// - Parameter connection: `nil` where none could be made.
    private func connectionEnded(
        _ connection: Connection? = nil, because reason: String, verification: String? = nil,
        _ ending: Connection.Ending = .closedHere
    ) {
        switch state.connectionEnded(now: resources.loop.now, chance: Double.random(in: 0...1)) {
        case .handshakeFailed(let pause):
            if connection != nil { client.counters.count(HandshakeResult(ending)) }
            client.noteServer(isOut: true)
            client.noteFailure(of: attempted, now: resources.loop.now)
            logFailed(reason, verification, pause)
        case .connectionLost:
            if let connection {
                client.counters.count(CloseReason(ending))
                logClosed(connection, reason)
            }
        case .nothing:
            break
        }
        guard state.phase != .closed else { return }
        // A tunnel whose table is gone from the configuration does not try again.
        if worker.client(named: client.configuration.name) == nil { return close(.closedHere) }
        rearm()
    }

    /// Another peer's datagram on a socket whose port nobody else has bound: it is lost.
    func connection(_ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress) {
    }

    func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial? { nil }

    func connectionReplaced(_ connection: Connection) {}

    func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending) {}

    // MARK: From the server to the sender

    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        state.noteServerActive(now: resources.loop.now)
        // An empty record says that the server is there. The sender gets messages.
        if message.isEmpty { return state.noteSenderActive(now: resources.loop.now) }
        if socket.isBatchFilling { sendToSender() }
        socket.append(message)
    }

    func connectionHasRead(_ connection: Connection) { sendToSender() }

    private func sendToSender() {
        socket.finishBatch {
            let outcome = socket.sendBatch()
            let undelivered = socket.batchCount - outcome.sent
            if undelivered > 0 {
                counters.undelivered &+= UInt64(truncatingIfNeeded: undelivered)
                client.counters.countDropped(.sender, undelivered)
            }
            // A server that goes on sending to a sender that has left does not keep the connection open.
            if outcome.error != ECONNREFUSED { state.noteSenderActive(now: resources.loop.now) }
        }
    }

    // MARK: Logs

    /// The fields of every entry about this tunnel.
    private var fields: Logger.Metadata {
        [
            "SERVICE": "\(client.configuration.name)", "PEER": "\(flow.peer)",
            "REMOTE": "\(client.configuration.server)",
        ]
    }

    private func logOpened(_ connection: Connection) {
        worker.logs.connectionEvent(
            .connectionOpened, "connection to the server opened", openedFields(connection))
    }

    private func openedFields(_ connection: Connection) -> Logger.Metadata {
        let session = connection.session
        var fields = fields
        fields["LOCAL"] = "\(connection.local)"
        if case .name = client.configuration.server { fields["REMOTE_ADDRESS"] = "\(connection.peer)" }
        fields["VERSION"] = "\(session.version)"
        fields["CIPHER"] = "\(session.cipher)"
        fields["RESUMED"] = session.isResumed ? "yes" : "no"
        fields["HANDSHAKE_USEC"] = "\(connection.handshakeDuration.nanoseconds / 1_000)"
        if let name = session.applicationProtocol { fields["ALPN"] = "\(name)" }
        fields.merge(WorkerLogs.connectionIDFields(session.connectionIDs)) { $1 }
        // The identity of a pre-shared key is the client's own.
        if let server = session.peerName?.commonName { fields["SERVER"] = "\(server)" }
        return fields
    }

    private func logClosed(_ connection: Connection, _ reason: String) {
        worker.logs.connectionEvent(
            .connectionClosed, "connection to the server closed: \(reason)", closedFields(connection, reason))
    }

    private func closedFields(_ connection: Connection, _ reason: String) -> Logger.Metadata {
        var fields = fields
        fields["CONNECTION"] = "\(id.text)"
        fields["REASON"] = "\(reason)"
        fields["BYTES_IN"] = "\(connection.counters.bytesIn)"
        fields["BYTES_OUT"] = "\(connection.counters.bytesOut)"
        fields["DATAGRAMS_IN"] = "\(connection.counters.messagesIn)"
        fields["DATAGRAMS_OUT"] = "\(connection.counters.messagesOut)"
        fields.merge(WorkerLogs.connectionIDFields(connection.connectionIDs)) { $1 }
        let lost = [
            ("DATAGRAMS_UNSENT", connection.counters.unsent), ("DATAGRAMS_UNCONNECTED", counters.unconnected),
            ("DATAGRAMS_UNSUITED", counters.unsuited), ("DATAGRAMS_UNDELIVERED", counters.undelivered),
        ]
        for (name, count) in lost where count > 0 { fields[name] = "\(count)" }
        return fields
    }

    /// The tunnel ends with datagrams that never had a connection.
    private func logPendingDropped(_ ending: Connection.Ending) {
        worker.logs.limited(
            .datagramRefused,
            "\(counted(pending.count, "datagram")) that waited for a connection to the server \(client.configuration.server) were"
                + " dropped: \(ending)",
            fields: fields.merging(["DATAGRAMS_UNCONNECTED": "\(counters.unconnected)"]) { $1 })
    }

    /// What the server has to show.
    private var expectedProof: String {
        let configuration = client.configuration
        let certificate = "a certificate for \"\(configuration.serverName)\", from an authority that the client trusts"
        guard configuration.tls.serverPublicKeys != nil else { return certificate }
        let key = "one of the keys in server_public_keys"
        return configuration.tls.certificateAuthorities == nil ? key : "\(key), or \(certificate)"
    }

    private func logFailed(_ reason: String, _ verification: String?, _ pause: Duration) {
        let configuration = client.configuration
        let next =
            "\(counted(pending.count, "datagram waits", "datagrams wait")); the next try is in \(pause.milliseconds) ms"
        if let verification {
            worker.logs.limited(
                .serverUnverified,
                "the server \(configuration.server) cannot be verified: \(verification); expected \(expectedProof); \(next)",
                fields: fields)
        } else {
            worker.logs.limited(
                .serverUnreachable, "no connection to the server \(configuration.server): \(reason); \(next)",
                fields: fields)
        }
    }
}

/// The host name of a client's server has no address.
private struct UnresolvedServer: Error, CustomStringConvertible {
    let description = "its host name has no address"
}
