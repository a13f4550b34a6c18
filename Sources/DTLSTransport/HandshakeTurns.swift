import Primitives

/// Which handshakes go on in a turn of the loop, and which wait for the next one.
///
/// A step of a handshake takes as long as the datagrams of a hundred established connections, and all of a turn's come at
/// once: without a bound, a crowd of new clients would make those that are served wait for each of them. So steps wait for
/// the end of the turn, in the order in which they came, and for later turns once ``budget`` is used up. What established
/// connections have received meanwhile goes between.
struct HandshakeTurns<Element> {
    /// For the steps of one turn.
    static var budget: Duration { .microseconds(500) }

    private var waiting: [Element] = []
    /// Those before it have had their turn.
    private var next = 0
    private var end = Instant.distantPast

    var isEmpty: Bool { next == waiting.count }

    mutating func add(_ element: Element) { waiting.append(element) }

    /// Takes out those that wait no more.
    mutating func remove(where isGone: (Element) -> Bool) {
        waiting.removeFirst(next)
        next = 0
        waiting.removeAll(where: isGone)
    }

    /// A turn's steps begin.
    mutating func begin(now: Instant) { end = now + Self.budget }

    /// What is to be done next in this turn; `nil` where the rest waits for another one.
    /// - Parameter isFirst: whether nothing was done in this turn yet: one step is, however late it is.
    mutating func take(now: Instant, isFirst: Bool) -> Element? {
        guard !isEmpty, isFirst || now < end else { return nil }
        defer {
            next += 1
            // A worker that is always behind keeps no more than twice what waits.
            if next * 2 >= waiting.count {
                waiting.removeFirst(next)
                next = 0
            }
        }
        return waiting[next]
    }
}
