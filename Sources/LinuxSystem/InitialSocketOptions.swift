import CLinux
import Glibc

/// The options of a UDP socket that another program has opened, as it passed them on. A reload may remove an option
/// from the configuration; what that program had set then holds again.
public struct InitialSocketOptions: Sendable {
    private struct Option {
        let level: Int32
        let name: Int32
        let text: StaticString
        let value: Int32
    }

    private var options: [Option] = []

    /// Reads the options that ``SocketOptions`` can change on a bound socket.
    public init(of socket: borrowing FileDescriptor, _ family: SocketAddress.Family) throws(SystemError) {
        try read(SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF", of: socket)
        try read(SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF", of: socket)
        try read(SOL_SOCKET, SO_BINDTOIFINDEX, "SO_BINDTOIFINDEX", of: socket)
        // An IPv6 socket has both, for IPv6 and for IPv4 clients.
        try read(ipProtocolIP, IP_TOS, "IP_TOS", of: socket)
        try read(ipProtocolIP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER", of: socket)
        switch family {
        case .ipv4:
            try read(ipProtocolIP, IP_TTL, "IP_TTL", of: socket)
        case .ipv6:
            try read(ipProtocolIPv6, IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", of: socket)
            try read(ipProtocolIPv6, IPV6_TCLASS, "IPV6_TCLASS", of: socket)
            try read(ipProtocolIPv6, IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", of: socket)
        }
    }

    private mutating func read(
        _ level: Int32, _ name: Int32, _ text: StaticString, of socket: borrowing FileDescriptor
    ) throws(SystemError) {
        let value = try UDPSocket.get(socket, level, name, text)
        options.append(Option(level: level, name: name, text: text, value: value))
    }

    /// Sets the options of the socket back. What has not changed is not touched, since not all of it may be set without
    /// privileges: systemd's ReceiveBuffer= is not bound to net.core.rmem_max.
    public func restore(on socket: borrowing FileDescriptor) throws(SystemError) {
        for option in options where try UDPSocket.get(socket, option.level, option.name, option.text) != option.value {
            switch (option.level, option.name) {
            case (SOL_SOCKET, SO_RCVBUF): try restoreBuffer(option, SO_RCVBUFFORCE, on: socket)
            case (SOL_SOCKET, SO_SNDBUF): try restoreBuffer(option, SO_SNDBUFFORCE, on: socket)
            default: try UDPSocket.set(socket, option.level, option.name, option.value, option.text)
            }
        }
    }

    /// - Parameter force: the option that is not bound to the system's maximum, and takes CAP_NET_ADMIN.
    private func restoreBuffer(
        _ option: Option, _ force: Int32, on socket: borrowing FileDescriptor
    ) throws(SystemError) {
        // The kernel has doubled what was set (socket(7)).
        let size = option.value / 2
        do throws(SystemError) {
            try UDPSocket.set(socket, option.level, force, size, option.text)
        } catch {
            try UDPSocket.set(socket, option.level, option.name, size, option.text)
        }
    }
}
