import Glibc
import LinuxSystem
import TOMLKit

/// Reads and checks a configuration file and everything that it names: certificates, keys, secrets, interfaces.
/// It may block on files, so only the loader process and `dtlsd --check` use it.
///
/// `config/dtlsd.toml` documents the keys.
enum ConfigurationReader {
    /// The environment variables that the reader uses, with their values in this process.
    static var processEnvironment: [String: String] {
        var found: [String: String] = [:]
        for name in ["RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let value = getenv(name) { found[name] = String(cString: value) }
        }
        return found
    }

    /// - Parameters:
    ///   - file: the path of the configuration file, as messages show it.
    ///   - environment: the values of RUNTIME_DIRECTORY, CREDENTIALS_DIRECTORY, SSL_CERT_FILE and SSL_CERT_DIR.
    ///   - watcher: gets the files of OCSP responses, which are read again when they change, before they are read.
    ///   - credentialWatcher: gets the other files likewise, where the configuration has them watched.
    ///   - prepare: is called with the keys of the file before a parser sees its text, and before other files are read.
    ///   - use: is called when there is no error, with a context that knows the place of each key. Its errors are
    ///     thrown.
    /// - Throws: all errors together; for a file that is not TOML, only the first error.
    static func read(
        file: String, environment: [String: String] = processEnvironment, watcher: FileWatcher? = nil,
        credentialWatcher: FileWatcher? = nil, prepare: (KeyLines) -> Void = { _ in },
        use: (Configuration, ReadContext) throws(ConfigurationProblems) -> Void = { _, _ in }
    ) throws(ConfigurationProblems) -> Configuration {
        let text = try text(of: file)
        let lines = KeyLines(text)
        if !lines.refusals.isEmpty {
            throw ConfigurationProblems(
                problems: lines.refusals.map { .init(file: file, line: $0.line, key: nil, message: $0.message) })
        }
        prepare(lines)
        let root = try parse(text, file)
        let context = ReadContext(
            file: file, environment: environment, lines: lines, watcher: watcher, credentialWatcher: credentialWatcher)
        let table = TableReader(root, MainSection.schema, at: [], context)
        var main = MainSection()
        let allows = MainSection.schema.name(of: \.allowsWorldReadableSecrets)
        context.allowsWorldReadableSecrets = root[allows]?.bool ?? false
        context.watchesCredentials = root[MainSection.schema.name(of: \.watchesCredentials)]?.bool ?? false
        MainSection.schema.read(table, into: &main)
        var configuration = main.configuration(table)
        try context.finish()
        configuration.staples = context.staples
        configuration.credentials = context.credentials
        configuration.names = context.names
        configuration.warnings = context.warnings.sorted { ($0.line ?? 0) < ($1.line ?? 0) }
        try use(configuration, context)
        return configuration
    }

    private static func text(of file: String) throws(ConfigurationProblems) -> [UInt8] {
        let bytes: [UInt8]
        do throws(UnreadableFile) { bytes = try FileContents(of: file).bytes } catch {
            throw problem(file, nil, error.message)
        }
        // The parser takes a C string, which would end at a NUL byte.
        if let nul = bytes.firstIndex(of: 0) {
            throw problem(file, line(of: nul, in: bytes), "a NUL byte; expected a TOML file, in UTF-8")
        }
        guard String(validating: bytes, as: UTF8.self) != nil else {
            throw problem(file, firstInvalidLine(of: bytes), "bytes that are not UTF-8; expected a TOML file, in UTF-8")
        }
        return bytes
    }

    private static func line(of position: Int, in bytes: [UInt8]) -> Int {
        1 + bytes[..<position].count { $0 == UInt8(ascii: "\n") }
    }

    private static func firstInvalidLine(of bytes: [UInt8]) -> Int? {
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        return lines.firstIndex { String(validating: $0, as: UTF8.self) == nil }.map { $0 + 1 }
    }

    private static func parse(_ text: [UInt8], _ file: String) throws(ConfigurationProblems) -> TOMLTable {
        do {
            return try TOMLTable(string: String(decoding: text, as: UTF8.self))
        } catch let error as TOMLParseError {
            let reason = error.description.split(whereSeparator: \.isNewline).joined(separator: " ")
            let place = error.source.begin
            throw problem(file, place.line, "not valid TOML (column \(place.column)): \(reason)")
        } catch {
            throw problem(file, nil, "not valid TOML: \(error)")
        }
    }

    private static func problem(_ file: String, _ line: Int?, _ message: String) -> ConfigurationProblems {
        ConfigurationProblems(problems: [.init(file: file, line: line, key: nil, message: message)])
    }
}

/// The top level of the file: the keys before the first table, and the tables.
struct MainSection {
    /// The number of workers; 0 means one for each core.
    fileprivate var workers = 0
    var user: String?
    var group: UInt32?
    fileprivate var stopTimeout = Duration.seconds(5)
    fileprivate var recycle = Duration.zero
    fileprivate var logLevel = LogLevel.info
    fileprivate var logFormat = LogEntryFormat.text
    fileprivate var cookieSecret: [UInt8]?
    /// The reader has looked it up in advance (``ReadContext/allowsWorldReadableSecrets``).
    fileprivate var allowsWorldReadableSecrets = false
    /// The same holds for this one (``ReadContext/watchesCredentials``).
    var watchesCredentials = false
    var keyLogFile: String?
    fileprivate var sessionCache = 16
    fileprivate var tickets = TicketConfiguration()
    fileprivate var connectionIDs = ConnectionIDConfiguration()
    fileprivate var control = ControlConfiguration()
    fileprivate var resolver = ResolverConfiguration()
    fileprivate var limits = LimitsSection.ofAllServices
    fileprivate var services: [NamedTable<ServiceSection>] = []
    fileprivate var clients: [NamedTable<TunnelSection>] = []

    private static let maximumWorkers = 1_024

    static let schema = Schema<Self> {
        Key(
            "workers", \.workers, .integer(0...maximumWorkers, "an integer (0 is one per core)"),
            doc: "The number of worker processes; 0 means one for each processor core that dtlsd may use.")
        Key(
            "user", \.user, .string("the name of a user of this machine, or its number as a string"),
            default: "the user that starts dtlsd",
            doc: "The user that dtlsd runs as once it has opened its sockets, where root has started it.")
        Key(
            "group", \.group, .group, default: "the user's",
            doc: "The group that dtlsd runs as, in place of that of the user.")
        Key(
            "stop_timeout", \.stopTimeout, .seconds(0...600),
            doc: "How long dtlsd may take to close its connections when it is stopped.")
        Key(
            "recycle", \.recycle, .time(60...2_592_000, off: .zero),
            doc: "The age at which a worker process is replaced by a new one, which takes its connections.")
        Key("log_level", \.logLevel, .word, doc: "The lowest level of the messages that are logged.")
        Key(
            "log_format", \.logFormat, .word,
            doc: "What log entries look like: text, or JSON on standard output, which containers want.")
        Key(
            // The whole file is the secret, since the HMAC of the cookies takes a key of any length.
            "cookie_secret_file", \.cookieSecret,
            .secretFile("the path of a file of 32 to 4096 random bytes", ofSize: 32...4_096),
            default: "none; a secret is generated at every start",
            doc: "The secret of the cookies, which machines that serve the same address share.")
        Key(
            "allow_world_readable_secrets", \.allowsWorldReadableSecrets, .flag,
            doc: "Whether files with keys and secrets may be readable by every user of the machine.")
        Key(
            "watch", \.watchesCredentials, .flag,
            doc: "Whether certificates, keys, lists and other files are taken up when they change on disk.")
        Key(
            "key_log_file", \.keyLogFile, .keyLogFile, default: "none; no secret is ever written",
            doc: "The file to which the secrets of all connections are appended, for debugging.")
        Key(
            "session_cache", \.sessionCache, .integer(0...4_096, "an integer of MiB (0 is none)"),
            doc: "The memory for the sessions of clients without tickets, in MiB; 0 means that they cannot resume any.")
        Key(
            table: "control", \.control, ControlConfiguration.schema,
            doc: "The socket over which the daemon is controlled while it runs.")
        Key(
            table: "resolver", \.resolver, ResolverConfiguration.schema,
            doc: "Who is asked for the addresses of the host names of backends and servers.")
        Key(table: "tickets", \.tickets, TicketConfiguration.schema, doc: "Session tickets (RFC 5077).")
        Key(
            table: "connection_ids", \.connectionIDs, ConnectionIDConfiguration.schema,
            doc: "What the connection IDs (RFC 9146) of all services are made with.")
        Key(table: "limits", \.limits, LimitsSection.schema, doc: "The limits of all services together.")
        Key(
            tables: "service", \.services, "NAME", ServiceSection.schema, initial: { ServiceSection() },
            doc: "A service.")
        Key(
            tables: "client", \.clients, "NAME", TunnelSection.schema, initial: { TunnelSection() }, doc: "A client.")
    }

    /// Makes the configuration. Each error is reported, and a placeholder takes the place of the wrong value, so that
    /// the rest is checked too.
    fileprivate func configuration(_ table: TableReader<Self>) -> Configuration {
        let context = table.context
        if table.field(\.services).isEmpty, table.field(\.clients).isEmpty {
            table.report(
                \.services, "no service is configured; expected at least one table [service.NAME] or [client.NAME]")
        }
        var listening: [ListenAddress] = []
        let services = services.map { service in
            var section = ServiceSection()
            ServiceSection.schema.read(service.table, into: &section)
            listening += ListenAddress.of(section.listen, service.table.field(\.listen), section.model.socket)
            return section.configuration(
                service.table, name: service.name, limits: limits.limits, tickets: tickets,
                hasSessionCache: sessionCache > 0, connectionIDs: connectionIDs)
        }
        let clients = clients.map { client in
            var section = TunnelSection()
            TunnelSection.schema.read(client.table, into: &section)
            listening += ListenAddress.of(section.listen, client.table.field(\.listen), section.model.socket)
            return section.configuration(client.table, name: client.name)
        }
        let account = table.account(user, group: group)
        table.warnOfFilesClosed(to: account)
        reportCollidingNames(context)
        ListenAddress.reportCollisions(listening, context)
        return Configuration(
            workers: workers == 0 ? min(ProcessorShare.current(), Self.maximumWorkers) : workers, user: account,
            stopTimeout: stopTimeout, recycle: recycle, logLevel: logLevel, logFormat: logFormat,
            cookieSecret: cookieSecret, sessionCache: sessionCache, tickets: tickets, connectionIDs: connectionIDs,
            control: control, resolver: resolver, keyLogFile: keyLogFile, watchesCredentials: watchesCredentials,
            services: services, clients: clients, limits: limits.limits)
    }

    /// Reports names that a service and a client share, since logs and systemd's sockets use the name only.
    private func reportCollidingNames(_ context: ReadContext) {
        for client in clients {
            guard let service = services.first(where: { $0.name == client.name }) else { continue }
            let line = context.line(of: service.table.path).map { " (line \($0))" } ?? ""
            context.report(client.table.path, "a service already has this name\(line); expected another")
        }
    }
}
