import DTLSEngine
import LinuxSystem
import Primitives

/// What a worker needs to serve: the configuration, and the cookie secret that all workers share. The keys of session
/// tickets come as a message of their own, since they change while the configuration stays.
struct Snapshot: Codable {
    let configuration: Configuration
    /// The secret of the cookies of the main process and all workers.
    let cookieSecret: [UInt8]
}

/// Everything that a worker is given with a configuration.
final class WorkerSetup {
    /// A sealed memfd with a ``Snapshot``.
    var snapshot: FileDescriptor
    /// The file that secrets are appended to; not open when none are.
    var keyLog: FileDescriptor
    /// The keys of session tickets. They change while the configuration stays.
    var ticketKeys: [TicketKey]

    init(snapshot: consuming FileDescriptor, keyLog: consuming FileDescriptor, ticketKeys: [TicketKey]) {
        self.snapshot = snapshot
        self.keyLog = keyLog
        self.ticketKeys = ticketKeys
    }

    /// A copy to be sent to one worker.
    func copy() throws(SystemError) -> WorkerSetup { try copy(snapshot: try snapshot.duplicate()) }

    /// A copy with another snapshot.
    func copy(snapshot: consuming FileDescriptor) throws(SystemError) -> WorkerSetup {
        WorkerSetup(
            snapshot: snapshot, keyLog: keyLog.isOpen ? try keyLog.duplicate() : FileDescriptor(owning: -1),
            ticketKeys: ticketKeys)
    }
}
