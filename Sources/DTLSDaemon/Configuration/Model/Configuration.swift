import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A configuration that has been read and checked completely. It contains the contents of files rather than their
/// paths. The loader process returns it, the acceptor keeps it, and every worker gets it.
struct Configuration: Codable, Equatable, Sendable {
    /// The number of worker processes; at least 1.
    var workers: Int
    /// The user that the processes run as; `nil`: the one that has started them.
    var user: UserAccount?
    /// The time after SIGTERM at which the processes end, even if connections are still open.
    var stopTimeout: Duration
    /// The age at which a worker is replaced by a new one; zero: never.
    var recycle = Duration.zero
    var logLevel: LogLevel
    var logFormat = LogEntryFormat.text
    /// The cookie secret, 32 to 4,096 bytes, which machines that serve one address share; `nil`: random at each start.
    var cookieSecret: [UInt8]?
    /// MiB of memory for the sessions of clients without tickets; 0: they cannot resume theirs.
    var sessionCache = 16
    var tickets = TicketConfiguration()
    var connectionIDs = ConnectionIDConfiguration()
    var control = ControlConfiguration()
    var resolver = ResolverConfiguration()
    /// The file to which the secrets of all connections are written; `nil`: none.
    var keyLogFile: String?
    /// Whether the files that it names are read again when they change.
    var watchesCredentials = false
    /// At least one service or client; names are unique over both.
    var services: [ServiceConfiguration]
    var clients: [ClientConfiguration] = []
    /// The files of OCSP responses, which are read again when they change.
    var staples: [StapleFile] = []
    /// The certificates and revocation lists of services and clients, whose ends an operator is warned of.
    var credentials: [ExpiringCredential] = []
    /// The host names of backends and servers, each as often as the file has it.
    var names: [ConfiguredName] = []
    /// The warnings, which do not prevent the configuration from being used.
    var warnings: [ConfigurationProblem] = []
    /// The limits of all services together.
    var limits = LimitsConfiguration()
}

/// One `[service.NAME]` table.
struct ServiceConfiguration: Codable, Equatable, Sendable {
    var name: String
    /// The addresses that it listens on; empty when systemd passes the sockets in.
    var listen: [SocketAddress]
    /// The certificates, trusted CAs, cipher suites and versions, from which the engine's ServerContext is created.
    var tls: ServerSettings
    /// How long a client may take for the handshake: 2 to 120 seconds.
    var handshakeTimeout = Duration.seconds(60)
    /// The time without a datagram from the client after which its connection is closed; zero: never.
    var idleTimeout = Duration.seconds(300)
    /// The time without a datagram in either direction after which a connection gives its socket up: 1 s to a day; zero:
    /// never.
    var parkAfter = Duration.seconds(60)
    /// How long a flight of the handshake waits for its answer at first: 1 to 60 seconds; `nil`: as the exchange of the
    /// cookie has found the path to be.
    var retransmission: Duration?
    /// The largest IP packet of a handshake flight, 256 to 9,000 bytes.
    var mtu = 1_400
    /// What bounds the packets of established connections, beside what the kernel knows of their paths.
    var recordMTU = Connection.RecordBound.none
    /// The length of the connection IDs (RFC 9146) that clients put into their records: from
    /// ``ConnectionIDConfiguration/minimumLength(serverIDLength:)`` to ``ConnectionIDConfiguration/maximumLength``;
    /// `nil`: connection IDs are not agreed on.
    var connectionIDLength: Int?
    /// Who is asked whether a client may come in; `nil`: nobody.
    var authorize: AuthorizeConfiguration?
    var handler = HandlerConfiguration.echo
    var socket: SocketOptions
    var limits = LimitsConfiguration()
}
