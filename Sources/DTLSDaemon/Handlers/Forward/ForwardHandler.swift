import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Messages go to a backend, and the backend's datagrams come back, over a socket that belongs to this connection
/// alone. So the backend can tell the clients apart, and answer each. One message is one datagram, both ways.
///
/// Which backend that is, and what happens where it refuses or a reload leaves it out, is decided by ``BackendRoute``.
///
/// While the connection has no socket, the backend's datagrams wait here for one. In another process the connection goes
/// on with the same backend and, where that is free, from the same local port: both are in its slot.
final class ForwardHandler: Handler, EventHandler {
    private let forward: ForwardService
    private var backends: ForwardBackends
    private let service: ServiceRuntime
    private let resources: HandlerResources
    /// Precedes every message; empty for a backend that wants none.
    private var header: [UInt8]
    private let slot: ConnectionSlot?
    private var client: FlowKey
    /// `nil` while the connection has no socket.
    private var connection: Connection?
    /// The connection while it has no socket, which retains this handler.
    private unowned var parked: ServedConnection?
    /// What the backend has sent meanwhile.
    private var waiting: WaitingAnswers?
    private var route: BackendRoute
    private let socket: MessageSocket
    /// Whether a parked connection closes its socket to the backend too.
    private let parks: Bool
    /// The address that the connection's socket had in another process, until the first one is made here.
    private var formerLocal: SocketAddress?
    /// Whether the socket tells of all ICMP errors.
    private var reportsAllErrors = false

    /// The backend's datagrams for a connection that has no socket.
    private final class WaitingAnswers {
        static let maximumCount = 8
        var queue: PendingQueue
        init(_ budget: PendingBudget) { queue = PendingQueue(budget, maximumCount: Self.maximumCount) }
    }

    /// - Parameter backends: those that `forward` has for the connection.
    init(
        _ forward: ForwardService, _ backends: ForwardBackends, parks: Bool, of service: ServiceRuntime,
        for client: ServedClient, _ resources: HandlerResources
    ) {
        self.service = service
        self.resources = resources
        self.forward = forward
        self.backends = backends
        self.parks = parks
        slot = client.slot
        self.client = client.flow
        header = backends.settings.proxyProtocol ? ProxyHeader(client.flow, client.session).bytes : []
        socket = MessageSocket(resources)
        let far = client.slot?.farSide ?? .none
        route = BackendRoute(
            backends, client: client.flow.peer, connection: ObjectIdentifier(socket), last: backends.backend(far))
        if case .udp(_, let local) = far, local.port != 0 { formerLocal = local }
        slot?.farGroup = backends.mark
    }

    func opened(_ connection: Connection) {
        self.connection = connection
        // A backend that is down now may be up for the first message; a worker without a socket has no use for one.
        if !makeSocket() { connection.close() }
    }

    /// - Returns: false where there is none.
    @discardableResult
    private func makeSocket() -> Bool {
        if socket.isOpen { return true }
        var step = route.begin(now: resources.loop.now)
        while step == .connect || step == .switchBackend { step = connect(step) }
        return step == .send || socket.isOpen
    }

    func closed() {
        closeSocket()
        socket.removeMessages()
        connection = nil
        parked = nil
        waiting = nil
    }

    // MARK: Without a socket to the client

    func parked(_ parked: ServedConnection) {
        connection = nil
        self.parked = parked
        guard parks else {
            makeSocket()
            return
        }
        // The connection goes on with the same backend, from another port.
        if let slot, case .udp(let far, var local) = slot.farSide {
            local.port = 0
            slot.farSide = .udp(far, local: local)
        }
    }

    func resumed(_ connection: Connection) {
        parked = nil
        self.connection = connection
        guard let waiting else { return }
        self.waiting = nil
        connection.batch { waiting.queue.readAll { answer($0, connection) } }
    }

    /// The backend sees the same socket, and the new address in the header.
    func moved(_ connection: Connection) {
        client = connection.flow
        if !header.isEmpty { header = ProxyHeader(client, connection.session).bytes }
    }

    func resumeFailed() {
        if let waiting { service.counters.countDropped(.noSocket, waiting.queue.count) }
        waiting = nil
    }

    private func keepAnswers(_ count: Int) {
        guard let parked else { return }
        let waiting = waiting ?? WaitingAnswers(resources.pendingBudget)
        self.waiting = waiting
        var kept = 0
        for index in 0..<count where waiting.queue.count < WaitingAnswers.maximumCount {
            if waiting.queue.append(resources.received[index]) { kept += 1 }
        }
        if kept < count { service.counters.countDropped(.noSocket, count - kept) }
        parked.wake()
    }

    func adopt(_ far: consuming FileDescriptor) {
        formerLocal = nil
        // It is connected to the backend in the slot, which may be none of the configuration any more.
        guard let slot, backends.backend(slot.farSide) == route.backend else { return }
        do throws(SystemError) {
            try socket.open(far, route.transport, for: self)
        } catch {
            return
        }
        _ = route.connected()
        noteFarSide()
    }

    func takeSocket() -> FileDescriptor { socket.take() }

    /// What another process needs to go on with the same backend.
    private func noteFarSide() {
        guard let slot else { return }
        switch backend.address {
        case .udp(let address):
            if let local = socket.localAddress { slot.farSide = .udp(address, local: local) }
        case .name: break
        case .unix(let path): slot.farSide = .unix(ConnectionSlot.hash(of: path))
        }
    }

    /// Why a new client would get no backend, or no socket to it; `nil` where it would get one.
    static func refusal(
        of peer: SocketAddress, by service: ServiceRuntime, _ forward: ForwardService, _ resources: HandlerResources
    ) -> Refusal? {
        guard forward.areResolved else { return .noBackend }
        guard let shortage = forward.shortage(for: peer, now: resources.loop.now) else { return nil }
        if shortage.isNews { log(shortage.reason, shortage.backend, service, resources) }
        return shortage.reason.refusal
    }

    private static func log(
        _ shortage: LocalShortage, _ backend: Backend, _ service: ServiceRuntime, _ resources: HandlerResources
    ) {
        switch shortage.refusal {
        case .localPorts:
            resources.logs.limited(
                .portLimit,
                "no local port is left for a socket to the backend \(backend); new clients of this service are refused"
                    + " until a port is free. Expected more ports: several addresses in forward.source, or a wider"
                    + " net.ipv4.ip_local_port_range", service)
        case .descriptors:
            resources.logs.limited(
                .descriptorLimit, "there is no socket for the backend \(backend): \(shortage.error)", service)
        default:
            resources.logs.limited(
                .backendUnreachable, "there is no socket for the backend \(backend): \(shortage.error)", service)
        }
    }

    // MARK: To the backend

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        if socket.isBatchFilling { batchEnded(on: connection) }
        if !route.isBackendConfigured, socket.isBatchEmpty, !followReload(connection) { return }
        if header.isEmpty {
            socket.append(message)
        } else {
            header.withUnsafeBytes { socket.append($0, message) }
        }
    }

    /// A reload has left the backend out, or its rule.
    /// - Returns: false where the connection has ended by it.
    private func followReload(_ connection: Connection) -> Bool {
        if backends.isRetired {
            switch forward.destination(of: slot?.session ?? connection.session, slot) {
            case .backends(let others):
                backends = others
                route.change(to: others)
                slot?.farGroup = others.mark
            case .refused(let refusal, let reason):
                RefusingHandler.refuse(connection, refusal, reason, service, resources)
                return false
            }
        }
        if route.isBackendGone { adoptProxyProtocol() }
        return true
    }

    func batchEnded(on connection: Connection) {
        socket.finishBatch {
            if socket.hasPending {
                guard route.isBackendGone else { return keepBatch(from: 0) }
                logDropped(socket.gatherPending())
            }
            perform(route.begin(now: resources.loop.now), from: 0)
        }
    }

    /// Does this step, and all that follow from it, for the messages of the batch from number `start` on.
    private func perform(_ step: BackendRoute.Step, from start: Int) {
        var step = step
        var first = start
        while true {
            switch step {
            case .connect, .switchBackend:
                step = connect(step)
            case .send:
                if backends.areSeveral, !reportsAllErrors { reportAllErrors() }
                if let notice = route.willSend(now: resources.loop.now) { log(notice) }
                let outcome = socket.sendBatch(from: first, retrying: !backends.areSeveral)
                first += outcome.handled
                step = follow(route.sent(outcome.error, now: resources.loop.now))
                if step == .finish, outcome.error != 0 { leaveLostInterface(after: outcome.error) }
            case .keepRest:
                return keepBatch(from: first)
            case .finish:
                if first < socket.batchCount {
                    service.counters.countDropped(.backendRefused, socket.batchCount - first)
                }
                return
            }
        }
    }

    /// A socket stays with the interface that it was bound to when that is removed, and made again by the same name. The next
    /// message gets another socket.
    private func leaveLostInterface(after error: Int32) {
        guard backends.settings.interface != nil, route.transport == .udp, error == ENODEV || error == ENETUNREACH
        else {
            return
        }
        closeSocket()
        _ = route.socketFailed()
    }

    @inline(__always)
    private func follow(_ transition: BackendRoute.Transition) -> BackendRoute.Step {
        if let notice = transition.notice { log(notice) }
        return transition.step
    }

    private func connect(_ step: BackendRoute.Step) -> BackendRoute.Step {
        if step == .switchBackend {
            closeSocket()
            adoptProxyProtocol()
        }
        do throws(BackendSocketFailure) {
            switch backend.address {
            case .udp(let address): try connectUDP(to: address)
            case .unix(let path): try connectUnix(toPath: path)
            // As send(2) says it of a socket without a peer.
            case .name: throw .backend(EDESTADDRREQ)
            }
            noteFarSide()
            return route.connected()
        } catch {
            switch error {
            case .backend(let errno):
                return follow(route.connectFailed(errno, now: resources.loop.now))
            case .machine(let shortage, let isNews):
                closeSocket()
                if isNews { Self.log(shortage, backend, service, resources) }
                return route.socketFailed()
            }
        }
    }

    private func connectUDP(to address: SocketAddress) throws(BackendSocketFailure) {
        closeSocket()
        let connected = try openSocket(to: address)
        do throws(SystemError) {
            try socket.open(connected, .udp, for: self)
        } catch {
            throw .machine(LocalShortage(error), isNews: true)
        }
    }

    private func openSocket(to address: SocketAddress) throws(BackendSocketFailure) -> FileDescriptor {
        if let local = formerLocal {
            formerLocal = nil
            do throws(SystemError) {
                return try UDPSocket.openConnected(to: address, from: local, options: backends.socketOptions)
            } catch {
                resources.logs.limited(
                    .backendUnreachable,
                    "a connection that has lost its worker goes to the backend \(backend) from another port than before:"
                        + " \(local) cannot be taken again: \(error)", service)
            }
        }
        return try backends.openSocket(to: address, now: resources.loop.now)
    }

    private func connectUnix(toPath path: String) throws(BackendSocketFailure) {
        do throws(SystemError) {
            if !socket.isOpen { try socket.open(try UDPSocket.openUnixDatagram(), .unix, for: self) }
        } catch {
            throw .machine(LocalShortage(error), isNews: true)
        }
        do throws(SystemError) { try socket.connect(toPath: path) } catch { throw .backend(error.errno) }
    }

    /// A reload may have added backends since the socket was connected, so this is looked at for each batch.
    private func reportAllErrors() {
        reportsAllErrors = true
        // Where this fails, closed ports are still told of.
        if case .udp(let address) = backend.address { try? socket.reportAllErrors(address.family) }
    }

    /// Takes over whether the next backend expects a header of the PROXY protocol, which a reload may have changed.
    /// What was gathered for the last one, or waits, begins as that one expected, and is dropped.
    private func adoptProxyProtocol() {
        guard backends.settings.proxyProtocol == header.isEmpty else { return }
        header = backends.settings.proxyProtocol ? ProxyHeader(client, slot?.session ?? SessionDetails()).bytes : []
        let dropped = socket.removeMessages()
        if dropped > 0 {
            service.counters.countDropped(.backendRefused, dropped)
            resources.logs.limited(
                .datagramRefused,
                "\(counted(dropped, "datagram to another backend was", "datagrams to another backend were")) dropped: a reload has changed proxy_protocol",
                service)
        }
    }

    private func closeSocket() {
        guard socket.isOpen else { return }
        socket.close()
        reportsAllErrors = false
        backends.settings.sources.noteClosedSocket()
    }

    /// Keeps what is left of a batch until the backend has room.
    private func keepBatch(from first: Int) {
        logDropped(socket.keepBatch(from: first))
    }

    private func logDropped(_ dropped: Int) {
        if dropped > 0 {
            service.counters.countDropped(.backendBusy, dropped)
            resources.logs.limited(
                .datagramRefused,
                "\(counted(dropped, "datagram was", "datagrams were")) dropped: the backend \(backend) does not take them fast enough",
                service)
        }
    }

    private func sendPending() {
        socket.sendPending(retrying: !backends.areSeveral) { outcome in
            perform(
                follow(route.pendingRefused(outcome.error, now: resources.loop.now)), from: outcome.handled)
        }
    }

    // MARK: From the backend

    func ready(_ events: EventLoop.Events) {
        if events.contains(.writable), socket.hasPending { sendPending() }
        guard !events.isDisjoint(with: [.readable, .hangUp]) else { return }
        if events.contains(.hangUp), reportsAllErrors, route.transport == .udp { return takeErrors() }
        let count: Int
        do throws(SystemError) {
            count = try socket.receive()
        } catch {
            // EMSGSIZE is how the kernel tells of a smaller path MTU.
            if error.errno != EMSGSIZE { noteRefusal(error.errno) }
            return
        }
        guard count > 0 else { return }
        if let notice = route.markBackendAlive() { log(notice) }
        guard let connection else { return keepAnswers(count) }
        connection.batch {
            for index in 0..<count { answer(resources.received[index], connection) }
        }
    }

    /// ICMP has said that the backend cannot be reached. What it has answered before that is still read; the next
    /// message goes to another backend.
    private func takeErrors() {
        let error = socket.takeErrors()
        if let connection {
            connection.batch { socket.receiveAll { answer(resources.received[$0], connection) } }
        } else if let count = try? socket.receive(), count > 0 {
            keepAnswers(count)
        }
        if error != 0 { noteRefusal(error) }
    }

    private func answer(_ datagram: UnsafeRawBufferPointer, _ connection: Connection) {
        guard datagram.count <= Engine.maximumMessageSize else {
            service.counters.countDropped(.backendTooLarge)
            return resources.logs.limited(
                .datagramRefused,
                "a datagram of \(datagram.count) bytes from the backend \(backend) was dropped: a message to a client"
                    + " has at most \(Engine.maximumMessageSize)", service)
        }
        connection.sendOrDrop(datagram)
    }

    // MARK: The backend's health

    private var backend: Backend { route.backend.configuration }

    private func noteRefusal(_ error: Int32) {
        if let notice = route.noteRefusal(error, now: resources.loop.now) { log(notice) }
    }

    private func log(_ notice: BackendRoute.Notice) {
        switch notice {
        case .outage(let backend, let error):
            let reason = String(cString: strerror(error))
            resources.logs.limited(
                .backendRefused, "the backend \(backend.configuration) does not take datagrams: \(reason)", service)
        case .recovery(let backend, let refusals):
            resources.logs.limited(
                .backendAnswers, "the backend \(backend.configuration) takes datagrams again", service,
                ["REFUSALS": "\(refusals)"])
        }
    }
}
