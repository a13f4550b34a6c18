import DTLSEngine
import LinuxSystem

/// The keys of `[client.NAME]`.
enum ClientKey: String, CaseIterable {
    case listen, connect
    case serverName = "server_name"
    case verify
    case authorities = "ca"
    case certificate
    case privateKey = "private_key"
    case passphraseFile = "passphrase_file"
    case ciphers
    case minimumVersion = "minimum_version"
    case maximumVersion = "maximum_version"
    case mtu
    case handshakeTimeout = "handshake_timeout"
    case idleTimeout = "idle_timeout"
    case resumption, socket
}

/// Reads one `[client.NAME]` table with the tables in it. What is wrong is reported, and a stand-in takes its place, so
/// that the rest is checked too.
struct ClientReader {
    struct Result {
        var configuration: ClientConfiguration
        var listeners: [ConfiguredListener]
    }

    private let table: TableReader<ClientKey>
    private let name: String
    /// The server's, until one is read: an address that stands for none (RFC 5737).
    private static let noServer = SocketAddress.anyAddress(.ipv4, port: 9)

    init(_ table: TableReader<ClientKey>, name: String) {
        self.table = table
        self.name = name
    }

    func read() -> Result {
        TableName.check(name, at: table.path, of: "client", table.reading)
        let socketTable = table.table(.socket, SocketKey.self)
        let socket = SocketOptionsReader.read(socketTable)
        let listeners = ConfiguredListener.read(table, .listen, socket)
        let server = server()
        if let server { checkLoop(to: server.address, listeners) }
        let families = listeners.map(\.address.family) + [server?.address.family]
        if socket.timeToLive == 0, families.contains(.ipv4) {
            // ip(7): IP_TTL takes 1 to 255, where IPV6_UNICAST_HOPS takes 0 too.
            socketTable?.report(
                .timeToLive, "expected 1 to 255 for a client with IPv4 addresses, found 0, which Linux refuses there")
        }
        let configuration = ClientConfiguration(
            name: name, listen: listeners.map(\.address), server: server?.address ?? Self.noServer,
            serverName: serverName() ?? server?.name ?? "localhost", tls: ClientCredentialsReader(table: table).read(),
            handshakeTimeout: table.duration(.handshakeTimeout, seconds: 2...120) ?? 60_000, idleTimeout: idleTimeout(),
            mtu: table.integer(.mtu, 256...9_000, "an integer of bytes") ?? 1_400,
            resumes: table.bool(.resumption) ?? true, socket: socket)
        return Result(configuration: configuration, listeners: listeners)
    }

    /// - Returns: the address, and what the text called it.
    private func server() -> (address: SocketAddress, name: String)? {
        let expected = "\"HOST:PORT\" or \"[IPv6 ADDRESS]:PORT\""
        table.require(.connect, expected)
        guard let text = table.string(.connect, expected) else { return nil }
        guard let named = HostAndPort(text) else {
            table.report(
                .connect,
                "expected \(expected), the port 1 to 65535, found the string \(ConfigurationReading.quoted(text))")
            return nil
        }
        do throws(HostAndPort.Unresolved) {
            let address = try named.resolve()
            // A certificate's address has no interface.
            return (address, String(named.host.prefix { $0 != "%" }))
        } catch {
            table.report(.connect, error.message)
            return nil
        }
    }

    /// What it sends to the server would come in again, each time as a new sender's.
    private func checkLoop(to server: SocketAddress, _ listeners: [ConfiguredListener]) {
        for listener in listeners where listener.address.port == server.port {
            let isOwn = listener.address == server || listener.address.isWildcard && server.isLoopback
            guard isOwn else { continue }
            table.report(.connect, "\(server) is where this client listens; expected the address of a DTLS server")
        }
    }

    private func serverName() -> String? {
        let expected = "a host name or an IP address, without a port"
        guard let name = table.string(.serverName, expected) else { return nil }
        let isAddress = SocketAddress(host: name, port: 0) != nil
        // Of host names, with the underscore that some have.
        let isName =
            name.utf8.count <= 253 && name.utf8.allSatisfy { $0.isLetterOrDigit || [0x2d, 0x2e, 0x5f].contains($0) }
        guard isAddress || isName else {
            table.report(.serverName, "expected \(expected), found the string \(ConfigurationReading.quoted(name))")
            return nil
        }
        return name
    }

    /// What the acceptor remembers of a sender must not outlive the sender's connection (`RecentNewcomers.lifetime`).
    private func idleTimeout() -> Int {
        guard let timeout = table.duration(.idleTimeout, seconds: 0...86_400) else { return 300_000 }
        if timeout > 0, timeout < 2_000 {
            table.report(
                .idleTimeout, "expected a number of seconds, 2 to 86400, or 0 for no limit, found less than 2")
        }
        return timeout
    }
}

/// Reads what a client trusts and proves itself with, and tries it out: makes the engine's context of it once.
struct ClientCredentialsReader {
    let table: TableReader<ClientKey>

    private enum Expected {
        static let authorities = "the path of a PEM file with the CA certificates that the server is checked against"
        static let certificate = "the path of a PEM file with the client's certificate and the chain above it"
        static let privateKey = "the path of a PEM file with the certificate's private key"
        static let passphrase = "the path of a file with the private key's passphrase in its first line"
        static let ciphers = "an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
    }

    func read() -> ClientSettings {
        let verifies = table.bool(.verify) ?? true
        if !verifies {
            table.reading.warn(
                table.path(.verify),
                "false: whoever answers in the server's place is taken for it, and reads and writes everything")
        }
        let certificate = table.pem(.certificate, Expected.certificate)
        let privateKey = table.pem(.privateKey, Expected.privateKey, secrecy: .ownerAndGroup)
        let passphrase = table.secretLine(.passphraseFile, Expected.passphrase)
        if table.has(.certificate) { table.require(.privateKey, Expected.privateKey) }
        if table.has(.privateKey) { table.require(.certificate, Expected.certificate) }
        var settings = ClientSettings(
            rejectUnauthorized: verifies, certificateAuthorities: verifies ? authorities() : nil,
            passphrase: passphrase, ciphers: table.string(.ciphers, Expected.ciphers),
            minimumVersion: version(.minimumVersion) ?? .dtls12, maximumVersion: version(.maximumVersion))
        if !verifies, table.has(.authorities) {
            table.report(.authorities, "it has no effect with verify = false; expected only one of the two")
        }
        if certificate != nil, privateKey != nil, passphrase != nil || !table.has(.passphraseFile) {
            settings.certificate = certificate
            settings.privateKey = privateKey
        }
        tryOut(settings)
        return settings
    }

    /// Those of the file, or the system's: workers open no files, so what the system trusts goes to them as text.
    private func authorities() -> String? {
        if table.has(.authorities) { return table.pem(.authorities, Expected.authorities) }
        let named = table.reading.environment["SSL_CERT_FILE"] ?? ""
        let file = named.isEmpty ? SystemAuthorities.file : named
        do throws(UnreadableFile) {
            return String(decoding: try FileContents(of: file).bytes, as: UTF8.self)
        } catch {
            table.report(
                .authorities,
                "missing, and the system's CA certificates are not there: \(error.message); expected"
                    + " \(Expected.authorities), or the system's (Debian's package ca-certificates has them)")
            return nil
        }
    }

    private func version(_ key: ClientKey) -> ProtocolVersion? {
        table.choice(key, of: ProtocolVersion.allCases.map(\.name), ProtocolVersion.init(name:))
    }

    /// The engine stops at the first fault; what can be left out is left out then, so that the next one is found too.
    private func tryOut(_ settings: ClientSettings) {
        var settings = settings
        // Four items can be left out, so the fifth attempt is the last.
        for _ in 0..<5 {
            do throws(CredentialsError) {
                _ = try ClientContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .authorities: settings.certificateAuthorities = nil
                case .version: (settings.minimumVersion, settings.maximumVersion) = (.dtls12, nil)
                case .context: return
                default: settings.certificate = nil
                }
            }
        }
    }

    /// What is wrong with a file that a key names.
    private func report(_ key: ClientKey, _ reason: String, _ expected: String) {
        let name = table.has(key) ? table.named(key) : "the system's"
        table.report(key, "\(name): \(reason); expected \(expected)")
    }

    private func report(_ error: CredentialsError) {
        switch error {
        case .certificate(let reason): report(.certificate, reason, Expected.certificate)
        case .privateKey(let reason): report(.privateKey, reason, Expected.privateKey)
        case .passphrase(let reason):
            let key = table.has(.passphraseFile) ? ClientKey.passphraseFile : .privateKey
            report(key, reason, key == .passphraseFile ? Expected.passphrase : "a passphrase_file beside it")
        case .mismatch(let reason):
            report(
                .privateKey, reason, "the key that the first certificate in \(table.named(.certificate)) was made for")
        case .authorities(let reason): report(.authorities, reason, Expected.authorities)
        case .ciphers(let reason): table.report(.ciphers, "\(reason); expected \(Expected.ciphers)")
        case .version(let reason):
            let key = table.has(.maximumVersion) ? ClientKey.maximumVersion : .minimumVersion
            table.report(key, "\(reason); expected a version from the minimum on that this OpenSSL knows")
        default: table.reading.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
