import DTLSEngine
import DTLSKit
import LinuxSystem
import Logging

/// What a service does with a connection's messages: one object a connection, from the end of the handshake to the end
/// of the connection. A further handler is one more file here, and a case of ``HandlerConfiguration``.
protocol Handler: AnyObject {
    /// The handshake is done.
    func opened(_ connection: Connection)
    /// A message of 1 to 16,384 bytes, valid during the call. Answers with `connection.send` leave together after the
    /// batch.
    func received(_ message: UnsafeRawBufferPointer, on connection: Connection)
    /// The messages of one batch have all been handed out.
    func batchEnded(on connection: Connection)
    /// The connection is gone. Nothing follows.
    func closed()
}

/// What the handlers of one worker share.
final class HandlerResources {
    let loop: EventLoop
    let sender = DatagramSender()
    let batch = ReceiveBatch(capacity: 32)
    /// Messages on their way to a backend, of one connection's batch at a time.
    let outbox = Outbox()
    let waitingBudget = WaitingBudget()
    let logs: WorkerLogs

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }
}

extension Connection {
    /// Sends a message; one that cannot be sent (too long for a record, or empty) is dropped, as UDP would.
    /// - Returns: whether it is on its way.
    @inline(__always)
    @discardableResult
    func sendOrDrop(_ message: UnsafeRawBufferPointer) -> Bool {
        do throws(EngineError) {
            try send(message)
            return true
        } catch {
            return false
        }
    }
}
