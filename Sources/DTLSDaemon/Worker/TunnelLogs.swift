import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

// What a tunnel tells the log, in the operator's words.

extension ClientTunnel {
    /// What every entry about a tunnel has.
    var fields: Logger.Metadata {
        [
            "SERVICE": "\(client.configuration.name)", "PEER": "\(key.peer)",
            "REMOTE": "\(client.configuration.server)",
        ]
    }

    func logOpened(_ connection: Connection) {
        worker.logs.course(.connectionOpened, "connection to the server opened", openedFields(connection))
    }

    private func openedFields(_ connection: Connection) -> Logger.Metadata {
        let engine = connection.engine
        var fields = fields
        fields["LOCAL"] = "\(connection.local)"
        fields["VERSION"] = "\(engine.version)"
        fields["CIPHER"] = "\(engine.cipher)"
        fields["RESUMED"] = engine.isResumed ? "yes" : "no"
        fields["HANDSHAKE_USEC"] = "\(connection.handshakeDuration / 1_000)"
        if let name = engine.applicationProtocol { fields["ALPN"] = "\(name)" }
        // A key's identity is the client's own.
        if let server = engine.peerName?.commonName { fields["SERVER"] = "\(server)" }
        return fields
    }

    func logClosed(_ connection: Connection, _ reason: String) {
        worker.logs.course(
            .connectionClosed, "connection to the server closed: \(reason)", closedFields(connection, reason))
    }

    private func closedFields(_ connection: Connection, _ reason: String) -> Logger.Metadata {
        var fields = fields
        fields["REASON"] = "\(reason)"
        fields["BYTES_IN"] = "\(connection.counters.bytesIn)"
        fields["BYTES_OUT"] = "\(connection.counters.bytesOut)"
        fields["DATAGRAMS_IN"] = "\(connection.counters.messagesIn)"
        fields["DATAGRAMS_OUT"] = "\(connection.counters.messagesOut)"
        let lost = [
            ("DATAGRAMS_UNSENT", connection.counters.unsent), ("DATAGRAMS_UNCONNECTED", counters.unconnected),
            ("DATAGRAMS_UNSUITED", counters.unsuited), ("DATAGRAMS_UNDELIVERED", counters.undelivered),
        ]
        for (name, count) in lost where count > 0 { fields[name] = "\(count)" }
        return fields
    }

    /// The tunnel ends with datagrams that never had a connection.
    func logForsaken(_ ending: Connection.Ending) {
        worker.logs.limited(
            .datagramRefused,
            "\(waiting.count) datagrams that waited for a connection to the server \(client.configuration.server) were"
                + " dropped: \(ending)",
            fields: fields.merging(["DATAGRAMS_UNCONNECTED": "\(counters.unconnected)"]) { $1 })
    }

    func logFailed(_ reason: String, _ verification: String?, nextTryIn pause: Duration) {
        let configuration = client.configuration
        let next = "\(waiting.count) datagrams wait; the next try is in \(pause.milliseconds) ms"
        if let verification {
            worker.logs.limited(
                .serverUnverified,
                "the server \(configuration.server) cannot be verified: \(verification); expected a certificate for"
                    + " \"\(configuration.serverName)\", from an authority that the client trusts; \(next)",
                fields: fields)
        } else {
            worker.logs.limited(
                .serverUnreachable, "no connection to the server \(configuration.server): \(reason); \(next)",
                fields: fields)
        }
    }
}
