import LinuxSystem
import Testing

@testable import DTLSDaemon

/// `[service.NAME.forward]`
@Suite struct ConfigurationBackendTests {
    /// A service whose last line is line 4.
    private let service = """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "forward"

        """

    @Test(arguments: [
        ("udp:192.0.2.7:53", "udp:192.0.2.7:53"), ("udp:localhost:53", "udp:localhost:53"),
        ("unix:/run/backend.sock", "unix:/run/backend.sock"),
    ])
    func `a backend is read as it is written, and host names are left to the resolver`(
        _ text: String, _ expected: String
    ) throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service + "forward.backend = \"\(text)\"")
        let handler = try #require(configuration.services.first?.handler)
        guard case .forward(let forward) = handler else {
            Issue.record("not forwarded: \(handler)")
            return
        }
        #expect(forward.backends?.elements.count == 1)
        let backend = try #require(forward.backends?.first)
        #expect(backend.name == text)
        #expect("\(backend)" == expected)
        #expect(configuration.names.map(\.host) == (text.contains("localhost") ? ["localhost"] : []))
    }

    private static let expected = "\"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\""

    @Test func `several backends and the PROXY protocol are read`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service + "forward = { backend = [\"udp:[::1]:1\", \"unix:/a\"], proxy_protocol = true }")
        #expect(
            configuration.services.map(\.handler) == [
                .forward(ForwardConfiguration(backends: try .of(.udp("[::1]:1"), .unix("/a")), proxyProtocol: true))
            ])
    }

    @Test func `source addresses are read`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service + "forward = { backend = \"udp:127.0.0.1:1\", source = [\"127.0.0.2\", \"127.0.0.3\"] }")
        guard case .forward(let forward) = configuration.services.first?.handler else {
            Issue.record("not forwarded")
            return
        }
        #expect(forward.sources.map(\.description) == ["127.0.0.2", "127.0.0.3"])
    }

    @Test func `ports of source addresses are read, and an address that the kernel chooses`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service
                + """
                [service.a.forward]
                backend = ["udp:127.0.0.1:1", "udp:[::1]:1"]
                source = ["127.0.0.2:40000-40999", "127.0.0.3:53", "0.0.0.0:1-65535", "[::1]:7-9"]
                interface = "lo"
                """)
        guard case .forward(let forward) = configuration.services.first?.handler else {
            Issue.record("not forwarded")
            return
        }
        #expect(
            forward.sources.map(\.description) == [
                "127.0.0.2:40000-40999", "127.0.0.3:53", "0.0.0.0:1-65535", "[::1]:7-9",
            ])
        #expect(forward.interface == "lo" && configuration.warnings == [])
    }

    /// That of a modem or a VPN comes later.
    @Test func `an interface that is not there is a warning`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service + "forward = { backend = \"udp:127.0.0.1:1\", interface = \"wwan77\" }")
        #expect(
            configuration.warnings.map(\.message) == [
                "there is no interface \"wwan77\" yet; nothing is sent before it is there"
            ])
    }

    private static let source =
        "an address of this machine in numbers, alone or with ports (\"ADDRESS:FIRST-LAST\","
        + " \"[IPv6 ADDRESS]:FIRST-LAST\"), or an array of several"

    /// 192.0.2.0/24 is for documentation: no machine has addresses in it.
    @Test(arguments: [
        ("\"127.0.0.1:0\"", "expected \(source), found the string \"127.0.0.1:0\""),
        ("\"127.0.0.1:9-8\"", "expected \(source), found the string \"127.0.0.1:9-8\""),
        ("\"127.0.0.1:1-\"", "expected \(source), found the string \"127.0.0.1:1-\""),
        ("\"127.0.0.1:1-2-3\"", "expected \(source), found the string \"127.0.0.1:1-2-3\""),
        ("\"localhost\"", "expected \(source), found the string \"localhost\""),
        ("7", "expected \(source), found 7"),
        ("[]", "expected \(source), found an empty array"),
        ("\"0.0.0.0\"", "0.0.0.0 is not the address of a single machine; expected a unicast address"),
        ("\"fe80::1\"", "fe80::1 is a link-local address without its interface; expected fe80::1%INTERFACE"),
        ("\"192.0.2.1\"", "192.0.2.1: no interface of this machine has the address; expected \(source)"),
        ("[\"127.0.0.2\", \"127.0.0.2\"]", "127.0.0.2 is there already (line 5); expected each address once"),
        (
            "\"::1\"",
            "no backend has an IPv6 address, so nothing would be sent from ::1; expected an address of the same family"
                + " as a UDP backend"
        ),
    ])
    func `a source address that is of no use is refused`(_ value: String, _ expected: String) throws {
        let folder = try ConfigurationFolder()
        let text = service + "forward = { backend = [\"udp:127.0.0.1:1\", \"unix:/a\"], source = \(value) }"
        #expect(try folder.problems(text) == ["dtlsd.toml:5: service.a.forward.source: " + expected])
    }

    /// Each wrong backend is reported with its own line.
    @Test func `each wrong backend in a list is reported at its own line`() throws {
        let folder = try ConfigurationFolder()
        let text =
            service + """
                [service.a.forward]
                backend = [
                    "udp:127.0.0.1:53",
                    "tcp:127.0.0.1:53",
                    53,
                    "",
                    "udp:127.0.0.1:053",
                ]
                proxy_protocol = "yes"
                """
        let key = "service.a.forward.backend"
        #expect(
            try folder.problems(text) == [
                "dtlsd.toml:8: \(key): expected \(Self.expected), found the string \"tcp:127.0.0.1:53\"",
                "dtlsd.toml:9: \(key): expected \(Self.expected), found 53",
                "dtlsd.toml:10: \(key): expected \(Self.expected), found the string \"\"",
                "dtlsd.toml:11: \(key): \"udp:127.0.0.1:053\" is the same backend as \"udp:127.0.0.1:53\" (line 7); "
                    + "expected each of them once",
                "dtlsd.toml:13: service.a.forward.proxy_protocol: expected true or false, found the string \"yes\"",
            ])
    }

    static let backendProblems: [(String, String)] = [
        ("forward.backend = []", "expected \(expected), found an empty array"),
        ("forward.backend = 7", "expected \(expected), found 7"),
        ("forward = {}", "missing; expected \"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\""),
        (
            "forward.backend = \"tcp:localhost:1\"",
            "expected \"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\", "
                + "found the string \"tcp:localhost:1\""
        ),
        (
            "forward.backend = \"udp:::1:53\"",
            "expected \"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\", "
                + "found the string \"udp:::1:53\""
        ),
        ("forward.backend = \"udp:localhost\"", "expected a port, 1 to 65535, at the end of \"localhost\""),
        ("forward.backend = \"udp:localhost:\"", "expected a port, 1 to 65535, at the end of \"localhost:\""),
        ("forward.backend = \"udp:localhost:+53\"", "expected a port, 1 to 65535, at the end of \"localhost:+53\""),
        ("forward.backend = \"udp:127.0.0.1:+53\"", "expected a port, 1 to 65535, at the end of \"127.0.0.1:+53\""),
        ("forward.backend = \"udp:localhost:0\"", "expected a port, 1 to 65535, at the end of \"localhost:0\""),
        ("forward.backend = \"udp:[::1]:65536\"", "expected a port, 1 to 65535, at the end of \"[::1]:65536\""),
        ("forward.backend = \"unix:socket\"", "expected an absolute path after \"unix:\", found \"socket\""),
        (
            "forward.backend = \"unix:/\(String(repeating: "x", count: 107))\"",
            "the path has 108 bytes; expected at most 107, the longest path of a Unix socket"
        ),
    ]

    @Test(arguments: [
        ("0.0.0.0:53", "is not the address of a single machine; expected a unicast address"),
        ("[::]:53", "is not the address of a single machine; expected a unicast address"),
        ("224.0.0.1:53", "is not the address of a single machine; expected a unicast address"),
        ("255.255.255.255:53", "is not the address of a single machine; expected a unicast address"),
        ("[ff02::1]:53", "is not the address of a single machine; expected a unicast address"),
        ("[fe80::1]:53", "is a link-local address without its interface; expected [fe80::1%INTERFACE]:53"),
        ("[::ffff:127.0.0.1]:53", "is an IPv4 address inside an IPv6 one; expected the IPv4 address itself"),
    ])
    func `a backend whose address is not that of a single machine is refused`(_ address: String, _ reason: String)
        throws
    {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems(service + "forward.backend = \"udp:\(address)\"") == [
                "dtlsd.toml:5: service.a.forward.backend: \(address) \(reason)"
            ])
    }

    @Test(arguments: backendProblems)
    func `a text that is not a backend is refused`(_ line: String, _ expected: String) throws {
        let folder = try ConfigurationFolder()
        let text = service + line
        #expect(try folder.problems(text) == ["dtlsd.toml:5: service.a.forward.backend: " + expected])
    }

    /// The family of a name's addresses is not known when the file is read.
    @Test func `a source address of either family is accepted beside a host name`() throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems(
                service + "forward = { backend = \"udp:be.example:1\", source = [\"127.0.0.2\", \"::1\"] }") == [])
    }

    @Test func `each host name in a list has the line of its own`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            service + "[service.a.forward]\nbackend = [\n\"udp:one.example:1\",\n\"udp:two.example:1\"]")
        #expect(configuration.names.map(\.host) == ["one.example", "two.example"])
        #expect(configuration.names.map(\.place.line) == [7, 8])
    }

    @Test func `a host name that is no name at all is refused`() throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems(service + "forward.backend = \"udp:a..b:53\"") == [
                "dtlsd.toml:5: service.a.forward.backend: \"a..b\" is neither an address nor a host name; expected labels"
                    + " of 1 to 63 ASCII letters, digits, - and _, the last of them no number, and 253 bytes at most"
            ])
    }
}

/// `[resolver]`
@Suite struct ConfigurationResolverTests {
    private let service =
        "[service.a]\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\nhandler = \"echo\"\n"

    @Test func `name servers are read, with the port of DNS where they have none`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            "resolver.servers = [\"192.0.2.1\", \"192.0.2.2:5353\", \"2001:db8::1\", \"[2001:db8::2]:5353\"]\n"
                + service)
        #expect(
            configuration.resolver.servers.map(\.description) == [
                "192.0.2.1:53", "192.0.2.2:5353", "[2001:db8::1]:53", "[2001:db8::2]:5353",
            ])
        #expect(try folder.read(service).resolver.servers == [])
    }

    private static let expected =
        "\"ADDRESS\", \"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", the address in numbers, or an array of several"

    @Test(arguments: [
        ("\"ns.example\"", "expected \(expected), found the string \"ns.example\""),
        ("\"192.0.2.1:0\"", "expected \(expected), found the string \"192.0.2.1:0\""),
        ("[]", "expected \(expected), found an empty array"),
        ("53", "expected \(expected), found 53"),
        ("\"0.0.0.0\"", "0.0.0.0:53 is not the address of a single machine; expected a unicast address"),
    ])
    func `what is no name server is refused`(_ value: String, _ expected: String) throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems("resolver.servers = \(value)\n" + service) == [
                "dtlsd.toml:1: resolver.servers: " + expected
            ])
    }
}
