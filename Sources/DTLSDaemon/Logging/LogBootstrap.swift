import CLinux
import Glibc
import Logging
import Synchronization

/// Decides once, at the start of a process, where its log entries go.
enum LogBootstrap {
    private static let sink = Mutex<LogSink?>(nil)

    /// Makes every `Logger` of this process write to the journal, if standard error is connected to it, else to
    /// standard error. To be called once, before the first logger is made.
    /// - Parameters:
    ///   - role: `"main"`, or `"worker 3"`.
    ///   - level: the lowest level that is logged.
    static func start(role: String, level: LogLevel) {
        // A reader of standard error that has gone must not take the daemon along.
        signal(SIGPIPE, SIG_IGN)
        tzset()
        let started = LogSink(role: role, level: level.loggerLevel, destination: destination())
        sink.withLock { $0 = started }
        LoggingSystem.bootstrap { _ in DaemonLogHandler(sink: started) }
    }

    /// Changes the level of all loggers, those that exist included.
    static func setLevel(_ level: LogLevel) {
        sink.withLock { $0?.level = level.loggerLevel }
    }

    private static func destination() -> LogSink.Destination {
        let stream = getenv("JOURNAL_STREAM").map { String(cString: $0) }
        if JournalSocket.isStandardError(stream), let socket = try? JournalSocket() { return .journal(socket) }
        return .standardError(StandardErrorWriter())
    }
}

extension LogLevel {
    /// swift-log's level of the same name.
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
