import LinuxSystem

/// A table that listens on addresses: a service or a client.
struct ListeningTable {
    enum Kind: String, Hashable {
        /// It receives DTLS.
        case service
        /// It receives plain datagrams.
        case client
    }

    var kind: Kind
    var name: String
    var listen: [SocketAddress]
    var socket: SocketOptions

    /// The name of the table in TOML, such as `client.coap`.
    var path: String { "\(kind.rawValue).\(name)" }
}

extension Configuration {
    /// The services, followed by the clients. A hand-over refers to a table by its index in this list.
    var listeningTables: [ListeningTable] {
        services.map { ListeningTable(kind: .service, name: $0.name, listen: $0.listen, socket: $0.socket) }
            + clients.map { ListeningTable(kind: .client, name: $0.name, listen: $0.listen, socket: $0.localSocket) }
    }
}
