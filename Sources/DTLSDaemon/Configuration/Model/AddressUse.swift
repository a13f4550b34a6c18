import LinuxSystem

extension SocketAddress {
    /// The purpose of a configured address.
    enum Use {
        case listening, sending
        /// Sockets are bound to it, and the kernel chooses the port.
        case source

        fileprivate func expected(_ wildcard: String) -> String {
            self == .listening ? "a unicast address or \(wildcard)" : "a unicast address"
        }

        /// An IPv6 address as this kind of key writes it.
        fileprivate func text(_ host: some StringProtocol, _ port: UInt16) -> String {
            self == .source ? "\(host)" : "[\(host)]:\(port)"
        }
    }

    /// Why the address cannot be used for a purpose on any machine, as the end of a sentence that begins with it.
    func reasonAgainst(_ use: Use) -> String? {
        if isIPv4Mapped { return "is an IPv4 address inside an IPv6 one; expected the IPv4 address itself" }
        if use != .listening, isWildcard {
            return "is not the address of a single machine; expected \(use.expected(""))"
        }
        let first = withBytes { $0[0] }
        switch family {
        case .ipv4:
            // 224.0.0.0/4 is multicast. In 240.0.0.0/4, only 255.255.255.255 (broadcast) can be bound at all.
            return first >= 224 ? "is not the address of a single machine; expected \(use.expected("0.0.0.0"))" : nil
        case .ipv6:
            if first == 0xff { return "is not the address of a single machine; expected \(use.expected("[::]"))" }
            switch (isLinkLocal, scope) {
            case (true, 0):
                return "is a link-local address without its interface; expected \(use.text("\(host)%INTERFACE", port))"
            case (false, 1...):
                // The kernel ignores the interface of such an address, so it would be a duplicate of the address.
                let plain = host.prefix { $0 != "%" }
                return "has an interface, which only a link-local address needs; expected \(use.text(plain, port))"
            default: return nil
            }
        }
    }
}
