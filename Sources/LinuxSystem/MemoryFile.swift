import CLinux
import Glibc

/// Bytes in a sealed memfd, which carries data that is too large for one message of a channel. The receiver can map it
/// safely, since it can neither change nor shrink.
public enum MemoryFile {
    public static func make(_ bytes: [UInt8], name: String) throws(SystemError) -> FileDescriptor {
        let file = FileDescriptor(owning: try system("memfd_create") { cl_memfd_create(name) })
        let raw = file.rawValue
        var offset = 0
        while offset < bytes.count {
            offset += try system("write", "memfd") {
                bytes.withUnsafeBytes { write(raw, $0.baseAddress.map { $0 + offset }, bytes.count - offset) }
            }
        }
        let seals = CL_F_SEAL_SEAL | CL_F_SEAL_SHRINK | CL_F_SEAL_GROW | CL_F_SEAL_WRITE
        _ = try system("fcntl(F_ADD_SEALS)") { fcntl(raw, CL_F_ADD_SEALS, seals) }
        return file
    }

    /// Creates an empty memfd that is not sealed, for ``replace(_:with:)``.
    public static func makeOpen(name: String) throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("memfd_create") { cl_memfd_create(name) })
    }

    /// Replaces the contents of an unsealed memfd. Every process that has a descriptor of it reads the new contents.
    public static func replace(_ file: borrowing FileDescriptor, with bytes: [UInt8]) throws(SystemError) {
        let raw = file.rawValue
        var offset = 0
        while offset < bytes.count {
            offset += try system("pwrite", "memfd") {
                bytes.withUnsafeBytes {
                    pwrite(raw, $0.baseAddress.map { $0 + offset }, bytes.count - offset, off_t(offset))
                }
            }
        }
        _ = try system("ftruncate", "memfd") { ftruncate(raw, off_t(bytes.count)) }
    }

    /// Reads all bytes of a memfd, regardless of its file offset.
    public static func read(_ file: borrowing FileDescriptor) throws(SystemError) -> [UInt8] {
        let raw = file.rawValue
        var status = stat()
        _ = try system("fstat", "memfd") { fstat(raw, &status) }
        var bytes = [UInt8](repeating: 0, count: max(0, Int(status.st_size)))
        var offset = 0
        while offset < bytes.count {
            let count = try system("pread", "memfd") {
                bytes.withUnsafeMutableBytes { buffer in
                    pread(raw, buffer.baseAddress.map { $0 + offset }, buffer.count - offset, off_t(offset))
                }
            }
            if count == 0 { break }
            offset += count
        }
        return bytes
    }
}
