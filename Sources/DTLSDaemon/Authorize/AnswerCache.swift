import DTLSEngine
import Primitives

/// Answers that hold for a while, as many as its capacity: the oldest one makes room for another.
struct AnswerCache {
    private struct Entry {
        let answer: AuthorizationAnswer
        let expiry: Instant
    }

    private let capacity: Int
    private var entries: [[UInt8]: Entry] = [:]
    /// The keys in the order in which they came, from ``first`` on. Some may have expired.
    private var order: [[UInt8]] = []
    private var first = 0

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { entries.count }

    mutating func answer(to key: [UInt8], now: Instant) -> AuthorizationAnswer? {
        guard let entry = entries[key] else { return nil }
        if entry.expiry > now { return entry.answer }
        entries[key] = nil
        return nil
    }

    mutating func keep(_ answer: AuthorizationAnswer, to key: [UInt8], until expiry: Instant) {
        guard capacity > 0 else { return }
        if entries.updateValue(Entry(answer: answer, expiry: expiry), forKey: key) != nil { return }
        order.append(key)
        while order.count - first > capacity {
            entries[order[first]] = nil
            order[first] = []
            first += 1
        }
        // What is gone is given back when it is half of all.
        if first > 64, first * 2 > order.count {
            order.removeFirst(first)
            first = 0
        }
    }
}
