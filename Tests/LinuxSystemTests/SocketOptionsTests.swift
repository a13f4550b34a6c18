import Glibc
import Testing

@testable import LinuxSystem

@Suite struct SocketOptionsTests {
    private func option(_ level: Int32, _ name: Int32, of socket: borrowing FileDescriptor) -> Int32 {
        var value: Int32 = -1
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(socket.rawValue, level, name, &value, &length) == 0 ? value : -1
    }

    @Test(arguments: [0, 46, 63])
    func `a code point stands in the upper six bits for IPv4, and for both of a dual-stack socket`(
        _ codePoint: Int
    ) throws {
        let options = SocketOptions(dscp: codePoint, ipv6Only: false)
        let four = try UDPSocket.open(.ipv4, options: options)
        #expect(option(Int32(IPPROTO_IP), IP_TOS, of: four) == Int32(codePoint) << 2)
        let six = try UDPSocket.open(.ipv6, options: options)
        #expect(option(Int32(IPPROTO_IP), IP_TOS, of: six) == Int32(codePoint) << 2)
        #expect(option(Int32(IPPROTO_IPV6), IPV6_TCLASS, of: six) == Int32(codePoint) << 2)
    }

    /// As a reload does it.
    @Test func `the code point of a bound socket can be changed`() throws {
        let any = try #require(SocketAddress("127.0.0.1:0"))
        let socket = try UDPSocket.listen(on: any, options: SocketOptions(dscp: 10))
        try UDPSocket.apply(SocketOptions(dscp: 20), toBound: socket, .ipv4)
        #expect(option(Int32(IPPROTO_IP), IP_TOS, of: socket) == 20 << 2)
    }
}
