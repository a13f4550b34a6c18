import DTLSTransport
import LinuxSystem
import Primitives

/// `[limits]` and `[service.NAME.limits]`
struct LimitsSection {
    var limits = LimitsConfiguration()
    fileprivate var allow: [Element<NetworkPrefix>] = []
    fileprivate var deny: [Element<NetworkPrefix>] = []

    /// The default of `handshakes` in `[limits]`. It bounds the workers' memory for clients that have only proven their
    /// address, about 64 KiB each. A busy machine has far fewer handshakes in progress, and far more would exhaust it.
    private static let defaultHandshakes = 10_000

    /// `[limits]`
    static var ofAllServices: Self { Self(limits: LimitsConfiguration(handshakes: defaultHandshakes)) }

    static let schema = Schema<Self> {
        Key(
            "connections", \.limits.connections, .count, default: "0",
            doc: "The number of connections at the same time, including those in their handshake.")
        Key(
            "connections_per_prefix", \.limits.connectionsPerPrefix, .count, default: "0",
            doc: "The number of connections at the same time for each source prefix.")
        Key(
            "handshakes", \.limits.handshakes, .count, default: "0",
            doc: "The number of handshakes in progress at the same time.")
        Key(
            "handshakes_per_second", \.limits.handshakesPerSecond, .handshakeRate, default: "0",
            doc: "The number of new handshakes a second.")
        Key(
            "handshakes_per_second_per_prefix", \.limits.handshakesPerSecondPerPrefix, .handshakeRate, default: "0",
            doc: "The number of new handshakes a second for each source prefix.")
        Key(
            "ipv4_prefix", \.limits.prefixes.ipv4, .bits(.ipv4),
            doc: "The length of a source prefix for IPv4; a service without it uses that of [limits].")
        Key(
            "ipv6_prefix", \.limits.prefixes.ipv6, .bits(.ipv6),
            doc: "The length of a source prefix for IPv6; a service without it uses that of [limits].")
        Key(
            // This is the most that a DTLS record can carry (RFC 5246, section 6.2.1).
            "largest_datagram", \.limits.traffic.largestDatagram, .integer(1...16_384, "an integer of bytes"),
            default: "16384", doc: "The largest datagram of a client, in bytes of decrypted data.")
        Key(
            "datagrams_per_second", \.limits.traffic.datagramsPerSecond, .rate, default: "0",
            doc: "The number of datagrams a second that a client may send over its connection.")
        Key(
            "bytes_per_second", \.limits.traffic.bytesPerSecond, .rate, default: "0",
            doc: "The number of bytes a second that a client may send over its connection.")
        Key(
            "allow", \.allow, .networks, default: "none; every client that is not in deny is accepted",
            doc: "The networks whose clients are accepted.")
        Key("deny", \.deny, .networks, default: "none", doc: "The networks whose clients are rejected.")
    } check: { table, section in
        section.limits.access = section.accessList(table)
    }

    /// The limits of a service, combined with those of all services where both apply to one connection.
    /// - Parameter table: the table `limits` of the service, if it has one.
    func within(_ outer: LimitsConfiguration, _ table: TableReader<Self>?) -> LimitsConfiguration {
        var limits = limits
        if table?.has(\.limits.prefixes.ipv4) != true { limits.prefixes.ipv4 = outer.prefixes.ipv4 }
        if table?.has(\.limits.prefixes.ipv6) != true { limits.prefixes.ipv6 = outer.prefixes.ipv6 }
        limits.traffic = limits.traffic.within(outer.traffic)
        return limits
    }

    private func accessList(_ table: TableReader<Self>) -> AccessList? {
        reportDuplicates(table)
        let rules =
            allow.map { AccessList.Rule($0.value, allows: true) } + deny.map { .init($0.value, allows: false) }
        return rules.isEmpty ? nil : AccessList(rules, otherwise: !table.has(\.allow))
    }

    private func reportDuplicates(_ table: TableReader<Self>) {
        let fields = (allow: table.field(\.allow), deny: table.field(\.deny))
        let entries =
            allow.map { (field: fields.allow, name: "allow", entry: $0) }
            + deny.map { (field: fields.deny, name: "deny", entry: $0) }
        var seen: [NetworkPrefix: Int] = [:]
        for (index, item) in entries.enumerated() {
            guard let first = seen[item.entry.value] else {
                seen[item.entry.value] = index
                continue
            }
            let earlier = entries[first]
            let line = table.context.line(of: earlier.field.path, element: earlier.entry.number)
            item.field.report(
                element: item.entry.number,
                "\(item.entry.value) is already in \(earlier.name)\(line.map { " (line \($0))" } ?? "");"
                    + " expected each network once, in one of the two lists")
        }
    }
}

extension Refusal {
    /// REASON in the log: the key that sets the limit, if there is one.
    var key: String {
        switch self {
        case .denied: "denied"
        case .version: "version"
        case .full: "full"
        case .busy: "busy"
        case .noWorker: "no_worker"
        case .descriptors: "descriptors"
        case .addressFull: "address_full"
        case .socket: "socket"
        case .localPorts: "local_ports"
        case .noBackend: "no_backend"
        case .rule: "rule"
        case .noRule: "no_rule"
        case .connections: LimitsSection.schema.name(of: \.limits.connections)
        case .connectionsPerPrefix: LimitsSection.schema.name(of: \.limits.connectionsPerPrefix)
        case .handshakes: LimitsSection.schema.name(of: \.limits.handshakes)
        case .handshakesPerSecond: LimitsSection.schema.name(of: \.limits.handshakesPerSecond)
        case .handshakesPerSecondPerPrefix: LimitsSection.schema.name(of: \.limits.handshakesPerSecondPerPrefix)
        }
    }
}

extension TrafficExcess {
    /// REASON in the log: the key that sets the limit.
    var key: String {
        switch self {
        case .largestDatagram: LimitsSection.schema.name(of: \.limits.traffic.largestDatagram)
        case .datagramsPerSecond: LimitsSection.schema.name(of: \.limits.traffic.datagramsPerSecond)
        case .bytesPerSecond: LimitsSection.schema.name(of: \.limits.traffic.bytesPerSecond)
        }
    }
}

/// The largest number of connections, handshakes, datagrams or bytes.
private let maximumCount = 1_000_000_000

extension ValueType where Value == Int? {
    /// A limit, where 0 is read as `nil`.
    fileprivate static var count: Self {
        ValueType<Int>.integer(0...maximumCount, "an integer (0 is no limit)")
            .map(text: { $0.map { "\($0)" } }, { $0 == 0 ? nil : $0 })
    }
}

extension ValueType where Value == Rate? {
    fileprivate static var rate: Self {
        ValueType<Int>.integer(0...maximumCount, "an integer (0 is no limit)")
            .map { $0 == 0 ? nil : Rate(perSecond: $0) }
    }

    fileprivate static var handshakeRate: Self {
        ValueType<Int>.thousandths(0...1_000_000, "a number (0 is no limit)")
            .map { $0 == 0 ? nil : Rate(perThousandSeconds: $0) }
    }
}

extension ValueType where Value == UInt8 {
    fileprivate static func bits(_ family: SocketAddress.Family) -> Self {
        ValueType<Int>.integer(1...Int(NetworkPrefix.maximumLength(family)), "an integer of bits")
            .map(text: { "\($0)" }, { UInt8(clamping: $0) })
    }
}

extension ValueType where Value == [Element<NetworkPrefix>] {
    fileprivate static var networks: Self {
        Self("networks as \"ADDRESS/LENGTH\" or \"ADDRESS\", the address in numbers") { field in
            field.strings.compactMap { text in
                do throws(NetworkPrefix.Mistake) {
                    return Element(number: text.number, value: try NetworkPrefix(parsing: text.value))
                } catch {
                    field.report(
                        element: text.number, "\(error), found the string \(ReadContext.quoted(text.value))")
                    return nil
                }
            }
        }
    }
}
