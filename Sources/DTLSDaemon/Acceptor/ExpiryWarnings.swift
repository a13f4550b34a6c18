import DTLSEngine
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Decides when an operator is told that a certificate, a revocation list or an OCSP response expires: 30, 7 and 1 days
/// before, and once it has. It has no clock.
///
/// Lists and responses are renewed all the time, many of them every few days. So of theirs only those steps count that are
/// in the last quarter of their lives: a list for 30 days is told of 7 days before its end, and one for a day not before
/// it has come.
///
/// Each of these is said once, however often the configuration is reloaded; where several have come together, since the
/// daemon was started or the certificate configured late, only the last one.
struct ExpiryWarnings {
    /// What is said of a certificate, list or response.
    enum Warning: Equatable {
        /// It has this many whole days left.
        case expires(ExpiringCredential, daysLeft: Int)
        case expired(ExpiringCredential)
    }

    /// Days before the end; 0: it has come.
    private static let steps = [30, 7, 1, 0]
    /// Stands for a credential of which nothing was told yet.
    private static let none = Int.max
    /// The last step that was told of each credential of the active configuration.
    private var told: [ExpiringCredential: Int] = [:]

    /// What is to be said now, in the order of the credentials.
    /// - Parameter credentials: those of the active configuration.
    mutating func warnings(of credentials: [ExpiringCredential], now: UnixTime) -> [Warning] {
        var warnings: [Warning] = []
        var present: [ExpiringCredential: Int] = [:]
        for credential in credentials where present[credential] == nil {
            let former = told[credential]
            let step = Self.step(of: credential, now: now)
            present[credential] = min(step ?? Self.none, former ?? Self.none)
            // The loader has warned of what had expired when it was read.
            guard let step, step < former ?? Self.none, step > 0 || former != nil else { continue }
            warnings.append(
                step == 0 ? .expired(credential) : .expires(credential, daysLeft: credential.daysLeft(at: now)))
        }
        told = present
        return warnings
    }

    /// The last step that has come; `nil` where none has.
    private static func step(of credential: ExpiringCredential, now: UnixTime) -> Int? {
        let left = now.duration(to: credential.notAfter)
        let life = credential.issuedAt.map { $0.duration(to: credential.notAfter) }
        return steps.last { days in
            // That a response has expired is said where the responses are read again (StapleRefresher).
            guard days > 0 || credential.content != .ocspResponse else { return false }
            return left <= .seconds(days * 86_400) && life.map { .seconds(days * 4 * 86_400) <= $0 } ?? true
        }
    }
}

extension ExpiryWarnings.Warning {
    func log(to logger: Logger) {
        switch self {
        case .expires(let credential, let days):
            let time =
                "\(days == 0 ? "less than a day" : days == 1 ? "1 day" : "\(days) days") (\(credential.notAfter.text))"
            let consequence =
                switch credential.content {
                case .certificate: "\(credential.place) needs a new one, and a reload to take it up"
                case .revocationList:
                    "\(credential.place) refuses the clients of this CA then, unless it has a new list by a reload"
                case .ocspResponse: "\(credential.place) needs a new one in the file, and staples none then"
                }
            logger.log(.certificateExpires, "\(credential.name) expires in \(time): \(consequence)", fields(credential))
        case .expired(let credential):
            let consequence =
                credential.content == .revocationList
                ? "\(credential.place) refuses the clients of this CA until it has a new list by a reload"
                : "peers that check it refuse \(credential.place)"
            logger.log(
                .certificateExpires, "\(credential.name) has expired (\(credential.notAfter.text)): \(consequence)",
                fields(credential))
        }
    }

    private func fields(_ credential: ExpiringCredential) -> Logger.Metadata {
        var fields: Logger.Metadata = [
            "SERVICE": "\(credential.owner)", "SUBJECT": "\(credential.subject.cut(toUTF8Bytes: 256))",
            "NOT_AFTER": "\(credential.notAfter.text)",
        ]
        if !credential.file.isEmpty { fields["FILE"] = "\(credential.file)" }
        return fields
    }
}

extension ExpiringCredential {
    /// What it is, as the subject of a sentence. Names in certificates can have any length.
    fileprivate var name: String {
        let subject = Printable.quoted(subject, limit: 200)
        return switch content {
        case .certificate: "the certificate of \(subject) in \(file)"
        case .revocationList: "the revocation list (CRL) of \(subject) in \(file)"
        case .ocspResponse: "the OCSP response about the certificate of \(subject)"
        }
    }

    /// Whose it is, as a part of a sentence.
    fileprivate var place: String {
        "\(kind.rawValue) \(owner)" + (host.map { " for the name \($0)" } ?? "")
    }
}

extension UnixTime {
    /// `2026-11-23 18:00:00 UTC`
    fileprivate var text: String {
        var time = time_t(seconds)
        var parts = tm()
        guard gmtime_r(&time, &parts) != nil else { return "an unknown time" }
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(Int(parts.tm_year) + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
            + " \(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)) UTC"
    }
}

/// Looks every hour whether a certificate, revocation list or OCSP response of the active configuration expires, and logs
/// it.
final class ExpiryWatch: TimerTarget {
    private var warnings = ExpiryWarnings()
    private(set) var credentials: [ExpiringCredential] = []
    private let loop: EventLoop
    private let logger: Logger

    /// They expire by the wall clock, which can be set, and which goes on while the machine sleeps.
    private static let interval = Duration.seconds(3_600)

    init(loop: EventLoop, logger: Logger) {
        self.loop = loop
        self.logger = logger
        super.init()
    }

    /// What expires of a configuration that is active from now on.
    func watch(_ credentials: [ExpiringCredential]) {
        self.credentials = credentials
        timerFired(now: loop.now)
    }

    override func timerFired(now: Instant) {
        for warning in warnings.warnings(of: credentials, now: .now()) { warning.log(to: logger) }
        if !credentials.isEmpty { loop.timers.arm(self, at: now + Self.interval) }
    }
}
