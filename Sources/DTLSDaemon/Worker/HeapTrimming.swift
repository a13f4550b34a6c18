import Primitives

/// Decides when a worker gives freed memory back to the system (malloc_trim(3)).
///
/// malloc keeps what a burst of handshakes has needed: 50 MB after 1,000 of them that were half-open and timed out,
/// since what is still in use lies above it in the heap. Giving it back costs milliseconds, and the page faults of the
/// next burst, so it is done when a burst is over: not more than once in ``pause``, and only after the number of
/// connections has halved.
struct HeapTrimming {
    /// The most connections since memory was last given back.
    private var peak = 0
    private var isScheduled = false

    /// What a heap of fewer connections holds is not worth it.
    static let leastClosed = 256
    static let pause = Duration.seconds(10)

    /// A connection has begun.
    mutating func connectionOpened(_ count: Int) { peak = max(peak, count) }

    /// A connection has ended.
    /// - Returns: when ``isDue(_:)`` is to be asked; `nil` when it need not be, or is asked already.
    mutating func connectionClosed(_ count: Int, now: Instant) -> Instant? {
        guard !isScheduled, isWorthwhile(count) else { return nil }
        isScheduled = true
        return now + Self.pause
    }

    /// Whether memory is to be given back now.
    mutating func isDue(_ count: Int) -> Bool {
        isScheduled = false
        guard isWorthwhile(count) else { return false }
        peak = count
        return true
    }

    private func isWorthwhile(_ count: Int) -> Bool { count <= peak / 2 && peak - count >= Self.leastClosed }
}
