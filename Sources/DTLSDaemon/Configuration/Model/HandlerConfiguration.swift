import LinuxSystem

/// What a service does with its clients' datagrams.
enum HandlerConfiguration: Codable, Equatable, Sendable {
    /// It sends every datagram back to its sender.
    case echo
    /// It passes datagrams to a backend, over a separate socket for each connection.
    case forward(ForwardConfiguration)
    /// It starts a program for each connection.
    case exec(ExecConfiguration)
    /// It logs every datagram.
    case log(LogConfiguration)
}

/// `[service.NAME.forward]`
struct ForwardConfiguration: Codable, Equatable, Sendable {
    /// The backends of connections that no rule is for, without duplicates. The address of a client determines its backend.
    /// `nil`: such connections are refused.
    var backends: NonEmpty<Backend>?
    /// In the order of the file, each with a name of its own.
    var rules: [ForwardRule] = []
    /// From where UDP backends are sent to. For the backends of a family without any, the kernel chooses.
    var sources: [LocalSource] = []
    /// The only network interface over which UDP backends are sent to; `nil`: the routes decide.
    var interface: String?
    /// Whether each datagram to a backend begins with a PROXY protocol header.
    var proxyProtocol = false
    /// Whether a parked connection gives its socket to the backend up too.
    var parks = false
    /// How all backends are checked, those of the rules included; `nil`: they are not.
    var healthCheck: HealthCheck?

    /// All backends, with the name of the rule that has each; a backend's place in this list is its number.
    var numberedBackends: [(rule: String?, backend: Backend)] {
        (backends?.elements ?? []).map { (nil, $0) }
            + rules.flatMap { rule in (rule.backends?.elements ?? []).map { (rule.name, $0) } }
    }
}

/// `[service.NAME.exec]`
struct ExecConfiguration: Codable, Equatable, Sendable {
    /// The absolute path of the program, and its arguments.
    var command: NonEmpty<String>
    /// The largest number of the service's programs in one worker, 1 to 10,000.
    var programsPerWorker: Int
    var limits: ForeignProgram.Limits
}

/// `[service.NAME.log]`
struct LogConfiguration: Codable, Equatable, Sendable {
    var target: LogTarget
    var format: LogFormat

    /// The configuration of a service without a table `log`.
    static let standard = LogConfiguration(target: .journal(socket: JournalSocket.standardPath), format: .plain)
}

/// Where messages are logged.
enum LogTarget: Codable, Hashable, Sendable {
    /// The journal, by the path of journald's socket.
    case journal(socket: String)
    /// A file, by its absolute path.
    case file(String)
    /// A syslog daemon, by the path of its Unix datagram socket.
    case syslog(socket: String)
}

/// The format of datagrams, with the values of the key `format`.
enum LogFormat: String, Codable, Sendable, CaseIterable {
    /// A datagram is a text.
    case plain
    /// A datagram is a syslog message, or several of them in the frames of RFC 6012.
    case syslog
}

extension ForwardConfiguration {
    /// How backends are checked, as they expect it of this service; `nil`: they are not.
    var effectiveHealthCheck: HealthCheck? {
        guard var check = healthCheck else { return nil }
        check.sources = sources.map(\.address)
        check.interface = interface
        // The check is nobody's datagram, which the command LOCAL says.
        if proxyProtocol { check.datagram = ProxyHeader.local + check.datagram }
        return check
    }
}
