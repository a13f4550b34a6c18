import DTLSEngine
import LinuxSystem
import Testing

@testable import DTLSDaemon

/// `[service.NAME.forward.rule.RULE]`
@Suite struct ConfigurationForwardRuleTests {
    /// A service whose last line is line 4.
    private let service = """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "forward"

        """

    private func read(_ text: String) throws -> ForwardConfiguration {
        let configuration = try ConfigurationFolder().read(service + text)
        guard case .forward(let forward) = try #require(configuration.services.first).handler else {
            Issue.record("not forwarded")
            return ForwardConfiguration()
        }
        return forward
    }

    private func problems(_ text: String) throws -> [String] { try ConfigurationFolder().problems(service + text) }

    @Test func `rules are read in the order of the file`() throws {
        let forward = try read(
            """
            alpn = "coap"
            [service.a.forward]
            source = "127.0.0.1"
            [service.a.forward.rule.zebra]
            server_name = ["A.example.org", "*.b.example.org"]
            alpn = "coap"
            backend = ["udp:127.0.0.1:1", "unix:/z"]
            [service.a.forward.rule.ape]
            identity = 'plant-7-*'
            refuse = true
            [service.a.forward.rule.cow]
            certificate_name = "dns:*.example.org"
            refuse = false
            backend = "unix:/c"
            """)
        #expect(
            try forward.rules == [
                ForwardRule(
                    name: "zebra",
                    conditions: .of(
                        .serverName([BytePattern("a.example.org"), BytePattern("*.b.example.org")]),
                        .applicationProtocol([BytePattern("coap")])),
                    backends: .of(.udp("127.0.0.1:1"), .unix("/z"))),
                ForwardRule(name: "ape", conditions: .of(.identity([BytePattern("plant-7-*")])), backends: nil),
                ForwardRule(
                    name: "cow", conditions: .of(.certificateName([PeerRule("dns:*.example.org")])),
                    backends: .of(.unix("/c"))),
            ])
        #expect(forward.backends == nil)
        #expect(
            forward.numberedBackends.map { "\($0.rule ?? "-") \($0.backend)" } == [
                "zebra udp:127.0.0.1:1", "zebra unix:/z", "cow unix:/c",
            ])
    }

    @Test func `backends of the service come before those of its rules`() throws {
        let forward = try read(
            """
            [service.a.forward.rule.b]
            server_name = "b"
            backend = "unix:/b"
            [service.a.forward]
            backend = ["unix:/x", "unix:/y"]
            """)
        #expect(forward.numberedBackends.map(\.rule) == [nil, nil, "b"])
    }

    @Test(arguments: [
        (
            "forward.rule.r.backend = \"unix:/b\"",
            "dtlsd.toml:5: service.a.forward.rule.r: the rule has no condition, so that those below it would never be"
                + " looked at; expected one of \"server_name\", \"alpn\", \"identity\", \"certificate_name\", \"public_key\", \"label\","
                + " or the"
                + " backends of all other clients in [service.NAME.forward]"
        ),
        (
            "forward.backend = \"unix:/a\"\nforward.rule.r.server_name = \"b\"",
            "dtlsd.toml:6: service.a.forward.rule.r: the rule says not where its clients go; expected backend, or"
                + " refuse = true"
        ),
        (
            "forward.rule.r = { server_name = \"b\", backend = \"unix:/b\", refuse = true }",
            "dtlsd.toml:5: service.a.forward.rule.r.refuse: a rule that refuses its clients has no backend; expected one"
                + " of the two"
        ),
        (
            "forward.rule.r = { server_name = \"b\", refuse = true }",
            "dtlsd.toml:5: service.a.forward.backend: no rule has a backend, so that every client would be refused;"
                + " expected one in a rule, or here"
        ),
        (
            "forward.rule = { a = { server_name = \"b\", backend = \"unix:/b\" }, b = { server_name = \"c\", refuse = true } }",
            "dtlsd.toml:5: service.a.forward.rule.b: it stands in the same line as a, and the order of rules counts;"
                + " expected a table for each, [service.NAME.forward.rule.b]"
        ),
        (
            "forward.rule.\"a b\" = { server_name = \"b\", backend = \"unix:/b\" }",
            "dtlsd.toml:5: service.a.forward.rule.\"a b\": not a name for a rule; expected ASCII letters, digits and the"
                + " characters - _ ."
        ),
        (
            "[[service.a.forward.rule]]\nserver_name = \"b\"\nbackend = \"unix:/b\"",
            "dtlsd.toml:5: service.a.forward.rule: expected a table, found an array"
        ),
        (
            "forward.rule.r = { server_nam = \"b\", server_name = \"b\", backend = \"unix:/b\" }",
            "dtlsd.toml:5: service.a.forward.rule.r.server_nam: unknown key"
        ),
    ])
    func `a rule that cannot be followed is refused`(_ text: String, _ expected: String) throws {
        let problems = try problems(text)
        #expect(problems.count == 1 && problems.first?.hasPrefix(expected) == true, "\(problems)")
    }

    @Test(arguments: [
        ("alpn = \"coap\"", "alpn", "alpn in the service"), ("identity = \"a\"", "identity", "[service.NAME.psk]"),
        ("certificate_name = \"cn:a\"", "certificate_name", "ca in the service"),
    ])
    func `a condition that holds of no client is warned of`(_ condition: String, _ key: String, _ need: String) throws {
        let text = service + "[service.a.forward]\nbackend = \"unix:/a\"\n[service.a.forward.rule.r]\nrefuse = true\n"
        let configuration = try ConfigurationFolder().read(text + condition)
        #expect(
            configuration.warnings.map { "\($0.line ?? 0): \($0.key ?? ""): \($0.message)" } == [
                "9: service.a.forward.rule.r.\(key): no client of the service has one, so that the rule is for"
                    + " none; expected \(need)"
            ])
        #expect(try ConfigurationFolder().read(text + "server_name = \"b\"").warnings.isEmpty)
    }

    /// As a worker looks at them, where a name has been changed by hand until its mark was another one's.
    @Test func `names that cannot be told apart in a slot are refused`() throws {
        var seen: [UInt16: String] = [:]
        var pair: (String, String)?
        for number in 0..<100_000 where pair == nil {
            let name = "r\(number)"
            if let other = seen.updateValue(name, forKey: ForwardRule.mark(name)) { pair = (other, name) }
        }
        let (one, other) = try #require(pair)
        let problems = try problems(
            """
            [service.a.forward.rule.\(one)]
            server_name = "a"
            backend = "unix:/a"
            [service.a.forward.rule.\(other)]
            server_name = "b"
            backend = "unix:/b"
            """)
        #expect(
            problems == [
                "dtlsd.toml:8: service.a.forward.rule.\(other): this name cannot be told from \(one) where connections are"
                    + " kept; expected another one"
            ])
    }
}
