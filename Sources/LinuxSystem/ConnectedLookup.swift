import Glibc

extension UDPSocket {
    /// Whether the kernel finds a connected socket by its peer, before it looks at the other sockets of the address, as
    /// Linux does since 6.13. It is tried out on the loopback interface, which takes less than a millisecond; where a
    /// datagram gets lost there, the answer is no after 0.1 s.
    /// - Parameter address: of the family that matters, or an IPv4 address inside an IPv6 one.
    public static func findsConnectedFirst(like address: SocketAddress) -> Bool {
        do throws(SystemError) {
            let host = address.isIPv4Mapped ? "::ffff:127.0.0.1" : address.family == .ipv4 ? "127.0.0.1" : "::1"
            guard let any = SocketAddress(host: host, port: 0) else { return false }
            let options = SocketOptions(ipv6Only: false)
            let listener = try listen(on: any, options: options)
            let peer = try open(any.family, options: options)
            try bind(peer, to: any)
            guard let local = try localAddress(of: listener), let remote = try localAddress(of: peer) else {
                return false
            }
            // Other kernels give the datagram to the first of these sockets, or to the last: one that is unconnected,
            // and ahead of `connected` for the interface that it is bound to.
            let first = try unconnected(local)
            let connected = try open(any.family, options: options)
            try shareAddress(of: connected)
            try bind(connected, to: local)
            try connect(connected, to: remote)
            let last = try unconnected(local)
            try connect(peer, to: local)
            guard [0].withUnsafeBytes({ (try? send($0, over: peer)) == true }) else { return false }
            var places = [connected.rawValue, first.rawValue, last.rawValue, listener.rawValue].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            return poll(&places, nfds_t(places.count), 100) == 1 && places[0].revents & Int16(POLLIN) != 0
        } catch {
            return false
        }
    }

    private static func unconnected(_ local: SocketAddress) throws(SystemError) -> FileDescriptor {
        let socket = try open(local.family, options: SocketOptions(ipv6Only: false))
        try shareAddress(of: socket)
        try bindToInterface(if_nametoindex("lo"), socket)
        try bind(socket, to: local)
        return socket
    }
}
