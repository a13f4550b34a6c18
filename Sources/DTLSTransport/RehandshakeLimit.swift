import Primitives

/// How often the peer of one connection may do the handshake again on it (RFC 6347, section 4.2.8): some times at once,
/// and then once a second. Each time costs a handshake, and a listener's limits do not see it.
struct RehandshakeLimit {
    private var bucket = TokenBucket()

    static let burst = 5
    private static let rate = Rate(perSecond: 1, burst: burst)

    /// - Returns: false when the limit is reached; the peer's hello is dropped then, and the peer repeats it.
    mutating func take(now: Instant) -> Bool { bucket.takeIfHeld(of: Self.rate, now: now) }
}
