import Glibc
import LinuxSystem

/// The tables `[service.NAME.socket]` and `[client.NAME.socket]`.
extension SocketOptions {
    static let schema = Schema<Self> {
        Key(
            "receive_buffer", \.receiveBuffer, .integer(bufferSizes, "an integer of bytes"), default: "the system's",
            doc: "The size of the kernel's receive buffer (SO_RCVBUF).")
        Key(
            "send_buffer", \.sendBuffer, .integer(bufferSizes, "an integer of bytes"), default: "the system's",
            doc: "The size of the kernel's send buffer (SO_SNDBUF).")
        Key(
            "ttl", \.timeToLive, .integer(timesToLive), default: "the system's",
            doc: "The time to live or hop limit of the packets that are sent (IP_TTL, IPV6_UNICAST_HOPS).")
        Key(
            "dscp", \.dscp, .integer(codePoints), default: "the system's",
            doc: "The differentiated services code point of the packets that are sent (IP_TOS, IPV6_TCLASS).")
        Key(
            "interface", \.interface, .interface, default: "every interface",
            doc: "The only network interface that is used (SO_BINDTODEVICE).")
        Key(
            "ipv6_only", \.ipv6Only, .flag,
            doc: "Whether a socket that listens on [::] accepts IPv6 only (IPV6_V6ONLY).")
        Key(
            "fragment", \.fragmentation, .flag,
            doc: "Whether datagrams that are larger than the path MTU are sent in IP fragments.")
        Key(
            "freebind", \.freeBind, .flag,
            doc: "Whether listening addresses may be ones that this machine gets later (IP_FREEBIND).")
    }

    /// - Parameter families: the families of all addresses that sockets with these options are used for.
    func check(_ table: TableReader<Self>?, against families: [SocketAddress.Family], of kind: String) {
        if timeToLive == 0, families.contains(.ipv4) {
            // IP_TTL accepts 1 to 255 (ip(7)); IPV6_UNICAST_HOPS accepts 0 too.
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
            if NetworkInterface.index(of: name) == 0 { field.reportMismatch(found: name) }
            return name
        }
    }
}
