import LinuxSystem

/// A worker's way to tell local senders that a datagram of theirs was too large. Sockets are made when they are first
/// needed, which takes CAP_NET_RAW.
struct TooLargeNotices {
    private var sockets: [SocketAddress.Family: PacketTooBig] = [:]

    mutating func tell(_ sender: SocketAddress, of size: Int, sentTo receiver: SocketAddress) throws(SystemError) {
        // A dual-stack listener sees IPv4 senders inside IPv6 addresses; they take ICMP of IPv4 alone.
        let (sender, receiver) = (sender.unmapped, receiver.unmapped)
        let notice: PacketTooBig
        if let made = sockets[sender.family] { notice = made } else { notice = try PacketTooBig(sender.family) }
        sockets[sender.family] = notice
        try notice.tell(sender, of: size, sentTo: receiver)
    }
}
