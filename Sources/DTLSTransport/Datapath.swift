import DTLSEngine
import LinuxSystem

/// What all connections of one thread share: the loop, and the memory that datagrams pass through. A connection has no
/// buffers of its own.
package final class Datapath {
    package let loop: EventLoop
    let bio: DatagramBIO
    /// What a connection's socket yields while it is read.
    let batch = ReceiveBatch(capacity: 32)
    /// What it yields when it is closed, which can happen while another one's `batch` is worked through.
    let leftovers = ReceiveBatch(capacity: 8)
    /// Puts hellos together that a client begins anew with.
    let fragments = HelloFragments()
    private let sender = DatagramSender()
    /// Whose datagrams are in the outbox.
    private unowned(unsafe) var writer: Connection?

    package init(loop: EventLoop) throws(OpenSSLError) {
        self.loop = loop
        bio = try DatagramBIO()
    }

    /// To be called before a connection's engine may write: sends what another one has left.
    @inline(__always)
    func claim(_ connection: Connection) {
        if writer === connection { return }
        writer?.flush()
        writer = connection
    }

    /// Sends the outbox over the writer's socket, and empties it.
    func sendOutbox(over socket: borrowing FileDescriptor) -> DatagramSender.Outcome {
        defer { bio.outbox.removeAll() }
        return bio.outbox.withDatagrams { sender.send($0, sizes: $1, over: socket) }
    }

    @inline(__always)
    func isWriter(_ connection: Connection) -> Bool { writer === connection }

    /// A connection that goes must not be left as the writer.
    func leave(_ connection: Connection) {
        if writer === connection { writer = nil }
    }
}
