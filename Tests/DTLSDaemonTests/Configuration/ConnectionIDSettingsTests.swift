import Testing

@testable import DTLSDaemon

/// `connection_id` and `[connection_ids]`.
@Suite struct ConnectionIDSettingsTests {
    private let folder: ConfigurationFolder

    init() throws { folder = try ConfigurationFolder() }

    private func service(_ lines: String) -> String {
        """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"
        \(lines)

        """
    }

    private static let digits = "00112233445566778899aabbccddeeff"

    @Test func `without the keys, connection IDs are off and the server ID is a zero`() throws {
        let configuration = try folder.read(service(""))
        #expect(configuration.services.first?.connectionIDLength == nil)
        #expect(configuration.connectionIDs.keys.isEmpty && configuration.connectionIDs.serverID == [0])
        #expect(try folder.read(service("connection_id = \"off\"")).services.first?.connectionIDLength == nil)
    }

    @Test(arguments: [("00", 10), ("00", 20), ("00010203040506070809", 19), ("00010203040506070809", 20)])
    func `a length that has room for the server ID and the number is accepted`(_ serverID: String, _ length: Int) throws
    {
        let configuration = try folder.read(
            service("connection_id = \(length)") + "[connection_ids]\nserver_id = \"\(serverID)\"\n")
        #expect(configuration.services.first?.connectionIDLength == length)
        #expect(configuration.connectionIDs.serverID.count == serverID.count / 2)
    }

    @Test func `the keys of a file are read in their order`() throws {
        try folder.write("keys", "# new\n3 \(Self.digits)\r\n\n\t0\t\(Self.digits.uppercased())  \n")
        let configuration = try folder.read(
            service("") + "[connection_ids]\nkey_file = \"keys\"\nserver_id = \"0aB1\"\n")
        let key = (0..<16).map { UInt8($0 * 0x11) }
        #expect(
            configuration.connectionIDs
                == ConnectionIDConfiguration(
                    keys: [ConnectionIDKey(rotation: 3, bytes: key), ConnectionIDKey(rotation: 0, bytes: key)],
                    serverID: [0x0a, 0xb1]))
    }

    @Test(arguments: [
        ("", "\"keys\" has no key; expected a line with a number, 0 to 6, and 32 hexadecimal digits"),
        ("7 \(digits)", "\"keys\", line 1: expected a number, 0 to 6, before the key"),
        ("10 \(digits)", "\"keys\", line 1: expected a number, 0 to 6, before the key"),
        ("\n\(digits)", "\"keys\", line 2: 1 words; expected a number, 0 to 6, and a key of 32 hexadecimal digits"),
        ("0 00\(digits)", "\"keys\", line 1: a key of 34 characters; expected 32 hexadecimal digits"),
        ("0 x\(digits.dropFirst())", "\"keys\", line 1: a key of 32 characters; expected 32 hexadecimal digits"),
        ("1 \(digits)\n1 \(digits)", "\"keys\", line 2: the same number as in line 1; expected it once"),
    ])
    func `a wrong line of the key file is reported without the key`(_ text: String, _ message: String) throws {
        try folder.write("keys", text)
        #expect(
            try folder.problems("[connection_ids]\nkey_file = \"keys\"\n" + service(""))
                == ["dtlsd.toml:2: connection_ids.key_file: " + message])
    }

    @Test func `a key file that others may read is refused`() throws {
        try folder.write("keys", "0 \(Self.digits)\n", mode: 0o644)
        #expect(
            try folder.problems("[connection_ids]\nkey_file = \"keys\"\n" + service("")) == [
                "dtlsd.toml:2: connection_ids.key_file: every user may use \"keys\" (mode 644); expected"
                    + " mode 600 or 640: chmod 600"
            ])
    }

    @Test(arguments: ["\"\"", "\"0\"", "\"00:01\"", "\"xx\"", "\"0001020304050607080910\"", "0", "\"000\""])
    func `a server ID that is not of 1 to 10 bytes is reported`(_ value: String) throws {
        let problems = try folder.problems("[connection_ids]\nserver_id = \(value)\n" + service(""))
        #expect(problems.count == 1)
        #expect(
            problems.first?.hasPrefix(
                "dtlsd.toml:2: connection_ids.server_id: expected 2 to 20 hexadecimal digits, two for each byte")
                == true,
            "\(problems)")
    }

    @Test(arguments: [
        ("connection_id = 9", "expected \"off\", or a number of bytes, 10 to 20, found 9"),
        ("connection_id = 21", "expected \"off\", or a number of bytes, 10 to 20, found 21"),
        ("connection_id = true", "expected \"off\", or a number of bytes, 10 to 20, found true"),
        ("connection_id = \"on\"", "expected \"off\", or a number of bytes, 10 to 20, found the string \"on\""),
        (
            "connection_id = 17\nrenegotiation = true",
            "it has no effect with renegotiation = true, whose records are OpenSSL's; expected only one of the two"
        ),
        (
            "connection_id = 10\n[connection_ids]\nserver_id = \"0102\"",
            "10 bytes have no room for a server_id of 2; expected 11 or more"
        ),
    ])
    func `a wrong connection_id of a service is reported`(_ lines: String, _ message: String) throws {
        #expect(try folder.problems(service(lines)) == ["dtlsd.toml:5: service.a.connection_id: " + message])
    }

    @Test func `connection IDs of a service without DTLS 1,2 are reported`() throws {
        let lines = "connection_id = 17\npolicy = \"legacy\"\nmaximum_version = \"1.0\""
        #expect(
            try folder.problems(service(lines)) == [
                "dtlsd.toml:5: service.a.connection_id: connection IDs need DTLS 1.2; expected a maximum_version that is"
                    + " not below it, or \"off\""
            ])
    }

    @Test func `a client offers a length of its own, which may be zero`() throws {
        func client(_ value: String) -> String {
            """
            [client.out]
            listen = "127.0.0.1:5000"
            connect = "192.0.2.1:4433"
            ca = "server.pem"
            connection_id = \(value)

            """
        }
        for (value, length) in [("0", 0), ("20", 20), ("\"off\"", nil)] {
            #expect(try folder.read(client(value)).clients.first?.connectionIDLength == length, "\(value)")
        }
        #expect(
            try folder.problems(client("21")) == [
                "dtlsd.toml:5: client.out.connection_id: expected \"off\", or a number of bytes, 0 to 20, found 21"
            ])
    }
}
