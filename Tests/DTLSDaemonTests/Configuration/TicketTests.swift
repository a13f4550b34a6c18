import DTLSEngine
import Foundation
import Testing

@testable import DTLSDaemon

/// The table `[tickets]`, and the keys `resumption` and `key_log_file`.
@Suite struct ConfigurationTicketTests {
    private static let service = """

        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"
        """

    private static let expected = "expected the path of a file of 80 random bytes, or an array of them"

    private func write(_ folder: ConfigurationFolder, _ name: String, count: Int = 80, mode: Int = 0o600) throws {
        let byte = name.utf8.first ?? 0
        try folder.write(name, Data(repeating: byte, count: count), mode: mode)
    }

    @Test func `ticket keys keep the order of the files`() throws {
        let folder = try ConfigurationFolder()
        try write(folder, "new")
        try write(folder, "old")
        var configuration = try folder.read("tickets = { key_file = [\"new\", \"old\"], lifetime = 60 }" + Self.service)
        #expect(configuration.tickets.keys.map(\.bytes.first) == [UInt8(ascii: "n"), UInt8(ascii: "o")])
        #expect(configuration.services.first?.tls.sessions == SessionSettings(resumption: true, lifetime: .seconds(60)))
        configuration = try folder.read("tickets.key_file = \"old\"" + Self.service + "\nresumption = false")
        #expect(configuration.tickets.keys.map(\.bytes.first) == [UInt8(ascii: "o")])
        #expect(
            configuration.services.first?.tls.sessions == SessionSettings(resumption: false, lifetime: .seconds(7_200)))
    }

    @Test func `errors in the ticket settings are reported`() throws {
        let folder = try ConfigurationFolder()
        try write(folder, "new")
        try write(folder, "short", count: 48)
        try write(folder, "open", mode: 0o644)
        let problems = try folder.problems(
            """
            [tickets]
            key_file = [
                "new",
                "short",
                "open",
                "new",
                "none",
                5
            ]
            rotation = 0
            lifetime = 604801
            """ + Self.service + "\nresumption = 1")
        #expect(
            problems == [
                "dtlsd.toml:4: tickets.key_file: \"short\" has 48 bytes; expected 80",
                "dtlsd.toml:5: tickets.key_file: every user may use \"open\" (mode 644); "
                    + "expected mode 600 or 640: chmod 600",
                "dtlsd.toml:6: tickets.key_file: \"new\" begins like a file before it; expected other random bytes",
                "dtlsd.toml:7: tickets.key_file: cannot read \"none\": No such file or directory; " + Self.expected,
                "dtlsd.toml:8: tickets.key_file: \(Self.expected), found 5",
                "dtlsd.toml:10: tickets.rotation: expected an integer of seconds, 1 to 2592000,"
                    + " or a time such as \"7d\", found 0",
                "dtlsd.toml:11: tickets.lifetime: expected an integer of seconds, 1 to 604800,"
                    + " or a time such as \"7d\", found 604801",
                "dtlsd.toml:16: service.a.resumption: expected true or false, found 1",
            ])
        #expect(
            try folder.problems("tickets.key_file = []" + Self.service) == [
                "dtlsd.toml:1: tickets.key_file: \(Self.expected), found an empty array"
            ])
        #expect(
            try folder.problems("[tickets]\nrotation = 10\nlifetime = 630" + Self.service) == [
                "dtlsd.toml:2: tickets.rotation: a lifetime of 630 s is too long for a new key every 10 s; expected"
                    + " 62 times the rotation at most"
            ])
        #expect(try folder.problems("[tickets]\nrotation = 10\nlifetime = 620" + Self.service) == [])
    }

    @Test func `a service may do without tickets`() throws {
        let folder = try ConfigurationFolder()
        let withoutTickets = Self.service + "\nsession_tickets = false"
        #expect(try folder.read(withoutTickets).services.first?.tls.sessions == SessionSettings(tickets: false))
        #expect(try folder.read(withoutTickets).warnings.isEmpty)
        #expect(
            try folder.read("session_cache = 0" + withoutTickets).warnings.map(\.description) == [
                "\(folder.path)/dtlsd.toml:6: service.a.session_tickets: without tickets clients resume by session IDs, for which"
                    + " session_cache = 0 leaves no memory: each connection begins with a full handshake"
            ])
        #expect(
            try folder.read(withoutTickets + "\nresumption = false").warnings.map(\.description) == [
                "\(folder.path)/dtlsd.toml:6: service.a.session_tickets: it has no effect with resumption = false"
            ])
        #expect(
            try folder.problems("session_cache = 4097" + Self.service) == [
                "dtlsd.toml:1: session_cache: expected an integer of MiB (0 is none), 0 to 4096, found 4097"
            ])
    }

    @Test func `rotation has no effect beside key_file`() throws {
        let folder = try ConfigurationFolder()
        try write(folder, "key")
        // The lifetime is not compared with this rotation either.
        let configuration = try folder.read("[tickets]\nkey_file = \"key\"\nrotation = 5" + Self.service)
        #expect(
            configuration.warnings.map(\.description) == [
                "\(folder.path)/dtlsd.toml:3: tickets.rotation: it has no effect beside key_file, whose files contain the "
                    + "keys"
            ])
    }

    @Test func `secrets are not appended to another file`() throws {
        let folder = try ConfigurationFolder()
        func problems(_ text: String) throws -> [String] {
            try folder.write("keys.log", text)
            return try folder.problems("key_log_file = \"keys.log\"" + Self.service)
        }
        let material = try TestMaterial.shared.get()
        for text in [material.privateKey, "\n", "CLIENT_RANDOM 00", "a:00112233445566778899aabbccddeeff\n"] {
            let found = try problems(text)
            #expect(
                found.first?.hasPrefix(
                    "dtlsd.toml:1: key_log_file: \"keys.log\" contains other data, to which secrets would be appended; "
                )
                    == true, "\(text)")
        }
        let random = String(repeating: "0a", count: 32)
        for text in ["", "# SSL/TLS secrets\n", "CLIENT_RANDOM \(random) \(random)\(random)\nmore"] {
            #expect(try problems(text) == [], "\(text)")
        }
    }

    /// Reading changes no file. The process that serves creates the key log file when it is needed.
    @Test func `a key log file is checked and not created`() throws {
        let folder = try ConfigurationFolder()
        let path = "\(folder.path)/keys.log"
        #expect(try folder.read("key_log_file = \"keys.log\"" + Self.service).keyLogFile == path)
        #expect(!FileManager.default.fileExists(atPath: path))

        let expected =
            "expected the path of a file for the secrets of all connections, in a folder that can be written to"
        func problems(_ name: String) throws -> [String] {
            try folder.problems("key_log_file = \"\(name)\"" + Self.service)
        }
        try folder.write("keys.log", "", mode: 0o640)
        #expect(
            try problems("keys.log") == [
                "dtlsd.toml:1: key_log_file: users other than its owner may use \"keys.log\" (chmod 600); \(expected)"
            ])
        try folder.write("keys.log", "", mode: 0o600)
        #expect(try problems("keys.log") == [])
        try FileManager.default.createSymbolicLink(
            atPath: "\(folder.path)/link", withDestinationPath: "\(folder.path)/keys.log")
        #expect(try problems("link") == ["dtlsd.toml:1: key_log_file: \"link\" is not a regular file; \(expected)"])
        #expect(
            try problems("none/keys.log") == [
                "dtlsd.toml:1: key_log_file: cannot create \"none/keys.log\": No such file or directory; \(expected)"
            ])
        #expect(
            try problems("credential:keys") == [
                "dtlsd.toml:1: key_log_file: a credential cannot be written to; \(expected)"
            ])
    }
}
