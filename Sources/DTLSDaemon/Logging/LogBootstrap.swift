import CLinux
import Glibc
import Logging
import Synchronization

/// Sets up the log of a process at its start.
enum LogBootstrap {
    private static let sink = Mutex<LogSink?>(nil)

    /// Makes every `Logger` of this process write to the journal if standard error is connected to it, and to standard
    /// error if not. To be called once, before the first logger is made.
    /// - Parameters:
    ///   - role: the part that the process plays in the daemon: `"main"`, `"worker 3"`.
    ///   - level: the lowest level that is logged.
    static func start(role: String, level: LogLevel) {
        // When the reader of standard error is gone, a write must not end the daemon.
        signal(SIGPIPE, SIG_IGN)
        tzset()
        let started = LogSink(role: role, level: level.loggerLevel, destination: destination())
        sink.withLock { $0 = started }
        LoggingSystem.bootstrap { _ in DaemonLogHandler(sink: started) }
    }

    /// Changes the level of all loggers, including those that exist.
    static func setLevel(_ level: LogLevel) {
        sink.withLock { $0?.level = level.loggerLevel }
    }

    /// Changes what entries look like, and thereby where they go. Entries from before the configuration was read are text.
    static func setFormat(_ format: LogEntryFormat) {
        sink.withLock { $0?.setDestination(destination(format), of: format) }
    }

    private static func destination(_ format: LogEntryFormat = .text) -> LogSink.Destination {
        if format == .json { return .standardOutput(LineWriter(descriptor: STDOUT_FILENO)) }
        let stream = getenv("JOURNAL_STREAM").map { String(cString: $0) }
        if JournalSocket.isStandardError(stream), let socket = try? JournalSocket() { return .journal(socket) }
        return .standardError(LineWriter())
    }
}

extension LogLevel {
    /// The level of swift-log with the same name.
    var loggerLevel: Logger.Level {
        switch self {
        case .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error: .error
        }
    }
}
