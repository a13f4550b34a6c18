import DTLSEngine
import Glibc
import LinuxSystem

/// Appends the secrets of connections to the key log file that the loader has opened.
///
/// A worker has one writer for all of its life, since connections outlive the configuration that they began with.
/// Connections of an earlier configuration write to the active one's file, or no longer write where that has none.
final class KeyLogWriter {
    /// Not open where the configuration has no key log.
    private var file = FileDescriptor(owning: -1)
    private let logs: WorkerLogs
    /// Whether the failure was logged, which happens once for each file: it may concern every connection from then on.
    private var hasFailed = false
    /// What TLS contexts write to.
    private(set) lazy var log = KeyLog { [weak self] in self?.write($0) }

    init(_ logs: WorkerLogs) { self.logs = logs }

    /// Goes on with another file, or with none, and closes the last one.
    func replace(with file: consuming FileDescriptor) {
        self.file = file
        hasFailed = false
    }

    /// Each line is one call of write(2), so that lines of several workers do not mix: see ``KeyLogFile/open(_:)``.
    private func write(_ line: UnsafeRawBufferPointer) {
        guard file.isOpen, Glibc.write(file.rawValue, line.baseAddress, line.count) != line.count, !hasFailed else {
            return
        }
        let reason = String(cString: strerror(errno))
        hasFailed = true
        logs.always(.internalError, "the key log file cannot be written, and secrets are missing in it: \(reason)")
    }
}
