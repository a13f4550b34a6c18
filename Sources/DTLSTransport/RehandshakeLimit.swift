import LinuxSystem

/// How often the peer of one connection may begin anew on it (RFC 6347, section 4.2.8): some times at once, and then
/// once a second. Each time costs a handshake, and a listener's limits do not see it.
struct RehandshakeLimit {
    /// Monotonic nanoseconds: when all of it is there again.
    private var fullAt: UInt64 = 0

    static let atOnce = 5
    private static let interval = UInt64.milliseconds(1_000)

    /// - Returns: false when there is none left; the peer's hello is dropped then, and it asks again by itself.
    mutating func take(now: UInt64) -> Bool {
        let start = max(fullAt, now)
        guard start - now <= UInt64(Self.atOnce - 1) * Self.interval else { return false }
        fullAt = start &+ Self.interval
        return true
    }
}
