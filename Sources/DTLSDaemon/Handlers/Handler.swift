import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging

/// What a service does with a connection's messages: one object a connection, from the end of the handshake to the end
/// of the connection. docs/architecture.md tells how to add one.
///
/// A worker has one thread, so a handler must never wait, and shares nothing with threads. All four calls come from the
/// loop. `opened` comes first and once; then `received` for each message of a batch, and `batchEnded` after the batch's
/// last; `closed` comes last and once, whoever ended the connection.
///
/// A handler may at any time, also later from the loop,
/// - answer: `connection.sendOrDrop(_:)`. Inside these calls answers leave together after the batch; outside them
///   `connection.flush()` sends them off;
/// - say goodbye: `connection.close()`. `closed` follows, after the call that the handler is in;
/// - ask who the client is: `connection.peer`, `connection.engine.peerIdentity`, `connection.engine.serverName`.
///
/// Peers choose what a message holds and how many there are: whatever a handler keeps has a bound, and what it logs
/// goes through ``WorkerLogs/limited(_:_:_:_:)``. What does not fit is dropped, as a datagram would be.
protocol Handler: AnyObject {
    /// The handshake is done.
    func opened(_ connection: Connection)
    /// A message of 1 to 16,384 bytes, valid during the call.
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
    let waitingBudget = PendingBudget()
    let logs: WorkerLogs
    private var commons: [ObjectIdentifier: any HandlerSharedState] = [:]

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    /// What one kind of handler keeps in this worker for all its connections, made when it is first asked for.
    func commons<Commons: HandlerSharedState>(_: Commons.Type) -> Commons {
        let key = ObjectIdentifier(Commons.self)
        if let existing = commons[key] as? Commons { return existing }
        let made = Commons(loop: loop, logs: logs)
        commons[key] = made
        return made
    }

    /// To be called when a configuration has come into force.
    func reconfigured() {
        for each in commons.values { each.reconfigured() }
    }

    /// Brings to an end what goes on after the last connection; calls `done` when nothing is left.
    func finish(by deadline: UInt64, _ done: @escaping () -> Void) {
        guard isBusy else { return done() }
        for each in commons.values where each.isBusy {
            each.finish(by: deadline) { [weak self] in
                if self?.isBusy == false { done() }
            }
        }
    }

    private var isBusy: Bool { commons.values.contains(where: \.isBusy) }
}

/// What one kind of handler keeps in a worker for all its connections, whatever service and configuration they are of.
protocol HandlerSharedState: AnyObject {
    init(loop: EventLoop, logs: WorkerLogs)
    /// A configuration has come into force: the first, or after SIGHUP. Log files are opened anew, for example.
    func reconfigured()
    /// Whether something goes on that outlives its connection, and that the worker's end should wait for.
    var isBusy: Bool { get }
    /// The worker ends, and waits while this is busy. What goes on is to end by itself or be given up before
    /// `deadline`, by the loop's time; `done` is to be called then.
    func finish(by deadline: UInt64, _ done: @escaping () -> Void)
}

extension HandlerSharedState {
    func reconfigured() {}
    var isBusy: Bool { false }
    func finish(by deadline: UInt64, _ done: @escaping () -> Void) { done() }
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
