import DTLSTransport

/// The line that the service manager shows, and that ends the log.
struct StatusLine {
    /// Why the last reload failed; `nil` once one has succeeded. `systemctl reload` cannot be told: all that it waits
    /// for is the end of the reload.
    var failedReload: String?

    func text(
        _ totals: WorkerPool.Totals, connections: Int, handshakes: Int, _ counters: DTLSListener.Counters,
        listeners: Int, keyLogFile: String?
    ) -> String {
        var refused = counters.refused
        refused.add(totals.refused)
        var parts = [
            "\(connections) connections, \(handshakes) of them in handshake",
            "\(totals.handshakes) handshakes, \(totals.resumed) of them resumed, \(totals.failed) failed",
            "\(counters.hellosAnswered &- counters.unsent) cookies sent"
                + (counters.unsent > 0 ? ", \(counters.unsent) not taken by the kernel" : ""),
            "\(refused.total) refused" + (refused.total > 0 ? " (\(refused.text))" : ""),
        ]
        if totals.dropped.total > 0 {
            parts.append("\(totals.dropped.total) datagrams dropped (\(totals.dropped.text))")
        }
        parts.append("\(counters.strays &+ counters.malformed) stray datagrams")
        parts.append("\(listeners) listeners")
        if let keyLogFile { parts.append("SECRETS ARE WRITTEN TO \(keyLogFile)") }
        if let failedReload { parts.insert("the last reload failed: \(failedReload)", at: 0) }
        return parts.joined(separator: "; ")
    }
}
