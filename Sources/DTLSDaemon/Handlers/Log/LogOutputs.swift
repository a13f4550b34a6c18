import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// The targets that one worker logs messages to (handler "log"): one output for each target, shared by all connections.
final class LogOutputs: HandlerSharedState {
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// As many as all configurations so far have named, since connections keep the target that they began with.
    private var outputs: [LogTarget: any LogOutput] = [:]
    /// The sockets of those outputs that have one.
    private var sockets: [UnixLogSocket] = []
    private let budget = PendingBudget()

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    func output(for target: LogTarget) -> any LogOutput {
        if let existing = outputs[target] { return existing }
        let made: any LogOutput =
            switch target {
            case .journal(let path): SocketOutput(socket(path), .journal)
            case .syslog(let path): SocketOutput(socket(path), .syslog)
            case .file(let path): FileOutput(path, loop: loop, logs: logs)
            }
        outputs[target] = made
        return made
    }

    private func socket(_ path: String) -> UnixLogSocket {
        let socket = UnixLogSocket(path, budget, loop: loop, logs: logs)
        sockets.append(socket)
        return socket
    }

    /// Programs that rotate log files send SIGHUP afterwards.
    func reconfigure() {
        for output in outputs.values { output.reopen() }
    }

    var isBusy: Bool { sockets.contains(where: \.isBusy) }

    func finish(by deadline: Instant, _ done: @escaping () -> Void) {
        for socket in sockets where socket.isBusy {
            socket.finish(by: deadline) { [weak self] in
                if self?.isBusy == false { done() }
            }
        }
    }
}

/// One target that messages are logged to. It never waits for a reader: what is not taken in time is lost, and the
/// daemon's own log tells how many messages were.
protocol LogOutput: AnyObject {
    /// The record's bytes are valid during the call.
    func write(_ record: LogRecord, from origin: LogOrigin)
    /// The messages of a batch have all been written.
    func flush()
    func reopen()
}

/// Each message is one datagram for the journal or a syslog daemon.
private final class SocketOutput: LogOutput {
    private let socket: UnixLogSocket
    private let encoding: LogRecordEncoding
    private var entry: [UInt8] = []

    init(_ socket: UnixLogSocket, _ encoding: LogRecordEncoding) {
        self.socket = socket
        self.encoding = encoding
    }

    func write(_ record: LogRecord, from origin: LogOrigin) {
        entry.removeAll(keepingCapacity: true)
        encoding.append(record, from: origin, to: &entry)
        socket.send(entry, of: origin.service)
    }

    func flush() {}
    func reopen() {}
}

/// Each message is one line of a file: `TIME PEER CLIENT MESSAGE`. All workers append to the same file.
///
/// Regular files cannot be written without waiting. So all lines of a batch are written at once, and mostly reach no
/// further than the page cache.
private final class FileOutput: LogOutput {
    private let path: String
    private let loop: EventLoop
    private let logs: WorkerLogs
    private var file: OpenFile?
    private var buffer: [UInt8] = []
    private var lines = 0
    /// When the first line of the buffer was written. It stands on all lines: the time differs by less than a batch
    /// takes.
    private var time: [UInt8] = []
    /// The service of the last line.
    private var service = ""
    /// Whether the file's last line was only written in part, since the disk was full.
    private var endsInsideLine = false
    /// The loop's time before which opening is not tried again.
    private var retryTime = Instant.distantPast

    private static let bufferBytes = 65_536
    private static let retryPause = Duration.seconds(1)

    /// In a class, since an optional of a noncopyable type cannot be used in place.
    private final class OpenFile {
        let value: AppendFile
        init(_ path: String) throws(SystemError) { value = try AppendFile(path) }
    }

    init(_ path: String, loop: EventLoop, logs: WorkerLogs) {
        self.path = path
        self.loop = loop
        self.logs = logs
    }

    func write(_ record: LogRecord, from origin: LogOrigin) {
        service = origin.service
        if lines == 0 { time = Array("\(TextEncoding.timestamp(nil)) ".utf8) }
        buffer.append(contentsOf: time)
        LogRecordEncoding.appendLine(record, from: origin, to: &buffer)
        lines += 1
        if buffer.count >= Self.bufferBytes { flush() }
    }

    func flush() {
        guard lines > 0 else { return }
        defer {
            buffer.removeAll(keepingCapacity: true)
            lines = 0
        }
        do throws(SystemError) {
            guard let file = try openedFile() else { return logLoss("it could not be opened a moment ago") }
            if endsInsideLine { buffer.insert(UInt8(ascii: "\n"), at: 0) }
            let written = try file.value.append(buffer)
            endsInsideLine = written < buffer.count && (written == 0 ? endsInsideLine : buffer[written - 1] != 0x0a)
            if written < buffer.count { logLoss("the disk is full") }
        } catch {
            logLoss(error.reason)
        }
    }

    private func logLoss(_ reason: String) {
        logs.onMessagesLost(lines, service)
        logs.limited(
            .messageLost,
            "\(counted(lines, "message was", "messages were")) not logged, or not whole: \(path): \(reason)",
            fields: ["SERVICE": "\(service)"])
    }

    /// - Returns: `nil` while it is too early to try again.
    private func openedFile() throws(SystemError) -> OpenFile? {
        if let file { return file }
        guard loop.now >= retryTime else { return nil }
        do throws(SystemError) {
            let opened = try OpenFile(path)
            file = opened
            return opened
        } catch {
            retryTime = loop.now + Self.retryPause
            throw error
        }
    }

    /// The next line is written to the file that has the path then.
    func reopen() {
        file = nil
        endsInsideLine = false
        retryTime = .distantPast
    }
}
