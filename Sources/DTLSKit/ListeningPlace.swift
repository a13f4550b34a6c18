import LinuxSystem

/// What a server's socket is bound to.
struct ListeningPlace {
    let address: SocketAddress
    /// Whether an IPv6 socket takes IPv6 packets only.
    let ipv6Only: Bool

    /// Whether datagrams to one address could reach the sockets of both: where both are one user's and share their address
    /// (SO_REUSEPORT), the kernel lets them, and gives each a part of the clients.
    func overlaps(_ other: ListeningPlace) -> Bool {
        guard address.port == other.address.port else { return false }
        let (mine, others) = (address.unmapped, other.address.unmapped)
        switch (mine.family, others.family) {
        case (.ipv4, .ipv4), (.ipv6, .ipv6): return mine == others || mine.isWildcard || others.isWildcard
        case (.ipv6, .ipv4): return mine.isWildcard && !ipv6Only
        case (.ipv4, .ipv6): return others.isWildcard && !other.ipv6Only
        }
    }
}
