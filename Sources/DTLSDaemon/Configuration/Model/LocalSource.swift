import LinuxSystem

/// Where sockets to backends or servers are bound.
struct LocalSource: Codable, Hashable, Sendable, CustomStringConvertible {
    /// An address of this machine, with port 0; a wildcard where the kernel chooses it.
    var address: SocketAddress
    /// The ports that are used; `nil`: those of net.ipv4.ip_local_port_range.
    var ports: PortRange?

    /// As it is written in the file.
    var description: String {
        guard let ports else { return address.host }
        let host = address.family == .ipv4 ? address.host : "[\(address.host)]"
        return "\(host):\(ports)"
    }
}

/// Ports of this machine.
struct PortRange: Codable, Hashable, Sendable, CustomStringConvertible {
    let first: UInt16
    let last: UInt16

    /// - Returns: `nil` where the last one comes before the first.
    init?(first: UInt16, last: UInt16) {
        guard first > 0, first <= last else { return nil }
        self.first = first
        self.last = last
    }

    /// `40000-40999`, or one port.
    init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count <= 2, let first = parts.first.flatMap({ HostAndPort.port($0) }),
            let last = parts.last.flatMap({ HostAndPort.port($0) })
        else { return nil }
        self.init(first: first, last: last)
    }

    var all: ClosedRange<UInt16> { first...max(first, last) }
    var description: String { first == last ? "\(first)" : "\(first)-\(last)" }
}
