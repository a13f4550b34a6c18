import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// Receives the new clients of all listeners: decides whether there is room for each, hands it over to a worker, and
/// logs why it was refused. What comes to a listener for a connection without a socket goes to the ``SocketRestorer``.
final class ConnectionDispatcher {
    private let workers: WorkerSupervisor
    private let sockets: SocketRestorer
    private let loop: EventLoop
    private var refusals: RefusalLog
    /// What would begin connections once a worker has time for them.
    private var waiting = WaitingHellos()
    private lazy var admitter = CallbackTimer { [unowned self] _ in admitWaiting() }
    /// Connections are made in a turn of the loop until the listeners and channels have theirs.
    private static let admittedPerTurn = 64
    /// Whether what is received has waited already.
    private var isAdmittingWaiting = false
    /// The service or client that each listener belongs to.
    private var targets: [ObjectIdentifier: Target] = [:]
    /// Records of no connection, by listener. Anybody can send any number of them, so one in ``strayInterval`` is
    /// logged for each listener.
    private var strays: [ObjectIdentifier: Strays] = [:]
    private struct Strays {
        let loggedAt: Instant
        var unlogged: UInt64 = 0
    }
    /// The listeners whose address and port the kernel has put no more sockets on.
    private var fullAddresses: Set<ObjectIdentifier> = []
    private static let strayInterval = Duration.seconds(60)
    private let logger = Logger(label: "dtlsd")
    /// The names of the services and clients of the active configuration.
    private var names: [Target: String] = [:]
    /// The ``SlotTarget`` of each service and client of the active configuration.
    private var slotTargets: [Target: UInt64] = [:]
    /// How long the connection IDs of each service of the active configuration are that has any.
    private var connectionIDLengths: [Target: Int] = [:]

    init(workers: WorkerSupervisor, loop: EventLoop) {
        self.workers = workers
        self.loop = loop
        sockets = SocketRestorer(workers: workers, loop: loop)
        refusals = RefusalLog()
        workers.onRoom = { [unowned self] in admitSoon() }
        sockets.onFailure = { [unowned self] failure, peer, listener in
            switch failure {
            case .kernel(let error): self.listener(listener, failed: error, for: peer)
            case .worker(let refusal):
                log(
                    refusal, "a connection without a socket gets none, its client will retry: \(Self.reason(refusal))",
                    peer, listener)
            }
        }
    }

    private var admission: Admission { workers.connections.admission }

    /// Says which listener gets the datagrams of a local address.
    func findListeners(by find: @escaping (SocketAddress) -> DatagramListener?) { sockets.listener = find }

    // MARK: Clients that wait for a worker

    /// Keeps what would begin a connection while all workers are busy, and behind what waits already.
    private func postpone(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) -> Bool {
        switch workers.refusal {
        case nil where !waiting.isEmpty, .busy: break
        default: return false
        }
        guard waiting.add(datagram, flow, now: loop.now) else { return false }
        admitSoon()
        return true
    }

    private func admitSoon() {
        if !waiting.isEmpty, workers.refusal != .busy { loop.timers.arm(admitter, at: loop.now) }
    }

    private func admitWaiting() {
        for _ in 0..<Self.admittedPerTurn {
            guard workers.refusal != .busy, let hello = waiting.next() else { return }
            // A reload has closed the listener.
            guard let listener = sockets.listener(hello.flow.local) else { continue }
            isAdmittingWaiting = true
            defer { isAdmittingWaiting = false }
            if loop.now - hello.heard < WaitingHellos.patience {
                listener.receive(postponed: hello.datagram, hello.flow)
            } else {
                listener.dropPostponed()
                log(
                    .busy, "connection refused, the client will retry: \(Self.reason(.busy))", hello.flow.peer, listener
                )
            }
        }
        admitSoon()
    }

    /// The worker of a table serves its connections from now on.
    func workerTookOver(table: Int) { sockets.tookOver(table: table) }

    /// Applies the limits of a configuration to new clients.
    /// - Parameter targets: the service or client that each of its listeners belongs to.
    func activate(_ configuration: Configuration, targets: [ObjectIdentifier: Target]) {
        self.targets = targets
        strays = strays.filter { targets[$0.key] != nil }
        fullAddresses.formIntersection(targets.keys)
        names = Dictionary(uniqueKeysWithValues: configuration.targets.map { ($0, $1.name) })
        slotTargets = Dictionary(uniqueKeysWithValues: configuration.targets.map { ($0, $1.slotTarget) })
        connectionIDLengths = [:]
        for (index, service) in configuration.services.enumerated() {
            connectionIDLengths[.service(index)] = service.connectionIDLength
        }
        admission.apply(configuration, present: workers.connections.forEach)
    }

    /// Handshakes in progress, of all services.
    var handshakes: Int { admission.handshakes }

    /// What has become of records with connection IDs.
    var recordsWithConnectionIDs: SocketRestorer.Counters { sockets.counters }

    /// What the status says of clients that have come from new addresses; empty while none has.
    var addressChanges: [String] { sockets.counters.text }

    // MARK: Log of refused connections

    /// Logs connections that were handed over to a worker and that it has refused. It does not say whose they were.
    func log(_ refused: Tally<Refusal>, by worker: Int) {
        for refusal in Refusal.allCases where refused[refusal] > 0 {
            let reason =
                switch refusal {
                case .descriptors: "it has no file descriptors left"
                case .localPorts: "no local port is left for a socket to their backend"
                case .noBackend: "no host name of their service's backends has an address yet"
                case .socket: "no address in forward.source gives a socket to their backend"
                default: "it serves another configuration"
                }
            refusals.log(
                refusal, now: loop.now,
                "worker \(worker) has refused \(refused[refusal]) connections, their clients will retry: \(reason)",
                ["WORKER": "\(worker)"])
        }
    }

    /// Logs how many entries were held back, of each kind that may be logged again.
    func flushLog(now: Instant) { refusals.flush(now: now) }

    /// Logs how many entries were held back, of every kind.
    func finishLog() { refusals.finish() }

    private func target(of listener: DatagramListener) -> Target? { targets[ObjectIdentifier(listener)] }

    private func log(
        _ refusal: Refusal, _ message: @autoclosure () -> String, _ peer: SocketAddress,
        _ listener: DatagramListener
    ) {
        refusals.log(refusal, now: loop.now, message(), fields(peer, listener))
    }

    private func fields(_ peer: SocketAddress, _ listener: DatagramListener) -> Logger.Metadata {
        var fields: Logger.Metadata = ["PEER": "\(peer)", "LISTENER": "\(listener.address)"]
        if let target = target(of: listener), let name = names[target] { fields["SERVICE"] = "\(name)" }
        return fields
    }
}

extension ConnectionDispatcher: DatagramListenerDelegate {
    func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal? {
        guard let decision = refusal(of: flow.peer, target(of: listener), by: workers.refusal) else { return nil }
        log(decision.refusal, "connection refused, the client will retry: \(decision.reason)", flow.peer, listener)
        return decision.refusal
    }

    /// A refusal with the limits that it comes from. Its text is made only when it is logged.
    struct Decision {
        let refusal: Refusal
        /// `nil`: no worker takes it.
        let scope: AdmissionScope?

        var reason: String {
            guard let scope else { return ConnectionDispatcher.reason(refusal) }
            return "\(ReadContext.text(of: scope.table + [refusal.key]) ?? "") is reached"
        }
    }

    /// Why no worker takes a connection.
    private static func reason(_ refusal: Refusal) -> String {
        switch refusal {
        case .busy: "no worker with room reads its channel, or answers, at the moment"
        case .noWorker: "no worker is ready: they are being started, or have not got the configuration"
        default:
            "all workers are full: each serves as many connections as it may open files for (LimitNOFILE= of the unit, or"
                + " ulimit -n)"
        }
    }

    /// Why a peer whose address is proven is refused a connection; `nil` when it is not.
    /// - Parameter workers: why no worker can take it; `nil` when one can.
    func refusal(of peer: SocketAddress, _ target: Target?, by workers: Refusal?) -> Decision? {
        if let workers { return Decision(refusal: workers, scope: nil) }
        // A reload has closed the listener while its datagrams were read.
        guard let target else { return Decision(refusal: .noWorker, scope: nil) }
        // The local senders of `[client.NAME]` are the operator's own programs, to which no limits apply.
        guard case .service(let service) = target,
            let (refusal, scope) = admission.refusal(of: peer, service: service, now: loop.now)
        else { return nil }
        return Decision(refusal: refusal, scope: scope)
    }

    func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal) {
        switch refusal {
        case .version:
            log(
                .version,
                "connection refused: the client offers DTLS 1.3 alone, or no version that is known here; it has to offer"
                    + " DTLS 1.2 too", peer, listener)
        default:
            log(.denied, "datagrams of a peer are dropped: its address is denied, or not allowed", peer, listener)
        }
    }

    func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress) {
        let before = strays[ObjectIdentifier(listener)]
        if let before, loop.now - before.loggedAt < Self.strayInterval {
            strays[ObjectIdentifier(listener)]?.unlogged += 1
            return
        }
        strays[ObjectIdentifier(listener)] = Strays(loggedAt: loop.now)
        let more = before.map(\.unlogged) ?? 0
        logger.log(
            .recordOfNoConnection,
            "a record was dropped whose connection is not here: its sender has got another address or port from a NAT"
                + " (connection_id lets clients keep their connections then), or does not know that the connection is closed"
                + (more > 0 ? " (\(more) more since the last line)" : ""),
            fields(peer, listener))
    }

    func listener(_ listener: DatagramListener, admitted incoming: consuming IncomingConnection) -> UInt64? {
        guard let target = target(of: listener), let slotTarget = slotTargets[target] else { return nil }
        let peer = incoming.flow.peer
        // The kernel has given a socket.
        if !fullAddresses.isEmpty { fullAddresses.remove(ObjectIdentifier(listener)) }
        if let number = workers.handOver(
            incoming, to: target, slotTarget, connectionIDLength: connectionIDLengths[target])
        {
            return number.rawValue
        }
        // A worker had room when it was asked, but its table has no slot, or the message is longer than a channel takes.
        log(.busy, "connection refused, the client will retry: \(Self.reason(.busy))", peer, listener)
        return nil
    }

    func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, isProven: Bool
    ) -> Reception {
        if sockets.receive(datagram, flow, isProven: isProven, on: listener) { return .taken }
        return isProven && !isAdmittingWaiting && postpone(datagram, flow) ? .postponed : .notTaken
    }

    func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, with id: ConnectionID
    ) -> Bool {
        // A connection goes on with its own service alone, whose limits the peer is under.
        guard let target = target(of: listener).flatMap({ slotTargets[$0] }) else { return false }
        return sockets.receive(datagram, flow, with: id, target: target, on: listener)
    }

    func listener(
        _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
    ) -> Bool {
        let connection = ConnectionNumber(rawValue: connection)
        // It begins a connection of its own.
        if ClientHello.couldBePart(of: datagram), sockets.staysBesideHellos(connection) { return false }
        return workers.deliver(datagram, to: connection)
    }

    func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {
        let refusal = Refusal(error)
        guard refusal == .addressFull else {
            return log(refusal, "connection refused, the client will retry: \(error)", peer, listener)
        }
        // It lasts until clients leave. The status counts it.
        guard fullAddresses.insert(ObjectIdentifier(listener)).inserted else { return }
        log(
            refusal,
            "connection refused, the client will retry: the kernel takes no more sockets on this address and port"
                + " (\(error)). Before Linux 6.13 it takes 32,768: let the service listen on more addresses or ports, or use"
                + " a newer kernel. This is logged again once a connection was possible", peer, listener)
    }
}

/// The log of refused connections. Each reason has a limiter of its own, so that a flood of one kind does not hide the
/// others.
private struct RefusalLog {
    /// The limiter of each reason, by its raw value.
    private var limiters: [LogLimiter]
    private let loggers: [Logger]

    init() {
        loggers = Refusal.allCases.map { refusal in
            var logger = Logger(label: "dtlsd")
            logger[metadataKey: "REASON"] = "\(refusal.key)"
            return logger
        }
        limiters = loggers.map { _ in LogLimiter(burst: 10, perSecond: 1) }
    }

    mutating func log(
        _ refusal: Refusal, now: Instant, _ message: @autoclosure () -> String,
        _ fields: @autoclosure () -> Logger.Metadata
    ) {
        let event = refusal == .descriptors ? LogEvent.descriptorLimit : .connectionRefused
        limiters[refusal.rawValue].log(event, to: loggers[refusal.rawValue], now: now, message(), fields())
    }

    mutating func flush(now: Instant) {
        for index in limiters.indices { limiters[index].flush(now: now, to: loggers[index]) }
    }

    mutating func finish() {
        for index in limiters.indices { limiters[index].finish(to: loggers[index]) }
    }
}
