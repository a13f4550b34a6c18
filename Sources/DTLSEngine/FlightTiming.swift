import Primitives

/// When a flight of the handshake is sent again: after how long without an answer for the first time, and how soon for a
/// peer that sends its own flight again.
///
/// RFC 6347, section 4.2.4.1, advises a second for paths of which nothing is known. But the exchange of the cookie has
/// measured this one, so the flights after it wait for three round trips, as RFC 6298 has it after the first measurement
/// (section 2.2: the round trip, and four times half of it for its variation). They wait for a quarter of a second at the
/// least, for what the other side has to compute, and for no more than the second: in a round trip that took as long, a
/// datagram may have been lost.
///
/// What the operator has set holds for both: where each copy of a flight is paid for, none is sent for a peer that is
/// impatient.
struct FlightTiming: Equatable {
    /// From when a flight is sent until it is sent again for the first time. It doubles after that.
    let firstTimeout: Duration
    /// How long after a flight was sent a repetition of the peer's own flight does not say that it has got lost: it may
    /// have left before the flight arrived.
    let shortestPause: Duration

    private static let unmeasuredTimeout = Duration.seconds(1)
    private static let minimumPause = Duration.milliseconds(100)

    /// Of a path that was not measured.
    static let unmeasured = FlightTiming(firstTimeout: unmeasuredTimeout, shortestPause: minimumPause)
    /// Of a client's first hello. It is a small datagram that costs a server next to nothing, and the only flight that
    /// nobody else sends again.
    static let ofHello = FlightTiming(firstTimeout: Side.client.shortestTimeout, shortestPause: minimumPause)

    /// As the operator has said.
    static func set(to timeout: Duration) -> FlightTiming {
        FlightTiming(firstTimeout: timeout, shortestPause: max(timeout, minimumPause))
    }

    enum Side {
        case client, server

        /// A client begins to wait for the server's flight one way of the path before the server begins to wait for the
        /// client's. Were both to wait for the same time, the client's copy would come just after the server's own, when
        /// it is of no use. So the server waits for half as long again, and a flight that is lost twice is sent a third
        /// time before the client's timer has doubled.
        fileprivate var shortestTimeout: Duration {
            switch self {
            case .client: .milliseconds(250)
            case .server: .milliseconds(375)
            }
        }
    }

    /// Of a path with this round trip; `nil`: it is not known.
    static func measured(_ roundTrip: Duration?, on side: Side) -> FlightTiming {
        guard let roundTrip else { return unmeasured }
        return FlightTiming(
            firstTimeout: min(max(roundTrip * 3, side.shortestTimeout), unmeasuredTimeout),
            shortestPause: min(max(roundTrip, minimumPause), unmeasuredTimeout))
    }
}

/// A client's measurement of the round trip: from a hello to the server's request for a cookie.
///
/// A hello may be sent more than once, and RFC 6298, section 3, takes no such measurement, since the answer may be the one
/// to either. But a HelloVerifyRequest has the record number of the hello that it answers (RFC 6347, section 4.2.1). All
/// else that comes is taken for the answer to the first one, which is no less than the round trip.
struct RoundTripMeasurement {
    /// For each sending of the hello, when it was, and the number of the record behind it.
    private var sendings: [(time: Instant, end: UInt64)] = []
    private var answered: UInt64 = 0

    /// The hello is sent, in so many records.
    mutating func noteHello(records: Int, now: Instant) {
        sendings.append((now, (sendings.last?.end ?? 0) + UInt64(max(records, 0))))
    }

    mutating func noteArrival(of record: Record) {
        guard record.isPlaintextHandshake, record.fragment.first == HandshakeType.helloVerifyRequest.rawValue else {
            return
        }
        answered = record.sequenceNumber
    }

    /// How long the answer has taken; `nil` where no hello was sent.
    func roundTrip(now: Instant) -> Duration? {
        let sending = sendings.first { answered < $0.end } ?? sendings.first
        return sending.map { now - $0.time }
    }
}
