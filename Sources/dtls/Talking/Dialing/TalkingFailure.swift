import ArgumentParser
import DTLSKit
import Glibc

/// Why a command that talks to a server has failed. Each kind has an exit status of its own, for scripts.
enum TalkingFailure: Error, Equatable {
    /// Something on this machine: a file, an option that OpenSSL refuses, no descriptors.
    case local(String)
    case unresolved(host: String, reason: String, isTransient: Bool)
    /// The server has said nothing at all.
    case noAnswer(NoAnswer)
    /// The server has answered, and there is no connection all the same.
    case handshake(String, hint: String?)
    /// The server's certificate was refused.
    case verification(String, hint: String?)
    /// The connection broke after its handshake, or a message could not be sent.
    case transfer(String, hint: String?)
    /// A signal has come before there was a connection.
    case interrupted

    struct NoAnswer: Equatable {
        var address: String
        var waited: Duration
        var retransmissions: Int
        /// The last error of the network; 0 where it has said nothing.
        var errno: Int32
    }

    /// The documented numbers; those from 64 on are sysexits.h's and the shell's.
    var status: Int32 {
        switch self {
        case .local: 1
        case .unresolved: 2
        case .noAnswer: 3
        case .handshake: 4
        case .verification: 5
        case .transfer: 6
        case .interrupted: 130
        }
    }

    /// What has happened, in one line.
    var message: String {
        switch self {
        case .local(let reason): reason
        case .unresolved(let host, let reason, _): "the name \(host) has no address: \(reason)"
        case .noAnswer(let silence):
            switch silence.errno {
            case ECONNREFUSED: "nothing listens at \(silence.address) (\(String(cString: strerror(ECONNREFUSED))))"
            case 0:
                "no answer from \(silence.address) within \(silence.waited.text); the hello was sent"
                    + " \(silence.retransmissions + 1) times"
            case let errno: "\(silence.address) cannot be reached: \(String(cString: strerror(errno)))"
            }
        case .handshake(let reason, _), .verification(let reason, _), .transfer(let reason, _): reason
        case .interrupted: "interrupted"
        }
    }

    /// What to try next.
    var hint: String? {
        switch self {
        case .local, .interrupted: nil
        case .unresolved(_, _, true): "No name server answers. Is the network up? An address works without one."
        case .unresolved: "Is the name spelt right? `getent ahosts NAME` asks the same resolver; an address works too."
        case .noAnswer(let silence) where silence.errno == ECONNREFUSED:
            "Does the server run, and is this its UDP port (`ss -lun` there)? TCP ports are others."
        case .noAnswer(let silence) where silence.errno != 0:
            "Is there a route to the machine (`ip route get ADDRESS`)?"
        case .noAnswer:
            "Is it a DTLS server on this UDP port? A firewall may drop UDP; `tcpdump -n udp port PORT` on both machines"
                + " shows how far the hello comes. --timeout waits longer."
        case .handshake(_, let hint), .verification(_, let hint), .transfer(_, let hint): hint
        }
    }

    /// Writes message and hint to standard error, and gives what the command ends with.
    func report(_ command: String) -> ExitCode {
        let hint = hint.map { "\n\($0)" } ?? ""
        Standard.error("dtls \(command): \(TerminalText.printable(message))\(hint)\n")
        return ExitCode(status)
    }
}

extension TalkingFailure {
    /// A call that is about this machine alone.
    static func local(_ error: DtlsError) -> TalkingFailure { .local(error.description) }

    /// A failure of a connection that was established.
    init(transfer error: DtlsError, largest: Int = 0) {
        switch error {
        case .invalid(let reason): self = .transfer(reason, hint: nil)
        case .system(_, let subject, EMSGSIZE):
            self = .transfer(
                subject.isEmpty ? "the message is too large for the path" : subject,
                hint: largest > 0 ? "The path takes messages of at most \(largest) bytes." : nil)
        default:
            self = .transfer(
                error.description, hint: "The server's log may say why; `dtls trace` does, where the server is dtlsd.")
        }
    }
}

/// What to try when OpenSSL, or the server by its alert, gives a reason.
enum HandshakeHints {
    private static let byReason: [(part: String, hint: String)] = [
        (
            "unknown psk identity",
            "The server does not know this identity: see the file of its [psk] table, and `dtls psk list FILE`."
        ),
        (
            "decrypt error",
            "The two sides have other keys under the same identity (--psk, --psk-file), or a certificate's key is wrong."
        ),
        (
            "certificate required", "The server wants a certificate of the client: --cert and --key."
        ),
        ("no certificate", "The server wants a certificate of the client: --cert and --key."),
        (
            "unknown ca",
            "The server does not trust the CA of the client's certificate (--cert): see the key ca of its service."
        ),
        ("bad certificate", "The server refuses the client's certificate (--cert): its log says why."),
        ("access denied", "The server's rules refuse the client's certificate (--cert): its log says which."),
        ("certificate expired", "The client's certificate (--cert) is out of date."),
        ("certificate unknown", "The server cannot check the client's certificate (--cert): its log says why."),
        (
            "no application protocol",
            "The server speaks none of the application protocols that were offered (--alpn)."
        ),
        ("unrecognized name", "The server serves no such name: --server-name asks for another."),
        (
            "protocol version",
            "The server speaks another version: --min-version 1.0 with --ciphers 'DEFAULT:@SECLEVEL=0' reaches old ones."
        ),
        ("unsupported protocol", "The server speaks another version: see --min-version and --max-version."),
        (
            "handshake failure",
            "The sides have no cipher suite, group or signature in common, or the server wants a certificate (--cert) or a"
                + " pre-shared key (--psk). --ciphers and --groups offer others."
        ),
        ("insufficient security", "The server wants stronger suites: see --ciphers."),
    ]

    static func hint(for reason: String) -> String? {
        let reason = reason.lowercased()
        return byReason.first { reason.contains($0.part) }?.hint
    }

    /// - Parameters:
    ///   - fault: OpenSSL's words about the certificate.
    ///   - certificate: what the server has shown.
    ///   - name: that it was to have.
    static func hint(forCertificate fault: String, _ certificate: DtlsCertificate?, name: String) -> String {
        let fault = fault.lowercased()
        let issuer = certificate.map { " (\(TerminalText.printable($0.issuer)))" } ?? ""
        if fault.contains("mismatch") {
            let names = certificate?.names.prefix(8).map(TerminalText.printable).joined(separator: ", ") ?? ""
            return "The certificate is for \(names.isEmpty ? "no name at all" : names), not for \(name)."
                + " --server-name NAME asks for another name and checks it."
        }
        if fault.contains("expired") {
            let end = certificate.map { " on \(CalendarDate(seconds: $0.notAfter))" } ?? ""
            return
                "The certificate expired\(end): it has to be renewed on the server. --insecure connects all the same."
        }
        if fault.contains("not yet valid") {
            return "Is the clock of this machine right? --insecure connects all the same."
        }
        if fault.contains("self") {
            return
                "The certificate, or its CA, is signed by itself and not trusted: --ca FILE trusts it, where you have it"
                + " from a safe place. --insecure connects all the same."
        }
        if fault.contains("issuer") || fault.contains("first certificate") {
            return
                "The issuer\(issuer) is not among the trusted CAs: --ca FILE trusts another CA. The server may also send no"
                + " intermediate certificate. --insecure connects all the same."
        }
        return "--insecure connects all the same, and shows the certificate."
    }
}
