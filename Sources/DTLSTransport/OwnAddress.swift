import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// When a client's side looks whether the kernel would now send from another address of this machine than it did: the peer
/// has not been heard for a while, and answers to an address that is gone would be lost. It has no clock.
package struct RouteCheck {
    /// The pause between two looks doubles from the lower to the upper bound.
    private static let pauses = Duration.seconds(2)...Duration.seconds(30)

    /// When the peer was heard last, or the route was looked at.
    private var last: Instant
    private var pause = RouteCheck.pauses.lowerBound

    package init(now: Instant = .distantPast) { last = now }

    /// The peer has sent something.
    @inline(__always)
    package mutating func heardPeer(now: Instant) { self = RouteCheck(now: now) }

    /// Whether it is time for a look, which counts as done.
    package mutating func isDue(now: Instant) -> Bool {
        guard now >= last + pause else { return false }
        last = now
        pause = min(pause * 2, Self.pauses.upperBound)
        return true
    }
}

/// What an errno of a connected UDP socket says of this side's address.
package enum OwnAddressFault {
    /// The kernel finds no route from the address that the socket is bound to (ip_route_output_key_hash_rcu in Linux 6.12
    /// answers EINVAL).
    case isGone
    /// Perhaps the peer is to be reached from another address by now.
    case mayHaveChanged

    package init?(errno: Int32) {
        switch errno {
        case EINVAL, EADDRNOTAVAIL: self = .isGone
        case ENETUNREACH, EHOSTUNREACH, ENETDOWN, ENODEV: self = .mayHaveChanged
        default: return nil
        }
    }
}

extension UDPSocket {
    /// A socket that is connected to a server, from the address and the port that the kernel chooses.
    /// - Returns: the socket, and the address that it has got.
    package static func openConnected(
        to server: SocketAddress, options: SocketOptions
    ) throws(SystemError) -> ConnectedSocket {
        let socket = try open(server.family, options: options)
        try connect(socket, to: server)
        // A connected UDP socket has an address.
        let local = try localAddress(of: socket) ?? .anyAddress(server.family, port: 0)
        // The kernel connects to the loopback address in place of 0.0.0.0 or ::, and the answers come from that.
        let peer = try peerAddress(of: socket) ?? server
        return ConnectedSocket(socket: socket, flow: FlowKey(peer: peer, local: local))
    }
}

/// A socket that is connected by a flow.
package struct ConnectedSocket: ~Copyable {
    package var socket: FileDescriptor
    package let flow: FlowKey

    package init(socket: consuming FileDescriptor, flow: FlowKey) {
        self.socket = socket
        self.flow = flow
    }
}

extension Connection {
    /// Whether the peer knows the connection by an ID (RFC 9146), at whatever address this side is.
    package var survivesOwnMoves: Bool { connectionIDs?.peer.isEmpty == false }

    /// Goes on over another socket to the same peer where the address of this machine has changed by which the peer is
    /// reached. The kernel says which one that is when another socket is connected.
    /// - Parameters:
    ///   - other: another socket to the same peer.
    ///   - isLost: whether the present socket is of no use any more, whatever the address is.
    /// - Returns: whether it has another socket.
    @discardableResult
    package func followOwnAddress(
        over other: consuming ConnectedSocket, evenIfItStays isLost: Bool
    ) throws(SystemError) -> Bool {
        var other = other
        guard isLost || other.flow.local.with(port: local.port) != local else { return false }
        try move(to: other.flow, over: other.socket.take())
        return true
    }
}
