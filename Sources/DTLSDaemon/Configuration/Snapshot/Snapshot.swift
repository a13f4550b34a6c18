import DTLSEngine
import LinuxSystem
import Primitives

/// The configuration without its private, pre-shared and ticket keys, and the cookie secret that all workers share.
struct Snapshot: Codable {
    let configuration: Configuration
    /// The cookie secret of the main process and all workers.
    let cookieSecret: [UInt8]

    init(configuration: Configuration, cookieSecret: [UInt8]) {
        var own = configuration
        own.tickets.keys = []
        self.configuration = own
        self.cookieSecret = cookieSecret
    }
}

/// Everything that a worker gets with a configuration.
final class WorkerSetup {
    /// A sealed memfd with a ``Snapshot``.
    var snapshot: FileDescriptor
    /// The file that secrets are appended to; not open if no secrets are written.
    var keyLog: FileDescriptor
    /// The memory that all workers keep the sessions of clients without tickets in; `nil`: there is none. It stays the same
    /// while its size does.
    var sessions: SharedMemory?
    /// The private keys, which the key process has; `nil`: there are none.
    let keys: KeySet?
    /// What workers that are started with it are walled in for.
    let needs: WorkerNeeds

    init(
        snapshot: consuming FileDescriptor, keyLog: consuming FileDescriptor, sessions: SharedMemory? = nil,
        keys: KeySet? = nil, needs: WorkerNeeds = WorkerNeeds()
    ) {
        self.needs = needs
        self.sessions = sessions
        self.keys = keys
        self.snapshot = snapshot
        self.keyLog = keyLog
    }

    /// Returns a copy to send to one worker.
    func copy() throws(SystemError) -> WorkerSetup { try copy(snapshot: try snapshot.duplicate()) }

    /// Returns a copy with another snapshot.
    func copy(snapshot: consuming FileDescriptor) throws(SystemError) -> WorkerSetup {
        WorkerSetup(
            snapshot: snapshot, keyLog: keyLog.isOpen ? try keyLog.duplicate() : FileDescriptor(owning: -1),
            sessions: sessions, keys: keys, needs: needs)
    }
}
