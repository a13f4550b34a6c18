import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// `[limits]` and `[service.NAME.limits]`, as they are read and sent on.
@Suite struct LimitsReaderTests {
    private let service = """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"

        """

    @Test func `defaults`() throws {
        let configuration = try ConfigurationFolder().read(service)
        #expect(configuration.limits == LimitsConfiguration(handshakes: 10_000))
        #expect(configuration.services.first?.limits == LimitsConfiguration())
    }

    @Test func `every value arrives`() throws {
        let text =
            service + """
                [service.a.limits]
                connections = 1
                connections_per_prefix = 2
                handshakes = 3
                handshakes_per_second = 4.5
                handshakes_per_second_per_prefix = 0.0001
                ipv4_prefix = 24
                largest_datagram = 1200
                datagrams_per_second = 5
                bytes_per_second = 6000
                allow = ["10.0.0.0/8", "::1"]
                deny = "10.1.0.0/16"
                [limits]
                connections = 0
                handshakes = 0
                ipv4_prefix = 8
                ipv6_prefix = 48
                largest_datagram = 1000
                bytes_per_second = 7000
                """
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(text)
        #expect(
            configuration.limits
                == LimitsConfiguration(
                    prefixes: .init(ipv4: 8, ipv6: 48),
                    traffic: TrafficLimits(largestDatagram: 1_000, bytesPerSecond: Rate(perSecond: 7_000))))
        let limits = try #require(configuration.services.first?.limits)
        var expected = LimitsConfiguration(
            connections: 1, connectionsPerPrefix: 2, handshakes: 3,
            handshakesPerSecond: Rate(perThousandSeconds: 4_500),
            handshakesPerSecondPerPrefix: Rate(perThousandSeconds: 1), prefixes: .init(ipv4: 24, ipv6: 48),
            traffic: TrafficLimits(
                largestDatagram: 1_000, datagramsPerSecond: Rate(perSecond: 5), bytesPerSecond: Rate(perSecond: 6_000)))
        expected.access = limits.access
        #expect(limits == expected)
        let access = try #require(limits.access)
        for (host, allowed) in [("10.0.0.1", true), ("10.1.0.1", false), ("11.0.0.1", false), ("::1", true)] {
            #expect(access.allows(try #require(SocketAddress(host: host, port: 1))) == allowed, "\(host)")
        }
    }

    @Test func `with deny alone the others are served`() throws {
        let configuration = try ConfigurationFolder().read(service + "limits.deny = [\"10.0.0.0/8\"]")
        let access = try #require(configuration.services.first?.limits.access)
        #expect(access.allows(try #require(SocketAddress("192.0.2.1:1"))))
        #expect(access.allows(try #require(SocketAddress("[::1]:1"))))
        #expect(!access.allows(try #require(SocketAddress("10.0.0.1:1"))))
    }

    private static let network = "expected \"ADDRESS/LENGTH\" or \"ADDRESS\", the address in numbers"
    private static let networks = "expected networks as \"ADDRESS/LENGTH\" or \"ADDRESS\", the address in numbers"
    private static let count = "expected an integer (0 is no limit), 0 to 1000000000"

    /// Lines that are added to the service, and the problems without the file's name.
    static let problems: [(String, [String])] = [
        ("limits.connections = -1", ["5: service.a.limits.connections: \(count), found -1"]),
        ("limits.connections = 1.5", ["5: service.a.limits.connections: \(count), found 1.5"]),
        (
            "limits.bytes_per_second = \"1M\"",
            ["5: service.a.limits.bytes_per_second: \(count), found the string \"1M\""]
        ),
        (
            "limits.handshakes_per_second = 1000001",
            [
                "5: service.a.limits.handshakes_per_second: expected a number (0 is no limit), 0 to 1000000, found 1000001"
            ]
        ),
        (
            "limits.handshakes_per_second_per_prefix = nan",
            [
                "5: service.a.limits.handshakes_per_second_per_prefix: expected a number (0 is no limit), 0 to 1000000,"
                    + " found nan"
            ]
        ),
        (
            "limits.ipv4_prefix = 33",
            ["5: service.a.limits.ipv4_prefix: expected an integer of bits, 1 to 32, found 33"]
        ),
        (
            "limits.ipv6_prefix = 0",
            ["5: service.a.limits.ipv6_prefix: expected an integer of bits, 1 to 128, found 0"]
        ),
        (
            "limits.largest_datagram = 16385",
            ["5: service.a.limits.largest_datagram: expected an integer of bytes, 1 to 16384, found 16385"]
        ),
        (
            "[limits]\nallow = []",
            ["6: limits.allow: \(networks), found an empty array"]
        ),
        ("limits.deny = []", ["5: service.a.limits.deny: \(networks), found an empty array"]),
        ("[limits]\nallow = 10", ["6: limits.allow: \(networks), found 10"]),
        (
            """
            [service.a.limits]
            allow = [
                "10.0.0.0/8",
                "10.1.0.0/8", # host bits
                "10.0.0.0/33",
                "fe80::1%lo",
                7,
                "10.0.0.0/8",
            ]
            deny = [
                "::/0",
                "10.0.0.0/8",
                "::ffff:10.0.0.0/104",
            ]
            """,
            [
                "8: service.a.limits.allow: the address has bits set after its length; expected the network"
                    + " \"10.0.0.0/8\" or the address \"10.1.0.0\", found the string \"10.1.0.0/8\"",
                "9: service.a.limits.allow: expected a length of 0 to 32 after the /, found the string \"10.0.0.0/33\"",
                "10: service.a.limits.allow: \(network), found the string \"fe80::1%lo\"",
                "11: service.a.limits.allow: \(networks), found 7",
                "12: service.a.limits.allow: 10.0.0.0/8 is already in allow (line 7); expected each network once,"
                    + " in one of the two lists",
                "16: service.a.limits.deny: 10.0.0.0/8 is already in allow (line 7); expected each network once,"
                    + " in one of the two lists",
                "17: service.a.limits.deny: an IPv4 address inside an IPv6 one; expected the IPv4 address itself,"
                    + " found the string \"::ffff:10.0.0.0/104\"",
            ]
        ),
        (
            "connections = 5",
            ["5: service.a.connections: unknown key here; it belongs in [service.NAME.limits] or [limits]"]
        ),
        ("limits.connection = 5", ["5: service.a.limits.connection: unknown key; did you mean \"connections\"?"]),
        ("limits = 5", ["5: service.a.limits: expected a table, found 5"]),
    ]

    @Test(arguments: problems)
    func `bad values`(_ line: String, _ expected: [String]) throws {
        #expect(try ConfigurationFolder().problems(service + line) == expected.map { "dtlsd.toml:" + $0 })
    }
}
