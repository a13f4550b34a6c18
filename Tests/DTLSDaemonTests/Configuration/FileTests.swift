import DTLSEngine
import Foundation
import Testing

@testable import DTLSDaemon

/// The configuration file itself, and the files that it names.
@Suite struct ConfigurationFileTests {
    private func service(_ lines: String = "", certificate: String = "server.pem", key: String = "server.key") -> String
    {
        """
        [service.a]
        certificate = "\(certificate)"
        private_key = "\(key)"
        handler = "echo"
        \(lines)
        """
    }

    private static let certificate = "expected the path of a PEM file with the certificate and the chain above it"
    private static let privateKey = "expected the path of a PEM file with the certificate's private key"
    private static let passphrase = "expected the path of a file with the private key's passphrase in its first line"

    private func problem(reading file: String) throws -> String {
        do {
            _ = try ConfigurationReader.read(file: file, environment: [:])
            return ""
        } catch let error { return error.description }
    }

    @Test func `a configuration file that cannot be read is reported`() throws {
        let folder = try ConfigurationFolder()
        let path = folder.path
        #expect(
            try problem(reading: "\(path)/none") == "\(path)/none: cannot read \"\(path)/none\": "
                + "No such file or directory")
        #expect(try problem(reading: path) == "\(path): \"\(path)\" is not a regular file")
        try folder.write("large", String(repeating: "#", count: 1_048_577))
        #expect(
            try problem(reading: "\(path)/large")
                == "\(path)/large: \"\(path)/large\" is too large; expected at most 1048576 bytes")
        try folder.write(
            "largest", service() + "#" + String(repeating: "#", count: 1_048_576 - service().utf8.count - 1))
        #expect(try problem(reading: "\(path)/largest") == "")
    }

    @Test func `a configuration file that is not text is reported`() throws {
        let folder = try ConfigurationFolder()
        let path = "\(folder.path)/bad"
        try folder.write("bad", Data("workers = 1\n# \u{e4}\n".utf8) + Data([0x23, 0xe4, 0x0a]))
        #expect(try problem(reading: path) == "\(path):3: bytes that are not UTF-8; expected a TOML file, in UTF-8")
        try folder.write("bad", "workers = 1\n#\0\n")
        #expect(try problem(reading: path) == "\(path):2: a NUL byte; expected a TOML file, in UTF-8")
        try folder.write("bad", "workers = 1\n\"a\\u0000b\" = 1\nlog_level = \"info\\U00000000\"")
        #expect(
            try problem(reading: path) == "\(path):2: an escaped NUL character, which no value can hold\n"
                + "\(path):3: an escaped NUL character, which no value can hold")
    }

    @Test func `a configuration file that is not TOML is reported`() throws {
        let folder = try ConfigurationFolder()
        // The text after the column is the parser's.
        for (text, place) in [
            ("workers = 1\nmtu 5\n", ":2: not valid TOML (column "),
            ("workers = 1\n\nworkers = 2\n", ":3: not valid TOML (column "),
            ("[service.a]\n[service.a]\n", ":2: not valid TOML (column "),
            ("workers = 99999999999999999999\n", ":1: not valid TOML (column "),
        ] {
            let problems = try folder.problems(text)
            #expect(problems.count == 1)
            #expect(problems.first?.hasPrefix("dtlsd.toml\(place)") == true, "\(problems)")
        }
    }

    /// The parser would abort the process on these texts.
    @Test(arguments: [
        ("a = [}", 1, "a } inside an array; expected a value or ]"),
        ("a = [ [1, 2], # }\n{ b = [ 1, } ] }", 2, "a } inside an array; expected a value or ]"),
        ("a = [\u{2028} 1 ]", 1, "a control character, or one beyond ASCII, outside of quotes"),
        ("a = 1979-05-27Tx", 1, "a date without a time after its T"),
        ("# ä\na = “b”", 2, "a control character, or one beyond ASCII, outside of quotes"),
        ("[,a]", 1, "expected a table's name after ["), ("[[[a]]]", 1, "expected a table's name after ["),
        ("[", 1, "expected a table's name after ["), ("[\n]", 1, "expected a table's name after ["),
        ("a = \"\"\"\"]}\"\"\"\"\"\n[=", 2, "expected a table's name after ["),
    ])
    func `a text that would crash the parser is refused before parsing`(_ text: String, _ line: Int, _ expected: String)
        throws
    {
        let folder = try ConfigurationFolder()
        #expect(try folder.problems(text) == ["dtlsd.toml:\(line): not valid TOML: \(expected)"])
    }

    @Test func `brackets inside strings and comments do not count`() throws {
        let folder = try ConfigurationFolder()
        let odd = "[\"}\", '}', \"\"\"}\n}\"\"\"\"\", # }\n { b = [\"]\"] }, '\\', \"\\\"}\" ]"
        #expect(
            try folder.problems("workers = \(odd)\n" + service()) == [
                "dtlsd.toml:1: workers: expected an integer (0 is one per core), 0 to 1024, found an array"
            ])
    }

    /// The parser would overflow its stack on such a key.
    @Test func `a key of too many parts is refused`() throws {
        let folder = try ConfigurationFolder()
        let key = Array(repeating: "a", count: 100_000).joined(separator: ".")
        for text in ["\n[\(key)]\nx = 1", "\n\(key) = 1\ny = [", "\nx = { y = 1, \(key) = 1 }"] {
            #expect(
                try folder.problems(text) == ["dtlsd.toml:2: a key of more than 16 parts; expected one of at most 5"])
        }
    }

    @Test func `missing and unreadable files are reported`() throws {
        let folder = try ConfigurationFolder()
        #expect(
            try folder.problems(service(certificate: "none.pem", key: "/")) == [
                "dtlsd.toml:2: service.a.certificate: cannot read \"none.pem\": No such file or directory; "
                    + Self.certificate,
                "dtlsd.toml:3: service.a.private_key: \"/\" is not a regular file; " + Self.privateKey,
            ])
    }

    @Test func `files that contain no credentials are reported`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write("other.key", material.otherKey)
        try folder.write("der", material.derCertificate)
        try folder.write("garbage", "no PEM at all")
        #expect(
            try folder.problems(service(key: "other.key")) == [
                "dtlsd.toml:3: service.a.private_key: \"other.key\": the private key does not belong to the certificate; "
                    + "expected the key that the first certificate in \"server.pem\" was made for"
            ])
        #expect(
            try folder.problems(service(certificate: "der")) == [
                "dtlsd.toml:2: service.a.certificate: \"der\" is not text; \(Self.certificate) "
                    + "(`openssl x509` or `pkey` convert DER to PEM)"
            ])
        #expect(
            try folder.problems(service(certificate: "garbage")) == [
                "dtlsd.toml:2: service.a.certificate: \"garbage\": no PEM certificate in it; " + Self.certificate
            ])
        let problems = try folder.problems(service(key: "garbage"))
        #expect(problems.count == 1)
        #expect(
            problems.first?.hasPrefix("dtlsd.toml:3: service.a.private_key: \"garbage\": not a valid PEM private key (")
                == true)
        #expect(problems.first?.hasSuffix("; " + Self.privateKey) == true)
    }

    @Test func `an error does not hide the errors after it`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("garbage", "no PEM at all")
        #expect(
            try folder.problems(service("ca = \"garbage\"\nciphers = \"NONE\"\nmaximum_version = \"1.0\"")) == [
                "dtlsd.toml:5: service.a.ca: \"garbage\": no PEM certificate in it; "
                    + "expected the path of a PEM file with the CA certificates that clients are checked against",
                "dtlsd.toml:6: service.a.ciphers: no cipher matches \"NONE\"; "
                    + "expected an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it",
                "dtlsd.toml:7: service.a.maximum_version: the minimum 1.2 is above the maximum 1.0; "
                    + "expected a version that this OpenSSL supports, not below minimum_version",
            ])
    }

    @Test func `a passphrase is read, and a wrong one is reported`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write("encrypted", material.encryptedKey)
        try folder.write("right", "sesame\r\n")
        try folder.write("wrong", "open\n")
        try folder.write("empty", "\nsesame")
        #expect(try folder.problems(service("passphrase_file = \"right\"", key: "encrypted")) == [])
        #expect(
            try folder.problems(service(key: "encrypted")) == [
                "dtlsd.toml:3: service.a.private_key: \"encrypted\": the private key is encrypted and no passphrase is given; "
                    + "expected a passphrase_file beside it"
            ])
        #expect(
            try folder.problems(service("passphrase_file = \"wrong\"", key: "encrypted")) == [
                "dtlsd.toml:5: service.a.passphrase_file: \"wrong\": it does not decrypt the private key; "
                    + Self.passphrase
            ])
        #expect(
            try folder.problems(service("passphrase_file = \"empty\"", key: "encrypted")) == [
                "dtlsd.toml:5: service.a.passphrase_file: the first line of \"empty\" is empty or not text; "
                    + Self.passphrase
            ])
        #expect(
            try folder.problems(service("passphrase_file = \"none\"", key: "encrypted")) == [
                "dtlsd.toml:5: service.a.passphrase_file: cannot read \"none\": No such file or directory; "
                    + Self.passphrase
            ])
    }

    /// Some editors write it at the start of every text.
    @Test func `a byte order mark is no part of a text`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        let mark = "\u{FEFF}"
        try folder.write("encrypted", mark + material.encryptedKey)
        try folder.write("phrase", mark + "sesame\r\n")
        try folder.write("mark", mark)
        try folder.write("chain.pem", mark + material.certificate + mark + material.rsaCertificate)
        try folder.write("list.crl", mark + material.revocationList)
        let text =
            mark + service("passphrase_file = \"phrase\"\nca = \"chain.pem\"\ncrl = \"list.crl\"", key: "encrypted")
        #expect(try folder.problems(text) == [])
        try folder.write("marked", material.keyEncryptedWithMark)
        #expect(try folder.problems(service("passphrase_file = \"phrase\"", key: "marked")) == [])
        // Both certificates of the chain are seen.
        let warnings = try folder.read(text).warnings.map(\.message)
        #expect(!warnings.contains { $0.contains("not valid PEM") })
        #expect(try CertificateList(pem: mark + material.certificate + mark + material.rsaCertificate).count == 2)
        #expect(
            try folder.problems(service("passphrase_file = \"mark\"", key: "encrypted")) == [
                "dtlsd.toml:5: service.a.passphrase_file: the first line of \"mark\" is empty or not text; "
                    + Self.passphrase
            ])
    }

    @Test func `a secret that every user may read is refused`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write("open.key", material.privateKey, mode: 0o644)
        try folder.write("group.key", material.privateKey, mode: 0o640)
        try folder.write("phrase", "sesame", mode: 0o604)
        #expect(
            try folder.problems(service("passphrase_file = \"phrase\"", key: "open.key")) == [
                "dtlsd.toml:3: service.a.private_key: every user may use \"open.key\" (mode 644); "
                    + "expected mode 600 or 640: chmod 600",
                "dtlsd.toml:5: service.a.passphrase_file: every user may use \"phrase\" (mode 604); "
                    + "expected mode 600 or 640: chmod 600",
            ])
        #expect(try folder.problems(service(key: "group.key")) == [])
    }

    @Test func `relative paths start at the configuration's folder`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("deep/config/dtlsd.toml", service(certificate: "../../server.pem", key: "../../server.key"))
        #expect(try problem(reading: "\(folder.path)/deep/config/dtlsd.toml") == "")
    }

    // MARK: Credentials

    @Test func `credentials come from the runtime directory first`() throws {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        let environment = [
            "RUNTIME_DIRECTORY": "\(folder.path)/first:\(folder.path)/second",
            "CREDENTIALS_DIRECTORY": "\(folder.path)/started",
        ]
        let text = service(key: "credential:key")
        try folder.write("started/key", material.otherKey, mode: 0o440)
        #expect(try folder.problems(text, environment: environment).count == 1)
        try folder.write("second/credentials/key", material.privateKey)
        #expect(try folder.problems(text, environment: environment) == [])
        try FileManager.default.removeItem(atPath: "\(folder.path)/second")
        try folder.write("started/key", material.privateKey, mode: 0o440)
        #expect(try folder.problems(text, environment: environment) == [])
        // An existing but unreadable credential is not skipped, since this would silently use an old key.
        try FileManager.default.createDirectory(
            atPath: "\(folder.path)/first/credentials/key", withIntermediateDirectories: true)
        #expect(
            try folder.problems(text, environment: environment) == [
                "dtlsd.toml:3: service.a.private_key: \"first/credentials/key\" is not a regular file; "
                    + Self.privateKey
            ])
    }

    @Test func `missing credentials are reported`() throws {
        let folder = try ConfigurationFolder()
        let text = service(key: "credential:key")
        let start = "dtlsd.toml:3: service.a.private_key: credential \"key\" "
        #expect(
            try folder.problems(text) == [
                start + "cannot be looked up: neither RUNTIME_DIRECTORY nor CREDENTIALS_DIRECTORY is set; expected to "
                    + "be started by systemd, with LoadCredential=key:PATH in the unit; " + Self.privateKey
            ])
        #expect(
            try folder.problems(text, environment: ["RUNTIME_DIRECTORY": "/none", "CREDENTIALS_DIRECTORY": "/no"]) == [
                start + "is not in /none/credentials or /no; expected LoadCredential=key:PATH in the unit; "
                    + Self.privateKey
            ])
        #expect(
            try folder.problems(service(key: "credential:../server.key"), environment: ["RUNTIME_DIRECTORY": "/none"])
                == [
                    "dtlsd.toml:3: service.a.private_key: \"../server.key\" is not the name of a credential; "
                        + Self.privateKey
                ])
    }

    /// systemd lets a dynamic user read a credential by an ACL, whose mask appears as the permission of the group.
    @Test func `a cookie secret may be a credential`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("credentials/cookie", String(repeating: "s", count: 32), mode: 0o440)
        let configuration = try folder.read(
            "cookie_secret_file = \"credential:cookie\"\n" + service(),
            environment: ["CREDENTIALS_DIRECTORY": "\(folder.path)/credentials"])
        #expect(configuration.cookieSecret?.count == 32)
    }

    /// As on a mount whose permissions nobody can change.
    @Test func `secrets that every user may read are let be where that is asked for`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("open.key", try TestMaterial.shared.get().privateKey, mode: 0o644)
        try folder.write("cookie", String(repeating: "s", count: 32), mode: 0o604)
        let text = "cookie_secret_file = \"cookie\"\nallow_world_readable_secrets = true\n" + service(key: "open.key")
        let warnings = try folder.read(text).warnings.map(\.message).filter { $0.hasPrefix("every user may use") }
        #expect(
            warnings == [
                "every user may use \"cookie\" (mode 604), and allow_world_readable_secrets = true lets that be",
                "every user may use \"open.key\" (mode 644), and allow_world_readable_secrets = true lets that be",
            ])
        #expect(try folder.problems(text.replacing("= true", with: "= false")).count == 2)
    }

    @Test func `a group may read secrets of all kinds`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("cookie", String(repeating: "s", count: 32), mode: 0o640)
        try folder.write("keys.psk", "sensor-7:00112233445566778899aabbccddeeff\n", mode: 0o640)
        let text = "cookie_secret_file = \"cookie\"\n" + service("psk.file = \"keys.psk\"")
        #expect(try folder.problems(text) == [])
    }
}
