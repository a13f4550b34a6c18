import LinuxSystem

/// A worker's way to tell local senders that a datagram of theirs was too large. Sockets are made when they are first
/// needed; without CAP_NET_RAW there are none, and that is found out once.
struct TooLargeNotices {
    private var sockets: [SocketAddress.Family: PacketTooBig?] = [:]

    /// - Returns: whether the sender was told.
    mutating func tell(_ sender: SocketAddress, of size: Int, sentTo receiver: SocketAddress) -> Bool {
        if sockets[sender.family] == nil { sockets[sender.family] = .some(try? PacketTooBig(sender.family)) }
        guard case let notice?? = sockets[sender.family] else { return false }
        return notice.tell(sender, of: size, sentTo: receiver)
    }
}
