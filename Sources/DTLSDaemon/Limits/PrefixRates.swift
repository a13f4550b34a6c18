import LinuxSystem
import Primitives

/// A token bucket for each network, in a table whose size never changes.
///
/// A network's hash, with a secret of this table, picks a set of ``ways`` entries; the network's bucket is one of them.
/// A network that is not there has a full bucket. Where a set has no place for one more, the entry with the fullest
/// bucket makes room: mostly one that is full again by now, by which nothing is lost. Under a flood from more networks
/// than the table has entries, a network that was just charged may be forgotten; it then gets its next handshake
/// sooner than its rate allows. So the table errs on the side of the clients: nobody is refused for what others do, and
/// what the flood may do in all is the business of the limit without a prefix. Who wants a certain network forgotten
/// would have to know the secret to find its set, or fill all sets.
struct PrefixRates {
    private struct Entry {
        /// The network's hash. Two networks with the same 64 bits share a bucket.
        var tag: UInt64 = 0
        var bucket = TokenBucket()
    }

    static let ways = 8
    /// Entries of 16 bytes: 1 MiB.
    static let defaultCapacity = 65_536

    private var entries: [Entry]
    private let secret = UInt64.random(in: .min ... .max)

    /// - Parameter capacity: a multiple of ``ways``.
    init(capacity: Int = defaultCapacity) {
        entries = Array(repeating: Entry(), count: max(Self.ways, capacity / Self.ways * Self.ways))
    }

    var capacity: Int { entries.count }

    /// Entries whose bucket is not full.
    func occupied(now: Instant) -> Int { entries.count { $0.bucket.fullAt > now } }

    /// Whether one thing more may come from a network.
    func holds(_ network: NetworkPrefix, _ rate: Rate, now: Instant) -> Bool {
        let (tag, set) = place(of: network)
        for index in set where entries[index].tag == tag { return entries[index].bucket.holds(rate, now: now) }
        return true
    }

    mutating func take(_ network: NetworkPrefix, _ rate: Rate, now: Instant) {
        let (tag, set) = place(of: network)
        var chosen = set.lowerBound
        for index in set {
            if entries[index].tag == tag {
                chosen = index
                break
            }
            if entries[index].bucket.fullAt < entries[chosen].bucket.fullAt { chosen = index }
        }
        if entries[chosen].tag != tag { entries[chosen] = Entry(tag: tag) }
        entries[chosen].bucket.take(of: rate, now: now)
    }

    private func place(of network: NetworkPrefix) -> (tag: UInt64, set: Range<Int>) {
        var hasher = Hasher()
        hasher.combine(secret)
        hasher.combine(network)
        let tag = UInt64(bitPattern: Int64(hasher.finalize()))
        let start = Int(tag % UInt64(entries.count / Self.ways)) * Self.ways
        return (tag, start..<start + Self.ways)
    }
}
