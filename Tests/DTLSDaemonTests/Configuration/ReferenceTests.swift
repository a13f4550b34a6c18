import DTLSEngine
import Foundation
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSDaemon

/// config/dtlsd.toml is the documentation of every key, so it must be complete and correct.
@Suite struct ConfigurationReferenceTests {
    private static func reference() throws -> String {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        return try String(contentsOf: root.appendingPathComponent("config/dtlsd.toml"), encoding: .utf8)
    }

    /// A folder that contains all files that the reference names. The reference itself is read from config/ in it.
    private func preparedFolder() throws -> ConfigurationFolder {
        let folder = try ConfigurationFolder()
        let material = try TestMaterial.shared.get()
        try folder.write(".run/localhost.pem", material.issuedCertificate)
        try folder.write(".run/localhost.key", material.privateKey)
        try folder.write("config/cookie.secret", String(repeating: "s", count: 32))
        try folder.write("config/localhost.passphrase", "sesame")
        try folder.write("config/tickets.key", String(repeating: "1", count: 80))
        try folder.write("config/tickets.old.key", String(repeating: "2", count: 80))
        try folder.write("config/connection-ids.keys", "0 00112233445566778899aabbccddeeff")
        try folder.write("config/sensors.psk", "sensor-7:00112233445566778899aabbccddeeff")
        let digits = String(repeating: "0a", count: 32)
        for name in ["devices", "server"] { try folder.write("config/\(name).keys", "sensor-7 sha256:\(digits)") }
        try folder.write("config/clients-ca.pem", material.certificate)
        try folder.write("config/clients.crl", material.revocationList)
        try folder.write("config/fullchain.pem", material.certificate)
        try folder.write("config/wildcard.pem", material.issuedCertificate)
        try folder.write("config/wildcard.key", material.privateKey)
        try folder.write("config/wildcard.passphrase", "sesame")
        for name in ["localhost", "wildcard"] { try folder.write("config/\(name).ocsp", material.goodResponse) }
        try folder.write("credentials/coap.key", material.privateKey)
        try folder.write("config/server-ca.pem", material.certificate)
        try folder.write("config/client.pem", material.certificate)
        try folder.write("config/client.key", material.encryptedKey)
        try folder.write("config/client.passphrase", "sesame")
        return folder
    }

    private func read(_ text: String, in folder: ConfigurationFolder) throws -> Configuration {
        // A test cannot create the absolute paths of the reference.
        let text = text.replacing("/etc/letsencrypt/live/coap.example.org/fullchain.pem", with: "fullchain.pem")
            .replacing("/var/log/dtlsd", with: folder.path)
        try folder.write("config/dtlsd.toml", text)
        return try ConfigurationReader.read(
            file: "\(folder.path)/config/dtlsd.toml",
            environment: ["CREDENTIALS_DIRECTORY": "\(folder.path)/credentials"])
    }

    /// Activates the settings that `choose` accepts: lines that start with "#" and no space.
    private static func switchingOn(_ text: String, where choose: (String) -> Bool) -> String {
        text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            let isSetting = line.hasPrefix("#") && line.dropFirst().first.map { $0 != " " } == true
            let setting = String(line.dropFirst())
            // An OpenSSL without raw public keys refuses these.
            let isPossible =
                RawPublicKeys.missing == nil
                || !["raw_public_key", "client_public_keys", "server_public_keys"].contains { setting.hasPrefix($0) }
            return isSetting && isPossible && choose(setting) ? setting : String(line)
        }.joined(separator: "\n")
    }

    @Test func `the reference as shipped is an echo service on port 4433`() throws {
        let configuration = try read(Self.reference(), in: preparedFolder())
        #expect(configuration.services.map(\.name) == ["echo"])
        let service = try #require(configuration.services.first)
        #expect(service.handler == .echo)
        #expect(service.listen.map(\.description) == ["0.0.0.0:4433", "[::]:4433"])
        #expect(service.socket == SocketOptions(fragmentation: false))
    }

    @Test func `the reference with every setting activated is valid`() throws {
        let text = Self.switchingOn(try Self.reference()) { _ in true }
        let configuration = try read(text, in: preparedFolder())
        #expect(configuration.services.map(\.name) == ["echo", "coap", "time", "syslog"])
        #expect(configuration.clients.map(\.name) == ["coap-out", "coap-psk"])
        #expect(configuration.clients.last?.tls.presharedKey?.identity == Array("sensor-7".utf8))
        let client = try #require(configuration.clients.first)
        #expect(client.serverName == "coap.example.org" && client.socket.sendBuffer == 262_144)
        #expect(client.tls.certificate != nil && client.tls.rejectUnauthorized)
        #expect(configuration.cookieSecret != nil)
        #expect(configuration.connectionIDs.keys.map(\.rotation) == [0])
        #expect(client.connectionIDLength == 0)
        let echo = try #require(configuration.services.first)
        #expect(echo.tls.certifiedKeys.first?.passphrase != nil && echo.tls.clients.authorities != nil)
        #expect(echo.tls.ciphers != nil && echo.tls.certifiedKeys.first?.staple != nil)
        #expect(echo.tls.names.map(\.name) == ["*.example.org"] && echo.tls.applicationProtocols == ["coap"])
        #expect(echo.tls.clients.mode == .required && echo.tls.clients.revocationLists.count == 1)
        #expect(echo.tls.clients.allow.count == 3 && echo.tls.clients.deny.count == 1)
        #expect(echo.socket.interface == "lo" && echo.socket.timeToLive == 64)
        #expect(echo.connectionIDLength == 17)
        #expect(echo.limits.connections == 1_000 && echo.limits.traffic.largestDatagram == 1_200)
        #expect(configuration.limits.connections == 100_000 && configuration.limits.handshakes == 10_000)
        #expect(
            configuration.services[1].handler
                == .forward(
                    ForwardConfiguration(
                        backends: try .of(.udp("127.0.0.1:5683")),
                        rules: [
                            ForwardRule(
                                name: "plant-7",
                                conditions: try .of(
                                    .serverName([
                                        try BytePattern("plant-7.example.org"),
                                        try BytePattern("*.plant-7.example.org"),
                                    ]),
                                    .applicationProtocol([try BytePattern("coap")]),
                                    .identity([try BytePattern("plant-7-*")]),
                                    .certificateName([try PeerRule("dns:*.plant-7.example.org")]),
                                    .publicKey([try BytePattern("plant-7-*")]),
                                    .label([try BytePattern("plant-7")])),
                                backends: try .of(.udp("127.0.0.1:5687"), .udp("127.0.0.1:5688")))
                        ],
                        sources: try ["127.0.0.2", "127.0.0.3"].map {
                            LocalSource(address: try #require(SocketAddress(host: $0, port: 0)))
                        }, interface: "lo",
                        healthCheck: HealthCheck(
                            datagram: [0x40, 0, 0, 1], expected: BytePattern(pieces: [[0x70, 0], []])))))
    }

    /// Each setting before the first inactive table can be activated alone, or with the keys that it needs.
    @Test func `each setting of the active tables is valid alone`() throws {
        let folder = try preparedFolder()
        let text = try Self.services()
        let active = try #require(text.firstRange(of: "#[service.echo.socket]"))
        let settings = text[..<active.lowerBound].split(separator: "\n").filter { line in
            line.hasPrefix("#") && line.dropFirst().first.map { $0 != " " } == true
        }
        #expect(settings.count > 10)
        for setting in settings {
            let needsAuthorities = ["client_certificate", "crl", "crl_check", "client_purpose"].contains {
                setting.hasPrefix("#\($0) ")
            }
            let needsLists = setting.hasPrefix("#crl_check ")
            let needsUser = setting == "#group = \"daemon\""
            let changed = Self.switchingOn(text) {
                "#\($0)" == setting || needsAuthorities && $0.hasPrefix("ca = ") || needsLists && $0.hasPrefix("crl = ")
                    || needsUser && $0.hasPrefix("user = ")
            }
            #expect(throws: Never.self, "\(setting)") { _ = try read(changed, in: folder) }
        }
    }

    /// The reference without the clients, whose settings look like those of services.
    private static func services() throws -> String {
        let whole = try reference()
        return String(whole[..<(try #require(whole.firstRange(of: "#[client.")).lowerBound)])
    }

    @Test func `the defaults that the reference shows are the defaults`() throws {
        let text = try Self.services()
        let defaults = [
            "workers", "stop_timeout", "log_level", "handshake_timeout", "idle_timeout", "park_after",
            "minimum_version", "mtu",
            "unknown_name", "by_address", "policy", "renegotiation", "[service.echo.socket]", "ipv6_only", "rotation",
            "lifetime", "resumption",
            "[service.echo.limits]", "ipv4_prefix", "ipv6_prefix",
        ]
        let changed = Self.switchingOn(text) { setting in
            defaults.contains { setting == $0 || setting.hasPrefix($0 + " =") }
        }
        #expect(changed.utf8.count == text.utf8.count - defaults.count)
        let folder = try preparedFolder()
        #expect(try read(changed, in: folder) == read(text, in: folder))
    }

    /// Without the keys whose default the reference shows, the client is the same.
    @Test func `the defaults that the reference shows for a client are the defaults`() throws {
        let text = Self.switchingOn(try Self.reference()) { _ in true }
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        let client = try #require(lines.firstIndex { $0.hasPrefix("[client.") })
        let defaults = [
            "verify = true", "minimum_version = \"1.2\"", "mtu = 1400", "handshake_timeout = 60", "idle_timeout = 300",
            "answer_timeout = 60", "resumption = true",
        ]
        let rest = lines[client...].filter { line in !defaults.contains { $0 == line } }
        #expect(rest.count == lines[client...].count - defaults.count)
        let folder = try preparedFolder()
        let bare = (lines[..<client] + rest).joined(separator: "\n")
        #expect(try read(bare, in: folder).clients == read(text, in: folder).clients)
    }

    /// All sections, as the manual will list them.
    private static let sections = MainSection.schema.description(of: MainSection())

    /// The lines of the reference by section, with the manual's name of each section (`service.NAME.socket`). They
    /// include settings that are commented out, and the explanations above the keys.
    private static func documentation() throws -> [String: [String]] {
        var found: [String: [String]] = [:]
        var section = ""
        for line in try reference().split(separator: "\n", omittingEmptySubsequences: false) {
            let setting = line.hasPrefix("#") && !line.hasPrefix("# ") ? line.dropFirst() : line
            if setting.hasPrefix("[") {
                let path = setting.dropFirst().prefix { $0 != "]" }
                // A quoted name contains dots.
                var parts = path.replacing("\"*.example.org\"", with: "\"HOST\"").split(separator: ".").map(String.init)
                if parts.count > 1 { parts[1] = "NAME" }
                if parts.count > 4, parts[3] == "rule" { parts[4] = "RULE" }
                section = parts.joined(separator: ".")
            }
            found[section, default: []].append(String(line))
        }
        return found
    }

    @Test func `every key is documented in its section`() throws {
        let documentation = try Self.documentation()
        for section in Self.sections {
            let name = section.path.joined(separator: ".")
            let lines = try #require(documentation[name], "\(section.title) is not in the reference")
            for key in section.keys where !key.isTable {
                // If two tables have the same keys, the reference explains them in one of the two.
                let place = Self.sameKeys[name].map { documentation[$0] ?? [] } ?? lines
                let position = try #require(
                    place.firstIndex { Self.isSetting(key.name, $0) },
                    "\(key.name) of \(section.title) is not in the reference")
                // The comment above the key, or above its group of keys, explains it and its default.
                let above = place[..<position].reversed().drop { $0.hasPrefix("#") && !$0.hasPrefix("# ") }
                let words = above.prefix { $0.hasPrefix("#") }.reversed().joined(separator: " ")
                #expect(
                    words.contains("Default: ") || words.contains("no default"),
                    "\(key.name) of \(section.title) has no default in the reference")
            }
        }
    }

    @Test func `the reference has no other keys`() throws {
        let known = Dictionary(grouping: Self.sections) { $0.path.joined(separator: ".") }
        for (name, lines) in try Self.documentation() {
            let section = try #require(known[name]?.first, "[\(name)] is no section")
            for line in lines {
                let setting = line.hasPrefix("#") && !line.hasPrefix("# ") ? line.dropFirst() : line[...]
                guard !setting.hasPrefix("#"), let end = setting.firstRange(of: " = ") else { continue }
                let key = setting[..<end.lowerBound]
                #expect(section.keys.contains { $0.name == key }, "\(key) in [\(name)]")
            }
        }
    }

    /// The sections whose keys are explained in another section.
    private static let sameKeys = [
        "limits": "service.NAME.limits", "client.NAME.socket": "service.NAME.socket",
        "service.NAME.name.\"HOST\"": "service.NAME",
    ]

    private static func isSetting(_ key: String, _ line: String) -> Bool {
        line.hasPrefix("\(key) = ") || line.hasPrefix("#\(key) = ")
    }

    /// The manual is derived from the sections too.
    @Test func `every key has a type and a description for the manual`() {
        #expect(Self.sections.map(\.title).contains("[service.NAME.socket]") && Self.sections.count == 21)
        for section in Self.sections {
            #expect(Set(section.keys.map(\.name)).count == section.keys.count, "a key twice in \(section.title)")
            for key in section.keys {
                #expect(!key.type.isEmpty && key.documentation.hasSuffix("."), "\(key.name)")
                #expect(!key.isTable || key.defaultText == nil, "\(key.name)")
            }
        }
    }

    /// A default in the manual that is a value is the one that the reference shows in the same section.
    @Test func `the manual's defaults are those of the reference`() throws {
        let documentation = try Self.documentation()
        var compared = 0
        for section in Self.sections {
            let name = section.path.joined(separator: ".")
            for key in section.keys {
                guard Self.sameKeys[name] == nil, let text = key.defaultText,
                    text.first?.isNumber == true || ["true", "false"].contains(text),
                    let lines = documentation[name],
                    let position = lines.firstIndex(where: { Self.isSetting(key.name, $0) })
                else { continue }
                let above = lines[..<position].reversed().prefix { $0.hasPrefix("# ") }
                let said = try #require(above.first { $0.hasPrefix("# Default: ") }, "\(key.name) of \(section.title)")
                let words = said.dropFirst("# Default: ".count)
                // "1400" and "1400 in [limits], 0 in a service"
                #expect(
                    words.split(whereSeparator: { " ,;()".contains($0) }).contains(Substring(text)),
                    "\(key.name) of \(section.title): \(text)")
                compared += 1
            }
        }
        #expect(compared > 30)
    }

    /// For any contents of the file, the reader returns a configuration, or problems that name the file.
    @Test func `any mutation of the reference is either read or refused`() throws {
        let folder = try preparedFolder()
        // With a path for the host: a host mutated into a name would be asked of the network.
        let text = try Self.reference().replacing("udp:127.0.0.1:5683", with: "unix:/run/coap.sock")
        // Settings alone: most of what would hit a comment would be a comment still.
        let settings = Self.switchingOn(text) { _ in true }.split(separator: "\n").filter { !$0.hasPrefix("#") }
        let original = Array(settings.joined(separator: "\n").utf8)
        var random = SeededGenerator(seed: 2_026)
        let snippets = [
            "[", "]", "\"", "'''", "\"\"\"", "=", "\n", "#", "{", "}", ".", ",", "\\u0000", "\\", "nan", "-inf",
            "1e400",
            "0x7fffffffffffffff", "-9223372036854775808", "\u{feff}", "[[service.echo]]\n", "[service.echo]\n", "\0",
            "ä",
            "1979-05-27T07:32:00Z", "true", "= = =", "\r", "1979-05-27T", "\u{c}", "\u{a0}", "\u{2028}", "\n[", "= [",
        ].map { Array($0.utf8) }
        var refused = 0
        for _ in 0..<400 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let position = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<5, using: &random) {
                case 0: bytes[position] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.insert(contentsOf: snippets.randomElement(using: &random) ?? [], at: position)
                case 2: bytes.removeSubrange(position..<min(bytes.count, position + 5))
                case 3: bytes.removeSubrange(position...)
                default: bytes.insert(contentsOf: bytes[position..<min(bytes.count, position + 40)], at: position)
                }
                if bytes.isEmpty { bytes = [0] }
            }
            try folder.write("config/dtlsd.toml", Data(bytes))
            let file = "\(folder.path)/config/dtlsd.toml"
            do {
                _ = try ConfigurationReader.read(
                    file: file, environment: ["CREDENTIALS_DIRECTORY": "\(folder.path)/credentials"])
            } catch {
                refused += 1
                #expect(!error.problems.isEmpty)
                #expect(error.problems.allSatisfy { $0.file == file && !$0.message.isEmpty })
            }
        }
        #expect(refused > 0)
    }
}
