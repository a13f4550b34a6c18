import CLinux
import Glibc

/// Tells the sender of a UDP datagram that it was too large, by the ICMP message that a router would send (RFC 792,
/// "fragmentation needed"; RFC 4443, section 3.2, "packet too big"). The next call on the sender's connected socket
/// then fails with EMSGSIZE (udp(7)).
///
/// The message gives 65,535 bytes as the MTU, which is more than any path has. The sender's kernel then only passes the
/// error on (seen with Linux 6.18). With the real size, it would send smaller packets and fragments to this machine for
/// all traffic.
public struct PacketTooBigSender {
    /// The raw sockets, which are opened when they are first needed.
    private var sockets: [SocketAddress.Family: Socket] = [:]

    private static let announcedSize: UInt16 = .max

    /// A box for a descriptor, since a dictionary cannot hold a noncopyable value.
    private final class Socket {
        let descriptor: FileDescriptor

        init(_ family: SocketAddress.Family) throws(SystemError) {
            let kind = Int32(SOCK_RAW.rawValue) | sockNonBlocking | sockCloseOnExec
            let number = family == .ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6
            descriptor = FileDescriptor(
                owning: try system("socket", "raw, for ICMP, which takes CAP_NET_RAW") {
                    Glibc.socket(family.domain, kind, Int32(number))
                })
        }
    }

    public init() {}

    /// Opens the sockets, where this process may, since it may not later.
    public mutating func open() {
        for family in [SocketAddress.Family.ipv4, .ipv6] { _ = try? socket(family) }
    }

    /// Tells `sender` that its datagram of `size` bytes of payload to `receiver` was too large.
    /// - Throws: EPERM without CAP_NET_RAW; EAFNOSUPPORT for addresses of two families.
    public mutating func send(
        to sender: SocketAddress, size: Int, sentTo receiver: SocketAddress
    ) throws(SystemError) {
        // A dual-stack socket reports IPv4 senders by IPv4-mapped addresses, but they need ICMP for IPv4.
        let (sender, receiver) = (sender.unmapped, receiver.unmapped)
        guard sender.family == receiver.family else {
            throw SystemError("sendto", "ICMP to \(sender)", errno: EAFNOSUPPORT)
        }
        let message = sender.family == .ipv4 ? message4(sender, size, receiver) : message6(sender, size, receiver)
        let raw = try socket(sender.family).descriptor.rawValue
        // A raw IPv6 socket interprets the port as a protocol number, and refuses any but its own.
        _ = try system("sendto", "ICMP to \(sender)") {
            sender.with(port: 0).withSockaddr { address, length in
                message.withUnsafeBytes { sendto(raw, $0.baseAddress, $0.count, 0, address, length) }
            }
        }
    }

    private mutating func socket(_ family: SocketAddress.Family) throws(SystemError) -> Socket {
        if let made = sockets[family] { return made }
        let made = try Socket(family)
        sockets[family] = made
        return made
    }

    private func message4(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        // Type 3 is "destination unreachable", and its code 4 is "fragmentation needed".
        var message: [UInt8] = [3, 4, 0, 0, 0, 0] + bytes(Self.announcedSize)
        var header: [UInt8] = [0x45, 0] + bytes(UInt16(clamping: size + 28)) + [0, 0, 0x40, 0, 64, 17, 0, 0]
        header += address(sender) + address(receiver)
        replaceChecksum(of: &header, at: 10)
        message += header + ports(sender, size, receiver)
        replaceChecksum(of: &message, at: 2)
        return message
    }

    /// The ICMPv6 message; the kernel fills in its checksum (RFC 3542, section 3.1).
    private func message6(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        let header: [UInt8] = [0x60, 0, 0, 0] + bytes(UInt16(clamping: size + 8)) + [17, 64]
        return [2, 0, 0, 0, 0, 0] + bytes(Self.announcedSize) + header + address(sender) + address(receiver)
            + ports(sender, size, receiver)
    }

    /// The UDP header of the datagram that was too large.
    private func ports(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        bytes(sender.port) + bytes(receiver.port) + bytes(UInt16(clamping: size + 8)) + [0, 0]
    }

    private func address(_ address: SocketAddress) -> [UInt8] { address.withBytes { [UInt8]($0.dropLast(2)) } }

    private func bytes(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(truncatingIfNeeded: number)] }

    /// The Internet checksum (RFC 1071) of an even number of bytes.
    private func replaceChecksum(of bytes: inout [UInt8], at place: Int) {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count - 1, by: 2) {
            sum += UInt32(bytes[index]) << 8 | UInt32(bytes[index + 1])
        }
        while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
        bytes.replaceSubrange(place..<(place + 2), with: self.bytes(~UInt16(truncatingIfNeeded: sum)))
    }
}
