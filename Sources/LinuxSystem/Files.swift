import CLinux
import Glibc

/// Reads small files as a whole.
public enum TextFile {
    /// - Parameter limit: the largest accepted size in bytes; a longer file is an error (EFBIG).
    public static func read(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let file = FileDescriptor(owning: try system("open", path) { open(path, O_RDONLY | O_CLOEXEC) })
        let raw = file.rawValue
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = try system("read", path) {
                part.withUnsafeMutableBytes { Glibc.read(raw, $0.baseAddress, $0.count) }
            }
            if count == 0 { return bytes }
            bytes.append(contentsOf: part[..<count])
            if bytes.count > limit { throw SystemError("read", path, errno: EFBIG) }
        }
    }
}

/// A regular file to which any number of processes append at the same time.
public struct AppendFile: ~Copyable {
    private let descriptor: FileDescriptor

    /// Opens the file, or creates it with mode 640 less the umask. Anything but a regular file is refused (EINVAL).
    public init(_ path: String) throws(SystemError) {
        // O_NONBLOCK keeps a FIFO in place of the file from blocking the process. Regular files ignore it.
        let file = FileDescriptor(
            owning: try system("open", path) {
                open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0o640)
            })
        var status = stat()
        let raw = file.rawValue
        _ = try system("fstat", path) { fstat(raw, &status) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw SystemError("open", path, errno: EINVAL) }
        descriptor = file
    }

    /// Writes in one call, so that the output of several processes is not interleaved (write(2), O_APPEND).
    /// - Returns: how many bytes have been written; fewer than all of them if the disk is full.
    public func append(_ bytes: [UInt8]) throws(SystemError) -> Int {
        let raw = descriptor.rawValue
        return try system("write") { bytes.withUnsafeBytes { write(raw, $0.baseAddress, $0.count) } }
    }
}
