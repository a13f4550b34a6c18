import DTLSTransport
import LinuxSystem
import Primitives

/// `[limits]` or `[service.NAME.limits]`; `nil` is no limit.
struct LimitsConfiguration: Codable, Equatable, Sendable {
    /// Connections at a time, those in their handshake among them.
    var connections: Int?
    var connectionsPerPrefix: Int?
    /// Handshakes in progress at a time.
    var handshakes: Int?
    /// New handshakes.
    var handshakesPerSecond: Rate?
    var handshakesPerSecondPerPrefix: Rate?
    /// What a prefix is for the limits of this table.
    var prefixes = NetworkPrefix.Lengths()
    /// Of a service: its own limits and those of `[limits]` in one.
    var traffic = TrafficLimits()
    /// `nil`: everyone.
    var access: AccessList?
}

/// What one client may send over its connection; `nil` is no limit.
struct TrafficLimits: Codable, Equatable, Sendable {
    /// Bytes of application data in one datagram.
    var largestDatagram: Int?
    var datagramsPerSecond: Rate?
    /// Of application data.
    var bytesPerSecond: Rate?

    var isEmpty: Bool { self == TrafficLimits() }

    /// The stricter of both in everything.
    func within(_ other: TrafficLimits) -> TrafficLimits {
        TrafficLimits(
            largestDatagram: Self.smaller(largestDatagram, other.largestDatagram) { $0 },
            datagramsPerSecond: Self.smaller(datagramsPerSecond, other.datagramsPerSecond, by: \.perThousandSeconds),
            bytesPerSecond: Self.smaller(bytesPerSecond, other.bytesPerSecond, by: \.perThousandSeconds))
    }

    private static func smaller<Value>(_ one: Value?, _ other: Value?, by size: (Value) -> Int) -> Value? {
        guard let one, let other else { return one ?? other }
        return size(one) <= size(other) ? one : other
    }
}
