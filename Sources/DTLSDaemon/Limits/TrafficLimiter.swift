import Primitives

/// Which of a connection's limits a datagram is beyond.
enum TrafficExcess: Int, CaseIterable, Sendable {
    case largestDatagram
    case datagramsPerSecond
    case bytesPerSecond
}

/// What one connection's client may still send. A datagram beyond the limits is dropped, never queued.
///
/// Datagrams are counted once they are authentic, as application data: whoever forges a client's address can bring
/// the client's datagrams neither over a limit nor out of an allowance. What the service answers is not limited; it is
/// the operator's own.
struct TrafficLimiter {
    private let limits: TrafficLimits
    private var datagrams = TokenBucket()
    private var bytes = TokenBucket()
    /// Datagrams dropped so far.
    private(set) var dropped: UInt64 = 0

    /// - Returns: `nil` where nothing is limited.
    init?(_ limits: TrafficLimits) {
        if limits.isEmpty { return nil }
        self.limits = limits
    }

    /// Takes a datagram of `count` bytes into account.
    /// - Returns: why it is to be dropped; `nil` when it is not.
    mutating func excess(_ count: Int, now: Instant) -> TrafficExcess? {
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

    /// The peer begins anew on the same connection: what it may send stays as it is, the count begins again.
    mutating func restart() { dropped = 0 }
}
