import DTLSEngine
import LinuxSystem
import Primitives

/// A configuration that has been read and checked whole: values, never paths. It is what the loader process returns,
/// what the acceptor keeps, and what every worker is given.
struct Configuration: Codable, Equatable, Sendable {
    /// Worker processes; at least 1.
    var workers: Int
    /// The time from SIGTERM until the processes end, whatever their connections do.
    var stopTimeout: Duration
    var logLevel: LogLevel
    /// 32 to 4,096 bytes when several machines serve one address and share it; `nil`: random at start.
    var cookieSecret: [UInt8]?
    var tickets = TicketConfiguration()
    /// Where the secrets of all connections are written; `nil`: nowhere.
    var keyLogFile: String?
    /// At least one service or client; names are unique over both.
    var services: [ServiceConfiguration]
    var clients: [ClientConfiguration] = []
    /// The files of OCSP responses, which are read again when they change.
    var staples: [StapleFile] = []
    /// What is not wrong, and still worth knowing.
    var warnings: [ConfigurationProblem] = []
    /// Of all services together.
    var limits = LimitsConfiguration()
}

/// The levels of `log_level`, by their names in the file.
enum LogLevel: String, Codable, Sendable, CaseIterable {
    case debug, info, notice, warning, error
}

/// One `[service.NAME]` table.
struct ServiceConfiguration: Codable, Equatable, Sendable {
    var name: String
    /// Where it listens; empty when systemd passes the sockets in.
    var listen: [SocketAddress]
    /// Certificate, key, trusted CAs, ciphers, versions: what the engine's ServerContext is made of.
    var tls: ServerSettings
    /// 2 to 120 seconds.
    var handshakeTimeout = Duration.seconds(60)
    /// The time without a datagram from the peer after which it gets close_notify; zero: never.
    var idleTimeout = Duration.seconds(300)
    /// Largest IP packet of a handshake flight, bytes, 256 to 9,000.
    var mtu = 1_400
    var handler = HandlerConfiguration.echo
    var socket: SocketOptions
    var limits = LimitsConfiguration()
}
