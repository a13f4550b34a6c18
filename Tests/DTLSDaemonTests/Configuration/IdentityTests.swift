import DTLSEngine
import Foundation
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// The certificates, server names and policies of services, and the messages about errors in them.
@Suite struct ConfigurationIdentityTests {
    let folder: ConfigurationFolder
    let material: TestMaterial

    init() throws {
        folder = try ConfigurationFolder()
        material = try TestMaterial.shared.get()
        try folder.write("rsa.pem", material.rsaCertificate)
        try folder.write("rsa.key", material.rsaKey)
        try folder.write("self.pem", material.certificate)
        try folder.write("server.pem", material.issuedCertificate)
        try folder.write("good.ocsp", material.goodResponse)
        try folder.write("revoked.ocsp", material.revokedResponse)
    }

    /// A service of lines 1 to 4, and added lines from line 5 on.
    private func text(
        _ more: String = "", certificate: String = "\"server.pem\"", key: String = "\"server.key\""
    ) -> String {
        "[service.a]\ncertificate = \(certificate)\nprivate_key = \(key)\nhandler = \"echo\"\n\(more)\n"
    }

    private func tls(_ text: String) throws -> ServerSettings {
        try #require(try folder.read(text).services.first).tls
    }

    private func name(_ host: String) -> String {
        "[service.a.name.\"\(host)\"]\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n"
    }

    // MARK: Certificates

    @Test func `a service may have one certificate for each type of key`() throws {
        try folder.write("encrypted", material.encryptedKey)
        try folder.write("phrase", "sesame")
        let read = try tls(
            text(
                "passphrase_file = \"phrase\"", certificate: "[\"rsa.pem\", \"server.pem\"]",
                key: "[\"rsa.key\", \"encrypted\"]"))
        #expect(
            read.certifiedKeys == [
                CertifiedKey(certificate: material.rsaCertificate, privateKey: material.rsaKey, passphrase: "sesame"),
                CertifiedKey(
                    certificate: material.issuedCertificate, privateKey: material.encryptedKey, passphrase: "sesame"),
            ])
    }

    static let certificateProblems: [(certificate: String, key: String, more: String, expected: [String])] = [
        (
            "[\"server.pem\", \"server.pem\"]", "[\"server.key\", \"server.key\"]", "",
            [
                "2: service.a.certificate: \"server.pem\" has an ECDSA key, and so has \"server.pem\"; expected one "
                    + "certificate of each kind of key (RSA, ECDSA), and other names in tables "
                    + "[service.NAME.name.\"HOST\"]"
            ]
        ),
        (
            "[\"server.pem\", \"rsa.pem\"]", "\"server.key\"", "",
            [
                "3: service.a.private_key: 1 private key for 2 certificates; expected the key of each certificate, in "
                    + "the same order"
            ]
        ),
        (
            "[\n\"server.pem\",\n\"rsa.pem\"]", "[\n\"rsa.key\",\n\"server.key\"]", "",
            [
                "6: service.a.private_key: \"rsa.key\": the private key does not belong to the certificate; expected "
                    + "the key that the first certificate in \"server.pem\" was made for",
                "7: service.a.private_key: \"server.key\": the private key does not belong to the certificate; expected "
                    + "the key that the first certificate in \"rsa.pem\" was made for",
            ]
        ),
        (
            "[\"server.pem\", \"rsa.pem\"]", "[\"server.key\", \"rsa.key\"]",
            "passphrase_file = [\"phrase\", \"phrase\", \"phrase\"]",
            [
                "5: service.a.passphrase_file: 3 passphrase files for 2 certificates; expected one for all keys, or one "
                    + "for each"
            ]
        ),
        (
            "[\"server.pem\", 5]", "[\"server.key\", \"\"]", "",
            [
                "2: service.a.certificate: expected the path of a PEM file with the certificate and the chain above "
                    + "it, found 5",
                "3: service.a.private_key: expected the path of a PEM file with the certificate's private key, found "
                    + "the string \"\"",
            ]
        ),
        (
            "[]", "[]", "",
            [
                "2: service.a.certificate: expected the path of a PEM file with the certificate and the chain above "
                    + "it, found an empty array",
                "3: service.a.private_key: expected the path of a PEM file with the certificate's private key, found "
                    + "an empty array",
            ]
        ),
    ]

    @Test(arguments: certificateProblems)
    func `certificates and keys that cannot be used are reported`(
        _ certificate: String, _ key: String, _ more: String, _ expected: [String]
    ) throws {
        try folder.write("phrase", "sesame")
        let problems = try folder.problems(text(more, certificate: certificate, key: key))
        #expect(problems == expected.map { "dtlsd.toml:" + $0 })
    }

    // MARK: Names

    @Test func `server names have their own certificates`() throws {
        let read = try tls(
            text("unknown_name = \"refuse\"\nby_address = true") + name("B.example.org") + name("*.example.org")
                + name("192.0.2.1"))
        #expect(read.names.map(\.name) == ["b.example.org", "*.example.org", "192.0.2.1"])
        let spelled = try tls(text("by_address = true") + name("2001:DB8:0::1"))
        #expect(spelled.names.map(\.name) == ["2001:db8::1"])
        #expect(read.refusesUnknownNames && read.choosesByAddress)
        #expect(read.names.allSatisfy { $0.certifiedKeys == read.certifiedKeys })
    }

    static let badNames = [
        "", "*", "*.", "a.*.org", "*a.example.org", "a..b", ".example.org", "example.org.", "-a.org", "a b.org",
        "bücher.example", String(repeating: "a", count: 64) + ".org",
        Array(repeating: "abcdefg", count: 32).joined(separator: "."),
    ]

    @Test(arguments: badNames)
    func `a text that is not a host name is refused as a server name`(_ host: String) throws {
        let problems = try folder.problems(text() + name(host))
        #expect(problems.count == 1)
        #expect(problems.first?.hasPrefix("dtlsd.toml:6: service.a.name.") == true)
        #expect(problems.first?.contains(": not a name that clients can ask for; expected a host name") == true)
    }

    @Test func `names that clients cannot ask for are refused`() throws {
        #expect(
            try folder.problems(text() + name("192.0.2.1")) == [
                "dtlsd.toml:6: service.a.name.\"192.0.2.1\": clients never ask for an address; expected by_address = "
                    + "true in the service, or a host name"
            ])
        #expect(
            try folder.problems(text() + name("a.example.org") + name("A.example.org")) == [
                "dtlsd.toml:9: service.a.name.\"A.example.org\": the same name as \"a.example.org\": case does not "
                    + "matter; expected one table for each name"
            ])
        #expect(
            try folder.problems(text("by_address = true")) == [
                "dtlsd.toml:5: service.a.by_address: there is only one certificate to choose from; expected tables "
                    + "[service.NAME.name.\"HOST\"] beside"
            ])
        #expect(
            try folder.problems(text("unknown_name = \"ignore\"")) == [
                "dtlsd.toml:5: service.a.unknown_name: expected \"default\" or \"refuse\", found the string \"ignore\""
            ])
        #expect(
            try folder.problems(text() + "[service.a.name.\"x.org\"]\ncertificate = \"none.pem\"\nalpn = 1") == [
                "dtlsd.toml:6: service.a.name.\"x.org\".private_key: missing; expected the path of a PEM file with the "
                    + "certificate's private key",
                "dtlsd.toml:7: service.a.name.\"x.org\".certificate: cannot read \"none.pem\": No such file or "
                    + "directory; expected the path of a PEM file with the certificate and the chain above it",
                "dtlsd.toml:8: service.a.name.\"x.org\".alpn: unknown key here; it belongs in "
                    + "[service.NAME.forward.rule.RULE] or [service.NAME]",
            ])
    }

    @Test func `a certificate for another name causes a warning`() throws {
        let warnings = try folder.read(text() + name("a.example.org") + name("example.net")).warnings
        #expect(
            warnings.map { $0.description.replacing(folder.path + "/", with: "") } == [
                "dtlsd.toml:10: service.a.name.\"example.net\".certificate: \"server.pem\" is not for \"example.net\": "
                    + "clients that check the name will refuse it"
            ])
    }

    // MARK: OCSP

    @Test func `an OCSP response is stapled to the certificate that it is for`() throws {
        let configuration = try folder.read(
            text(
                "ocsp_staple = \"good.ocsp\"", certificate: "[\"rsa.pem\", \"server.pem\"]",
                key: "[\"rsa.key\", \"server.key\"]"))
        let keys = try #require(configuration.services.first).tls.certifiedKeys
        #expect(keys[0].staple == nil)
        #expect(keys[1].staple?.response == Array(material.goodResponse))
        let expiry = try #require(keys[1].staple?.expiry)
        // This test run has created the response with a validity of seven days.
        #expect(abs(Double(expiry.seconds) - Date().timeIntervalSince1970 - 7 * 86_400) < 86_400)
        #expect(configuration.warnings.isEmpty)
        #expect(
            configuration.staples == [
                StapleFile(
                    service: "a", host: nil, path: folder.path + "/good.ocsp", key: "service.a.ocsp_staple",
                    isWatched: false)
            ])
    }

    @Test func `an OCSP response that cannot be stapled causes a warning`() throws {
        for (more, certificate, key, reason) in [
            ("revoked.ocsp", "server.pem", "server.key", "the OCSP response says that the certificate is revoked"),
            ("good.ocsp", "rsa.pem", "rsa.key", "the OCSP response is about another certificate"),
        ] {
            let configuration = try folder.read(
                text("ocsp_staple = \"\(more)\"", certificate: "\"\(certificate)\"", key: "\"\(key)\""))
            #expect(configuration.services.first?.tls.certifiedKeys.first?.staple == nil)
            #expect(
                configuration.warnings.map(\.message) == [
                    "\"\(more)\": \(reason); nothing is stapled until the file has changed"
                ])
            // The file is watched even so.
            #expect(configuration.staples.count == 1)
        }
    }

    /// OpenSSL 3.6 and later send none for it, and then never finish the handshake.
    @Test func `an OCSP response about a certificate that signs itself is not stapled`() throws {
        try folder.write("self.ocsp", material.selfSignedResponse)
        let configuration = try folder.read(text("ocsp_staple = \"self.ocsp\"", certificate: "\"self.pem\""))
        #expect(configuration.services.first?.tls.certifiedKeys.first?.staple == nil)
        #expect(
            configuration.warnings.map(\.message) == [
                "\"self.ocsp\": the certificate has signed itself, and no OCSP response is sent along with such a "
                    + "certificate; nothing is stapled until the file has changed"
            ])
    }

    @Test func `a file without an OCSP response is refused`() throws {
        try folder.write("garbage", "no response")
        let problems = try folder.problems(text("ocsp_staple = \"garbage\""))
        #expect(problems.count == 1)
        #expect(
            problems.first?.hasPrefix("dtlsd.toml:5: service.a.ocsp_staple: \"garbage\": not an OCSP response in DER (")
                == true, "\(problems)")
        #expect(problems.first?.hasSuffix("as `openssl ocsp -respout` writes it") == true)
        #expect(
            try folder.problems(text("ocsp_staple = [\"good.ocsp\", \"good.ocsp\"]")) == [
                "dtlsd.toml:5: service.a.ocsp_staple: \"good.ocsp\" is about the same certificate as another; expected "
                    + "one file for each"
            ])
        #expect(
            try folder.problems(text("ocsp_staple = \"none\"")) == [
                "dtlsd.toml:5: service.a.ocsp_staple: cannot read \"none\": No such file or directory; expected the "
                    + "path of a file with an OCSP response, as `openssl ocsp -respout` writes it"
            ])
    }

    /// When a file has changed, the loader takes a valid response, and keeps the previous one instead of any other.
    @Test func `a refresh reads OCSP responses and nothing else`() throws {
        try folder.write("now.ocsp", material.revokedResponse)
        let configuration = try folder.read(text("ocsp_staple = \"now.ocsp\"") + name("a.example.org"))
        try folder.write("server.pem", "gone")
        try folder.write("now.ocsp", material.goodResponse)
        let good = StapleRefresh.refresh(configuration, file: "f", watcher: nil, now: UnixTime(seconds: 0))
        var expected = configuration
        expected.warnings = []
        expected.services[0].tls.certifiedKeys[0].staple = try OCSPStaple(
            Array(material.goodResponse), for: OwnCertificate(pem: material.issuedCertificate))
        #expect(good == expected)

        try folder.write("now.ocsp", material.revokedResponse)
        let kept = StapleRefresh.refresh(good, file: "f", watcher: nil, now: UnixTime(seconds: 0))
        #expect(kept.services == good.services)
        #expect(
            kept.warnings.map(\.description) == [
                "f: service.a.ocsp_staple: \"\(folder.path)/now.ocsp\": the OCSP response says that the certificate is "
                    + "revoked; the previous response is stapled until it expires"
            ])
    }

    /// This includes the response of a credential, whose file cannot be read again.
    @Test func `a refresh drops OCSP responses that have expired`() throws {
        let named = name("a.example.org") + "ocsp_staple = \"credential:b\"\n"
        try folder.write("b", material.goodResponse)
        var configuration = try folder.read(
            text("ocsp_staple = \"good.ocsp\"") + named, environment: ["CREDENTIALS_DIRECTORY": folder.path])
        let expiry = try #require(configuration.nextStapleExpiry)
        func earlier(by seconds: Int64) -> UnixTime { UnixTime(seconds: expiry.seconds - seconds) }
        configuration.services[0].tls.certifiedKeys[0].staple = OCSPStaple(checked: [1], expiry: earlier(by: 1))
        #expect(configuration.nextStapleExpiry == earlier(by: 1))
        try folder.write("good.ocsp", material.revokedResponse)
        let kept = StapleRefresh.refresh(configuration, file: "f", watcher: nil, now: earlier(by: 2))
        #expect(kept.services == configuration.services && kept.warnings.count == 1)

        let one = StapleRefresh.refresh(configuration, file: "f", watcher: nil, now: earlier(by: 1))
        #expect(one.services[0].tls.certifiedKeys[0].staple == nil && one.nextStapleExpiry == expiry)
        let words = "the OCSP response has expired; nothing is stapled until there is a new one"
        #expect(one.warnings.last?.description == "f: service.a.ocsp_staple: \(words)")
        let both = StapleRefresh.refresh(one, file: "f", watcher: nil, now: expiry)
        #expect(both.nextStapleExpiry == nil)
        #expect(both.warnings.last?.description == "f: service.a.name.\"a.example.org\".ocsp_staple: \(words)")
        // The warning is given once.
        #expect(StapleRefresh.refresh(both, file: "f", watcher: nil, now: expiry).warnings == kept.warnings)
    }

    // MARK: Policy

    @Test func `a policy sets the oldest version unless minimum_version does`() throws {
        let modern = try tls(text())
        #expect(modern.policy == .modern && modern.minimumVersion == .dtls12 && !modern.allowsRenegotiation)
        let configuration = try folder.read(text("policy = \"legacy\"\nrenegotiation = true\nalpn = \"coap\""))
        let legacy = try #require(configuration.services.first).tls
        #expect(legacy.policy == .legacy && legacy.minimumVersion == .dtls10 && legacy.allowsRenegotiation)
        #expect(legacy.applicationProtocols == ["coap"])
        #expect(configuration.warnings.map(\.key) == ["service.a.policy"])
        let overridden = try tls(text("policy = \"legacy\"\nminimum_version = \"1.2\""))
        #expect(overridden.minimumVersion == .dtls12)
    }

    /// The policy legacy accepts the small key of an old server.
    @Test func `a small key is accepted only by the policy legacy`() throws {
        try folder.write("weak.pem", material.weakCertificate)
        try folder.write("weak.key", material.weakKey)
        func weak(_ more: String) -> String { text(more, certificate: "\"weak.pem\"", key: "\"weak.key\"") }
        let named = "[service.a.name.localhost]\ncertificate = \"weak.pem\"\nprivate_key = \"weak.key\"\n"
        for good in ["policy = \"legacy\"\n", "ciphers = \"DEFAULT:@SECLEVEL=0\"\n"] {
            #expect(try tls(weak(good + named)).names.count == 1)
        }
        let problem =
            "certificate: \"weak.pem\": ee key too small; expected the path of a PEM file with the certificate and the "
            + "chain above it"
        #expect(
            try folder.problems(weak(named)) == [
                "dtlsd.toml:2: service.a.\(problem)", "dtlsd.toml:6: service.a.name.localhost.\(problem)",
            ])
    }

    static let policyProblems: [(String, String)] = [
        (
            "alpn = []",
            "alpn: expected names of application protocols, each of 1 to 255 bytes (\"coap\"), found an empty array"
        ),
        ("policy = \"old\"", "policy: expected \"modern\" or \"legacy\", found the string \"old\""),
        ("renegotiation = 1", "renegotiation: expected true or false, found 1"),
        (
            "alpn = [\"coap\", \"\"]",
            "alpn: expected names of application protocols, each of 1 to 255 bytes (\"coap\"), found the string \"\""
        ),
        ("alpn = [\"a\", \"a\"]", "alpn: \"a\" is listed twice; expected each protocol once"),
        (
            "alpn = 7",
            "alpn: expected names of application protocols, each of 1 to 255 bytes (\"coap\"), found 7"
        ),
    ]

    @Test(arguments: policyProblems)
    func `wrong values of the negotiated settings are reported`(_ line: String, _ expected: String) throws {
        #expect(try folder.problems(text(line)) == ["dtlsd.toml:5: service.a." + expected])
    }

    // MARK: On the way to another process

    @Test func `all settings of identities are read`() throws {
        let configuration = try folder.read(
            text(
                "ocsp_staple = \"good.ocsp\"\npolicy = \"legacy\"\nalpn = [\"a\", \"b\"]\nrenegotiation = true\n"
                    + "unknown_name = \"refuse\"\nby_address = true")
                + name("a.example.org") + "ocsp_staple = \"good.ocsp\"\n")
        #expect(configuration.staples.map(\.host) == [nil, "a.example.org"] && configuration.warnings.count == 1)
    }
}
