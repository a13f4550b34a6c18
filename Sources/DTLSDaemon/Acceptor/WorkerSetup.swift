import DTLSEngine
import LinuxSystem

/// All that a worker is given with a configuration.
final class WorkerSetup {
    /// A sealed memfd with a ``Snapshot``.
    var snapshot: FileDescriptor
    /// The file that secrets are appended to; not open where none are.
    var keyLog: FileDescriptor
    /// What session tickets are sealed with; they change while the configuration stays.
    var ticketKeys: [TicketKey]

    init(snapshot: consuming FileDescriptor, keyLog: consuming FileDescriptor, ticketKeys: [TicketKey]) {
        self.snapshot = snapshot
        self.keyLog = keyLog
        self.ticketKeys = ticketKeys
    }

    /// One worker's own, until it is sent.
    func copy() throws(SystemError) -> WorkerSetup {
        WorkerSetup(
            snapshot: try snapshot.duplicate(),
            keyLog: keyLog.isOpen ? try keyLog.duplicate() : FileDescriptor(owning: -1), ticketKeys: ticketKeys)
    }
}
