import LinuxSystem
import Primitives

/// How many records with connection IDs may come from new addresses in vain: their connection is not here, or nobody has
/// sealed them. Good ones cost nothing, however many come.
///
/// Each bad one costs a worker a failed decryption, and a sender may put any address into its datagrams. So once a network
/// has sent too many, its records are dropped before anybody looks at them, and once too many have come in all, so are
/// those of all networks. What comes from the address that a connection has already is not asked about: what it costs is
/// bounded by what its socket, or the wake queue, takes.
struct ForgedRecordLimits {
    /// Networks as the limits of handshakes know them by default.
    private static let lengths = NetworkPrefix.Lengths()
    /// Of one network. Nobody sends bad ones by mistake but a client whose connection has ended, a few a second.
    static let ofNetwork = Rate(perSecond: 100, burst: 1_000)
    /// Of all networks: a tenth of a core.
    static let ofAll = Rate(perSecond: 20_000, burst: 10_000)

    private var networks = PrefixRates()
    private var all = TokenBucket()

    /// Whether a record of this source may be looked at.
    func admits(_ source: SocketAddress, now: Instant) -> Bool {
        all.holds(Self.ofAll, now: now)
            && networks.holds(NetworkPrefix(of: source, lengths: Self.lengths), Self.ofNetwork, now: now)
    }

    /// Notes that records of this source have been bad.
    mutating func charge(_ source: SocketAddress, count: Int = 1, now: Instant) {
        networks.take(NetworkPrefix(of: source, lengths: Self.lengths), Self.ofNetwork, count: count, now: now)
        all.take(count, of: Self.ofAll, now: now)
    }

    /// Notes that records have been bad whose sources are not known.
    mutating func charge(count: Int, now: Instant) { all.take(count, of: Self.ofAll, now: now) }
}
