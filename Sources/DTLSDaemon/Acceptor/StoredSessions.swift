import DTLSEngine
import LinuxSystem

/// The memory in which all workers keep the sessions of clients without tickets (``SessionTable``). The service manager
/// and a successor get it, so that clients resume their sessions at the next main process.
final class StoredSessions {
    /// That of the active configuration; before there is one, that of the process before this one; `nil`: there is none.
    private(set) var active: SharedMemory?

    /// - Parameter stored: what ``active`` was in the process before this one; not open when there is none. Memory that
    ///   this program cannot use is given up.
    init(stored: consuming FileDescriptor) {
        guard stored.isOpen, let memory = try? SharedMemory(stored),
            SessionTable(memory.bytes, owner: memory) != nil
        else { return }
        active = memory
    }

    /// Memory for a configuration: the present one where it has the right size, so that sessions outlive a reload.
    /// - Parameter mebibytes: 0: there is to be none.
    func memory(mebibytes: Int) throws(SystemError) -> SharedMemory? {
        let byteCount = mebibytes << 20
        guard byteCount > 0 else { return nil }
        if let active, active.bytes.count == byteCount { return active }
        return try SharedMemory(byteCount: byteCount, name: StoredItem.sessions.name)
    }

    /// The workers keep sessions in this memory from now on.
    /// - Returns: whether it is not the one that they have kept them in before.
    func activate(_ memory: SharedMemory?) -> Bool {
        defer { active = memory }
        return active !== memory
    }
}
