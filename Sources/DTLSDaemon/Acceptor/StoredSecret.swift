import Glibc
import LinuxSystem
import Primitives

/// A secret of configurations that have none of their own. It is generated once, and in a memory file that the service
/// manager keeps: what clients have from the process before this one, such as cookies and connection IDs, is good at
/// this one.
final class StoredSecret {
    let bytes: [UInt8]
    /// Sealed, so that nobody changes it.
    let memory: FileDescriptor

    /// - Parameters:
    ///   - length: in bytes.
    ///   - stored: what ``memory`` was in the process before this one; not open when there is none. A file that holds
    ///     anything else than a secret of this length is closed.
    ///   - name: of the memory file, for those who look at the process.
    init(length: Int, stored: consuming FileDescriptor, name: String) throws(SystemError) {
        let kept = stored.isOpen ? (try? MemoryFile.read(stored)) ?? [] : []
        if kept.count == length {
            bytes = kept
            memory = stored
        } else {
            bytes = try RandomBytes.make(length)
            memory = try MemoryFile.make(bytes, name: name)
        }
    }
}
