import Glibc

/// The errors that ICMP messages bring to a connected UDP socket.
extension UDPSocket {
    /// Makes hosts and networks that cannot be reached errors of the socket too. Without this it hears of closed ports
    /// alone (udp(7), IP_RECVERR): a machine that has gone is then a silent one.
    ///
    /// The kernel queues each error, and the socket is reported as hung up until ``takeErrors(of:)`` has emptied it.
    public static func reportAllErrors(
        _ family: SocketAddress.Family, of socket: borrowing FileDescriptor
    ) throws(SystemError) {
        switch family {
        case .ipv4: try set(socket, ipProtocolIP, IP_RECVERR, 1, "IP_RECVERR")
        case .ipv6: try set(socket, ipProtocolIPv6, IPV6_RECVERR, 1, "IPV6_RECVERR")
        }
    }

    /// Empties the queue of errors.
    /// - Returns: the errno of the last one that says that the peer cannot be reached, or 0. EMSGSIZE does not: it is
    ///   how the kernel tells of a smaller path MTU, which it has taken over already.
    public static func takeErrors(of socket: borrowing FileDescriptor) -> Int32 {
        let raw = socket.rawValue
        var last = (try? takeError(of: socket)) ?? 0
        if last == EMSGSIZE { last = 0 }
        // Taking an entry sets SO_ERROR to the next one's errno (ip_recv_error). Bounded, since a peer can go on.
        for _ in 0..<256 {
            guard recv(raw, nil, 0, Int32(MSG_ERRQUEUE) | doNotWait) >= 0 else { break }
            let error = (try? takeError(of: socket)) ?? 0
            if error != 0, error != EMSGSIZE { last = error }
        }
        return last
    }
}
