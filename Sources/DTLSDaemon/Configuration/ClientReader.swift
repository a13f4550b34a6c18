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
    case applicationProtocols = "alpn"
    case mtu
    case handshakeTimeout = "handshake_timeout"
    case idleTimeout = "idle_timeout"
    case answerTimeout = "answer_timeout"
    case resumption, socket
    case presharedKey = "psk"
}

/// The keys of `[client.NAME.psk]`.
enum ClientPresharedKeyKey: String, CaseIterable {
    case file, identity
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
            handshakeTimeout: table.duration(.handshakeTimeout, seconds: 2...120) ?? .seconds(60),
            idleTimeout: timeout(.idleTimeout, atLeast: 2) ?? .seconds(300),
            answerTimeout: timeout(.answerTimeout, atLeast: 1) ?? .seconds(60),
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
                "expected \(expected), the port 1 to 65535, found the string \(ReadContext.quoted(text))")
            return nil
        }
        do throws(HostAndPort.Unresolved) {
            let address = try named.resolve()
            return (address, named.certificateName)
        } catch {
            table.report(.connect, error.message, isTransient: error.isTransient)
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
        let isAddress = SocketAddress(host: name, port: 0)?.scope == 0
        guard isAddress || NamesReader.isHostName(name) && !name.hasPrefix("*") else {
            table.report(.serverName, "expected \(expected), found the string \(ReadContext.quoted(name))")
            return nil
        }
        return name
    }

    /// A number of seconds, or 0 for no limit. What the acceptor remembers of a sender must not outlive the sender's
    /// connection (`RecentFlows.lifetime`), and a connection not be made anew with every datagram.
    private func timeout(_ key: ClientKey, atLeast least: Int) -> Duration? {
        guard let timeout = table.duration(key, seconds: 0...86_400) else { return nil }
        if timeout > .zero, timeout < .seconds(least) {
            table.report(
                key, "expected a number of seconds, \(least) to 86400, or 0 for no limit, found less than \(least)")
        }
        return timeout
    }
}
