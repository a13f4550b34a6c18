import Primitives

/// How soon a listening socket is read again, as network cards moderate their interrupts. To wake up for a datagram costs
/// several times what it costs to drop it or to answer it with a cookie, so where many come, a socket that has been read
/// empty is left alone for a moment, and its datagrams are read by the batch.
///
/// What comes to a listener is not urgent: a connection's own datagrams come to its own socket.
struct ReadingPace {
    /// How long datagrams may wait.
    static let pause = Duration.microseconds(500)
    /// So many within a period are many: 6,400 a second, which is more than the handshakes that two processors can do.
    static let many = 64
    static let period = Duration.milliseconds(10)

    private var count = 0
    private var periodEnd = Instant.distantPast
    private var wereMany = false

    /// - Parameter newCount: how many datagrams have just been read.
    /// - Returns: how long the socket is to be left alone; `nil` where it is to be read as soon as there is a datagram.
    mutating func pause(after newCount: Int, now: Instant) -> Duration? {
        if now >= periodEnd {
            wereMany = count >= Self.many && now < periodEnd + Self.period
            count = 0
            periodEnd = now + Self.period
        }
        count += newCount
        return wereMany || count >= Self.many ? Self.pause : nil
    }
}
