import DTLSTransport

/// The line that `systemctl status` shows, and that ends the log.
struct StatusLine {
    /// Why the last reload failed; `nil` once a reload has succeeded. `systemctl reload` cannot tell its caller: it
    /// only waits for the end of the reload.
    var failedReload: String?

    func text(
        _ totals: WorkerPool.Totals, connections: Int, handshakes: Int, _ counters: Endpoint.Counters,
        listeners: Int, keyLogFile: String?
    ) -> String {
        var refused = counters.refused
        refused.add(totals.refused)
        var parts = [
            "\(connections) connections, \(handshakes) of them in handshake",
            "\(totals.handshakes) handshakes, \(totals.resumed) of them resumed, \(totals.failed) failed",
            "\(counters.hellosAnswered &- counters.unsent) cookies sent"
                + (counters.unsent > 0 ? ", \(counters.unsent) not sent by the kernel" : ""),
            "\(refused.total) refused" + (refused.total > 0 ? " (\(refused.text { $0.key }))" : ""),
        ]
        if totals.dropped.total > 0 {
            parts.append("\(totals.dropped.total) datagrams dropped (\(totals.dropped.text { $0.key }))")
        }
        parts.append("\(counters.unrelated &+ counters.malformed) datagrams of no connection")
        parts.append("\(listeners) listeners")
        if let keyLogFile { parts.append("SECRETS ARE WRITTEN TO \(keyLogFile)") }
        if let failedReload { parts.insert("the last reload failed: \(failedReload)", at: 0) }
        return parts.joined(separator: "; ")
    }
}

extension Tally {
    /// `3 denied, 2 connections_per_prefix`; empty when nothing was counted.
    fileprivate func text(_ key: (Kind) -> String) -> String {
        Kind.allCases.filter { self[$0] > 0 }.map { "\(self[$0]) \(key($0))" }.joined(separator: ", ")
    }
}
