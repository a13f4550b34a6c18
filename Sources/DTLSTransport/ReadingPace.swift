import Primitives

/// How soon a listening socket is read again, as network cards moderate their interrupts. To wake up for a datagram costs
/// several times what it costs to drop it or to answer it with a cookie, so where many come, a socket that has been read
/// empty is left alone for a moment, and its datagrams are read by the batch.
///
/// What comes to a listener is not urgent: a connection's own datagrams come to its own socket.
struct ReadingPace {
    /// How long datagrams may wait where many of them are ClientHellos: it is a part of each handshake's time.
    static let pause = Duration.microseconds(500)
    /// How long they may wait where nearly all are records. Those that are not forged wake a connection up that was silent
    /// for a minute and more, or are of a client whose address has changed.
    static let pauseOfRecords = Duration.milliseconds(2)
    /// Where one in so many is a ClientHello, many are.
    static let fewHellos = 8
    /// So many datagrams within a period are many: 6,400 a second, which is more than the handshakes that two processors
    /// can do.
    static let many = 64
    static let period = Duration.milliseconds(10)

    private var count = 0
    private var helloCount = 0
    private var periodEnd = Instant.distantPast
    private var wereMany = false

    /// - Parameters:
    ///   - newCount: how many datagrams have just been read.
    ///   - hellos: how many of them were ClientHellos.
    /// - Returns: how long the socket is to be left alone; `nil` where it is to be read as soon as there is a datagram.
    mutating func pause(after newCount: Int, hellos: Int, now: Instant) -> Duration? {
        if now >= periodEnd {
            wereMany = count >= Self.many && now < periodEnd + Self.period
            count = 0
            helloCount = 0
            periodEnd = now + Self.period
        }
        count += newCount
        helloCount += hellos
        guard wereMany || count >= Self.many else { return nil }
        return helloCount * Self.fewHellos < count ? Self.pauseOfRecords : Self.pause
    }
}
