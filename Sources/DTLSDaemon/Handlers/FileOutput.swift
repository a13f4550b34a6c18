import Glibc
import LinuxSystem
import Logging

/// Each message is one line of a file: `TIME PEER CLIENT MESSAGE`. All workers add to the same file.
///
/// Regular files cannot be written without waiting. So all lines of a batch are written at once, and mostly reach no
/// further than the page cache.
final class FileOutput: LogOutput {
    private let path: String
    private let loop: EventLoop
    private let logs: WorkerLogs
    private var file: OpenFile?
    private var buffer: [UInt8] = []
    private var lines = 0
    /// When the first line of the buffer was written; the others' time differs by less than a batch takes.
    private var time: [UInt8] = []
    private weak var service: ServiceRuntime?
    /// Whether the file's last line has only been written in part: the disk was full.
    private var endsInsideLine = false
    /// The loop's time before which opening is not tried again.
    private var retryTime: UInt64 = 0

    private static let bufferBytes = 65_536
    private static let retryPause = UInt64.milliseconds(1_000)

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
        buffer.append(contentsOf: origin.linePrefix)
        PrintableBytes.append(record.line, to: &buffer)
        buffer.append(UInt8(ascii: "\n"))
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
            guard let file = try opened() else { return lost("it could not be opened a moment ago") }
            if endsInsideLine { buffer.insert(UInt8(ascii: "\n"), at: 0) }
            let written = try file.value.append(buffer)
            endsInsideLine = written < buffer.count && (written == 0 ? endsInsideLine : buffer[written - 1] != 0x0a)
            if written < buffer.count { lost("the disk is full") }
        } catch {
            lost(error.reason)
        }
    }

    private func lost(_ reason: String) {
        guard let service else { return }
        logs.limited(.messageLost, "\(lines) messages were not logged, or not whole: \(path): \(reason)", service)
    }

    /// - Returns: `nil` while it is too early to try again.
    private func opened() throws(SystemError) -> OpenFile? {
        if let file { return file }
        guard loop.now >= retryTime else { return nil }
        do throws(SystemError) {
            let opened = try OpenFile(path)
            file = opened
            return opened
        } catch {
            retryTime = loop.now &+ Self.retryPause
            throw error
        }
    }

    /// The next line is written to whatever has the path then.
    func reopen() {
        file = nil
        endsInsideLine = false
        retryTime = 0
    }
}
