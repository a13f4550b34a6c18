import LinuxSystem

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
