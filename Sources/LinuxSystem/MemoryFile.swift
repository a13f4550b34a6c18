import CLinux
import Glibc

/// Bytes in a sealed memfd: how what is too big for a channel's message travels. Whoever receives it can map it without
/// fear that it changes or shrinks.
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

    /// An empty memfd that is not sealed, for ``replace(_:with:)``.
    public static func makeOpen(name: String) throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("memfd_create") { cl_memfd_create(name) })
    }

    /// Writes `bytes` over what an unsealed memfd holds. Whoever else has a descriptor of it reads them too.
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

    /// All bytes of a memfd, wherever its offset stands.
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
