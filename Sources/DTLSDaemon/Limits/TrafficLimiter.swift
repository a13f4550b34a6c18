import Primitives

/// The limit of a connection that a datagram exceeds.
enum TrafficExcess: Int, CaseIterable, Sendable {
    case largestDatagram
    case datagramsPerSecond
    case bytesPerSecond
}

/// Limits what the client of one connection sends. A datagram that exceeds a limit is dropped, never queued.
///
/// Datagrams are counted after they have been authenticated, as application data. An attacker who forges the client's
/// address can therefore not use up its allowance. What the service sends is not limited, since the operator controls
/// it.
final class TrafficLimiter {
    private let limits: TrafficLimits
    private var datagrams = TokenBucket()
    private var bytes = TokenBucket()
    /// The number of datagrams that were dropped so far.
    private(set) var dropped: UInt64 = 0

    /// - Returns: `nil` when there is no limit.
    init?(_ limits: TrafficLimits) {
        if limits.isEmpty { return nil }
        self.limits = limits
    }

    /// Charges a datagram of `count` bytes.
    /// - Returns: the limit that it exceeds, so that it has to be dropped; `nil` if it exceeds none.
    func excess(_ count: Int, now: Instant) -> TrafficExcess? {
        let excess = excessIfAny(count, now: now)
        if excess != nil {
            dropped &+= 1
            return excess
        }
        if let rate = limits.datagramsPerSecond { datagrams.take(of: rate, now: now) }
        if let rate = limits.bytesPerSecond { bytes.take(count, of: rate, now: now) }
        return nil
    }

    private func excessIfAny(_ count: Int, now: Instant) -> TrafficExcess? {
        if let largest = limits.largestDatagram, count > largest { return .largestDatagram }
        if let rate = limits.datagramsPerSecond, !datagrams.holds(rate, now: now) { return .datagramsPerSecond }
        if let rate = limits.bytesPerSecond, !bytes.holdsAnything(rate, now: now) { return .bytesPerSecond }
        return nil
    }

    /// Resets the number of dropped datagrams when the peer does a re-handshake; what it may send stays the same.
    func restart() { dropped = 0 }
}
