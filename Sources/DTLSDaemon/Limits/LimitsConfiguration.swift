import DTLSTransport
import LinuxSystem
import Primitives

/// The limits of a table `[limits]` or `[service.NAME.limits]`. `nil` means no limit.
struct LimitsConfiguration: Codable, Equatable, Sendable {
    /// The number of connections at the same time, including those in their handshake.
    var connections: Int?
    var connectionsPerPrefix: Int?
    /// The number of handshakes in progress at the same time.
    var handshakes: Int?
    /// The rate of new handshakes.
    var handshakesPerSecond: Rate?
    var handshakesPerSecondPerPrefix: Rate?
    /// The lengths of a source prefix for the limits of this table.
    var prefixes = NetworkPrefix.Lengths()
    /// The limits of one connection. In a service, they combine its own limits and those of `[limits]`.
    var traffic = TrafficLimits()
    /// The networks whose clients are accepted; `nil`: all networks.
    var access: AccessList?
}

/// What one client may send over its connection. `nil` means no limit.
struct TrafficLimits: Codable, Equatable, Sendable {
    /// The largest datagram, in bytes of application data.
    var largestDatagram: Int?
    var datagramsPerSecond: Rate?
    /// The rate of bytes of application data.
    var bytesPerSecond: Rate?

    var isEmpty: Bool { self == TrafficLimits() }

    /// The lower one of each limit of both.
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
