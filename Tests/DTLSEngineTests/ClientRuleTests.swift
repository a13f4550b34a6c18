import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// What the texts of rules mean, and which certificates they match.
@Suite struct ClientRuleTests {
    private static let digits = String(repeating: "0aB1", count: 16)
    private static let pairs = Array(repeating: "Fe", count: 32).joined(separator: ":")
    private static let letters63 = String(repeating: "a", count: 63)

    @Test(arguments: [
        "cn:a", "cn:*.devices.example", "cn:Bücher & Söhne", "cn:a b", "CN:a:b", "dns:a", "dns:_x.a-b.example",
        "dns:*.example", "DNS:xn--bcher-kva.example", "dns:\(letters63)", "ip:192.0.2.7",
        "ip:0.0.0.0/0", "ip:192.0.2.128/25", "IP:::1", "ip:2001:db8::/32", "ip:::ffff:192.0.2.0/120", "ip:::/0",
        "uri:urn:dev:1", "uri:urn:*", "uri:*", "email:a@b", "email:*@b.example", "email:\"a@b\"@c",
        "sha256:\(digits)", "SHA256:\(digits)", "sha256:\(pairs)",
    ])
    func `valid texts are rules`(_ text: String) throws { #expect(try PeerRule(text).text == text) }

    @Test(arguments: [
        "", ":", "a", "cn", "cn:", "common:a", "cn :a", " cn:a", "cn: a", "cn:a ", "cn:*", "cn:*.", "cn:a*", "cn:a.*",
        "cn:*.*.b", "cn:**.b", "cn:a\n", "cn:a\0", "cn:a\u{7f}", "dns:", "dns:*", "dns:*.", "dns:.", "dns:.a", "dns:a.",
        "dns:a..b", "dns:*a.b", "dns:a.*.b", "dns:sensor-*.example", "dns:bücher.example", "dns:a b", "dns:a/b",
        "dns:a\(letters63)", "dns:\(letters63).\(letters63).\(letters63).\(letters63)", "ip:", "ip:a",
        "ip:192.0.2", "ip:192.0.2.256", "ip:192.0.2.7 ", "ip:192.0.2.7/", "ip:192.0.2.7/24", "ip:192.0.2.0/33",
        "ip:192.0.2.0/-1", "ip:192.0.2.0/+1", "ip:192.0.2.0/024a", "ip:192.0.2.0/99999999999999999999", "ip:192.0.2.*",
        "ip:::/129", "ip:[::1]", "ip:fe80::1%eth0", "ip:/8", "ip:::1/8/8", "uri:", "uri:a b", "uri:*a", "uri:a**",
        "uri:ä", "email:", "email:a", "email:@b", "email:a@", "email:*", "email:*@*", "email:*a@b", "email:a@*.b",
        "email:*@b.*", "email:ä@b", "email:a@b c", "sha256:", "sha256:00", "sha256:0\(digits)",
        "sha256:\(digits.dropLast())g",
        "sha256:\(digits.dropLast(2))", "sha256:\(digits.dropLast()):", "sha256:\(pairs.dropLast())",
        "sha256:\(pairs):00",
        "sha256:\(pairs.dropLast(3)):g0", "sha256:a\(pairs.dropFirst(2))b", "sha256:\(letters63)ä", "sha1:\(digits)",
        "*",
        "*:*", "allow",
    ])
    func `the error of an invalid text says what is expected`(_ text: String) throws {
        #expect { try PeerRule(text) } throws: { error in "\(error)".contains("expected ") }
    }

    // MARK: Names

    private func matches(_ rule: String, _ certificate: MadeCertificate) throws -> Bool {
        PeerRules([try PeerRule(rule)]).match(
            fingerprint: certificate.fingerprint, CertificateNames(of: certificate.pointer)) != nil
    }

    private func matches(_ rule: String, _ names: MadeCertificate.Name...) throws -> Bool {
        try matches(rule, MadeCertificate("x", names: names))
    }

    @Test func `a common name matches without regard to case`() throws {
        func matches(_ rule: String, _ names: String...) throws -> Bool {
            try self.matches(rule, MadeCertificate(commonNames: names.map { Array($0.utf8) }))
        }
        #expect(try matches("cn:Sensor 7", "sENSOR 7"))
        #expect(try matches("cn:bücher", "Bücher"))
        #expect(try !matches("cn:sensor", "sensor 7") && !matches("cn:sensor", "a sensor") && !matches("cn:a", "b"))
        // One of several is enough; none is none.
        #expect(try matches("cn:b", "a", "b", "c") && !matches("cn:b", "a", "c") && !matches("cn:b"))
        #expect(try matches("cn:*.devices.example", "A.Devices.Example") && matches("cn:*.b", "ä.b"))
        for name in ["devices.example", ".devices.example", "a.b.devices.example", "a.devices.example.org", "a"] {
            #expect(try !matches("cn:*.devices.example", name), "\(name)")
        }
        // A DNS name is no common name, nor the other way round.
        #expect(try !self.matches("cn:a.example", .dns("a.example")))
        #expect(try !matches("dns:a.example", "a.example"))
    }

    @Test func `a host name matches without regard to case`() throws {
        #expect(try matches("dns:a.Example", .dns("A.example")) && matches("dns:a.example", .dns("a.example.")))
        #expect(try matches("dns:*.example", .dns("b"), .dns("a.example")))
        for name in ["example", ".example", "a.b.example", "a.example.", "a.examples", "aexample"] {
            #expect(try matches("dns:*.example", .dns(name)) == (name == "a.example."), "\(name)")
        }
        // A wildcard in the certificate is a name like another.
        #expect(try !matches("dns:a.example", .dns("*.example")))
        #expect(try matches("dns:*.example", .dns("*.example")))
        #expect(try matches("dns:xn--bcher-kva.example", .dns("XN--bcher-kva.example")))
        #expect(try !matches("dns:xn--bcher-kva.example", .dns("bücher.example")))
        #expect(try !matches("dns:a.example", .uri("a.example"), .email("a.example")))
    }

    @Test func `an address matches alone or by its network`() throws {
        let v4: MadeCertificate.Name = .ip([192, 0, 2, 130])
        let v6: MadeCertificate.Name = .ip([0x20, 1, 0xd, 0xb8] + Array(repeating: 0, count: 11) + [7])
        let mapped: MadeCertificate.Name = .ip(Array(repeating: 0, count: 10) + [255, 255, 192, 0, 2, 130])
        for (rule, expected) in [
            ("192.0.2.130", [true, false, false]), ("192.0.2.131", [false, false, false]),
            ("192.0.2.128/25", [true, false, false]), ("192.0.2.0/25", [false, false, false]),
            ("0.0.0.0/0", [true, false, false]), ("192.0.2.130/32", [true, false, false]),
            ("192.0.2.131/32", [false, false, false]), ("::/0", [false, true, true]),
            ("2001:db8::7", [false, true, false]), ("2001:db8::/32", [false, true, false]),
            ("2001:db8::8/125", [false, false, false]), ("2001:db8::4/126", [false, true, false]),
            ("2001:db8::7/128", [false, true, false]), ("::ffff:192.0.2.130", [false, false, true]),
        ] {
            #expect(try [v4, v6, mapped].map { try matches("ip:\(rule)", $0) } == expected, "\(rule)")
        }
        #expect(try !matches("dns:192.0.2.130", v4))
    }

    @Test func `URIs and mailboxes match`() throws {
        #expect(try matches("uri:urn:dev:1", .uri("urn:dev:1")) && !matches("uri:urn:dev:1", .uri("URN:dev:1")))
        #expect(try matches("uri:urn:dev:*", .uri("urn:dev:")) && matches("uri:urn:dev:*", .uri("urn:dev:1/2?3")))
        #expect(try !matches("uri:urn:dev:*", .uri("urn:dev")) && matches("uri:*", .uri("")))
        #expect(try matches("email:Joe@Example.org", .email("Joe@example.ORG")))
        #expect(try !matches("email:Joe@example.org", .email("joe@example.org")))
        #expect(try matches("email:*@example.org", .email("Joe@EXAMPLE.org")))
        #expect(try matches("email:*@example.org", .email("\"a@b\"@example.org")))
        for mailbox in ["@example.org", "example.org", "joe@sub.example.org", "joe@example.org@evil", "", "@"] {
            #expect(try !matches("email:*@example.org", .email(mailbox)), "\(mailbox)")
        }
    }

    @Test func `a fingerprint matches one certificate`() throws {
        let certificate = try MadeCertificate("x")
        let digits = Hexadecimal.text(certificate.fingerprint)
        #expect(try matches("sha256:\(digits)", certificate) && matches("sha256:\(digits.uppercased())", certificate))
        let pairs = stride(from: 0, to: 64, by: 2).map { String(Array(digits)[$0...$0 + 1]) }
        #expect(try matches("sha256:" + pairs.joined(separator: ":"), certificate))
        #expect(try !matches("sha256:\(digits)", MadeCertificate("x")))
    }

    @Test func `the rule that has matched is known`() throws {
        let rules = PeerRules(try ["cn:a", "dns:*.b", "uri:x*", "ip:10.0.0.0/8"].map { try PeerRule($0) })
        for (name, rule) in [
            (MadeCertificate.Name.dns("z.b"), "dns:*.b"), (.uri("xyz"), "uri:x*"),
            (.ip([10, 1, 1, 1]), "ip:10.0.0.0/8"),
        ] {
            let certificate = try MadeCertificate("c", names: [name])
            let names = CertificateNames(of: certificate.pointer)
            #expect(rules.match(fingerprint: certificate.fingerprint, names)?.text == rule)
        }
    }

    // MARK: Names that deceive

    @Test(arguments: [
        [MadeCertificate.Name.dns(Array("good.example\0.evil.example".utf8))], [.uri(Array("urn:good\0".utf8))],
        [.dns("good.example"), .email(Array("\0@good.example".utf8))], [.ip([1, 2, 3])], [.ip([])],
        [.ip(Array(repeating: 1, count: 17))],
    ])
    func `names that cannot be compared are noticed`(_ names: [MadeCertificate.Name]) throws {
        let certificate = try MadeCertificate("x", names: names)
        #expect(!CertificateNames(of: certificate.pointer).isComplete)
        let alternatives = AlternativeNames(of: certificate.pointer)
        #expect(!(alternatives.dns + alternatives.uri + alternatives.email).contains { $0.contains("\0") })
        #expect(alternatives.ip.isEmpty)
    }

    @Test func `a NUL in the common name is noticed`() throws {
        let certificate = try MadeCertificate(commonNames: [Array("good\0evil".utf8)])
        #expect(!CertificateNames(of: certificate.pointer).isComplete)
        let identity = PeerName(certificate: certificate.pointer)
        #expect(identity.commonName == nil)
        #expect(identity.name == "CN=good\\00evil")
    }

    @Test(
        arguments: [[], [0x30], [0x30, 5, 0x82], [0x04, 1, 1], [0x30, 0x80], [0x30, 3, 0x9f, 0x82, 1]] as [[UInt8]])
    func `a broken extension of names is noticed`(_ bytes: [UInt8]) throws {
        let certificate = try MadeCertificate(commonNames: [[0x78]], alternativeNames: bytes)
        #expect(!CertificateNames(of: certificate.pointer).isComplete)
        #expect(AlternativeNames(of: certificate.pointer) == AlternativeNames())
    }

    @Test func `empty names match no rule`() throws {
        for bytes in [[0x30, 0], [0x30, 2, 0x82, 0], [0x30, 4, 0x81, 0, 0x86, 0]] as [[UInt8]] {
            let certificate = try MadeCertificate(commonNames: [], alternativeNames: bytes)
            let names = CertificateNames(of: certificate.pointer)
            #expect(names.isComplete)
            for rule in ["cn:a", "cn:*.a", "dns:*.a", "email:*@a", "uri:a*", "ip:::/0"] {
                #expect(try !matches(rule, certificate), "\(rule)")
            }
        }
    }

    @Test func `thousands of names are compared`() throws {
        let names = (0..<4_000).map { MadeCertificate.Name.dns("host-\($0).example") }
        let certificate = try MadeCertificate("x", names: names)
        let rules = PeerRules(try (3_999..<9_000).map { try PeerRule("dns:host-\($0).example") })
        let found = rules.match(fingerprint: certificate.fingerprint, CertificateNames(of: certificate.pointer))
        #expect(found?.text == "dns:host-3999.example")
        #expect(AlternativeNames(of: certificate.pointer).dns.count == 4_000)
    }

    @Test func `alternative names are read as text`() throws {
        let certificate = try MadeCertificate(
            "x",
            names: [
                .dns("A.example"), .ip([192, 0, 2, 1]), .uri("urn:a"), .email("Joe@b"), .dns("*.b"),
                .ip(Array(repeating: 0, count: 15) + [1]),
            ])
        let names = AlternativeNames(of: certificate.pointer)
        #expect(names.dns == ["A.example", "*.b"] && names.ip == ["192.0.2.1", "::1"])
        #expect(names.uri == ["urn:a"] && names.email == ["Joe@b"])
    }

    // MARK: Any text

    /// Whatever the text, it is read or refused; and a wildcard stands for one label.
    @Test func `no text makes the parser of rules trap`() throws {
        var random = SeededGenerator(seed: 7)
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.next() % UInt64(values.count))] }
        let pieces: [String] = [
            "cn:", "dns:", "ip:", "uri:", "email:", "sha256:", "CN:", ":", "*", "*.", ".", "@", "/", "a", "Z", "0",
            "255",
            "192.0.2.0", "2001:db8::", "::", "%", "-", " ", "\0", "\n", "ä", "\u{202e}", "00:", "ff", Self.digits,
        ]
        var (read, refused) = (0, 0)
        for _ in 0..<20_000 {
            let text = (0..<(1 + Int(random.next() % 6))).map { _ in pick(pieces) }.joined()
            do {
                let rule = try PeerRule(text)
                #expect(try PeerRule(rule.text) == rule)
                read += 1
            } catch {
                #expect(!error.description.isEmpty)
                refused += 1
            }
        }
        #expect(read > 100 && refused > 100)
        for _ in 0..<300 {
            let labels = (0..<(1 + Int(random.next() % 4))).map { _ in pick(["a", "b", "c-d", "E"]) }
            let suffix = (0..<(1 + Int(random.next() % 3))).map { _ in pick(["a", "b", "c-d", "E"]) }
            let isBelow =
                labels.count == suffix.count + 1
                && labels.dropFirst().map { $0.lowercased() } == suffix.map { $0.lowercased() }
            #expect(
                try matches("dns:*." + suffix.joined(separator: "."), .dns(labels.joined(separator: "."))) == isBelow)
        }
    }
}
