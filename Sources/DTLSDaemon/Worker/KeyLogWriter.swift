import DTLSEngine
import Glibc
import LinuxSystem

/// Appends secrets to the file that the loader has opened.
final class KeyLogWriter {
    private let file: FileDescriptor
    private let logs: WorkerLogs
    /// Said once: it may be so for every connection from then on.
    private var hasFailed = false

    private init(_ file: consuming FileDescriptor, _ logs: WorkerLogs) {
        self.file = file
        self.logs = logs
    }

    static func log(to file: consuming FileDescriptor, _ logs: WorkerLogs) -> KeyLog {
        let writer = KeyLogWriter(file, logs)
        return KeyLog { writer.write($0) }
    }

    /// One line in one call: see ``KeyLogFile/open(_:)``.
    private func write(_ line: UnsafeRawBufferPointer) {
        guard Glibc.write(file.rawValue, line.baseAddress, line.count) != line.count, !hasFailed else { return }
        let reason = String(cString: strerror(errno))
        hasFailed = true
        logs.always(.internalError, "the key log cannot be written: \(reason)")
    }
}
