import DTLSTransport
import LinuxSystem
import Primitives

/// One table of limits, of a service or of all services, with the connections that count in it.
final class AdmissionScope {
    /// The name of the service; `nil` for the table of all services, and for a service that has never been in a
    /// configuration of this process.
    var service: String?
    private var limits = LimitsConfiguration()
    private(set) var connections = 0
    private(set) var handshakes = 0
    /// The number of connections of each network that has any. It is empty where they are not limited.
    private var connectionsByPrefix: [NetworkPrefix: Int] = [:]
    private var rate = TokenBucket()
    private var prefixRates: PrefixRates?

    init(service: String?) { self.service = service }

    /// The path of the table in the configuration.
    var table: [String] { service.map { ["service", $0, "limits"] } ?? ["limits"] }

    /// Applies the limits of a new configuration to new clients. Present connections stay counted.
    /// - Returns: whether their prefixes do not, so that ``countPrefix(of:)`` is to be called for each of them.
    func apply(_ new: LimitsConfiguration) -> Bool {
        let old = limits
        limits = new
        if new.handshakesPerSecond != old.handshakesPerSecond { rate = TokenBucket() }
        if new.handshakesPerSecondPerPrefix != old.handshakesPerSecondPerPrefix || new.prefixes != old.prefixes {
            prefixRates = new.handshakesPerSecondPerPrefix == nil ? nil : PrefixRates()
        }
        if (new.connectionsPerPrefix == nil) != (old.connectionsPerPrefix == nil) || new.prefixes != old.prefixes {
            connectionsByPrefix = [:]
            return new.connectionsPerPrefix != nil && connections > 0
        }
        return false
    }

    /// The limit that one more connection of this peer would exceed.
    func refusal(of peer: SocketAddress, now: Instant) -> Refusal? {
        if let limit = limits.connections, connections >= limit { return .connections }
        if let limit = limits.handshakes, handshakes >= limit { return .handshakes }
        // Networks are checked before the rate of all clients, so that an excess of one network does not use that up.
        if limits.connectionsPerPrefix != nil || prefixRates != nil {
            let network = NetworkPrefix(of: peer, lengths: limits.prefixes)
            if let limit = limits.connectionsPerPrefix, connectionsByPrefix[network, default: 0] >= limit {
                return .connectionsPerPrefix
            }
            if let limit = limits.handshakesPerSecondPerPrefix, prefixRates?.holds(network, limit, now: now) == false {
                return .handshakesPerSecondPerPrefix
            }
        }
        if let limit = limits.handshakesPerSecond, !rate.holds(limit, now: now) { return .handshakesPerSecond }
        return nil
    }

    /// Counts a connection that begins its handshake.
    func begin(_ peer: SocketAddress, now: Instant) {
        connections += 1
        handshakes += 1
        countPrefix(of: peer)
        if let limit = limits.handshakesPerSecond { rate.take(of: limit, now: now) }
        if let limit = limits.handshakesPerSecondPerPrefix {
            prefixRates?.take(NetworkPrefix(of: peer, lengths: limits.prefixes), limit, now: now)
        }
    }

    /// Counts an established connection, which no rate is charged for.
    func adopt(_ peer: SocketAddress) {
        connections += 1
        countPrefix(of: peer)
    }

    func endHandshake() { handshakes -= 1 }

    /// Ends the counting of a connection that is gone.
    func end(_ peer: SocketAddress) {
        connections -= 1
        guard limits.connectionsPerPrefix != nil else { return }
        let network = NetworkPrefix(of: peer, lengths: limits.prefixes)
        let left = connectionsByPrefix[network, default: 0] - 1
        connectionsByPrefix[network] = left > 0 ? left : nil
    }

    func countPrefix(of peer: SocketAddress) {
        guard limits.connectionsPerPrefix != nil else { return }
        connectionsByPrefix[NetworkPrefix(of: peer, lengths: limits.prefixes), default: 0] += 1
    }
}
