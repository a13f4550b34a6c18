import LinuxSystem
import Testing

@testable import DTLSDaemon

/// `[service.NAME.forward.health_check]`
@Suite struct ConfigurationHealthCheckTests {
    /// A service whose last line is line 6.
    private let service = """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "forward"
        [service.a.forward]
        backend = "udp:127.0.0.1:1"

        """

    private func read(_ text: String, more: String = "") throws -> ForwardConfiguration {
        let configuration = try ConfigurationFolder().read(
            service + more + "[service.a.forward.health_check]\n" + text)
        guard case .forward(let forward) = try #require(configuration.services.first).handler else {
            Issue.record("not forwarded")
            return ForwardConfiguration()
        }
        return forward
    }

    @Test func `no backend is checked without the table`() throws {
        guard case .forward(let forward) = try ConfigurationFolder().read(service).services.first?.handler else {
            Issue.record("not forwarded")
            return
        }
        #expect(forward.healthCheck == nil && forward.effectiveHealthCheck == nil)
    }

    @Test func `a check is read with its defaults`() throws {
        #expect(try read("send = \"ping\\n\"").healthCheck == HealthCheck(datagram: Array("ping\n".utf8)))
    }

    @Test func `a check is read in full`() throws {
        let check = try #require(
            try read(
                """
                send = "hex:40 01 00 ff"
                expect = "hex:60*00ff"
                interval = 30
                timeout = 1.5
                fall = 5
                rise = 1
                """
            ).healthCheck)
        #expect(check.datagram == [0x40, 0x01, 0x00, 0xff])
        #expect(check.expected == BytePattern(pieces: [[0x60], [0x00, 0xff]]))
        #expect((check.interval, check.timeout) == (.seconds(30), .milliseconds(1_500)))
        #expect((check.fall, check.rise) == (5, 1))
    }

    @Test func `an answer is compared with the pattern`() throws {
        let text = try #require(try read("send = \"a\"\nexpect = \"pong*\"").healthCheck?.expected)
        #expect(text.matches("pong 7") && !text.matches("ping"))
        let bytes = try #require(try read("send = \"a\"\nexpect = \"hex:7000*\"").healthCheck?.expected)
        #expect(bytes.matches([0x70, 0, 1, 2]) && !bytes.matches([0x70, 1]))
    }

    @Test func `a backend that expects the PROXY protocol gets a header of nobody's datagram`() throws {
        let forward = try read("send = \"x\"", more: "proxy_protocol = true\nsource = \"127.0.0.1\"\n")
        let check = try #require(forward.effectiveHealthCheck)
        #expect(forward.healthCheck?.datagram == [0x78])
        #expect(
            check.datagram == [
                0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x20, 0x00, 0x00, 0x00, 0x78,
            ])
        #expect(check.sources.map(\.host) == ["127.0.0.1"])
    }

    private static let bytes = "a text, or \"hex:\" and two hexadecimal digits for each byte"

    @Test(arguments: [
        ("", "7: service.a.forward.health_check.send: missing; expected \(bytes), 1 to 1400 bytes in all"),
        (
            "send = \"hex:4\"",
            "8: service.a.forward.health_check.send: expected \(bytes), 1 to 1400 bytes in all, found the string"
                + " \"hex:4\""
        ),
        (
            "send = \"hex:\"",
            "8: service.a.forward.health_check.send: expected \(bytes), 1 to 1400 bytes in all, found the string"
                + " \"hex:\""
        ),
        (
            "send = \"a\"\nexpect = \"hex:4g*\"",
            "9: service.a.forward.health_check.expect: expected \(bytes), with * for any bytes, found the string"
                + " \"hex:4g*\""
        ),
        (
            "send = \"a\"\ninterval = 0.5",
            "9: service.a.forward.health_check.interval: expected a number of seconds, 1 to 3600,"
                + " or a time such as \"5m\", found 0.5"
        ),
        (
            "send = \"a\"\ninterval = 3\ntimeout = 4",
            "10: service.a.forward.health_check.timeout: a check would begin before the one before it has ended; expected"
                + " at most the interval, which is 3 s"
        ),
        (
            "send = \"a\"\ninterval = 1",
            "9: service.a.forward.health_check.interval: a check would begin before the one before it has ended; expected"
                + " at least the timeout, which is 2 s, or a shorter timeout"
        ),
        ("send = \"a\"\nfall = 0", "9: service.a.forward.health_check.fall: expected an integer, 1 to 100, found 0"),
        (
            "send = \"a\"\nrise = 101",
            "9: service.a.forward.health_check.rise: expected an integer, 1 to 100, found 101"
        ),
    ])
    func `a check that cannot be done is refused`(_ text: String, _ expected: String) throws {
        #expect(
            try ConfigurationFolder().problems(service + "[service.a.forward.health_check]\n" + text)
                == ["dtlsd.toml:" + expected])
    }
}
