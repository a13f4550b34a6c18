import Logging

/// The kinds of things that the daemon logs, each with a level of its own and an identifier that never changes, by
/// which an operator finds them (`journalctl MESSAGE_ID=…`). Inside this module the name stands for this type;
/// swift-log's own is `Logging.LogEvent`.
enum LogEvent: Int, Sendable, CaseIterable {
    /// The main process has begun, before anything is open.
    case started
    /// All listeners are open and all workers are ready.
    case ready
    /// A new configuration is in force.
    case reloaded
    /// A new configuration was refused; all stays as it was.
    case reloadFailed
    /// No new clients; connections are being closed.
    case stopping
    /// Every worker has ended.
    case stopped
    /// One error of a configuration.
    case configurationInvalid
    /// Something in a configuration that is not wrong, and still worth knowing.
    case configurationWarning
    /// OCSP responses have changed, and are in force.
    case staplesReloaded
    /// A worker's process was started; it is not ready yet.
    case workerStarted
    /// A worker ended without having been told to.
    case workerDied
    /// A handshake has succeeded.
    case connectionOpened
    /// A connection has ended, for whatever reason.
    case connectionClosed
    /// A handshake has failed or taken too long.
    case handshakeFailed
    /// A client with a good cookie found no place; it may try again.
    case newcomerRefused
    /// A client sends more than its connection may, and datagrams of it are dropped.
    case trafficLimited
    /// A backend's datagram was dropped, for it is too long for a message to the client.
    case datagramRefused
    /// A backend's port is closed (ECONNREFUSED).
    case backendRefused
    /// A backend cannot be reached.
    case backendUnreachable
    /// A backend that had refused datagrams takes them again.
    case backendAnswers
    /// A client's handshake with its server has failed, or the server does not answer.
    case serverUnreachable
    /// A client's server has shown a certificate that is not to be trusted.
    case serverUnverified
    /// A program could not be started (handler "exec").
    case programFailed
    /// A program has ended with a status that is not 0, or by a signal (handler "exec").
    case programEnded
    /// A message could not be logged (handler "log").
    case messageLost
    /// A worker's process takes no messages, and is ended.
    case workerStuck
    /// The limit of open descriptors, or of memory for sockets, has been reached.
    case descriptorLimit
    /// A listener cannot be opened or read.
    case listenerFailed
    /// The secrets of connections are written to a file, as the configuration asks for.
    case keysLogged
    /// Something that should not happen; the daemon went on.
    case internalError

    /// MESSAGE_ID in the journal: 128 random bits, 32 hexadecimal digits. Never change one; a new kind gets a new one.
    var messageID: String {
        switch self {
        case .started: "2ad93c50069e498ea859cdc8db5e3fa7"
        case .ready: "1e2929ec3e84490e82e031073b4fadb3"
        case .reloaded: "8db8f4a81c264caeaffe85f720c889c9"
        case .reloadFailed: "35e1481a3fe34d4d85b4a2b71adb0756"
        case .stopping: "13f825680ba54e4f96e3d60c4eec8c3a"
        case .stopped: "ba5cf3c661664f4c81054f413df576b3"
        case .configurationInvalid: "f4a5d56e85de4957979c559d9609b40a"
        case .configurationWarning: "9f54f49935b341baa990c5948294161a"
        case .staplesReloaded: "57c06572c99b411fbf0b1fde312afe8b"
        case .serverUnreachable: "883304b15c16b6c5c230812cc37644cc"
        case .serverUnverified: "451d7cb0da7278ad1f0ef8f882169344"
        case .workerStarted: "7d48ed8817624fc088685e492ea5a6dd"
        case .workerDied: "0b8849ba95b04cefb70e722363bba718"
        case .connectionOpened: "cde74a02b67b470ea9b7613559d68da5"
        case .connectionClosed: "1db8a567d8224492ac040ea2b0d1006f"
        case .handshakeFailed: "59166cb1cb524572ab668855f8f933b6"
        case .newcomerRefused: "7047d81158f4499f894310cf41a07041"
        case .trafficLimited: "7efd470887394096914792531759a922"
        case .datagramRefused: "df4ef562fa634fd98b9bdf81d1a74fb6"
        case .backendRefused: "0df4ae1ad4cc46b199e3e2d52528cc4c"
        case .backendAnswers: "b2827cb8212145e491c136f424d2ce9f"
        case .programFailed: "4bd4d1921556466ea10c9a47ed56a67c"
        case .programEnded: "7acda4336d044169b37b1764d179e4a5"
        case .messageLost: "138fc8c208fc4df499d84b3a6629566b"
        case .workerStuck: "f8619c1274ce4c5bb63463681bfe334f"
        case .backendUnreachable: "b4a9c7330d1e47dba28dd9993f3d0627"
        case .descriptorLimit: "4d3db835b4dd4d0fb8e053a047102910"
        case .listenerFailed: "4bdcca2ca6aa4ea5bd05d686a4f515bd"
        case .keysLogged: "3c30a2d3d4784c8b160140e5d3b1b1da"
        case .internalError: "d6bf4fad48cb4ae5a97aa778e9e54ac9"
        }
    }

    /// The level that an event of this kind is logged at.
    var level: Logger.Level {
        switch self {
        case .workerStarted, .connectionOpened, .connectionClosed: .info
        case .backendAnswers, .started, .ready, .reloaded, .staplesReloaded, .stopping, .stopped, .handshakeFailed,
            .programEnded:
            .notice
        case .configurationWarning, .newcomerRefused, .trafficLimited, .datagramRefused, .backendRefused,
            .backendUnreachable,
            .descriptorLimit, .serverUnreachable, .keysLogged, .programFailed, .messageLost:
            .warning
        case .reloadFailed, .configurationInvalid, .workerDied, .workerStuck, .listenerFailed, .internalError: .error
        case .serverUnverified: .error
        }
    }

    /// The event in a few words, for a line about several of them.
    var summary: String {
        switch self {
        case .started: "dtlsd started"
        case .ready: "ready"
        case .reloaded: "configuration reloaded"
        case .reloadFailed: "reload failed"
        case .stopping: "stopping"
        case .stopped: "stopped"
        case .configurationInvalid: "configuration invalid"
        case .configurationWarning: "configuration warning"
        case .staplesReloaded: "OCSP responses reloaded"
        case .serverUnreachable: "server unreachable"
        case .serverUnverified: "server unverified"
        case .workerStarted: "worker started"
        case .workerDied: "worker died"
        case .connectionOpened: "connection opened"
        case .connectionClosed: "connection closed"
        case .handshakeFailed: "handshake failed"
        case .newcomerRefused: "newcomers refused"
        case .trafficLimited: "clients beyond the limits of a connection"
        case .datagramRefused: "datagrams refused"
        case .backendRefused: "backend refused"
        case .backendUnreachable: "backend unreachable"
        case .backendAnswers: "backend answers again"
        case .programFailed: "programs not started"
        case .programEnded: "programs ended badly"
        case .messageLost: "messages not logged"
        case .workerStuck: "worker stuck"
        case .descriptorLimit: "out of descriptors"
        case .listenerFailed: "listener failed"
        case .keysLogged: "keys are logged"
        case .internalError: "internal error"
        }
    }
}

extension Logger {
    /// The metadata key of ``LogEvent/messageID``: a field of the journal, left out of standard error.
    static let messageIDKey = "MESSAGE_ID"

    /// Logs an event at its level, with its MESSAGE_ID. `message` and `metadata` are only evaluated when the level is
    /// enabled. What a stranger on the network can cause goes through a ``LogLimiter`` instead.
    func log(
        _ event: LogEvent, _ message: @autoclosure () -> String, _ metadata: @autoclosure () -> Logger.Metadata = [:]
    ) {
        guard logLevel <= event.level else { return }
        var fields = metadata()
        fields[Self.messageIDKey] = .string(event.messageID)
        log(level: event.level, "\(message())", metadata: fields)
    }
}
