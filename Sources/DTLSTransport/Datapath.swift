import DTLSEngine
import LinuxSystem

/// The part that all connections of one thread share: the loop, and the memory that datagrams pass through.
package final class Datapath {
    package let loop: EventLoop
    let buffers: EngineBuffers
    /// The datagrams that a connection's socket yields while it is read.
    let batch = ReceiveBatch(capacity: 32)
    /// The datagrams that a socket still holds when it is closed, which can happen while another connection's `batch` is
    /// worked through.
    let finalBatch = ReceiveBatch(capacity: 8)
    private let sender = DatagramSender()

    package init(loop: EventLoop) throws(OpenSSLError) {
        self.loop = loop
        buffers = try EngineBuffers()
    }

    /// Sends what is in the outbox, without waiting.
    func send(_ outbox: Outbox, over socket: borrowing FileDescriptor) -> DatagramSender.Outcome {
        outbox.withDatagrams { sender.send($0, sizes: $1, over: socket) }
    }
}
