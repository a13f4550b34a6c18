import DTLSTransport
import LinuxSystem
import Primitives

/// The keys of `[limits]` and `[service.NAME.limits]`.
enum LimitsKey: String, CaseIterable {
    case connections
    case connectionsPerPrefix = "connections_per_prefix"
    case handshakes
    case handshakesPerSecond = "handshakes_per_second"
    case handshakesPerSecondPerPrefix = "handshakes_per_second_per_prefix"
    case ipv4Prefix = "ipv4_prefix"
    case ipv6Prefix = "ipv6_prefix"
    case largestDatagram = "largest_datagram"
    case datagramsPerSecond = "datagrams_per_second"
    case bytesPerSecond = "bytes_per_second"
    case allow, deny
}

extension Refusal {
    /// REASON in the log: the key that has set the limit, where there is one.
    var key: String {
        switch self {
        case .denied: "denied"
        case .full: "full"
        case .descriptors: "descriptors"
        case .socket: "socket"
        case .connections: LimitsKey.connections.rawValue
        case .connectionsPerPrefix: LimitsKey.connectionsPerPrefix.rawValue
        case .handshakes: LimitsKey.handshakes.rawValue
        case .handshakesPerSecond: LimitsKey.handshakesPerSecond.rawValue
        case .handshakesPerSecondPerPrefix: LimitsKey.handshakesPerSecondPerPrefix.rawValue
        }
    }
}

extension TrafficExcess {
    /// REASON in the log: the key that has set the limit.
    var key: String {
        switch self {
        case .largestDatagram: LimitsKey.largestDatagram.rawValue
        case .datagramsPerSecond: LimitsKey.datagramsPerSecond.rawValue
        case .bytesPerSecond: LimitsKey.bytesPerSecond.rawValue
        }
    }
}

/// Reads a table of limits. What is wrong is reported, and counts as absent.
struct LimitsReader {
    /// What clients that have proven no more than their address may hold of the workers' memory in all, about 64 KiB
    /// each: far more handshakes than are in progress on a busy machine, and far less than would exhaust one.
    private static let defaultHandshakes = 10_000

    private let table: TableReader<LimitsKey>

    /// - Parameters:
    ///   - table: `nil` where there is none.
    ///   - outer: for a service's limits, those of all services.
    static func read(
        _ table: TableReader<LimitsKey>?, within outer: LimitsConfiguration? = nil
    ) -> LimitsConfiguration {
        var limits = LimitsConfiguration()
        if let outer {
            limits.prefixes = outer.prefixes
        } else {
            limits.handshakes = defaultHandshakes
        }
        if let table { LimitsReader(table: table).read(into: &limits) }
        if let outer { limits.traffic = limits.traffic.within(outer.traffic) }
        return limits
    }

    private func read(into limits: inout LimitsConfiguration) {
        limits.connections = count(.connections)
        limits.connectionsPerPrefix = count(.connectionsPerPrefix)
        if table.has(.handshakes) { limits.handshakes = count(.handshakes) }
        limits.handshakesPerSecond = handshakeRate(.handshakesPerSecond)
        limits.handshakesPerSecondPerPrefix = handshakeRate(.handshakesPerSecondPerPrefix)
        if let bits = bits(.ipv4Prefix, .ipv4) { limits.prefixes.ipv4 = bits }
        if let bits = bits(.ipv6Prefix, .ipv6) { limits.prefixes.ipv6 = bits }
        limits.traffic = TrafficLimits(
            largestDatagram: table.integer(.largestDatagram, 1...Self.maximumDatagram, "an integer of bytes"),
            datagramsPerSecond: rate(.datagramsPerSecond), bytesPerSecond: rate(.bytesPerSecond))
        limits.access = accessList()
    }

    /// The most that a record of DTLS carries (RFC 5246, section 6.2.1).
    private static let maximumDatagram = 16_384
    private static let maximumCount = 1_000_000_000

    private func count(_ key: LimitsKey) -> Int? { integer(key) }

    private func rate(_ key: LimitsKey) -> Rate? { integer(key).map { Rate(perSecond: $0) } }

    /// `nil` for 0.
    private func integer(_ key: LimitsKey) -> Int? {
        table.integer(key, 0...Self.maximumCount, "an integer (0 is no limit)").flatMap { $0 == 0 ? nil : $0 }
    }

    private func handshakeRate(_ key: LimitsKey) -> Rate? {
        table.thousandths(key, 0...1_000_000, "a number (0 is no limit)")
            .flatMap { $0 == 0 ? nil : Rate(perThousandSeconds: $0) }
    }

    private func bits(_ key: LimitsKey, _ family: SocketAddress.Family) -> UInt8? {
        table.integer(key, 1...Int(NetworkPrefix.maximumLength(family)), "an integer of bits")
            .map(UInt8.init(clamping:))
    }

    // MARK: Lists

    /// A network of one of the lists, and where it stands.
    private struct Entry {
        let network: NetworkPrefix
        let key: LimitsKey
        let element: Int
    }

    private func accessList() -> AccessList? {
        let entries = networks(.allow) + networks(.deny)
        reportDuplicates(entries)
        guard !entries.isEmpty else { return nil }
        return AccessList(
            entries.map { AccessList.Rule($0.network, allows: $0.key == .allow) }, otherwise: !table.has(.allow))
    }

    private static let networks = "networks as \"ADDRESS/LENGTH\" or \"ADDRESS\", the address in numbers"

    private func networks(_ key: LimitsKey) -> [Entry] {
        table.strings(key, Self.networks).compactMap { element, text in
            do throws(NetworkPrefix.Mistake) {
                return Entry(network: try NetworkPrefix(parsing: text), key: key, element: element)
            } catch {
                table.report(key, element: element, "\(error), found the string \(ReadContext.quoted(text))")
                return nil
            }
        }
    }

    private func reportDuplicates(_ entries: [Entry]) {
        var seen: [NetworkPrefix: Entry] = [:]
        for entry in entries {
            guard let earlier = seen[entry.network] else {
                seen[entry.network] = entry
                continue
            }
            let line = table.reading.line(of: table.path(earlier.key), element: earlier.element)
            let place = "\(earlier.key.rawValue)\(line.map { " (line \($0))" } ?? "")"
            table.report(
                entry.key, element: entry.element,
                "\(entry.network) stands in \(place) already; expected each network once, in one of both lists")
        }
    }
}
