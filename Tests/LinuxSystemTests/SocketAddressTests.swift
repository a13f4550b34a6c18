import LinuxSystem
import Testing

@Suite struct SocketAddressTests {
    @Test(arguments: [
        ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"), ("192.0.2.1:7", "192.0.2.1:7"), ("[::1]:7", "[::1]:7"),
        ("[::fffe:192.0.2.1]:7", "[::fffe:c000:201]:7"), ("[1::ffff:192.0.2.1]:7", "[1::ffff:c000:201]:7"),
    ])
    func `an IPv4 address inside an IPv6 one is found`(_ text: String, _ expected: String) throws {
        let address = try #require(SocketAddress(text))
        #expect(address.unmapped.description == expected)
        #expect(address.isIPv4Mapped == (address.family != address.unmapped.family))
    }

    @Test(arguments: [
        ("fe80::1", true), ("febf::1", true), ("fec0::1", false), ("fe00::1", false), ("::1", false),
        ("254.128.0.1", false),
    ])
    func `a link-local address is one of fe80::/10`(_ host: String, _ expected: Bool) throws {
        #expect(try #require(SocketAddress(host: host, port: 1)).isLinkLocal == expected)
    }
}
