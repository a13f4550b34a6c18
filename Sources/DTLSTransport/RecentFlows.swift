import DTLSEngine
import LinuxSystem
import Primitives

/// The clients that a listener has admitted in the last seconds, with a bound: what tells a repeated ClientHello, or a
/// late fragment of one, from a newcomer's (rule 4).
struct RecentFlows {
    private struct Entry {
        /// `nil` for a plain listener's sender.
        let random: ClientRandom?
        let connection: UInt64
        let expiry: Instant
    }

    private var entries: [FlowKey: Entry] = [:]
    /// The keys in the order in which they came, from `oldest` on around.
    private var order: [FlowKey] = []
    private var oldest = 0

    static let capacity = 4_096
    /// Nanoseconds. What lay in a queue when the client was admitted is read long before; and where its worker has
    /// died, the hello that the client sends again after 1 and 3 seconds (RFC 6347, 4.2.4.1) must be let in.
    static let lifetime = Duration.milliseconds(2_000)

    /// Whether a client was admitted lately with just this hello.
    func contains(_ key: FlowKey, _ random: ClientRandom, now: Instant) -> Bool {
        guard let entry = entries[key], entry.expiry > now else { return false }
        return entry.random == random
    }

    /// The connection of a client that was admitted lately.
    func connection(of key: FlowKey, now: Instant) -> UInt64? {
        guard let entry = entries[key], entry.expiry > now else { return nil }
        return entry.connection
    }

    mutating func insert(_ key: FlowKey, _ random: ClientRandom?, _ connection: UInt64, now: Instant) {
        let entry = Entry(random: random, connection: connection, expiry: now + Self.lifetime)
        // A key that is there already keeps its place in the order: it may go early, which costs nothing but memory.
        guard entries.updateValue(entry, forKey: key) == nil else { return }
        if order.count < Self.capacity {
            order.append(key)
            return
        }
        entries[order[oldest]] = nil
        order[oldest] = key
        oldest = (oldest + 1) % Self.capacity
    }
}
