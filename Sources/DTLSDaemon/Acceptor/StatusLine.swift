import DTLSTransport
import Primitives

extension Acceptor {
    /// The line that `systemctl status` shows, and that ends the log.
    var status: String {
        let listened = listeners.counters
        let counted = counters.totals([.handshakes, .refusals, .datagramsDropped, .addressesUnconfirmed])
        var refused = listened.refused
        for refusal in Refusal.allCases { refused.count(refusal, counted[.refusals, refusal.rawValue]) }
        let resumed = counted[.handshakes, HandshakeResult.resumed.rawValue]
        let succeeded = counted[.handshakes, HandshakeResult.full.rawValue] &+ resumed
        var parts: [String] = []
        // `systemctl reload` knows that a reload has failed, and this is where the reason is shown.
        if let reason = lifecycle.reloadFailure { parts.append("the last reload failed: \(reason)") }
        let parked = workers.connections.countWithoutSockets
        parts.append(
            "\(Primitives.counted(workers.connections.count, "connection")), \(dispatcher.handshakes) of them in handshake"
                + (parked > 0 ? ", \(parked) without a socket" : ""))
        parts.append(
            "\(Primitives.counted(succeeded, "handshake")), \(resumed) of them resumed, \(counted.total(.handshakes) &- succeeded) failed"
        )
        parts.append(
            Primitives.counted(listened.hellosAnswered &- listened.unsent, "cookie") + " sent"
                + (listened.unsent > 0 ? ", \(listened.unsent) not sent by the kernel" : ""))
        parts.append("\(refused.total) refused" + (refused.total > 0 ? " (\(refused.text { $0.key }))" : ""))
        parts += dropped(counted)
        parts += dispatcher.addressChanges
        let places = listeners.recordsOfNoConnection.map { "\($0.address): \($0.count)" }.joined(separator: ", ")
        parts.append(
            Primitives.counted(listened.ofNoConnection, "record") + " of no connection"
                + (places.isEmpty ? "" : " (\(places))"))
        parts.append(Primitives.counted(listened.unrelated &+ listened.malformed, "other datagram") + " dropped")
        parts.append(Primitives.counted(listeners.count, "listener"))
        if let file = lifecycle.active?.configuration.keyLogFile { parts.append("SECRETS ARE WRITTEN TO \(file)") }
        return parts.joined(separator: "; ")
    }

    private func dropped(_ counted: CounterValues<TargetCounter>) -> [String] {
        var parts: [String] = []
        var excesses = Tally<TrafficExcess>()
        for excess in TrafficExcess.allCases {
            excesses.count(excess, counted[.datagramsDropped, DropReason(excess).rawValue])
        }
        if excesses.total > 0 {
            parts.append("\(Primitives.counted(excesses.total, "datagram")) dropped (\(excesses.text { $0.key }))")
        }
        let unconfirmed = counted[.addressesUnconfirmed]
        if unconfirmed > 0 {
            parts.append(Primitives.counted(unconfirmed, "address", "addresses") + " that clients did not confirm")
        }
        let forged = counted[.datagramsDropped, DropReason.forged.rawValue]
        if forged > 0 { parts.append(Primitives.counted(forged, "forged record")) }
        return parts
    }
}

extension Tally {
    /// `3 denied, 2 connections_per_prefix`; empty when nothing was counted.
    fileprivate func text(_ key: (Kind) -> String) -> String {
        Kind.allCases.filter { self[$0] > 0 }.map { "\(self[$0]) \(key($0))" }.joined(separator: ", ")
    }
}
