import DTLSEngine
import DTLSTransport
import LinuxSystem

/// One `[client.NAME]` table: plain datagrams in on this machine, one DTLS connection to a server for each local
/// sender.
struct ClientConfiguration: Sendable, Equatable {
    var name: String
    /// Where the plain datagrams come in; empty when systemd passes the sockets in.
    var listen: [SocketAddress]
    var server: SocketAddress
    /// Asked for as SNI if it is a host name, and the name or IP address that the server's certificate must have.
    var serverName: String
    /// Trust, certificate, ciphers, versions: what the engine's ClientContext is made of.
    var tls: ClientSettings
    /// Milliseconds, 2,000 to 120,000.
    var handshakeTimeout: Int
    /// Milliseconds without a datagram in either direction after which a sender's connection is closed; 0: never.
    var idleTimeout: Int
    /// Milliseconds in which datagrams are sent and nothing comes back after which a connection is made anew; 0: never.
    var answerTimeout: Int
    /// Largest IP packet of a handshake flight, bytes, 256 to 9,000.
    var mtu: Int
    /// Whether a new connection takes up the session of an earlier one.
    var resumes: Bool
    var socket: SocketOptions

    /// Of the sockets to the local senders: what is plain UDP may be fragmented.
    var localSocket: SocketOptions {
        var options = socket
        options.fragmentation = nil
        return options
    }
}

/// A table that listens: a service or a client.
struct ListeningTable {
    enum Kind: String, Hashable {
        /// DTLS comes in.
        case service
        /// Plain datagrams come in.
        case client
    }

    var kind: Kind
    var name: String
    var listen: [SocketAddress]
    var socket: SocketOptions

    /// As TOML has it: `client.coap`.
    var path: String { "\(kind.rawValue).\(name)" }
}

extension Configuration {
    /// Services, then clients: the numbers of hand-overs count in this list.
    var listeningTables: [ListeningTable] {
        services.map { ListeningTable(kind: .service, name: $0.name, listen: $0.listen, socket: $0.socket) }
            + clients.map { ListeningTable(kind: .client, name: $0.name, listen: $0.listen, socket: $0.localSocket) }
    }
}

// As the bytes that go from one process to another.

extension ClientConfiguration {
    func write(to writer: inout ByteWriter) {
        writer.string(name)
        writer.list(listen) { $0.address($1) }
        writer.address(server)
        writer.string(serverName)
        tls.write(to: &writer)
        writer.integer(handshakeTimeout)
        writer.integer(idleTimeout)
        writer.integer(answerTimeout)
        writer.integer(mtu)
        writer.bool(resumes)
        socket.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        name = try reader.string()
        listen = try reader.list { (reader) throws(MalformedBytes) in try reader.address() }
        server = try reader.address()
        serverName = try reader.string()
        tls = try ClientSettings(from: &reader)
        handshakeTimeout = try reader.integer()
        idleTimeout = try reader.integer()
        answerTimeout = try reader.integer()
        mtu = try reader.integer()
        resumes = try reader.bool()
        socket = try SocketOptions(from: &reader)
    }
}

extension ClientSettings {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.bool(rejectUnauthorized)
        writer.optional(certificateAuthorities) { $0.string($1) }
        writer.optional(certificate) { $0.string($1) }
        writer.optional(privateKey) { $0.string($1) }
        writer.optional(passphrase) { $0.string($1) }
        writer.optional(presharedKey) { writer, key in
            writer.data(key.identity)
            writer.data(key.key)
        }
        writer.optional(ciphers) { $0.string($1) }
        writer.integer(minimumVersion.rawValue)
        writer.optional(maximumVersion) { $0.integer($1.rawValue) }
        writer.list(applicationProtocols) { $0.string($1) }
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            rejectUnauthorized: try reader.bool(), certificateAuthorities: try reader.optionalString(),
            certificate: try reader.optionalString(), privateKey: try reader.optionalString(),
            passphrase: try reader.optionalString(),
            presharedKey: try reader.optional { (reader) throws(MalformedBytes) in
                PresharedKey(identity: try reader.array(), key: try reader.array())
            },
            ciphers: try reader.optionalString(),
            minimumVersion: try Self.version(from: &reader),
            maximumVersion: try reader.optional { (reader) throws(MalformedBytes) in try Self.version(from: &reader) })
        applicationProtocols = try reader.list { (reader) throws(MalformedBytes) in try reader.string() }
    }

    private static func version(from reader: inout ByteReader) throws(MalformedBytes) -> ProtocolVersion {
        guard let version = ProtocolVersion(rawValue: try reader.integer()) else { throw MalformedBytes() }
        return version
    }
}
