import CLinux
import Glibc

/// Tells the sender of a UDP datagram that it was too large, by the ICMP message of a router on its way (RFC 792,
/// "fragmentation needed"; RFC 4443, section 3.2, "packet too big"): the next call on the sender's connected socket
/// then fails with EMSGSIZE (udp(7)).
///
/// The message names 65,535 bytes as the MTU, more than any path has: the sender's kernel passes the error on and takes
/// nothing else from it (seen with Linux 6.18). With the true size it would send smaller packets, and fragments, to
/// this machine whatever they are for.
public final class PacketTooBig {
    private var socket: FileDescriptor
    private let family: SocketAddress.Family

    private static let announcedSize: UInt16 = .max

    /// - Throws: EPERM without CAP_NET_RAW.
    public init(_ family: SocketAddress.Family) throws(SystemError) {
        self.family = family
        let kind = Int32(SOCK_RAW.rawValue) | sockNonBlocking | sockCloseOnExec
        let number = family == .ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6
        socket = FileDescriptor(
            owning: try system("socket", "raw, for ICMP, which takes CAP_NET_RAW") {
                Glibc.socket(family.domain, kind, Int32(number))
            })
    }

    /// - Parameters:
    ///   - size: bytes of the datagram's payload.
    ///   - sender: where it came from, an address of the family.
    ///   - receiver: the address that it was sent to, of the same one.
    public func tell(_ sender: SocketAddress, of size: Int, sentTo receiver: SocketAddress) throws(SystemError) {
        guard sender.family == family, receiver.family == family else {
            throw SystemError("sendto", "ICMP to \(sender)", errno: EAFNOSUPPORT)
        }
        let message = family == .ipv4 ? message4(sender, size, receiver) : message6(sender, size, receiver)
        let raw = socket.rawValue
        // A raw socket of IPv6 takes the port for a protocol, and refuses one that is not its own.
        _ = try system("sendto", "ICMP to \(sender)") {
            sender.with(port: 0).withSockaddr { address, length in
                message.withUnsafeBytes { sendto(raw, $0.baseAddress, $0.count, 0, address, length) }
            }
        }
    }

    private func message4(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        // Destination unreachable (3), fragmentation needed (4).
        var message: [UInt8] = [3, 4, 0, 0, 0, 0] + bytes(Self.announcedSize)
        var header: [UInt8] = [0x45, 0] + bytes(UInt16(clamping: size + 28)) + [0, 0, 0x40, 0, 64, 17, 0, 0]
        header += address(sender) + address(receiver)
        replaceChecksum(of: &header, at: 10)
        message += header + ports(sender, size, receiver)
        replaceChecksum(of: &message, at: 2)
        return message
    }

    /// The kernel fills in the checksum (RFC 3542, section 3.1).
    private func message6(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        let header: [UInt8] = [0x60, 0, 0, 0] + bytes(UInt16(clamping: size + 8)) + [17, 64]
        return [2, 0, 0, 0, 0, 0] + bytes(Self.announcedSize) + header + address(sender) + address(receiver)
            + ports(sender, size, receiver)
    }

    /// The datagram's UDP header.
    private func ports(_ sender: SocketAddress, _ size: Int, _ receiver: SocketAddress) -> [UInt8] {
        bytes(sender.port) + bytes(receiver.port) + bytes(UInt16(clamping: size + 8)) + [0, 0]
    }

    private func address(_ address: SocketAddress) -> [UInt8] { address.withBytes { [UInt8]($0.dropLast(2)) } }

    private func bytes(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(truncatingIfNeeded: number)] }

    /// RFC 1071; all that it is used for has an even number of bytes.
    private func replaceChecksum(of bytes: inout [UInt8], at place: Int) {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count - 1, by: 2) {
            sum += UInt32(bytes[index]) << 8 | UInt32(bytes[index + 1])
        }
        while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
        bytes.replaceSubrange(place..<(place + 2), with: self.bytes(~UInt16(truncatingIfNeeded: sum)))
    }
}
