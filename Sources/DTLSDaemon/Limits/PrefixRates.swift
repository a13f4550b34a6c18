import LinuxSystem
import Primitives

/// A token bucket for each network, in a table whose size never changes.
///
/// The hash of a network, keyed with a secret of this table, selects a set of ``ways`` entries, and one of them holds
/// the network's bucket. A network without an entry has a full bucket. If a set is full, the entry with the fullest
/// bucket is replaced; usually that bucket is full again, so that nothing is lost. Under a flood from more networks
/// than the table has entries, a network that has just been charged may be forgotten, and may then start its next
/// handshake sooner than its rate allows. The table thus errs in favour of clients: no client is refused because of the
/// traffic of others, and the limit without a prefix bounds the flood as a whole. To make the table forget a certain
/// network, an attacker would have to know the secret to find its set, or fill all sets.
struct PrefixRates {
    private struct Entry {
        /// The hash of the network. Two networks with the same 64 bits share a bucket.
        var tag: UInt64 = 0
        var bucket = TokenBucket()
    }

    static let ways = 8
    /// The number of entries, which have 16 bytes each: 1 MiB in all.
    static let defaultCapacity = 65_536

    private var entries: [Entry]
    private let secret = UInt64.random(in: .min ... .max)

    /// - Parameter capacity: the number of entries, a multiple of ``ways``.
    init(capacity: Int = defaultCapacity) {
        entries = Array(repeating: Entry(), count: max(Self.ways, capacity / Self.ways * Self.ways))
    }

    var capacity: Int { entries.count }

    /// The number of entries whose bucket is not full.
    func occupied(now: Instant) -> Int { entries.count { $0.bucket.fullAt > now } }

    /// Whether the bucket of a network holds a token.
    func holds(_ network: NetworkPrefix, _ rate: Rate, now: Instant) -> Bool {
        let (tag, set) = place(of: network)
        for index in set where entries[index].tag == tag { return entries[index].bucket.holds(rate, now: now) }
        return true
    }

    mutating func take(_ network: NetworkPrefix, _ rate: Rate, count: Int = 1, now: Instant) {
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
        entries[chosen].bucket.take(count, of: rate, now: now)
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
