import Primitives

/// Decides when a worker gives freed memory back to the system (malloc_trim(3)).
///
/// malloc keeps what a burst of handshakes has needed: 50 MB after 1,000 of them that were half-open and timed out,
/// since what is still in use lies above it in the heap; and 5 MB after 2,500 of which no more than 70 went on at once.
/// Giving it back costs milliseconds, and the page faults of the next burst, so it is done when a burst is over: not more
/// than once in ``pause``, and only while there are half as many connections as there have been, or fewer.
///
/// A connection counts here for as long as OpenSSL has its handshake or its records.
struct HeapTrimming {
    /// The most connections at once since memory was last given back.
    private var peak = 0
    /// The connections that have ended since then.
    private var closed = 0
    private var isScheduled = false

    /// What fewer connections leave behind is not worth it.
    static let leastClosed = 16
    static let pause = Duration.seconds(2)

    /// A connection has begun.
    mutating func connectionOpened(_ count: Int) { peak = max(peak, count) }

    /// A connection has ended.
    /// - Returns: when ``isDue(_:)`` is to be asked; `nil` when it need not be, or is asked already.
    mutating func connectionClosed(_ count: Int, now: Instant) -> Instant? {
        closed += 1
        guard !isScheduled, isWorthwhile(count) else { return nil }
        isScheduled = true
        return now + Self.pause
    }

    /// Whether memory is to be given back now.
    mutating func isDue(_ count: Int) -> Bool {
        isScheduled = false
        guard isWorthwhile(count) else { return false }
        peak = count
        closed = 0
        return true
    }

    private func isWorthwhile(_ count: Int) -> Bool { count <= peak / 2 && closed >= Self.leastClosed }
}
