import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// Receives the new clients of all listeners: decides whether there is room for each, hands it over to a worker, and
/// logs why it was refused.
final class ConnectionDispatcher {
    private let admission = Admission()
    private let workers: WorkerSupervisor
    private let loop: EventLoop
    private var refusals: RefusalLog
    /// The service or client that each listener belongs to.
    private var targets: [ObjectIdentifier: Target] = [:]
    /// The names of the services and clients of the active configuration.
    private var names: [Target: String] = [:]

    init(workers: WorkerSupervisor, loop: EventLoop) {
        self.workers = workers
        self.loop = loop
        refusals = RefusalLog()
    }

    /// Applies the limits of a configuration to new clients.
    /// - Parameter targets: the service or client that each of its listeners belongs to.
    func activate(_ configuration: Configuration, targets: [ObjectIdentifier: Target]) {
        self.targets = targets
        names = Dictionary(uniqueKeysWithValues: configuration.targets.map { ($0, $1.name) })
        admission.apply(configuration, present: workers.pool.admitted)
    }

    /// Handshakes in progress, of all services.
    var handshakes: Int { admission.handshakes }

    // MARK: Log of refused connections

    /// Logs connections that were handed over to a worker and that it has refused. It does not say whose they were.
    func log(_ refused: Tally<Refusal>, by worker: Int) {
        for refusal in Refusal.allCases where refused[refusal] > 0 {
            let reason =
                switch refusal {
                case .descriptors: "it has no file descriptors left"
                case .localPorts: "no local port is left for a socket to their backend"
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
        guard let decision = refusal(of: flow.peer, target(of: listener), hasRoom: workers.hasRoom) else { return nil }
        log(decision.refusal, "connection refused, the client will retry: \(decision.reason)", flow.peer, listener)
        return decision.refusal
    }

    /// A refusal with the limits that it comes from. Its text is made only when it is logged.
    struct Decision {
        let refusal: Refusal
        /// `nil`: no worker has room.
        let scope: AdmissionScope?

        var reason: String {
            guard let scope else { return "all workers are full" }
            return "\(ReadContext.text(of: scope.table + [refusal.key]) ?? "") is reached"
        }
    }

    /// Why a peer whose address is proven is refused a connection; `nil` when it is not.
    func refusal(of peer: SocketAddress, _ target: Target?, hasRoom: Bool) -> Decision? {
        guard let target, hasRoom else { return Decision(refusal: .full, scope: nil) }
        // The local senders of `[client.NAME]` are the operator's own programs, to which no limits apply.
        guard case .service(let service) = target,
            let (refusal, scope) = admission.refusal(of: peer, service: service, now: loop.now)
        else { return nil }
        return Decision(refusal: refusal, scope: scope)
    }

    func listener(_ listener: DatagramListener, denied peer: SocketAddress) {
        log(.denied, "datagrams of a peer are dropped: its address is denied, or not allowed", peer, listener)
    }

    func listener(_ listener: DatagramListener, admitted incoming: consuming IncomingConnection) -> UInt64? {
        guard let target = target(of: listener) else { return nil }
        // The worker has a descriptor of its own once this returns. Ours is closed with the incoming connection.
        guard case .service(let service) = target else { return workers.handOver(incoming, to: target, .ofClient) }
        guard let admitted = admission.admit(incoming.flow.peer, service: service, now: loop.now) else { return nil }
        return workers.handOver(incoming, to: target, .ofService(admitted))
    }

    func listener(
        _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
    ) -> Bool {
        workers.deliver(datagram, to: connection)
    }

    func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {
        log(Refusal(error), "connection refused, the client will retry: \(error)", peer, listener)
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
