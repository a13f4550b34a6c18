/// Names of services and clients.
enum TableName {
    /// Reports a name that logs and systemd could not show.
    static func check(_ name: String, at path: [String], of kind: String, _ reading: ReadContext) {
        let isGood = name.utf8.allSatisfy { $0.isLetterOrDigit || [0x2d, 0x5f, 0x2e].contains($0) }
        if name.isEmpty || !isGood {
            reading.report(
                path, "not a name for a \(kind); expected letters of ASCII, digits and the characters - _ .")
        }
    }

    /// Logs and systemd's sockets call a service or a client by its name alone.
    static func reportCollisions(
        clients: [(name: String, table: TableReader<ClientKey>)],
        services: [(name: String, table: TableReader<ServiceKey>)], _ reading: ReadContext
    ) {
        for client in clients {
            guard let service = services.first(where: { $0.name == client.name }) else { continue }
            let line = reading.line(of: service.table.path).map { " (line \($0))" } ?? ""
            reading.report(client.table.path, "a service has this name already\(line); expected another")
        }
    }
}
