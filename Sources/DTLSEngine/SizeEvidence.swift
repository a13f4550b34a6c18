/// What the losses of a flight say about the size of its datagrams.
///
/// A network loses datagrams of any size, and some of all that is sent in a second or two; and an answer may take longer than
/// the timer runs. So a flight is made smaller only where none of this explains its losses: it was sent three times, which
/// is lost by chance once in 300 times where every tenth datagram is lost and a flight has three; that took as long as no
/// gap of a network does that one waits for; the peer was heard meanwhile, so that the way back is open and nobody sleeps;
/// and the flight has datagrams that become smaller.
///
/// A peer that has got a part of the flight, a small datagram, may wait for the rest without a word (GnuTLS 3.7). So a
/// fourth loss counts in silence, too, but not before a device that computes for seconds would have said something.
struct SizeEvidence {
    /// How often a flight is sent before its size is taken for the reason of its losses.
    static let sendings: UInt8 = 3
    /// How long everything that is sent may get lost for reasons that pass, such as a change of the radio cell.
    private static let gap = Duration.milliseconds(2_500)
    /// How long nothing need be heard of a peer that has got the flight: P-256 takes a Cortex-M0 some seconds.
    private static let silence = Duration.seconds(7)

    /// Whether a datagram has come since the flight was first sent.
    var hasHeardPeer = false
    /// Whether the peer has begun with the flight that answers this one, so that only that gets lost.
    var hasArrived = false
    /// Whether a flight was made smaller in this handshake.
    var hasShrunk = false
    /// Bytes of the largest datagram of the flight, as it was sent last.
    var largest = 0
    /// The same, as it was sent first: a hello may be whole again.
    private(set) var largestHello = 0
    /// After how many repetitions a hello was sent in pieces last.
    private var lastPieces: UInt8 = 0

    /// A new flight is sent.
    mutating func begin(largest: Int) {
        hasHeardPeer = false
        hasArrived = false
        self.largest = largest
        largestHello = largest
        lastPieces = 0
    }

    /// Whether the flight is to be made smaller. Once one was, the path is known to be narrow, and each loss counts.
    /// - Parameters:
    ///   - retransmissions: how often it is sent again with this time, which is how often it has got lost.
    ///   - losses: from when it was sent first until it was sent last.
    ///   - silence: since it was sent first.
    func speaksAgainstSize(retransmissions: UInt8, lostFor losses: Duration, silence: Duration) -> Bool {
        guard !hasArrived else { return false }
        return retransmissions > Self.sendings && silence >= Self.silence
            || hasHeardPeer && (hasShrunk || retransmissions >= Self.sendings && losses >= Self.gap)
    }

    /// Whether a hello, of which nothing but its own repetitions tells, is to be sent in pieces this time: every third time,
    /// and not before a server over the slowest of paths would have answered the whole one.
    mutating func sendsHelloInPieces(retransmissions: UInt8, after duration: Duration) -> Bool {
        guard duration >= Self.silence, retransmissions >= lastPieces + Self.sendings else { return false }
        lastPieces = retransmissions
        return true
    }
}
