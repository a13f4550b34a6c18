import Logging

/// The kinds of events that the daemon logs. Each has an identifier that never changes, by which an operator finds its
/// entries (`journalctl MESSAGE_ID=…`), and a level.
///
/// Inside this module the name stands for this type; swift-log's own is `Logging.LogEvent`.
enum LogEvent: Int, Sendable, CaseIterable {
    /// The main process has started, and nothing is open yet.
    case started
    /// The main process runs as another user than the one that has started it.
    case userChanged
    /// All listeners are open and all workers are ready.
    case ready
    /// All workers serve a new configuration.
    case reloaded
    /// A new configuration was refused, and the previous one stays active.
    case reloadFailed
    /// SIGUSR2 has come, and another process of the daemon is started to take this one's place.
    case upgradeStarted
    /// Another process of the daemon serves in this one's place.
    case upgraded
    /// This process goes on, since the one that was to take its place cannot.
    case upgradeFailed
    /// Connections that an earlier main process has left are gone on with.
    case connectionsKept
    /// Connections that were stored cannot be gone on with.
    case connectionsLost
    /// No new clients are accepted, and connections are being closed.
    case stopping
    /// Every worker has ended.
    case stopped
    /// One error in a configuration.
    case configurationInvalid
    /// Something in a configuration that is valid, but probably not what its author wants.
    case configurationWarning
    /// OCSP responses have changed, and new handshakes get them.
    case staplesReloaded
    /// Files that the configuration names have changed, and are read again (`watch`).
    case filesChanged
    /// A certificate of a service or client expires soon, or has expired.
    case certificateExpires
    /// The process of a worker was started; it is not ready yet.
    case workerStarted
    /// A worker ended without having been told to.
    case workerDied
    /// A handshake has succeeded.
    case connectionOpened
    /// A connection has ended, for whatever reason.
    case connectionClosed
    /// The peer of a connection with a connection ID, or this side, is at another address than before.
    case connectionMoved
    /// Nobody answers at an address that records of a connection have come from.
    case pathCheckFailed
    /// A handshake has failed or taken too long.
    case handshakeFailed
    /// A client whose address is proven was refused a connection; it may try again.
    case connectionRefused
    /// A client has proven who it is in its handshake, and may not come in.
    case clientRefused
    /// A record has come to a listener, and its connection is not there.
    case recordOfNoConnection
    /// A client sends more than its connection may, and its datagrams are dropped.
    case trafficLimited
    /// A backend's datagram was dropped, because it is too long for a message to the client.
    case datagramRefused
    /// A backend's port is closed (ECONNREFUSED).
    case backendRefused
    /// A backend cannot be reached.
    case backendUnreachable
    /// A backend that had refused datagrams takes them again.
    case backendAnswers
    /// The health checks of a backend fail, and it gets no datagrams of clients.
    case backendDown
    /// The health checks of a backend pass again.
    case backendUp
    /// A host name of a backend or server cannot be looked up.
    case nameUnresolved
    /// A host name that could not be looked up has addresses, or one has other addresses than before.
    case nameResolved
    /// The handshake of a client (client mode) with its server has failed, or the server does not answer.
    case serverUnreachable
    /// The server of a client (client mode) has shown a certificate that is not trusted.
    case serverUnverified
    /// An authorizer cannot be asked, or answers what is no answer.
    case authorizerFailed
    /// A program could not be started (handler "exec").
    case programFailed
    /// A program has ended with a status other than 0, or by a signal (handler "exec").
    case programEnded
    /// A message could not be logged (handler "log").
    case messageLost
    /// A worker does not answer, and is killed.
    case workerStuck
    /// The limit of open descriptors, or of memory for sockets, has been reached.
    case descriptorLimit
    /// No local port is left for another socket to a backend.
    case portLimit
    /// A listener cannot be opened or read.
    case listenerFailed
    /// The secrets of connections are written to a file, as the configuration demands.
    case keysLogged
    /// What has passed between a client that somebody looks at and a process, for a time.
    case traced
    /// The process that has the private keys has ended, or does not answer; another one is started.
    case keyProcessFailed
    /// A worker was refused the use of a private key.
    case keyUseRefused
    /// The kernel lacks what keeps processes of the daemon from what they do not need.
    case wallsMissing
    /// Something that should not happen; the daemon went on.
    case internalError

    /// What is the same for all entries of one kind.
    struct Definition {
        /// MESSAGE_ID in the journal: 128 random bits, 32 hexadecimal digits. One that was released never changes.
        let messageID: String
        let level: Logger.Level
        /// The event in a few words, for an entry about several of them.
        let summary: String

        fileprivate init(_ messageID: String, _ level: Logger.Level, _ summary: String) {
            self.messageID = messageID
            self.level = level
            self.summary = summary
        }
    }

    var definition: Definition {
        switch self {
        case .started: .init("2ad93c50069e498ea859cdc8db5e3fa7", .notice, "dtlsd started")
        case .userChanged: .init("c2b60a2d5c3d45f0b3a3b0a1f9b6f7d4", .notice, "user changed")
        case .ready: .init("1e2929ec3e84490e82e031073b4fadb3", .notice, "ready")
        case .reloaded: .init("8db8f4a81c264caeaffe85f720c889c9", .notice, "configuration reloaded")
        case .reloadFailed: .init("35e1481a3fe34d4d85b4a2b71adb0756", .error, "reload failed")
        case .upgradeStarted: .init("29000e9548be4767b3f8054c4f16a342", .notice, "upgrade begun")
        case .upgraded: .init("49663b2e55484ff194046866bc17d613", .notice, "upgraded")
        case .upgradeFailed: .init("bcbb0d70dfdb49c8985d176fd16eec59", .error, "upgrade failed")
        case .connectionsKept: .init("7f33d26cd478439aa2eaaef48474b55c", .notice, "connections kept")
        case .connectionsLost: .init("2fd452176cb34132aee640bceaf7a77f", .error, "connections lost")
        case .stopping: .init("13f825680ba54e4f96e3d60c4eec8c3a", .notice, "stopping")
        case .stopped: .init("ba5cf3c661664f4c81054f413df576b3", .notice, "stopped")
        case .configurationInvalid: .init("f4a5d56e85de4957979c559d9609b40a", .error, "configuration invalid")
        case .configurationWarning: .init("9f54f49935b341baa990c5948294161a", .warning, "configuration warning")
        case .staplesReloaded: .init("57c06572c99b411fbf0b1fde312afe8b", .notice, "OCSP responses reloaded")
        case .filesChanged: .init("d8a1f4c30b6e4c07a2f2f4a55fb3c916", .notice, "files have changed")
        case .certificateExpires: .init("cb7759634a5c4808893b6e214b807a9a", .warning, "certificate expires")
        case .workerStarted: .init("7d48ed8817624fc088685e492ea5a6dd", .info, "worker started")
        case .workerDied: .init("0b8849ba95b04cefb70e722363bba718", .error, "worker died")
        case .connectionOpened: .init("cde74a02b67b470ea9b7613559d68da5", .info, "connection opened")
        case .connectionClosed: .init("1db8a567d8224492ac040ea2b0d1006f", .info, "connection closed")
        case .connectionMoved: .init("0eadf9689ac84e2097722b4a94df7ba1", .info, "connection moved")
        case .pathCheckFailed: .init("b34578971f2c45f08676ff16a990a3ce", .notice, "address not confirmed")
        case .handshakeFailed: .init("59166cb1cb524572ab668855f8f933b6", .notice, "handshake failed")
        case .clientRefused: .init("61db25ce7cac4a4fa7a6e5bda904d802", .notice, "client refused")
        case .connectionRefused: .init("7047d81158f4499f894310cf41a07041", .warning, "connection refused")
        case .recordOfNoConnection: .init("f41d21b5f01045f7b9cff2c1ac50bf5b", .info, "record of no connection")
        case .trafficLimited: .init("7efd470887394096914792531759a922", .warning, "client over its traffic limits")
        case .datagramRefused: .init("df4ef562fa634fd98b9bdf81d1a74fb6", .warning, "datagram too large")
        case .backendRefused: .init("0df4ae1ad4cc46b199e3e2d52528cc4c", .warning, "backend refused")
        case .backendUnreachable: .init("b4a9c7330d1e47dba28dd9993f3d0627", .warning, "backend unreachable")
        case .backendAnswers: .init("b2827cb8212145e491c136f424d2ce9f", .notice, "backend answers again")
        case .backendDown: .init("33e4a1676e13405e806b307fe0cbe667", .warning, "backend down")
        case .backendUp: .init("f780bd1aefa541ddae54534874bf3f74", .notice, "backend up again")
        case .nameUnresolved: .init("312e546ff494c97fc687b13fa831c73f", .warning, "host name not resolved")
        case .nameResolved: .init("6fa843c9cbda6e28e379574da189c5db", .notice, "host name resolved")
        case .serverUnreachable: .init("883304b15c16b6c5c230812cc37644cc", .warning, "server unreachable")
        case .serverUnverified: .init("451d7cb0da7278ad1f0ef8f882169344", .error, "server not trusted")
        case .authorizerFailed: .init("e2a4b0c46d8f4b6fa8c1b7d3c5f09a61", .warning, "authorizer failed")
        case .programFailed: .init("4bd4d1921556466ea10c9a47ed56a67c", .warning, "program not started")
        case .programEnded: .init("7acda4336d044169b37b1764d179e4a5", .notice, "program failed")
        case .messageLost: .init("138fc8c208fc4df499d84b3a6629566b", .warning, "message not logged")
        case .workerStuck: .init("f8619c1274ce4c5bb63463681bfe334f", .error, "worker does not answer")
        case .descriptorLimit: .init("4d3db835b4dd4d0fb8e053a047102910", .warning, "out of file descriptors")
        case .portLimit: .init("c98627dc538d4923bebe808bb5a7ca18", .warning, "out of local ports")
        case .listenerFailed: .init("4bdcca2ca6aa4ea5bd05d686a4f515bd", .error, "listener failed")
        case .keysLogged: .init("3c30a2d3d4784c8b160140e5d3b1b1da", .warning, "secrets are written to a file")
        case .traced: .init("fa99d144a6f772a7327d333c7d45dfdb", .info, "trace of a client")
        case .keyProcessFailed: .init("a41c5b6d9a0f4d0d9c0b4f0e6b7b2f3e", .error, "key process failed")
        case .keyUseRefused: .init("5e8f0c7b2d9146a7bb1f4f3c8a6d2e90", .warning, "use of a private key refused")
        case .wallsMissing: .init("da9f49d2307c4963960ba9aa91ef4c28", .warning, "kernel without walls")
        case .internalError: .init("d6bf4fad48cb4ae5a97aa778e9e54ac9", .error, "internal error")
        }
    }

    var messageID: String { definition.messageID }

    var level: Logger.Level { definition.level }

    var summary: String { definition.summary }
}

extension Logger {
    /// The metadata key of ``LogEvent/messageID``: a field of the journal, left out of standard error.
    static let messageIDKey = "MESSAGE_ID"

    /// Logs an event at its level, with its MESSAGE_ID. `message` and `metadata` are only evaluated when the level is
    /// enabled. What an unauthenticated peer can cause goes through a ``LogLimiter`` instead.
    func log(
        _ event: LogEvent, _ message: @autoclosure () -> String, _ metadata: @autoclosure () -> Logger.Metadata = [:]
    ) {
        guard logLevel <= event.level else { return }
        var fields = metadata()
        fields[Self.messageIDKey] = .string(event.messageID)
        log(level: event.level, "\(message())", metadata: fields)
    }
}
