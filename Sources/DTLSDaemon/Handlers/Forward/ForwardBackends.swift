import LinuxSystem
import Primitives

/// The backends of one service in one worker: which of them a client's datagrams go to, and which of them take
/// datagrams at present.
///
/// The choice is by rendezvous hashing: a client and a backend give a number together, and the backend with the highest
/// number is the client's. So every worker, on every machine and after every restart, makes the same choice for an
/// address; and when a backend goes, only its own clients move, evenly to all others.
final class ForwardBackends {
    let backends: [Backend]
    private let keys: [UInt64]
    private var health: [BackendHealth]
    /// The addresses that the sockets to UDP backends are bound to.
    var sources: SourceAddresses

    /// - Parameter sources: addresses of this machine, without a port.
    init(_ backends: [Backend], sources: [SocketAddress] = []) {
        self.sources = SourceAddresses(sources)
        self.backends = backends
        keys = backends.map { RendezvousHash.key(of: $0.name) }
        health = Array(repeating: BackendHealth(), count: backends.count)
    }

    /// Whether there is anything to choose. A single backend is sent to even if it refuses, since there is no other.
    var areSeveral: Bool { backends.count > 1 }

    /// The first backend in the client's order: the client's own as long as it takes datagrams.
    func home(of client: UInt64) -> Int { first(of: client) { _ in true } ?? 0 }

    /// The first backend in the client's order that takes datagrams of this connection; where none does, the first of
    /// all.
    func choice(of client: UInt64, for connection: ObjectIdentifier, now: Instant) -> Int {
        first(of: client) { health[$0].accepts(connection, now: now) } ?? home(of: client)
    }

    private func first(of client: UInt64, where isUsable: (Int) -> Bool) -> Int? {
        var best: (index: Int, rank: UInt64)?
        for index in backends.indices where isUsable(index) {
            let rank = RendezvousHash.rank(keys[index], client)
            if rank >= best?.rank ?? 0 { best = (index, rank) }
        }
        return best?.index
    }

    // MARK: Health

    @inline(__always)
    func isServing(_ index: Int) -> Bool { health[index].isServing }

    /// The connection sends to the backend from now on. Where that is in an outage, this is its trial.
    /// - Returns: how many refusals the outage had that has ended now, or `nil`.
    func begin(_ index: Int, by connection: ObjectIdentifier, now: Instant) -> UInt64? {
        guard health[index].accepts(connection, now: now) else { return nil }
        return health[index].begin(by: connection, now: now)
    }

    /// The backend has refused datagrams.
    /// - Returns: whether this refusal begins an outage.
    func noteRefusal(_ index: Int, now: Instant) -> Bool { health[index].noteRefusal(now: now) }

    /// A datagram of the backend has come, or it has taken one over a Unix socket.
    /// - Returns: how many refusals the outage had that has ended now, or `nil` when there was none.
    func noteAnswer(_ index: Int) -> UInt64? { health[index].noteAnswer() }
}
