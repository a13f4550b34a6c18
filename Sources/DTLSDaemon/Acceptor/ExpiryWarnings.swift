import DTLSEngine
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Decides when an operator is told that a certificate expires: 30, 7 and 1 days before, and once it has. It has no clock.
///
/// Each of these is said once for a certificate, however often the configuration is reloaded; where several have come
/// together, since the daemon was started or the certificate configured late, only the last one.
struct ExpiryWarnings {
    /// What is said of a certificate.
    enum Warning: Equatable {
        /// It has this many whole days left.
        case expires(ConfiguredCertificate, daysLeft: Int)
        case expired(ConfiguredCertificate)
    }

    /// Days before the end; 0: it has come.
    private static let steps = [30, 7, 1, 0]
    /// The last step that was told of each certificate of the active configuration.
    private var told: [ConfiguredCertificate: Int] = [:]

    /// What is to be said now, in the order of the certificates.
    /// - Parameter certificates: those of the active configuration.
    mutating func warnings(of certificates: [ConfiguredCertificate], now: UnixTime) -> [Warning] {
        var warnings: [Warning] = []
        var present: [ConfiguredCertificate: Int] = [:]
        for certificate in certificates where present[certificate] == nil {
            let former = told[certificate]
            guard let step = Self.step(of: certificate, now: now) else { continue }
            present[certificate] = min(step, former ?? step)
            if let former, former <= step { continue }
            // The loader has warned of a certificate that had expired when it was read.
            if former == nil, step == 0 { continue }
            warnings.append(
                step == 0 ? .expired(certificate) : .expires(certificate, daysLeft: certificate.daysLeft(at: now)))
        }
        told = present
        return warnings
    }

    /// The last step that has come; `nil` where none has.
    private static func step(of certificate: ConfiguredCertificate, now: UnixTime) -> Int? {
        let left = now.duration(to: certificate.notAfter)
        return steps.last { left <= .seconds($0 * 86_400) }
    }
}

extension ExpiryWarnings.Warning {
    func log(to logger: Logger) {
        switch self {
        case .expires(let certificate, let days):
            logger.log(
                .certificateExpires,
                "the certificate of \(certificate.quotedSubject) in \(certificate.file) expires in"
                    + " \(days == 0 ? "less than a day" : days == 1 ? "1 day" : "\(days) days")"
                    + " (\(certificate.notAfter.text)): \(certificate.place) needs a new one, and a reload to take it up",
                fields(certificate))
        case .expired(let certificate):
            logger.log(
                .certificateExpires,
                "the certificate of \(certificate.quotedSubject) in \(certificate.file) has expired (\(certificate.notAfter.text)):"
                    + " peers that check it refuse \(certificate.place)", fields(certificate))
        }
    }

    private func fields(_ certificate: ConfiguredCertificate) -> Logger.Metadata {
        [
            "SERVICE": "\(certificate.owner)", "FILE": "\(certificate.file)",
            "SUBJECT": "\(certificate.subject.cut(toUTF8Bytes: 256))",
            "NOT_AFTER": "\(certificate.notAfter.text)",
        ]
    }
}

extension ConfiguredCertificate {
    /// Names in certificates can have any length.
    fileprivate var quotedSubject: String { Printable.quoted(subject, limit: 200) }

    /// Whose certificate it is, as a part of a sentence.
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

/// Looks every hour whether a certificate of the active configuration expires, and logs it.
final class ExpiryWatch: TimerTarget {
    private var warnings = ExpiryWarnings()
    private(set) var certificates: [ConfiguredCertificate] = []
    private let loop: EventLoop
    private let logger: Logger

    /// Certificates expire by the wall clock, which can be set, and which goes on while the machine sleeps.
    private static let interval = Duration.seconds(3_600)

    init(loop: EventLoop, logger: Logger) {
        self.loop = loop
        self.logger = logger
        super.init()
    }

    /// The certificates of a configuration that is active from now on.
    func watch(_ certificates: [ConfiguredCertificate]) {
        self.certificates = certificates
        timerFired(now: loop.now)
    }

    override func timerFired(now: Instant) {
        for warning in warnings.warnings(of: certificates, now: .now()) { warning.log(to: logger) }
        if !certificates.isEmpty { loop.timers.arm(self, at: now + Self.interval) }
    }
}
