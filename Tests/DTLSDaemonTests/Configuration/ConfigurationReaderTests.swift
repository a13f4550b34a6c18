import DTLSEngine
import Foundation
import LinuxSystem
import Testing

@testable import DTLSDaemon

/// The four lines that a service needs at least.
private let service = """
    [service.a]
    certificate = "server.pem"
    private_key = "server.key"
    handler = "echo"

    """

@Suite struct ConfigurationReaderTests {
    @Test func `a service of four lines gets the defaults`() throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(service)
        #expect((1...1_024).contains(configuration.workers))
        #expect(configuration.stopTimeout == .milliseconds(5_000))
        #expect(configuration.logLevel == .info)
        #expect(configuration.cookieSecret == nil)
        let material = try TestMaterial.shared.get()
        #expect(
            configuration.services == [
                ServiceConfiguration(
                    name: "a", listen: [],
                    tls: ServerSettings(certificate: material.certificate, privateKey: material.privateKey),
                    handshakeTimeout: .milliseconds(60_000), idleTimeout: .milliseconds(300_000), mtu: 1_400,
                    handler: .echo,
                    socket: SocketOptions(fragmentation: false))
            ])
    }

    @Test func `every value of a service is read`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write("secrets/encrypted.key", material.encryptedKey)
        try folder.write("passphrase", "sesame\nand another line\n")
        try folder.write("cookie", String(repeating: "s", count: 33))
        let configuration = try folder.read(
            """
            workers = 3
            stop_timeout = 0.25
            recycle = "1d"
            log_level = "debug"
            cookie_secret_file = "\(folder.path)/cookie"
            [service."b.c"]
            listen = "[::1]:4434"
            certificate = "server.pem"
            private_key = "secrets/encrypted.key"
            passphrase_file = "passphrase"
            ca = "server.pem"
            handshake_timeout = 2
            idle_timeout = 0
            ciphers = "ECDHE+AESGCM"
            minimum_version = "1.0"
            maximum_version = "1.2"
            mtu = 9000
            handler = "forward"
            forward.backend = "udp:[::1]:5683"
            [service."b.c".socket]
            receive_buffer = 1024
            send_buffer = 16_777_216
            ttl = 255
            dscp = 63
            interface = "lo"
            ipv6_only = false
            fragment = true
            """)
        #expect(configuration.workers == 3)
        #expect(configuration.stopTimeout == .milliseconds(250))
        #expect(configuration.recycle == .seconds(86_400))
        #expect(configuration.logLevel == .debug)
        #expect(configuration.cookieSecret == [UInt8](repeating: UInt8(ascii: "s"), count: 33))
        let address = try #require(SocketAddress("[::1]:4434"))
        #expect(
            configuration.services == [
                ServiceConfiguration(
                    name: "b.c", listen: [address],
                    tls: ServerSettings(
                        certificate: material.certificate, privateKey: material.encryptedKey, passphrase: "sesame",
                        certificateAuthorities: material.certificate, ciphers: "ECDHE+AESGCM",
                        minimumVersion: .dtls10, maximumVersion: .dtls12),
                    handshakeTimeout: .milliseconds(2_000), idleTimeout: .zero, mtu: 9_000,
                    handler: .forward(
                        ForwardConfiguration(backends: try .of(.udp("[::1]:5683")))),
                    socket: SocketOptions(
                        receiveBuffer: 1_024, sendBuffer: 16_777_216, timeToLive: 255, dscp: 63, interface: "lo",
                        ipv6Only: false, fragmentation: true))
            ])
    }

    @Test func `services have the order of the file`() throws {
        let folder = try ConfigurationFolder()
        let names = ["zebra", "ant", "mouse"]
        let text = names.map { service.replacing("service.a", with: "service.\($0)") }.joined()
        #expect(try folder.read(text).services.map(\.name) == names)
    }

    /// Those with decimals; the others are in `TicketTests` and in `valueProblems`.
    @Test(arguments: ["2", "\"2s\"", "2.0"])
    func `a duration is a number of seconds or a time with its unit`(_ two: String) throws {
        let folder = try ConfigurationFolder()
        let configuration = try folder.read(
            """
            stop_timeout = \(two)
            [service.a]
            certificate = "server.pem"
            private_key = "server.key"
            handshake_timeout = \(two)
            retransmission = 1
            idle_timeout = \(two)
            handler = "forward"
            forward.backend = "udp:[::1]:5683"
            forward.health_check.send = "ping"
            forward.health_check.interval = \(two)
            forward.health_check.timeout = \(two)
            [client.out]
            listen = "127.0.0.1:5000"
            connect = "192.0.2.1:4433"
            ca = "server.pem"
            retransmission = 1
            handshake_timeout = \(two)
            idle_timeout = \(two)
            answer_timeout = \(two)
            """)
        let service = try #require(configuration.services.first)
        let tunnel = try #require(configuration.clients.first)
        var times = [configuration.stopTimeout, service.handshakeTimeout, service.idleTimeout]
        if case .forward(let forward) = service.handler {
            let check = try #require(forward.healthCheck)
            times += [check.interval, check.timeout]
        }
        times += [tunnel.handshakeTimeout, tunnel.idleTimeout, tunnel.answerTimeout]
        #expect(times == [Duration](repeating: .seconds(2), count: 8))
    }

    /// Lines that are added to the service, and the whole problem without the name of the file.
    private static let serviceKeys = ServiceSection.schema.names.joined(separator: ", ")

    static let valueProblems: [(String, String)] = [
        (
            "idle_timeout = \"soon\"",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000, or a time such as \"7d\","
                + " found the string \"soon\""
        ),
        (
            "park_after = \"2w\"",
            "5: service.a.park_after: expected an integer of seconds, 1 to 86400,"
                + " or a time such as \"12h\", or \"off\", found the string \"2w\""
        ),
        (
            "park_after = 0",
            "5: service.a.park_after: expected an integer of seconds, 1 to 86400,"
                + " or a time such as \"12h\", or \"off\", found 0"
        ),
        (
            "idle_timeout = -1",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000, or a time such as \"7d\", found -1"
        ),
        (
            "idle_timeout = nan",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000,"
                + " or a time such as \"7d\", found nan"
        ),
        (
            "idle_timeout = inf",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000,"
                + " or a time such as \"7d\", found inf"
        ),
        (
            "idle_timeout = 9223372036854775807",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000, or a time such as \"7d\","
                + " found 9223372036854775807"
        ),
        (
            "idle_timeout = 1e300",
            "5: service.a.idle_timeout: expected a number of seconds, 0 to 34560000,"
                + " or a time such as \"7d\", found 1e+300"
        ),
        (
            "handshake_timeout = 1.9",
            "5: service.a.handshake_timeout: expected a number of seconds, 2 to 120,"
                + " or a time such as \"30s\", found 1.9"
        ),
        ("mtu = 255", "5: service.a.mtu: expected an integer of bytes, 256 to 9000, found 255"),
        ("mtu = 1400.5", "5: service.a.mtu: expected an integer of bytes, 256 to 9000, found 1400.5"),
        ("mtu = [1400]", "5: service.a.mtu: expected an integer of bytes, 256 to 9000, found an array"),
        ("mtu = 2026-01-01", "5: service.a.mtu: expected an integer of bytes, 256 to 9000, found a date or time"),
        (
            "socket.receive_buffer = 1023",
            "5: service.a.socket.receive_buffer: expected an integer of bytes, 1024 to 16777216, found 1023"
        ),
        (
            "socket.send_buffer = 16777217",
            "5: service.a.socket.send_buffer: expected an integer of bytes, 1024 to 16777216, found 16777217"
        ),
        ("socket.ttl = 256", "5: service.a.socket.ttl: expected an integer, 0 to 255, found 256"),
        ("socket.dscp = 64", "5: service.a.socket.dscp: expected an integer, 0 to 63, found 64"),
        (
            "socket.fragment = \"yes\"",
            "5: service.a.socket.fragment: expected true or false, found the string \"yes\""
        ),
        (
            "socket.ipv6_only = \"no\"",
            "5: service.a.socket.ipv6_only: expected true or false, found the string \"no\""
        ),
        (
            "socket.interface = \"no-such-if\"",
            "5: service.a.socket.interface: expected the name of a network interface of this machine, "
                + "found the string \"no-such-if\""
        ),
        ("socket = 5", "5: service.a.socket: expected a table, found 5"),
        (
            "minimum_version = 1.2",
            "5: service.a.minimum_version: expected \"1.0\" or \"1.2\", found 1.2"
        ),
        (
            "maximum_version = \"2.0\"",
            "5: service.a.maximum_version: expected \"1.0\" or \"1.2\", found the string \"2.0\""
        ),
        (
            "maximum_version = \"1.0\"",
            "5: service.a.maximum_version: the minimum 1.2 is above the maximum 1.0; "
                + "expected a version that this OpenSSL supports, not below minimum_version"
        ),
        (
            "ciphers = \"SECRET\"",
            "5: service.a.ciphers: no cipher matches \"SECRET\"; "
                + "expected an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
        ),
        (
            "ciphers = \"\"",
            "5: service.a.ciphers: expected an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it, "
                + "found the string \"\""
        ),
        ("idle_timeuot = 3", "5: service.a.idle_timeuot: unknown key; did you mean \"idle_timeout\"?"),
        ("ttl = 3", "5: service.a.ttl: unknown key here; it belongs in [service.NAME.socket]"),
        ("workers = 3", "5: service.a.workers: unknown key here; it belongs before the first [table]"),
        (
            "[service.a.tickets]\nrotation = 1",
            "5: service.a.tickets: unknown key here; it is a table of its own, [tickets]"
        ),
        ("client = 1", "5: service.a.client: unknown key; did you mean \"clients\"?"),
        (
            "\(String(repeating: "k", count: 10_000)) = 1",
            "5: service.a.\"\(String(repeating: "k", count: 100))…\": unknown key; expected one of \(serviceKeys)"
        ),
        (
            "[service.a.names.b]\ncertificate = \"server.pem\"",
            "5: service.a.names: unknown key; did you mean \"name\"?"
        ),
        (
            "[service.a.lan]\nhandler = \"echo\"",
            "5: service.a.lan: unknown table; a name with dots needs quotes: [service.\"a.lan\"]"
        ),
        (
            "[service.a.name.b.example.org]\ncertificate = \"server.pem\"",
            "5: service.a.name.b.example: unknown table; a name with dots needs quotes: "
                + "[service.a.name.\"b.example.org\"]"
        ),
        (
            "socket.colour = \"blue\"",
            "5: service.a.socket.colour: unknown key; "
                + "expected one of receive_buffer, send_buffer, ttl, dscp, interface, ipv6_only, fragment, freebind"
        ),
        ("\"\\nca\" = 3", "1: service.a.\"\\u{a}ca\": unknown key; did you mean \"ca\"?"),
        (
            "[service.a.forward]\nbackend = \"unix:/x\"",
            "5: service.a.forward: this table has no effect with handler = \"echo\"; expected \"forward\""
        ),
    ]

    @Test(arguments: valueProblems)
    func `a wrong value in a service is reported with what is expected`(_ line: String, _ expected: String) throws {
        let folder = try ConfigurationFolder()
        #expect(try folder.problems(service + line) == ["dtlsd.toml:" + expected])
    }

    static let mainProblems: [(String, String)] = [
        ("workers = 1025", "1: workers: expected an integer (0 is one per core), 0 to 1024, found 1025"),
        ("workers = true", "1: workers: expected an integer (0 is one per core), 0 to 1024, found true"),
        (
            "stop_timeout = 601",
            "1: stop_timeout: expected a number of seconds, 0 to 600,"
                + " or a time such as \"30s\", found 601"
        ),
        (
            "log_level = \"loud\"",
            "1: log_level: expected one of \"debug\", \"info\", \"notice\", \"warning\", \"error\", "
                + "found the string \"loud\""
        ),
        ("log_levels = 1", "1: log_levels: unknown key; did you mean \"log_level\"?"),
        (
            "cookie_secret_file = \"none\"",
            "1: cookie_secret_file: cannot read \"none\": No such file or directory; "
                + "expected the path of a file of 32 to 4096 random bytes"
        ),
        (
            "cookie_secret_file = \"short\"",
            "1: cookie_secret_file: expected the path of a file of 32 to 4096 random bytes, found 31 bytes"
        ),
        (
            "cookie_secret_file = \"open\"",
            "1: cookie_secret_file: every user may use \"open\" (mode 644); expected mode 600 or 640: chmod 600"
        ),
    ]

    @Test(arguments: mainProblems)
    func `a wrong value before the tables is reported with what is expected`(_ line: String, _ expected: String) throws
    {
        let folder = try ConfigurationFolder()
        try folder.write("short", String(repeating: "s", count: 31))
        try folder.write("open", String(repeating: "s", count: 32), mode: 0o644)
        #expect(try folder.problems(line + "\n" + service) == ["dtlsd.toml:" + expected])
    }

    @Test func `missing keys and tables are reported`() throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems("workers = 1\n") == [
                "dtlsd.toml: service: no service is configured; expected at least one table [service.NAME]"
                    + " or [client.NAME]"
            ])
        #expect(try folder.problems("service = 1\n") == ["dtlsd.toml:1: service: expected a table, found 1"])
        #expect(try folder.problems("service.a = 1\n") == ["dtlsd.toml:1: service.a: expected a table, found 1"])
        #expect(
            try folder.problems("\n[service.a]\n") == [
                "dtlsd.toml:2: service.a.certificate: missing; "
                    + "expected the path of a PEM file with the certificate and the chain above it",
                "dtlsd.toml:2: service.a.private_key: missing; "
                    + "expected the path of a PEM file with the certificate's private key",
                "dtlsd.toml:2: service.a.handler: missing; expected one of \"echo\", \"forward\", \"exec\", \"log\"",
            ])
    }

    @Test(arguments: ["", "a b", "ä"])
    func `a name that is not valid for a service is refused`(_ name: String) throws {
        let folder = try ConfigurationFolder()
        let text = service.replacing("service.a", with: "service.\"\(name)\"")
        #expect(
            try folder.problems(text) == [
                "dtlsd.toml:1: service.\"\(name)\": not a name for a service; "
                    + "expected ASCII letters, digits and the characters - _ ."
            ])
    }

    @Test func `the handler forward without its table is refused`() throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems(service.replacing("\"echo\"", with: "\"forward\"")) == [
                "dtlsd.toml:4: service.a.handler: \"forward\" needs its table; "
                    + "expected [service.NAME.forward]"
            ])
    }

    @Test(arguments: ["\n", "\r\n"])
    func `all errors are reported together, in the order of their lines`(_ lineEnd: String) throws {
        let folder = try ConfigurationFolder()
        let text = """
            workers = -1
            log_level = 7
            [service.a] # the first
            listen = [
                "127.0.0.1:4433", # one
                "localhost:4433",
                5,
                "127.0.0.1:4433",
            ]
            certificate = "missing.pem"
            private_key = '''server.key'''
            ca = "server.key"
            handler = "reflect"
            [ service . "b" ]
            mtu = 1
            hander = "echo"
            [service.b.socket]
            ttl = -1
            """
        let endpoints =
            "\"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", the address in numbers, the port 1 to 65535"
        #expect(
            try folder.problems(text.replacing("\n", with: lineEnd)) == [
                "dtlsd.toml:1: workers: expected an integer (0 is one per core), 0 to 1024, found -1",
                "dtlsd.toml:2: log_level: expected one of \"debug\", \"info\", \"notice\", \"warning\", \"error\", "
                    + "found 7",
                "dtlsd.toml:6: service.a.listen: expected \(endpoints), found the string \"localhost:4433\"",
                "dtlsd.toml:7: service.a.listen: expected \(endpoints), found 5",
                "dtlsd.toml:8: service.a.listen: 127.0.0.1:4433 collides with 127.0.0.1:4433 of service.a.listen "
                    + "(line 5); expected an address and port that nothing else listens on",
                "dtlsd.toml:10: service.a.certificate: cannot read \"missing.pem\": No such file or directory; "
                    + "expected the path of a PEM file with the certificate and the chain above it",
                "dtlsd.toml:12: service.a.ca: \"server.key\": no PEM certificate in it; "
                    + "expected the path of a PEM file with the CA certificates that clients are checked against",
                "dtlsd.toml:13: service.a.handler: expected one of \"echo\", \"forward\", \"exec\", \"log\", found the string \"reflect\"",
                "dtlsd.toml:14: service.b.certificate: missing; "
                    + "expected the path of a PEM file with the certificate and the chain above it",
                "dtlsd.toml:14: service.b.private_key: missing; "
                    + "expected the path of a PEM file with the certificate's private key",
                "dtlsd.toml:14: service.b.handler: missing; expected one of \"echo\", \"forward\", \"exec\", \"log\"",
                "dtlsd.toml:15: service.b.mtu: expected an integer of bytes, 256 to 9000, found 1",
                "dtlsd.toml:16: service.b.hander: unknown key; did you mean \"handler\"?",
                "dtlsd.toml:18: service.b.socket.ttl: expected an integer, 0 to 255, found -1",
            ])
    }
}
