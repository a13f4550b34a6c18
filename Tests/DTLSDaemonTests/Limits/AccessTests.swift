import DTLSTransport
import LinuxSystem
import TestSupport
import Testing

/// Networks, and lists of them against the plain way to look an address up.
@Suite struct AccessListTests {
    private func address(_ host: String) throws -> SocketAddress { try #require(SocketAddress(host: host, port: 9)) }

    private func list(allow: [String] = [], deny: [String] = [], otherwise: Bool) throws -> AccessList {
        AccessList(
            try allow.map { .init(try NetworkPrefix(parsing: $0), allows: true) }
                + deny.map { .init(try NetworkPrefix(parsing: $0), allows: false) }, otherwise: otherwise)
    }

    @Test func `the most specific network wins`() throws {
        let list = try list(
            allow: ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32"], deny: ["10.1.0.0/16", "2001:db8:1::/48", "0.0.0.0/0"],
            otherwise: false)
        let expected: [(String, Bool)] = [
            ("10.0.0.0", true), ("10.0.255.255", true), ("10.1.0.0", false), ("10.1.2.2", false), ("10.1.2.3", true),
            ("10.1.2.4", false), ("10.1.255.255", false), ("10.2.0.0", true), ("10.255.255.255", true),
            ("11.0.0.0", false), ("9.255.255.255", false), ("::ffff:10.1.2.3", true), ("::ffff:10.1.2.4", false),
            ("2001:db8::1", true), ("2001:db8:1::", false), ("2001:db8:1:ffff:ffff:ffff:ffff:ffff", false),
            ("2001:db8:2::", true), ("2001:db9::", false), ("::1", false),
        ]
        for (host, allowed) in expected { #expect(list.allows(try address(host)) == allowed, "\(host)") }
    }

    @Test func `the first and last address of a network belong to it`() throws {
        for (network, inside, outside) in [
            ("255.255.255.255/32", "255.255.255.255", "255.255.255.254"), ("0.0.0.0/32", "0.0.0.0", "0.0.0.1"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::"),
            ("::/128", "::", "::1"), ("128.0.0.0/1", "255.255.255.255", "127.255.255.255"),
        ] {
            for otherwise in [true, false] {
                let list =
                    try otherwise ? list(deny: [network], otherwise: true) : list(allow: [network], otherwise: false)
                #expect(list.allows(try address(inside)) != otherwise, "\(inside) in \(network)")
                #expect(list.allows(try address(outside)) == otherwise, "\(outside) in \(network)")
            }
        }
        let everyone = try list(allow: ["0.0.0.0/0"], otherwise: false)
        #expect(everyone.allows(try address("203.0.113.9")))
        #expect(!everyone.allows(try address("2001:db8::9")), "::/0 is another network")
    }

    /// Random lists, and addresses at and around the ends of their networks, against a scan of all networks.
    @Test(arguments: [SocketAddress.Family.ipv4, .ipv6])
    func `a lookup agrees with a scan of all networks`(_ family: SocketAddress.Family) throws {
        var random = SeededGenerator(seed: family == .ipv4 ? 4 : 6)
        let size = family == .ipv4 ? 4 : 16
        func randomAddress(_ bytes: [UInt8]) throws -> SocketAddress {
            try #require(bytes.withUnsafeBytes { SocketAddress(family: family, addressBytes: $0, port: 1) })
        }
        for round in 0..<200 {
            var rules: [NetworkPrefix: Bool] = [:]
            var addresses: [SocketAddress] = []
            for _ in 0..<Int.random(in: 0...40, using: &random) {
                // Few different bits, so that networks nest and touch.
                let bytes = (0..<size).map { _ in [0, 1, 128, 255].randomElement(using: &random) ?? UInt8(0) }
                let length = UInt8.random(in: 0...UInt8(size * 8), using: &random)
                let network = NetworkPrefix(of: try randomAddress(bytes), lengths: .init(ipv4: length, ipv6: length))
                // Without the IPv4 addresses inside IPv6 ones: they are of the other family.
                guard network.family == family else { continue }
                rules[network] = Bool.random(using: &random)
                for end in [network.first, network.last] {
                    for near in [end &- 1, end, end &+ 1] {
                        let bytes = withUnsafeBytes(of: near.bigEndian) { Array($0.suffix(size)) }
                        addresses.append(try randomAddress(bytes))
                    }
                }
            }
            for _ in 0..<50 {
                addresses.append(try randomAddress((0..<size).map { _ in UInt8.random(in: 0...255, using: &random) }))
            }
            let otherwise = round.isMultiple(of: 2)
            let list = AccessList(rules.map { .init($0.key, allows: $0.value) }, otherwise: otherwise)
            for address in addresses where address.number.family == family {
                let bits = address.number.bits
                let found = rules.filter { $0.key.first <= bits && bits <= $0.key.last }
                    .max { $0.key.length < $1.key.length }
                #expect(list.allows(address) == found?.value ?? otherwise, "\(address) in \(rules)")
            }
        }
    }

    @Test(arguments: [
        ("192.0.2.0/24", "192.0.2.0/24"), ("192.0.2.7", "192.0.2.7/32"), ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"), ("::1", "::1/128"), ("::/0", "::/0"), ("::/96", "::/96"),
        ("FE80::/10", "fe80::/10"),
    ])
    func `networks are parsed`(_ text: String, _ expected: String) throws {
        #expect(try NetworkPrefix(parsing: text).description == expected)
    }

    @Test(
        arguments: [
            ("", .notANetwork), ("localhost", .notANetwork), ("10.0.0/8", .notANetwork), ("/8", .notANetwork),
            ("fe80::1%lo", .notANetwork), ("[::1]/128", .notANetwork), ("10.0.0.0/", .length(maximum: 32)),
            ("10.0.0.0/33", .length(maximum: 32)), ("10.0.0.0/+8", .length(maximum: 32)),
            ("10.0.0.0/8/8", .length(maximum: 32)), ("10.0.0.0/255.0.0.0", .length(maximum: 32)),
            ("10.0.0.0/4294967304", .length(maximum: 32)), ("::/129", .length(maximum: 128)),
            ("10.1.0.0/8", .hostBits(network: "10.0.0.0/8", address: "10.1.0.0")),
            ("2001:db8::1/32", .hostBits(network: "2001:db8::/32", address: "2001:db8::1")),
            ("::ffff:10.0.0.0/104", .ipv4Mapped), ("::ffff:10.0.0.1", .ipv4Mapped),
        ] as [(String, NetworkPrefix.Mistake)])
    func `a malformed network is reported with its mistake`(_ text: String, _ expected: NetworkPrefix.Mistake) {
        #expect(throws: expected) { _ = try NetworkPrefix(parsing: text) }
    }

    @Test func `a prefix is as long as its configured length`() throws {
        let lengths = NetworkPrefix.Lengths(ipv4: 24, ipv6: 64)
        func network(_ host: String) throws -> String { "\(NetworkPrefix(of: try address(host), lengths: lengths))" }
        #expect(try network("192.0.2.77") == "192.0.2.0/24")
        #expect(try network("::ffff:192.0.2.77") == "192.0.2.0/24")
        #expect(try network("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64")
    }
}
