import Primitives

/// What a probe has found, as monitoring plug-ins say it (Monitoring Plugins Development Guidelines): a line with a state,
/// a text, and performance data after a `|`.
struct ProbeResult: Equatable {
    enum State: Int32, Comparable {
        case ok = 0
        case warning = 1
        case critical = 2
        case unknown = 3

        var name: String {
            switch self {
            case .ok: "OK"
            case .warning: "WARNING"
            case .critical: "CRITICAL"
            case .unknown: "UNKNOWN"
            }
        }

        static func < (one: State, other: State) -> Bool { one.rawValue < other.rawValue }
    }

    /// A value for graphs.
    struct Datum: Equatable {
        var name: String
        var value: String
        var unit = ""
        /// What the value is compared with; empty where there is nothing.
        var warning = ""
        var critical = ""

        fileprivate var text: String {
            var parts = ["\(name)=\(value)\(unit)", warning, critical]
            while parts.count > 1, parts.last == "" { parts.removeLast() }
            return parts.joined(separator: ";")
        }
    }

    var state: State
    var text: String
    var data: [Datum] = []

    /// One line. A peer's words in it can neither end it nor begin the performance data.
    var line: String {
        let text = TerminalText.printable(text).replacing("|", with: "/")
        let data = data.isEmpty ? "" : " | \(data.map(\.text).joined(separator: " "))"
        return "DTLS \(state.name) - \(text)\(data)"
    }
}

/// Limits for seconds and for days.
struct ProbeLimits: Equatable {
    var warning: Double?
    var critical: Double?

    /// The state of what must not be above the limits.
    func state(above value: Double) -> ProbeResult.State {
        if let critical, value > critical { return .critical }
        if let warning, value > warning { return .warning }
        return .ok
    }

    /// The state of what must not be below them.
    func state(below value: Double) -> ProbeResult.State {
        if let critical, value < critical { return .critical }
        if let warning, value < warning { return .warning }
        return .ok
    }

    /// A limit as performance data has it, without zeros at its end.
    static func text(_ limit: Double?) -> String {
        guard let limit else { return "" }
        return limit == limit.rounded() ? limit.text(digits: 0) : limit.text(digits: 3)
    }
}

/// `W,C` of `--expire-days`: so many days before its end a certificate is a reason to warn, and a critical one.
struct ExpiryDays: Equatable {
    var warning: Int
    var critical: Int

    init?(_ text: String) {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count == 2, let warning = parts[0], let critical = parts[1], critical >= 0, warning >= critical
        else {
            return nil
        }
        (self.warning, self.critical) = (warning, critical)
    }
}
