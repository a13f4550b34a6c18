import Glibc
import LinuxSystem
import Testing

@Suite(.enabled(if: geteuid() == 0, "it takes CAP_NET_RAW: root"))
struct PacketTooBigSenderTests {
    /// The kernel does not take the path for narrower than before.
    @Test(arguments: ["127.0.0.1:0", "[::1]:0"])
    func `the sender's next call fails once with EMSGSIZE`(_ text: String) throws {
        let any = try #require(SocketAddress(text))
        let receiver = try UDPSocket.open(any.family)
        try UDPSocket.bind(receiver, to: any)
        let receiving = try #require(try UDPSocket.localAddress(of: receiver))
        let sender = try UDPSocket.open(any.family)
        try UDPSocket.connect(sender, to: receiving)
        let sending = try #require(try UDPSocket.localAddress(of: sender))
        let message = [UInt8](repeating: 7, count: 20_000)
        #expect(try message.withUnsafeBytes { try UDPSocket.send($0, over: sender) })
        let before = try largestPacket(sender, any.family)

        var notices = PacketTooBigSender()
        // It is for another socket.
        try notices.send(to: sending.with(port: sending.port ^ 1), size: 20_000, sentTo: receiving)
        #expect(try UDPSocket.takeError(of: sender) == 0)
        try notices.send(to: sending, size: 20_000, sentTo: receiving)
        #expect(try UDPSocket.takeError(of: sender) == EMSGSIZE)
        #expect(try UDPSocket.takeError(of: sender) == 0)
        #expect(try largestPacket(sender, any.family) >= min(before, 65_535))
        #expect(try message.withUnsafeBytes { try UDPSocket.send($0, over: sender) })
    }

    /// IP_MTU, IPV6_MTU.
    private func largestPacket(_ socket: borrowing FileDescriptor, _ family: SocketAddress.Family) throws -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(4)
        let (level, name) = family == .ipv4 ? (IPPROTO_IP, IP_MTU) : (IPPROTO_IPV6, IPV6_MTU)
        let result = getsockopt(socket.rawValue, Int32(level), name, &value, &length)
        try #require(result == 0)
        return value
    }
}
