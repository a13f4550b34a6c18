import Glibc
import LinuxSystem

/// `[service.NAME.socket]` and `[client.NAME.socket]`
extension SocketOptions {
    static let schema = Schema<Self> {
        Key(
            "receive_buffer", \.receiveBuffer, .integer(bufferSizes, "an integer of bytes"), default: "the system's",
            doc: "SO_RCVBUF, the kernel's buffer for datagrams that arrive.")
        Key(
            "send_buffer", \.sendBuffer, .integer(bufferSizes, "an integer of bytes"), default: "the system's",
            doc: "SO_SNDBUF, the kernel's buffer for datagrams that leave.")
        Key(
            "ttl", \.timeToLive, .integer(timesToLive), default: "the system's",
            doc: "IP_TTL or IPV6_UNICAST_HOPS, the time to live or hop limit of the packets that are sent.")
        Key(
            "dscp", \.dscp, .integer(codePoints), default: "the system's",
            doc: "IP_TOS and IPV6_TCLASS, the differentiated services code point of the packets that are sent.")
        Key(
            "interface", \.interface, .interface, default: "every interface",
            doc: "SO_BINDTODEVICE, the only network interface that is used.")
        Key(
            "ipv6_only", \.ipv6Only, .flag,
            doc: "IPV6_V6ONLY, whether a listener on [::] leaves IPv4 clients alone.")
        Key(
            "fragment", \.fragmentation, .flag,
            doc: "Whether datagrams that are larger than the path takes are sent in fragments.")
    }

    /// - Parameter families: those of all addresses that sockets with these options are for.
    func check(_ table: TableReader<Self>?, against families: [SocketAddress.Family], of kind: String) {
        if timeToLive == 0, families.contains(.ipv4) {
            // ip(7): IP_TTL takes 1 to 255, where IPV6_UNICAST_HOPS takes 0 too.
            table?.report(
                \.timeToLive,
                "expected 1 to 255 for a \(kind) with IPv4 addresses, found 0, which Linux refuses there")
        }
    }
}

extension ValueType where Value == String {
    fileprivate static var interface: Self {
        let name = string("the name of a network interface of this machine")
        return Self(name.expected) { field in
            guard let name = name.read(field) else { return nil }
            if if_nametoindex(name) == 0 { field.reportMismatch(found: name) }
            return name
        }
    }
}
