import LinuxSystem

extension SocketAddress {
    /// What a configured address is for.
    enum Use {
        case listening, sending

        fileprivate func expected(_ wildcard: String) -> String {
            self == .listening ? "a unicast address or \(wildcard)" : "a unicast address"
        }
    }

    /// Why it cannot be meant, whatever the machine's addresses are: the rest of a sentence that begins with it.
    func reasonAgainst(_ use: Use) -> String? {
        if isIPv4Mapped { return "is an IPv4 address inside an IPv6 one; expected the IPv4 address itself" }
        if use == .sending, isWildcard { return "is no address of one machine; expected \(use.expected(""))" }
        let (first, second) = withBytes { ($0[0], $0[1]) }
        switch family {
        case .ipv4:
            // 224.0.0.0/4 is multicast; of 240.0.0.0/4 only 255.255.255.255, broadcast, can be bound at all.
            return first >= 224 ? "is no address of one machine; expected \(use.expected("0.0.0.0"))" : nil
        case .ipv6:
            if first == 0xff { return "is no address of one machine; expected \(use.expected("[::]"))" }
            let isLinkLocal = first == 0xfe && second & 0xc0 == 0x80
            switch (isLinkLocal, scope) {
            case (true, 0):
                return "is a link-local address without its interface; expected [\(host)%INTERFACE]:\(port)"
            case (false, 1...):
                // The kernel does not look at it, so that it would be the same address once more.
                let plain = host.prefix { $0 != "%" }
                return "has an interface, which only a link-local address needs; expected [\(plain)]:\(port)"
            default: return nil
            }
        }
    }
}
