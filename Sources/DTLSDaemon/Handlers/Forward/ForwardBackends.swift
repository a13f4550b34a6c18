import DTLSTransport
import LinuxSystem
import Primitives

/// One backend of a service in one worker, and whether it takes datagrams at present. It is the same object for as long
/// as its address stands in the configuration of the service, or is one of a host name that stands there, so what is
/// known of its health outlives a reload.
final class ForwardBackend: Equatable {
    fileprivate(set) var configuration: Backend
    /// The backend's part in the choice: one number for all addresses of a host name.
    fileprivate var key: UInt64
    /// What chooses between the addresses of a host name.
    fileprivate var place: Place
    fileprivate var health: BackendHealth
    /// Whether it stands in the active configuration of its service. Connections leave one that does not.
    fileprivate(set) var isConfigured = true

    /// Where a backend comes from.
    struct Place {
        /// Its number in the configuration, which has one for all addresses of a host name.
        var number: Int
        /// The host name that has its address; `nil` where the configuration has the address itself.
        var host: String?
        /// Whether other addresses of the host name, of the other family, are preferred.
        var isSecondFamily = false
    }

    fileprivate init(_ configuration: Backend, _ place: Place) {
        self.configuration = configuration
        self.place = place
        key = RendezvousHash.key(of: configuration.name)
        health = if case .name = configuration.address { .unresolved } else { BackendHealth() }
    }

    static func == (one: ForwardBackend, other: ForwardBackend) -> Bool { one === other }

    @inline(__always)
    var isServing: Bool { health.isServing }

    /// Whether it can be sent to; else it is a host name without an address.
    var isResolved: Bool { health.isResolved }

    /// Chooses between the addresses of one host name: 0 for a backend that has none.
    fileprivate func rankOfAddress(_ client: UInt64) -> UInt64 {
        guard place.host != nil, case .udp(let address) = configuration.address else { return 0 }
        let rank = RendezvousHash.rank(RendezvousHash.client(address), client) >> 1
        return place.isSecondFamily ? rank : rank | 1 << 63
    }

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
///
/// A host name counts as one backend. Its clients are spread over its addresses in the same way: first over those of the
/// family that RFC 6724 prefers on this machine, and over the others where all of these refuse. As long as it has no
/// address, it stands in the list as a backend that nothing can be sent to.
final class ForwardBackends {
    private(set) var list: NonEmpty<ForwardBackend>
    /// The addresses that the sockets to UDP backends are bound to.
    var sources: SourceAddresses
    /// Where the service counts in this worker.
    private var counters = TargetCounters.ignored
    /// Whether each datagram to a backend begins with a header of the PROXY protocol.
    private(set) var proxyProtocol: Bool
    private let hosts: HostTable
    private var configured: NonEmpty<Backend>

    init(_ configuration: ForwardConfiguration, hosts: HostTable = HostTable()) {
        self.hosts = hosts
        configured = configuration.backends
        list = Self.resolved(configured, hosts).map { ForwardBackend($0.backend, $0.place) }
        sources = SourceAddresses(configuration.sources)
        proxyProtocol = configuration.proxyProtocol
    }

    /// A reload has activated another configuration of the service.
    func configure(_ configuration: ForwardConfiguration) {
        configured = configuration.backends
        makeList()
        // An address that had no port left is tried at once, since the operator may have made room.
        sources = SourceAddresses(configuration.sources)
        proxyProtocol = configuration.proxyProtocol
        noteOutages()
    }

    /// The addresses of a host name are other ones.
    func addressesChanged(of host: String) {
        guard configured.elements.contains(where: { $0.host?.name == host }) else { return }
        makeList()
        noteOutages()
    }

    private func makeList() {
        let before = list
        list = Self.resolved(configured, hosts).map { backend, place in
            guard let kept = before.elements.first(where: { $0.configuration.address == backend.address }) else {
                return ForwardBackend(backend, place)
            }
            kept.configuration = backend
            kept.key = RendezvousHash.key(of: backend.name)
            kept.place = place
            return kept
        }
        for backend in before.elements where !list.elements.contains(backend) { backend.isConfigured = false }
    }

    /// The backends with the addresses of host names in place of those that have some. An address that two names have is
    /// the first one's.
    private static func resolved(
        _ configured: NonEmpty<Backend>, _ hosts: HostTable
    ) -> NonEmpty<(backend: Backend, place: ForwardBackend.Place)> {
        var taken = Set(configured.elements.map(\.address))
        let all = configured.elements.enumerated().flatMap { number, backend in
            let found = backend.host.map { hosts.addresses(of: $0.name, port: $0.port) } ?? []
            let resolved = found.filter { taken.insert(.udp($0)).inserted }.map { address in
                (
                    Backend(name: backend.name, address: .udp(address)),
                    ForwardBackend.Place(
                        number: number, host: backend.host?.name,
                        isSecondFamily: address.family != found.first?.family)
                )
            }
            // A name whose addresses are all another backend's needs no place of its own.
            if resolved.isEmpty, found.isEmpty { return [(backend, ForwardBackend.Place(number: number))] }
            return resolved
        }
        return NonEmpty(all) ?? configured.map { ($0, ForwardBackend.Place(number: 0)) }
    }

    /// Whether there is a backend that can be sent to, whether it takes datagrams or not.
    var areResolved: Bool { list.elements.contains(where: \.isResolved) }

    /// A backend has refused datagrams. Where all addresses of its host name have, there may be others by now.
    func noteRefusal(by backend: ForwardBackend, now: Instant) {
        guard let host = backend.place.host,
            !list.elements.contains(where: { $0.place.host == host && $0.isServing })
        else { return }
        hosts.noteRefusal(of: host, now: now)
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
        // A host name is in an outage where all its addresses are. The gauge has 64 bits.
        var present: UInt64 = 0
        var serving: UInt64 = 0
        for backend in list.elements where backend.place.number < UInt64.bitWidth {
            let bit = UInt64(1) << UInt64(backend.place.number)
            present |= bit
            if backend.isServing { serving |= bit }
        }
        for number in 0..<UInt64.bitWidth {
            counters.block.setMember(number, of: .backendsOut, (present & ~serving) >> UInt64(number) & 1 == 1)
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
    func home(of client: UInt64) -> ForwardBackend { first(of: client, where: \.isResolved) ?? list.first }

    /// The backend for datagrams of a connection: its home if that takes them, or the first in the client's order that
    /// does; where none does, the home.
    func choice(
        of client: UInt64, home: ForwardBackend, for connection: ObjectIdentifier, now: Instant
    ) -> ForwardBackend {
        if home.health.accepts(connection, now: now) { return home }
        return first(of: client) { $0.health.accepts(connection, now: now) } ?? home
    }

    private func first(of client: UInt64, where isUsable: (ForwardBackend) -> Bool) -> ForwardBackend? {
        var best: (backend: ForwardBackend, rank: (UInt64, UInt64))?
        for backend in list.elements where isUsable(backend) {
            let rank = (RendezvousHash.rank(backend.key, client), backend.rankOfAddress(client))
            if rank >= best?.rank ?? (0, 0) { best = (backend, rank) }
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

    /// The addresses of a host name are other ones.
    func addressesChanged(of host: String) {
        for service in services.values { service.backends?.addressesChanged(of: host) }
    }

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
