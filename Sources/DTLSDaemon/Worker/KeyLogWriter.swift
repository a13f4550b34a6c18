import DTLSEngine
import Glibc
import LinuxSystem

/// Appends secrets to the file that the loader has opened.
///
/// A worker has one for all of its life: connections outlive the configuration that they began with, and those of an
/// earlier one write to the file that is in force now, or nowhere any more.
final class KeyLogWriter {
    /// Not open where secrets are not written.
    private var file = FileDescriptor(owning: -1)
    private let logs: WorkerLogs
    /// Said once for each file: it may be so for every connection from then on.
    private var hasFailed = false
    /// What contexts write to.
    private(set) lazy var log = KeyLog { [weak self] in self?.write($0) }

    init(_ logs: WorkerLogs) { self.logs = logs }

    /// Goes on with another file, or with none; the last one is closed.
    func replace(with file: consuming FileDescriptor) {
        self.file = file
        hasFailed = false
    }

    /// One line in one call: see ``KeyLogFile/open(_:)``.
    private func write(_ line: UnsafeRawBufferPointer) {
        guard file.isOpen, Glibc.write(file.rawValue, line.baseAddress, line.count) != line.count, !hasFailed else {
            return
        }
        let reason = String(cString: strerror(errno))
        hasFailed = true
        logs.always(.internalError, "the key log cannot be written: \(reason)")
    }
}
