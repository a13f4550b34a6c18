import LinuxSystem
import Primitives

/// The sizes of IP packets that handshakes with peers had to shrink to, since larger ones did not arrive and no router
/// said why. The next handshake with the peer begins with that size, so that it need not find it out again.
///
/// A size is kept for ten minutes, as the kernel keeps what routers say (net.ipv4.route.mtu_expires), for a bounded number
/// of addresses. Peers behind one address share theirs.
struct PathSizes {
    static let lifetime = Duration.seconds(600)
    static let capacity = 1_024

    private struct Entry {
        var size: Int
        var expiry: Instant
    }

    private var entries: [SocketAddress: Entry] = [:]
    /// The addresses in the order in which they came, of which the oldest makes room.
    private var order: [SocketAddress] = []
    private var oldest = 0

    /// The largest IP packet that is known to arrive at a peer, in bytes; `nil` where nothing is known.
    func size(to peer: SocketAddress, now: Instant) -> Int? {
        guard !entries.isEmpty, let entry = entries[peer.with(port: 0)], now < entry.expiry else { return nil }
        return entry.size
    }

    mutating func note(_ size: Int, to peer: SocketAddress, now: Instant) {
        let address = peer.with(port: 0)
        let entry = Entry(size: size, expiry: now + Self.lifetime)
        if entries.updateValue(entry, forKey: address) != nil { return }
        if order.count < Self.capacity { return order.append(address) }
        entries[order[oldest]] = nil
        order[oldest] = address
        oldest = (oldest + 1) % Self.capacity
    }
}
