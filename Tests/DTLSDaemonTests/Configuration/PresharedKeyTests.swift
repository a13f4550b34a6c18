import DTLSEngine
import Foundation
import Testing

@testable import DTLSDaemon

/// Files of identities and keys, and the table that names one.
@Suite struct ConfigurationPresharedKeyTests {
    private func parse(_ text: String) -> (keys: [PresharedKey], problems: [PresharedKeyFile.Problem]) {
        PresharedKeyFile.parse(Array(text.utf8))
    }

    private func key(_ identity: String, _ key: [UInt8]) -> PresharedKey {
        PresharedKey(identity: Array(identity.utf8), key: key)
    }

    private static let digits = "00112233445566778899aabbccddeeff"
    private static let bytes: [UInt8] = (0...15).map { $0 << 4 | $0 }

    @Test func `keys are read as text and in hexadecimal`() {
        let (keys, problems) = parse(
            """
            # keys of the sensors

            plain:\(Self.digits)
            upper:\(Self.digits.uppercased())\r
            pairs:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff
            #613a62:\(Self.digits)
            #hash:\(Self.digits)
            # switched off:\(Self.digits)
            text:Correct horse battery
            colons:in the key: as text
            z\u{fc}rich:\(Self.digits)
            """)
        #expect(problems == [])
        #expect(
            keys == [
                key("plain", Self.bytes), key("upper", Self.bytes), key("pairs", Self.bytes), key("a:b", Self.bytes),
                key("text", Array("Correct horse battery".utf8)), key("colons", Array("in the key: as text".utf8)),
                key("z\u{fc}rich", Self.bytes),
            ])
    }

    /// GnuTLS reads what psktool writes, so dtlsd must agree with it on an identity with a colon.
    @Test func `what psktool writes is read`() throws {
        let folder = try ConfigurationFolder()
        for name in ["sensor-7", "a:b"] {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = ["psktool", "-u", name, "-p", "\(folder.path)/keys.psk"]
            process.standardOutput = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            #expect(process.terminationStatus == 0)
        }
        let written = try Data(contentsOf: URL(fileURLWithPath: "\(folder.path)/keys.psk"))
        let (keys, problems) = PresharedKeyFile.parse(Array(written))
        #expect(problems == [])
        #expect(Set(keys.map { String(decoding: $0.identity, as: UTF8.self) }) == ["sensor-7", "a:b"])
        #expect(keys.allSatisfy { $0.key.count == 32 })
    }

    @Test(arguments: [
        ("alice", "no colon; expected IDENTITY:KEY"),
        (":\(digits)", "an identity of 0 bytes; expected 1 to 255 bytes other than NUL before the colon"),
        (
            "\(String(repeating: "i", count: 256)):\(digits)",
            "an identity of 256 bytes; expected 1 to 255 bytes other than NUL before the colon"
        ),
        ("a:", "a key of 0 bytes; expected 16 to 512 bytes (two hexadecimal digits each, or as text)"),
        ("a:fifteen letters", "a key of 15 bytes; expected 16 to 512 bytes (two hexadecimal digits each, or as text)"),
        ("a:0011223344556677", "a key of 8 bytes; expected 16 to 512 bytes (two hexadecimal digits each, or as text)"),
        ("a:\(digits)0", "a key of 33 hexadecimal digits; expected an even number of them"),
        ("a: \(digits)", "a space before or after the key; expected the key alone after the colon"),
        ("a:\(digits) ", "a space before or after the key; expected the key alone after the colon"),
        ("a:sixteen characte\0rs", "a NUL byte in the key; expected text, or hexadecimal digits"),
        (
            "a:\(String(repeating: "00", count: 513))",
            "a key of 513 bytes; expected 16 to 512 bytes (two hexadecimal digits each, or as text)"
        ),
    ]) func whatIsWrongIsToldWithItsLine(_ line: String, _ message: String) {
        let (keys, problems) = parse("good:\(Self.digits)\n\(line)\n")
        #expect(keys == [key("good", Self.bytes)])
        #expect(problems == [.init(line: 2, message: message)])
    }

    @Test func `an identity that is listed twice is refused`() {
        let (keys, problems) = parse("a:\(Self.digits)\n#61:ffffffffffffffffffffffffffffffff\n")
        #expect(keys == [key("a", Self.bytes)])
        #expect(problems == [.init(line: 2, message: "the same identity as in line 1; expected it once")])
    }

    @Test func `any bytes are either read or refused`() {
        var random = SystemRandomNumberGenerator()
        let alphabet = Array("\n\r:#0aF \0\u{fc}x".utf8)
        for _ in 0..<2_000 {
            let bytes = (0..<Int.random(in: 0...120, using: &random)).map { _ in
                alphabet.randomElement(using: &random) ?? 0
            }
            for key in PresharedKeyFile.parse(bytes).keys {
                #expect((1...255).contains(key.identity.count) && (16...512).contains(key.key.count), "\(bytes)")
            }
        }
    }

    private func service(_ lines: String) -> String { "[service.a]\nhandler = \"echo\"\n\(lines)\n" }

    @Test func `a service with pre-shared keys needs no certificate`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("keys.psk", "a:\(Self.digits)\n")
        let text = service("psk = { file = \"keys.psk\", hint = \"gateway\" }")
        let settings = try #require(try folder.read(text).services.first?.tls)
        #expect(settings.certifiedKeys == [])
        #expect(settings.presharedKeys == PresharedKeys(keys: [key("a", Self.bytes)], hint: Array("gateway".utf8)))

        let both = service("certificate = \"server.pem\"\nprivate_key = \"server.key\"\npsk.file = \"keys.psk\"")
        #expect(try folder.read(both).services.first?.tls.certifiedKeys.count == 1)
        // A certificate without its private key is an error.
        #expect(
            try folder.problems(service("certificate = \"server.pem\"\npsk.file = \"keys.psk\"")) == [
                "dtlsd.toml:1: service.a.private_key: missing; expected the path of a PEM file with the certificate's "
                    + "private key"
            ])
    }

    @Test func `pre-shared keys that cannot be used are refused`() throws {
        let folder = try ConfigurationFolder()
        let expected = "expected the path of a file of identities and keys, as psktool writes it"
        #expect(try folder.problems(service("psk = {}")) == ["dtlsd.toml:3: service.a.psk.file: missing; \(expected)"])
        try folder.write("keys.psk", "b\nc:short\n", mode: 0o644)
        #expect(
            try folder.problems(service("psk.file = \"keys.psk\"")) == [
                "dtlsd.toml:3: service.a.psk.file: every user may use \"keys.psk\" (mode 644); "
                    + "expected mode 600 or 640: chmod 600",
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 1: no colon; expected IDENTITY:KEY",
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 2: a key of 5 bytes; expected 16 to 512 bytes "
                    + "(two hexadecimal digits each, or as text)",
            ])
        try folder.write("none.psk", "# nothing yet\n")
        #expect(
            try folder.problems(service("psk.file = \"none.psk\"")) == [
                "dtlsd.toml:3: service.a.psk.file: \"none.psk\" has no line IDENTITY:KEY; expected one or more"
            ])
        try folder.write("good.psk", "a:\(Self.digits)\n")
        let hint = String(repeating: "h", count: 256)
        #expect(
            try folder.problems(service("psk = { file = \"good.psk\", hint = \"\(hint)\" }")) == [
                "dtlsd.toml:3: service.a.psk.hint: expected a text of 1 to 255 bytes, found 256 bytes"
            ])
        let problems = try folder.problems(
            service("ciphers = \"ECDHE+AESGCM\"\nca = \"server.pem\"\npsk.file = \"good.psk\""))
        #expect(problems.count == 2)
        #expect(problems.first?.contains("service.a.ciphers: it has no cipher suite for pre-shared keys") == true)
        #expect(problems.last?.contains("service.a.ca: a service with only pre-shared keys asks no client") == true)
    }

    /// A file with many devices may be larger than other files.
    @Test func `a file of pre-shared keys may be larger than other files`() throws {
        let folder = try ConfigurationFolder()
        let text = (0..<30_000).map { "sensor-\($0):\(Self.digits)\n" }.joined()
        #expect(text.utf8.count > 1_048_576)
        try folder.write("keys.psk", text)
        #expect(
            try folder.read(service("psk.file = \"keys.psk\"")).services.first?.tls.presharedKeys?.keys.count == 30_000)
        try folder.write("keys.psk", text + String(repeating: "# comment\n", count: 1_600_000))
        #expect(
            try folder.problems(service("psk.file = \"keys.psk\"")) == [
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\" is too large; expected at most 16777216 bytes; expected the "
                    + "path of a file of identities and keys, as psktool writes it"
            ])
    }

    /// What a warning says of the folder's dtlsd.toml.
    private func warnings(_ folder: ConfigurationFolder, _ lines: String) throws -> [String] {
        try folder.read(service(lines)).warnings.map {
            $0.description.replacingOccurrences(of: folder.path + "/", with: "")
        }
    }

    @Test func `a wrong line is skipped with a warning, and the others are used`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("keys.psk", "a:\(Self.digits)\nb\nc:short\nd:\(Self.digits)\n")
        let service = try #require(try folder.read(service("psk.file = \"keys.psk\"")).services.first)
        #expect(service.tls.presharedKeys?.keys == [key("a", Self.bytes), key("d", Self.bytes)])
        #expect(
            try warnings(folder, "psk.file = \"keys.psk\"") == [
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 2: no colon; expected IDENTITY:KEY; the line is"
                    + " skipped",
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 3: a key of 5 bytes; expected 16 to 512 bytes "
                    + "(two hexadecimal digits each, or as text); the line is skipped",
            ])
        try folder.write("many.psk", "a:\(Self.digits)\n" + String(repeating: "x\n", count: 25))
        let many = try warnings(folder, "psk.file = \"many.psk\"")
        #expect(many.count == 11)
        #expect(many.last == "dtlsd.toml:3: service.a.psk.file: \"many.psk\": 15 more lines like these")
    }

    @Test func `shorter keys are accepted where that is asked for, and longer ones demanded`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("keys.psk", "a:\(Self.digits)\nb:00112233\nc:123\n")
        let short = "psk = { file = \"keys.psk\", minimum_key_bytes = 4 }"
        let keys = try folder.read(service(short)).services.first?.tls.presharedKeys?.keys
        #expect(keys == [key("a", Self.bytes), key("b", [0, 0x11, 0x22, 0x33])])
        #expect(
            try warnings(folder, short) == [
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 3: a key of 3 hexadecimal digits; expected an even"
                    + " number of them; the line is skipped",
                "dtlsd.toml:3: service.a.psk.file: \"keys.psk\": 1 key has fewer than 16 bytes, as minimum_key_bytes"
                    + " allows; expected 16 or more, since who has recorded a handshake can try all short keys",
            ])
        #expect(
            try folder.problems(service("psk = { file = \"keys.psk\", minimum_key_bytes = 17 }")).first
                == "dtlsd.toml:3: service.a.psk.file: \"keys.psk\", line 1: a key of 16 bytes; expected 17 to 512 bytes"
                + " (two hexadecimal digits each, or as text)")
        #expect(
            try folder.problems(service("psk = { file = \"keys.psk\", minimum_key_bytes = 0 }")) == [
                "dtlsd.toml:3: service.a.psk.minimum_key_bytes: expected an integer of bytes, 1 to 64, found 0"
            ])
    }

    @Test func `of many wrong lines, ten are reported, and the number of the others`() throws {
        let folder = try ConfigurationFolder()
        try folder.write("keys.psk", String(repeating: "x\n", count: 25))
        let problems = try folder.problems(service("psk.file = \"keys.psk\""))
        #expect(problems.count == 11)
        #expect(problems.last == "dtlsd.toml:3: service.a.psk.file: \"keys.psk\": 15 more lines like these")
    }
}
