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
    /// Whether it was sent to in this process, or was heard of.
    fileprivate var isTried = false

    /// Where a backend comes from.
    struct Place {
        /// Its number among all of the service, which has one for all addresses of a host name
        /// (``ForwardConfiguration/numberedBackends``).
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

/// What all backends of one service have in common in one worker.
final class ForwardSettings {
    /// The addresses that the sockets to UDP backends are bound to.
    var sources: SourceAddresses
    /// The only network interface over which UDP backends are sent to.
    fileprivate(set) var interface: String?
    /// Whether each datagram to a backend begins with a header of the PROXY protocol.
    fileprivate(set) var proxyProtocol: Bool
    /// Where the service counts in this worker.
    fileprivate(set) var counters = TargetCounters.ignored
    let hosts: HostTable
    /// The backends whose checks fail.
    private(set) var down: Set<Backend.Address> = []

    init(_ configuration: ForwardConfiguration, hosts: HostTable) {
        sources = SourceAddresses(configuration.sources)
        interface = configuration.interface
        proxyProtocol = configuration.proxyProtocol
        self.hosts = hosts
    }

    func configure(_ configuration: ForwardConfiguration) {
        // An address that had no port left is tried at once, since the operator may have made room.
        sources = SourceAddresses(configuration.sources)
        interface = configuration.interface
        proxyProtocol = configuration.proxyProtocol
    }

    func count(in counters: TargetCounters) { self.counters = counters }

    func note(_ address: Backend.Address, isDown: Bool) {
        if isDown { down.insert(address) } else { down.remove(address) }
    }
}

/// The backends that one rule of a service has, or those for connections that no rule is for, in one worker: which of them
/// a client's datagrams go to, and which of them take datagrams at present. All connections of the rule share them, those
/// from before a reload included.
///
/// The choice is by rendezvous hashing: a client and a backend give a number together, and the backend with the highest
/// number is the client's. So every worker, on every machine and after every restart, makes the same choice for an
/// address; and when a backend goes, only its own clients move, evenly to all others.
///
/// A host name counts as one backend. Its clients are spread over its addresses in the same way: first over those of the
/// family that RFC 6724 prefers on this machine, and over the others where all of these refuse. As long as it has no
/// address, it stands in the list as a backend that nothing can be sent to.
final class ForwardBackends {
    /// The rule that has them; `nil`: they are for connections that no rule is for.
    let rule: String?
    private(set) var list: NonEmpty<ForwardBackend>
    let settings: ForwardSettings
    /// Whether the active configuration has no such rule any more. Each connection finds another one with its next message.
    private(set) var isRetired = false
    private var configured: NonEmpty<Backend>
    /// The number of the first one among all backends of the service.
    private var firstNumber: Int

    init(_ backends: NonEmpty<Backend>, from firstNumber: Int = 0, of rule: String? = nil, _ settings: ForwardSettings)
    {
        self.rule = rule
        self.settings = settings
        self.firstNumber = firstNumber
        configured = backends
        list = Self.resolved(configured, firstNumber, settings.hosts).map { ForwardBackend($0.backend, $0.place) }
        noteChecks()
    }

    /// A reload has given the rule these backends.
    func configure(_ backends: NonEmpty<Backend>, from firstNumber: Int = 0) {
        configured = backends
        self.firstNumber = firstNumber
        makeList()
    }

    /// A reload has left the rule out.
    func retire() {
        isRetired = true
        for backend in list.elements { backend.isConfigured = false }
    }

    /// The addresses of a host name are other ones.
    func addressesChanged(of host: String) {
        guard !isRetired, configured.elements.contains(where: { $0.host?.name == host }) else { return }
        makeList()
        noteStates()
    }

    private func makeList() {
        let before = list
        list = Self.resolved(configured, firstNumber, settings.hosts).map { backend, place in
            guard let kept = before.elements.first(where: { $0.configuration.address == backend.address }) else {
                return ForwardBackend(backend, place)
            }
            kept.configuration = backend
            kept.key = RendezvousHash.key(of: backend.name)
            kept.place = place
            return kept
        }
        for backend in before.elements where !list.elements.contains(backend) { backend.isConfigured = false }
        noteChecks()
    }

    /// Checks have found out something: connections follow with their next messages.
    func followChecks() {
        noteChecks()
        noteStates()
    }

    private func noteChecks() {
        for backend in list.elements {
            backend.health.noteCheck(isDown: settings.down.contains(backend.configuration.address))
        }
    }

    /// The backends with the addresses of host names in place of those that have some. An address that two names have is
    /// the first one's.
    private static func resolved(
        _ configured: NonEmpty<Backend>, _ firstNumber: Int, _ hosts: HostTable
    ) -> NonEmpty<(backend: Backend, place: ForwardBackend.Place)> {
        var taken = Set(configured.elements.map(\.address))
        let all = configured.elements.enumerated().flatMap { index, backend in
            let number = firstNumber + index
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
        return NonEmpty(all) ?? configured.map { ($0, ForwardBackend.Place(number: firstNumber)) }
    }

    /// Whether there is a backend that can be sent to, whether it takes datagrams or not.
    var areResolved: Bool { list.elements.contains(where: \.isResolved) }

    /// A backend has refused datagrams. Where all addresses of its host name have, there may be others by now.
    func noteRefusal(by backend: ForwardBackend, now: Instant) {
        guard let host = backend.place.host,
            !list.elements.contains(where: { $0.place.host == host && $0.isServing })
        else { return }
        settings.hosts.noteRefusal(of: host, now: now)
    }

    /// Counts an error of a socket to a backend.
    func countError(beginsOutage: Bool) {
        settings.counters.block.add(to: .backendErrors)
        if beginsOutage { settings.counters.block.add(to: .backendOutages) }
        noteStates()
    }

    /// Notes that a backend was sent to.
    @inline(__always)
    func noteUse(of backend: ForwardBackend) {
        if !backend.isTried { noteFirstUse(of: backend) }
    }

    private func noteFirstUse(of backend: ForwardBackend) {
        backend.isTried = true
        noteStates()
    }

    /// Notes which backends are in an outage and which take datagrams, after one of them has begun to or ceased.
    func noteStates() {
        if isRetired { return }
        // A host name is in an outage where all its addresses are. The gauges have 64 bits.
        var serving: UInt64 = 0
        var tried: UInt64 = 0
        for backend in list.elements where backend.place.number < UInt64.bitWidth {
            let bit = UInt64(1) << UInt64(backend.place.number)
            if backend.isServing { serving |= bit }
            if backend.isServing, backend.isTried { tried |= bit }
        }
        for number in firstNumber..<max(firstNumber, min(firstNumber + configured.elements.count, UInt64.bitWidth)) {
            // A name whose addresses are all another backend's is in no outage of its own.
            let isPresent = list.elements.contains { $0.place.number == number }
            settings.counters.block.setMember(number, of: .backendsOut, isPresent && serving >> UInt64(number) & 1 == 0)
            settings.counters.block.setMember(number, of: .backendsUp, tried >> UInt64(number) & 1 == 1)
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
