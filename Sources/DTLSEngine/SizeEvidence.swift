/// What the losses of a flight say about the size of its datagrams.
///
/// A network loses datagrams of any size, and an answer may take longer than the timer runs. So a flight is made smaller
/// only where none of this explains its losses: it was sent three times, which is lost by chance once in 300 times where
/// every tenth datagram is lost and a flight has three; the peer was heard meanwhile, so that the way back is open and
/// nobody sleeps; and the flight has datagrams that become smaller. With the timer's default the third time is over after
/// 7 seconds.
///
/// A peer that has got a part of the flight, a small datagram, may wait for the rest without a word (GnuTLS 3.7). So a
/// fourth loss counts in silence, too.
struct SizeEvidence {
    /// How often a flight is sent before its size is taken for the reason of its losses.
    static let sendings: UInt8 = 3

    /// Whether a datagram has come since the flight was first sent.
    var hasHeardPeer = false
    /// Whether a flight was made smaller in this handshake.
    var hasShrunk = false
    /// Bytes of the largest datagram of the flight, as it was sent last.
    var largest = 0
    /// The same, as it was sent first: a hello may be whole again.
    private(set) var largestHello = 0

    /// A new flight is sent.
    mutating func begin(largest: Int) {
        hasHeardPeer = false
        self.largest = largest
        largestHello = largest
    }

    /// Whether the flight is to be made smaller. Once one was, the path is known to be narrow, and each loss counts.
    /// - Parameter retransmissions: how often it is sent again with this time, which is how often it has got lost.
    func speaksAgainstSize(retransmissions: UInt8) -> Bool {
        retransmissions > Self.sendings || hasHeardPeer && (hasShrunk || retransmissions == Self.sendings)
    }
}
