import Glibc
import LinuxSystem
import Primitives

/// The cookie secret of configurations that have none. It is generated once, and in a memory file that the service
/// manager keeps: a client that has its cookie from the process before this one goes on with its handshake.
final class CookieSecret {
    static let length = 32

    let bytes: [UInt8]
    /// Sealed, so that nobody changes it.
    let memory: FileDescriptor

    /// - Parameter stored: what ``memory`` was in the process before this one; not open when there is none. A file that
    ///   holds anything else than a secret is closed.
    init(stored: consuming FileDescriptor) throws(SystemError) {
        let kept = stored.isOpen ? (try? MemoryFile.read(stored)) ?? [] : []
        if kept.count == Self.length {
            bytes = kept
            memory = stored
        } else {
            bytes = try RandomBytes.make(Self.length)
            memory = try MemoryFile.make(bytes, name: StoredItem.cookieSecret.name)
        }
    }
}
