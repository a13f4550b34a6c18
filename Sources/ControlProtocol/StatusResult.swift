/// The result of ``ControlCommand/status``.
package struct StatusResult: Codable, Equatable, Sendable {
    /// The version of the daemon.
    package var version: String
    /// The main process.
    package var pid: Int32
    /// When the main process was started (RFC 3339).
    package var sinceAt: String
    package var uptimeSeconds: Double
    /// "OpenSSL 3.5.4 30 Sep 2025"
    package var openssl: String
    /// "loading", "starting", "serving", "reloading", "upgrading", "stopping".
    package var phase: String
    /// Whether clients are served.
    package var isReady: Bool
    package var configuration: ConfigurationStatus
    package var logLevel: LogLevelResult
    package var traces: [TraceStatus]
    package var connections: ConnectionCounts
    package var listeners: [ListenerStatus]
    package var services: [TargetStatus]
    package var clients: [TargetStatus]
    package var workers: [WorkerStatus]
    package var certificates: [CertificateStatus]
    /// The certificate revocation lists of services, by their issuers; a daemon without any leaves it out.
    package var revocationLists: [CertificateStatus]?
    /// The OCSP responses that services staple, by their certificates; a daemon without any leaves it out.
    package var ocspResponses: [CertificateStatus]?
    package var main: CounterValues

    package init(
        version: String, pid: Int32, sinceAt: String, uptimeSeconds: Double, openssl: String, phase: String,
        isReady: Bool, configuration: ConfigurationStatus, logLevel: LogLevelResult, traces: [TraceStatus],
        connections: ConnectionCounts, listeners: [ListenerStatus], services: [TargetStatus],
        clients: [TargetStatus], workers: [WorkerStatus], certificates: [CertificateStatus],
        revocationLists: [CertificateStatus] = [], ocspResponses: [CertificateStatus] = [], main: CounterValues
    ) {
        self.version = version
        self.pid = pid
        self.sinceAt = sinceAt
        self.uptimeSeconds = uptimeSeconds
        self.openssl = openssl
        self.phase = phase
        self.isReady = isReady
        self.configuration = configuration
        self.logLevel = logLevel
        self.traces = traces
        self.connections = connections
        self.listeners = listeners
        self.services = services
        self.clients = clients
        self.workers = workers
        self.certificates = certificates
        self.revocationLists = revocationLists.isEmpty ? nil : revocationLists
        self.ocspResponses = ocspResponses.isEmpty ? nil : ocspResponses
        self.main = main
    }

    private enum CodingKeys: String, CodingKey {
        case version, pid
        case sinceAt = "since_at"
        case uptimeSeconds = "uptime_seconds"
        case openssl, phase
        case isReady = "ready"
        case configuration
        case logLevel = "log_level"
        case traces, connections, listeners, services, clients, workers, certificates
        case revocationLists = "revocation_lists"
        case ocspResponses = "ocsp_responses"
        case main
    }
}

/// The configuration that is active, and what became of the last attempt to replace it.
package struct ConfigurationStatus: Codable, Equatable, Sendable {
    package var file: String
    /// When the active one was activated (RFC 3339); `nil` before the first.
    package var loadedAt: String?
    /// What is valid, and probably not what its author wants.
    package var warnings: [String]
    /// When the last reload or upgrade has failed; `nil` where it has succeeded.
    package var failedAt: String?
    /// Why it has failed: every problem.
    package var problems: [String]

    package init(file: String, loadedAt: String?, warnings: [String], failedAt: String?, problems: [String]) {
        self.file = file
        self.loadedAt = loadedAt
        self.warnings = warnings
        self.failedAt = failedAt
        self.problems = problems
    }

    private enum CodingKeys: String, CodingKey {
        case file
        case loadedAt = "loaded_at"
        case warnings
        case failedAt = "failed_at"
        case problems
    }
}

/// How many connections there are, by ``ConnectionState``.
package struct ConnectionCounts: Codable, Equatable, Sendable {
    package var open: Int
    /// Of those that are open.
    package var handshaking: Int
    /// Of those that are open.
    package var parked: Int

    package init(open: Int, handshaking: Int, parked: Int) {
        self.open = open
        self.handshaking = handshaking
        self.parked = parked
    }
}

package struct ListenerStatus: Codable, Equatable, Sendable {
    package var address: String
    package var service: String?
    package var client: String?
    package var counters: CounterValues

    package init(address: String, service: String?, client: String?, counters: CounterValues) {
        self.address = address
        self.service = service
        self.client = client
        self.counters = counters
    }
}

/// A service or a client.
package struct TargetStatus: Codable, Equatable, Sendable {
    package var name: String
    /// "echo", "forward", "exec", "log"; "client" for a client.
    package var handler: String
    package var listen: [String]
    package var connections: ConnectionCounts
    package var counters: CounterValues
    /// A forward service's backends, or a client's server.
    package var backends: [BackendStatus]

    package init(
        name: String, handler: String, listen: [String], connections: ConnectionCounts, counters: CounterValues,
        backends: [BackendStatus]
    ) {
        self.name = name
        self.handler = handler
        self.listen = listen
        self.connections = connections
        self.counters = counters
        self.backends = backends
    }
}

package struct BackendStatus: Codable, Equatable, Sendable {
    /// As the configuration names it.
    package var address: String
    /// The rule of the service that has it; `nil` for a backend of connections that no rule is for.
    package var rule: String?
    /// "up" where a worker has sent to it or a health check has passed, and it refuses none; "down" where it refuses a
    /// worker or its checks fail; "unknown" where no worker that runs now has tried it, and no check has ended.
    package var state: String
    /// The addresses of a host name, without ports; empty as long as it has none, `nil` for an address or a path.
    package var resolved: [String]?

    /// Why the last health check has failed, where the checks say that it is down.
    package var checkFailure: String?

    package init(
        address: String, rule: String? = nil, state: String, resolved: [String]? = nil, checkFailure: String? = nil
    ) {
        self.address = address
        self.rule = rule
        self.state = state
        self.resolved = resolved
        self.checkFailure = checkFailure
    }

    private enum CodingKeys: String, CodingKey {
        case address, rule, state, resolved
        case checkFailure = "check_failure"
    }
}

package struct WorkerStatus: Codable, Equatable, Sendable {
    package var number: Int
    package var pid: Int32
    package var sinceAt: String
    /// "starting", "serving", "draining", "stopping".
    package var state: String
    package var connections: Int
    /// Connections with sockets.
    package var sockets: Int
    package var memoryBytes: UInt64?
    package var openFiles: Int?
    package var openFilesLimit: Int?
    package var counters: CounterValues

    package init(
        number: Int, pid: Int32, sinceAt: String, state: String, connections: Int, sockets: Int,
        memoryBytes: UInt64?, openFiles: Int?, openFilesLimit: Int?, counters: CounterValues
    ) {
        self.number = number
        self.pid = pid
        self.sinceAt = sinceAt
        self.state = state
        self.connections = connections
        self.sockets = sockets
        self.memoryBytes = memoryBytes
        self.openFiles = openFiles
        self.openFilesLimit = openFilesLimit
        self.counters = counters
    }

    private enum CodingKeys: String, CodingKey {
        case number, pid
        case sinceAt = "since_at"
        case state, connections, sockets
        case memoryBytes = "memory_bytes"
        case openFiles = "open_files"
        case openFilesLimit = "open_files_limit"
        case counters
    }
}

/// A certificate, a revocation list or an OCSP response, and when it expires.
package struct CertificateStatus: Codable, Equatable, Sendable {
    package var service: String?
    package var client: String?
    /// The server name of a virtual host; `nil` for the certificate of the service itself.
    package var name: String?
    package var subject: String
    /// RFC 3339.
    package var notAfterAt: String
    /// Whole days until then; negative where it has passed.
    package var daysLeft: Int

    package init(
        service: String?, client: String?, name: String?, subject: String, notAfterAt: String, daysLeft: Int
    ) {
        self.service = service
        self.client = client
        self.name = name
        self.subject = subject
        self.notAfterAt = notAfterAt
        self.daysLeft = daysLeft
    }

    private enum CodingKeys: String, CodingKey {
        case service, client, name, subject
        case notAfterAt = "not_after_at"
        case daysLeft = "days_left"
    }
}
