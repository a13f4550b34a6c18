import DTLSTransport
import LinuxSystem
import Primitives

/// One backend of a service in one worker, and whether it takes datagrams at present. It is the same object for as long
/// as its address stands in the configuration of the service, so what is known of its health outlives a reload.
final class ForwardBackend: Equatable {
    fileprivate(set) var configuration: Backend
    /// The backend's part in the choice.
    fileprivate var key: UInt64
    fileprivate var health = BackendHealth()
    /// Whether it stands in the active configuration of its service. Connections leave one that does not.
    fileprivate(set) var isConfigured = true

    fileprivate init(_ configuration: Backend) {
        self.configuration = configuration
        key = RendezvousHash.key(of: configuration.name)
    }

    static func == (one: ForwardBackend, other: ForwardBackend) -> Bool { one === other }

    @inline(__always)
    var isServing: Bool { health.isServing }

    /// The connection sends to the backend from now on. Where that is in an outage, this is its trial.
    /// - Returns: how many refusals the outage had that has ended now, or `nil`.
    func begin(by connection: ObjectIdentifier, now: Instant) -> UInt64? {
        guard health.accepts(connection, now: now) else { return nil }
        return health.begin(by: connection, now: now)
    }

    /// The backend has refused datagrams.
    /// - Returns: whether this refusal begins an outage.
    func noteRefusal(now: Instant) -> Bool { health.noteRefusal(now: now) }

    /// A datagram of the backend has come, or it has taken one over a Unix socket.
    /// - Returns: how many refusals the outage had that has ended now, or `nil` when there was none.
    func noteAnswer() -> UInt64? { health.noteAnswer() }
}

/// The backends of one service in one worker: which of them a client's datagrams go to, and which of them take
/// datagrams at present. All connections of the service share them, those from before a reload included.
///
/// The choice is by rendezvous hashing: a client and a backend give a number together, and the backend with the highest
/// number is the client's. So every worker, on every machine and after every restart, makes the same choice for an
/// address; and when a backend goes, only its own clients move, evenly to all others.
final class ForwardBackends {
    private(set) var list: NonEmpty<ForwardBackend>
    /// The addresses that the sockets to UDP backends are bound to.
    var sources: SourceAddresses
    /// Where the service counts in this worker.
    private var counters = TargetCounters.ignored
    /// Whether each datagram to a backend begins with a header of the PROXY protocol.
    private(set) var proxyProtocol: Bool

    init(_ configuration: ForwardConfiguration) {
        list = configuration.backends.map { ForwardBackend($0) }
        sources = SourceAddresses(configuration.sources)
        proxyProtocol = configuration.proxyProtocol
    }

    /// A reload has activated another configuration of the service.
    func configure(_ configuration: ForwardConfiguration) {
        let before = list
        list = configuration.backends.map { backend in
            guard let kept = before.elements.first(where: { $0.configuration.address == backend.address }) else {
                return ForwardBackend(backend)
            }
            kept.configuration = backend
            kept.key = RendezvousHash.key(of: backend.name)
            return kept
        }
        for backend in before.elements where !list.elements.contains(backend) { backend.isConfigured = false }
        // An address that had no port left is tried at once, since the operator may have made room.
        sources = SourceAddresses(configuration.sources)
        proxyProtocol = configuration.proxyProtocol
        noteOutages()
    }

    /// Counts errors and outages there from now on.
    func count(in counters: TargetCounters) {
        self.counters = counters
        noteOutages()
    }

    /// Counts an error of a socket to a backend.
    func countError(beginsOutage: Bool) {
        counters.block.add(to: .backendErrors)
        if beginsOutage { counters.block.add(to: .backendOutages) }
        noteOutages()
    }

    /// Notes which backends are in an outage, after one has begun or ended.
    func noteOutages() {
        for (index, backend) in list.elements.enumerated() {
            counters.block.setMember(index, of: .backendsOut, !backend.isServing)
        }
        for index in list.elements.count..<max(64, list.elements.count) {
            counters.block.setMember(index, of: .backendsOut, false)
        }
    }

    /// Whether there is anything to choose. A single backend is sent to even if it refuses, since there is no other.
    var areSeveral: Bool { list.elements.count > 1 }

    /// The backend that has taken the place of one with the same address, which a reload had left out meanwhile.
    func successor(of backend: ForwardBackend) -> ForwardBackend? {
        list.elements.first { $0.configuration.address == backend.configuration.address }
    }

    /// The backend that a slot names as the far side of its connection; `nil` where none of the configuration is it.
    func backend(_ far: ConnectionSlot.FarSide) -> ForwardBackend? {
        list.elements.first { backend in
            switch (far, backend.configuration.address) {
            case (.udp(let address, _), .udp(let own)): address == own
            case (.unix(let hash), .unix(let path)): hash == ConnectionSlot.hash(of: path)
            default: false
            }
        }
    }

    /// The first backend in the client's order: the client's own as long as it takes datagrams.
    func home(of client: UInt64) -> ForwardBackend { first(of: client) { _ in true } ?? list.first }

    /// The backend for datagrams of a connection: its home if that takes them, or the first in the client's order that
    /// does; where none does, the home.
    func choice(
        of client: UInt64, home: ForwardBackend, for connection: ObjectIdentifier, now: Instant
    ) -> ForwardBackend {
        if home.health.accepts(connection, now: now) { return home }
        return first(of: client) { $0.health.accepts(connection, now: now) } ?? home
    }

    private func first(of client: UInt64, where isUsable: (ForwardBackend) -> Bool) -> ForwardBackend? {
        var best: (backend: ForwardBackend, rank: UInt64)?
        for backend in list.elements where isUsable(backend) {
            let rank = RendezvousHash.rank(backend.key, client)
            if rank >= best?.rank ?? 0 { best = (backend, rank) }
        }
        return best?.backend
    }
}

/// The backends of all services in one worker. Those of a service are the same object in all configurations, so a
/// reload reaches the connections from before it. They are kept for as long as a configuration or a connection uses
/// them.
final class ForwardServices: HandlerSharedState {
    private struct Reference { weak var backends: ForwardBackends? }

    private var services: [String: Reference] = [:]

    init(loop: EventLoop, logs: WorkerLogs) {}

    /// The backends that connections of a service use, of whatever configuration.
    func backends(of service: String) -> ForwardBackends? { services[service]?.backends }

    /// Makes these the backends of a service, in its active configuration.
    func activate(_ backends: ForwardBackends, of service: String, _ configuration: ForwardConfiguration) {
        if services[service]?.backends === backends {
            backends.configure(configuration)
        } else {
            services[service] = Reference(backends: backends)
        }
        services = services.filter { $0.value.backends != nil }
    }
}
