import Glibc
import Logging
import Synchronization

/// The log handler for the journal and for standard error. It is a value with metadata and a level of its own.
struct DaemonLogHandler: LogHandler {
    let sink: LogSink
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    private var ownLevel: Logger.Level?

    init(sink: LogSink) { self.sink = sink }

    /// The level that all loggers share (``LogSink/level``), unless another one was set for this logger.
    var logLevel: Logger.Level {
        get { ownLevel ?? sink.level }
        set { ownLevel = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: Logging.LogEvent) {
        var fields = metadata
        if let provided = metadataProvider?.get() { fields.merge(provided) { $1 } }
        if let own = event.metadata { fields.merge(own) { $1 } }
        if let error = event.error { fields["ERROR"] = "\(error)" }
        sink.write(LogEntry(level: event.level, message: event.message.description, metadata: fields))
    }
}

/// An entry of the log, with all of its metadata.
struct LogEntry: Sendable {
    var level: Logger.Level
    var message: String
    var metadata: Logger.Metadata

    /// The metadata as text, ordered by key.
    var fields: [(key: String, value: String)] {
        metadata.sorted { $0.key < $1.key }.map { ($0.key, $0.value.description) }
    }
}

/// The destination of log entries. Writing never blocks: entries that do not fit are lost and counted, and the next entry
/// that gets through says how many were lost.
final class LogSink: Sendable {
    enum Destination: Sendable {
        case journal(JournalSocket)
        /// Lines of text.
        case standardError(LineWriter)
        /// Lines of JSON.
        case standardOutput(LineWriter)
    }

    /// The part that the process plays in the daemon: `"main"`, `"worker 3"`.
    let role: String
    private struct State {
        var level: Logger.Level
        var destination: Destination
        var format = LogEntryFormat.text
        var lost: UInt64 = 0
    }
    private let state: Mutex<State>

    init(role: String, level: Logger.Level, destination: Destination) {
        self.role = role
        self.state = Mutex(State(level: level, destination: destination))
    }

    /// The lowest level that is logged.
    var level: Logger.Level {
        get { state.withLock { $0.level } }
        set { state.withLock { $0.level = newValue } }
    }

    /// Sends the following entries to another destination, unless entries have this format already.
    func setDestination(_ destination: @autoclosure () -> Destination, of format: LogEntryFormat) {
        state.withLock { state in
            guard state.format != format else { return }
            state.format = format
            state.destination = destination()
        }
    }

    /// The number of entries that were lost since the last one that got through.
    var lost: UInt64 { state.withLock { $0.lost } }

    func write(_ entry: LogEntry) {
        state.withLock { state in
            var entry = entry
            if state.lost > 0 {
                entry.message += " (\(state.lost) log entries before this one were lost)"
                entry.metadata["LOST_ENTRIES"] = "\(state.lost)"
            }
            let written =
                switch state.destination {
                case .journal(let socket): socket.send(JournalEncoding.encode(entry, role: role))
                case .standardError(let writer): writer.write(TextEncoding.encode(entry, role: role))
                case .standardOutput(let writer): writer.write(JSONEncoding.encode(entry, role: role))
                }
            if written { state.lost = 0 } else { state.lost += 1 }
        }
    }
}
