import DTLSKit
import Primitives

/// Who a server is and what was agreed on with it, for people.
struct ServerReport {
    let destination: Destination
    let address: DtlsAddress
    let agreement: DtlsAgreement
    let certificate: DtlsCertificate?
    let connectionIDs: (own: [UInt8], peer: [UInt8])?
    let checksReturnRoutability: Bool
    let roundTrips: [DtlsRoundTrip]
    let isVerified: Bool
    /// Whether a session was offered.
    let offeredSession: Bool

    init?(_ connection: DtlsConnection, _ destination: Destination, _ option: DtlsClientOption) {
        guard let agreement = connection.agreement else { return nil }
        self.destination = destination
        self.agreement = agreement
        address = connection.remote
        certificate = connection.serverCertificate
        connectionIDs = connection.connectionIDs
        checksReturnRoutability = connection.checksReturnRoutability
        roundTrips = connection.roundTrips
        isVerified = option.rejectUnauthorized
        offeredSession = option.session != nil
    }

    /// From the first hello to the last answer; each flight begins when the answer to the one before is there.
    var handshakeDuration: Duration { roundTrips.reduce(.zero) { $0 + ($1.duration ?? .zero) } }
    var retransmissions: Int { roundTrips.reduce(0) { $0 + $1.retransmissions } }

    func text(now: Int64) -> String {
        var lines = ["Connected to \(destination.description) at \(address)"]
        func add(_ title: String, _ text: String) {
            lines.append("  \(title)\(String(repeating: " ", count: max(1, 15 - title.count)))\(text)")
        }
        var suite = "\(agreement.version), \(agreement.cipher)"
        if let group = agreement.group { suite += ", group \(group)" }
        add("protocol", suite)
        if let name = agreement.applicationProtocol { add("application", TerminalText.printable(name)) }
        if let identity = agreement.presharedKeyIdentity {
            add("identity", "\(Printable.quoted(identity)) (pre-shared key)")
        }
        if let certificate { describe(certificate, now: now, add) }
        add(
            "session",
            agreement.isResumed ? "resumed" : offeredSession ? "new: the server has not resumed the old one" : "new")
        add("connection ID", connectionIDText)
        add("round trips", roundTripText)
        return lines.joined(separator: "\n") + "\n"
    }

    private func describe(_ certificate: DtlsCertificate, now: Int64, _ add: (String, String) -> Void) {
        let state =
            agreement.verificationFault.map { "NOT VERIFIED: \($0)" }
            ?? (isVerified ? "verified" : "valid, with --insecure")
        add("certificate", "\(TerminalText.printable(certificate.subject)) (\(state))")
        let shown = certificate.names.prefix(10).map(TerminalText.printable).joined(separator: ", ")
        let more = certificate.names.count > 10 ? " and \(certificate.names.count - 10) more" : ""
        add("names", shown.isEmpty ? "none" : shown + more)
        add("issuer", TerminalText.printable(certificate.issuer))
        let end = CalendarDate(seconds: certificate.notAfter)
        let days = end.daysLeft(now: now)
        add(
            "valid",
            "\(CalendarDate(seconds: certificate.notBefore)) to \(end), "
                + (days < 0 ? "expired \(counted(-days, "day")) ago" : "\(counted(days, "day")) left"))
        add("key", "\(certificate.key), SHA-256 of the certificate \(certificate.fingerprint)")
    }

    private var connectionIDText: String {
        guard let connectionIDs else { return "none" }
        func text(_ bytes: [UInt8]) -> String { bytes.isEmpty ? "none" : Hexadecimal.text(bytes) }
        return "this side's \(text(connectionIDs.own)), the server's \(text(connectionIDs.peer))"
            + (checksReturnRoutability ? "; both check new addresses (RFC 9853)" : "")
    }

    private var roundTripText: String {
        let parts = roundTrips.map { trip in
            let name =
                switch trip.flight {
                case .hello: "hello"
                case .helloWithCookie: "hello with cookie"
                case .keyExchange: "key exchange"
                }
            let again = trip.retransmissions > 0 ? " (sent again \(trip.retransmissions)×)" : ""
            return "\(name) \(trip.duration?.text ?? "-")\(again)"
        }
        return
            "\(parts.joined(separator: ", ")); together \(handshakeDuration.text), \(retransmissions) retransmissions"
    }
}
