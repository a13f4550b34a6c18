import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// What a service does with the messages of a connection. There is one object for each connection, from the end of the
/// handshake to the end of the connection. docs/howto-handler.md tells how to add a handler.
///
/// A worker has one thread, so a handler must never wait, and shares nothing with other threads. The loop makes all
/// four calls: `opened` once, before any other; then `received` for each message of a batch, and `batchEnded` after the
/// batch's last one; `closed` once, after which there are no more calls, on every end of the connection. A client that
/// does a re-handshake (RFC 6347, section 4.2.8) gets a new handler, and `closed` ends the old one.
///
/// A connection may give its socket up and get another one, in this worker or in another, after this one's death too.
/// ``ServiceRuntime/parking`` says what becomes of the handler meanwhile. Where it ends, `closed` is the last call, and
/// another handler gets `opened` when there is a socket again: for a handler that keeps nothing. Where it stays, it hears
/// `parked` and `resumed`. What a handler must still know in another process is in the slot (``ServedClient/slot``).
///
/// A handler may at any time, also later from the loop,
/// - answer: `connection.sendOrDrop(_:)`. Inside these calls the answers leave together after the batch; outside them
///   each leaves at once, or with others inside `connection.batch(_:)`;
/// - close the connection: `connection.close()`. `closed` follows after the call that the handler is in;
/// - ask the connection who the client is.
///
/// Peers choose what a message contains and how many there are. So whatever a handler keeps has a bound, and what it
/// logs goes through ``WorkerLogs/limited(_:_:_:_:)``. What exceeds a bound is dropped, as a datagram would be.
protocol Handler: AnyObject {
    /// The handshake is done.
    func opened(_ connection: Connection)
    /// A message of 1 to 16,384 bytes, valid during the call.
    func received(_ message: UnsafeRawBufferPointer, on connection: Connection)
    /// All messages of one batch have been passed to `received`.
    func batchEnded(on connection: Connection)
    /// The connection has ended, or goes on without this handler. Its sockets are closed, if it has any.
    func closed()

    /// The connection has no socket from now on, or, as the first call, has none yet. `wake()` of `parked` asks for one.
    func parked(_ parked: ServedConnection)
    /// The connection has a socket again.
    func resumed(_ connection: Connection)
    /// The client is at another address than before, and what follows comes from there. It is the same client, and the
    /// other side should see it as such.
    func moved(_ connection: Connection)
    /// There is no socket for now. What waits for it is to be dropped.
    func resumeFailed()
    /// The socket to the other side that this connection's handler in another process has had: the first call.
    func adopt(_ socket: consuming FileDescriptor)
    /// Gives the socket to the other side to another process. Only `closed` follows.
    /// - Returns: one that is not open, where there is none that can be passed on.
    func takeSocket() -> FileDescriptor
}

extension Handler {
    func parked(_ parked: ServedConnection) {}
    func resumed(_ connection: Connection) {}
    func moved(_ connection: Connection) {}
    func resumeFailed() {}
    func adopt(_ socket: consuming FileDescriptor) {}
    func takeSocket() -> FileDescriptor { FileDescriptor(owning: -1) }
}

/// What the handlers and tunnels of one worker share.
final class HandlerResources {
    let loop: EventLoop
    let sender = DatagramSender()
    /// What a socket of a handler, or of a tunnel's local sender, yields when it is read.
    let received = ReceiveBatch(capacity: 32)
    /// Where messages are gathered before they leave over a ``MessageSocket``.
    let batchMemory = BatchMemory()
    let pendingBudget = PendingBudget()
    let logs: WorkerLogs
    /// The addresses of host names.
    let hosts = HostTable()
    private var sharedStates: [ObjectIdentifier: any HandlerSharedState] = [:]

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    /// What one kind of handler keeps in this worker for all its connections, made when it is first asked for.
    func sharedState<State: HandlerSharedState>(_: State.Type) -> State {
        let key = ObjectIdentifier(State.self)
        if let existing = sharedStates[key] as? State { return existing }
        let made = State(loop: loop, logs: logs)
        sharedStates[key] = made
        return made
    }

    /// Tells all shared states that another configuration is active.
    func reconfigure() {
        for each in sharedStates.values { each.reconfigure() }
    }

    /// Ends what goes on after the last connection, and calls `done` when nothing is left.
    func finish(by deadline: Instant, _ done: @escaping () -> Void) {
        guard isBusy else { return done() }
        for each in sharedStates.values where each.isBusy {
            each.finish(by: deadline) { [weak self] in
                if self?.isBusy == false { done() }
            }
        }
    }

    private var isBusy: Bool { sharedStates.values.contains(where: \.isBusy) }
}

/// What one kind of handler keeps in a worker for all its connections, of all services and configurations.
protocol HandlerSharedState: AnyObject {
    init(loop: EventLoop, logs: WorkerLogs)
    /// A configuration has become active: the first one, or another after SIGHUP. Log files are opened again, for
    /// example.
    func reconfigure()
    /// Whether something outlives its connection that a worker should wait for before it ends.
    var isBusy: Bool { get }
    /// The worker is stopping, and waits as long as this is busy. What goes on must end, or be given up, before
    /// `deadline` by the loop's clock; then `done` must be called.
    func finish(by deadline: Instant, _ done: @escaping () -> Void)
}

extension HandlerSharedState {
    func reconfigure() {}
    var isBusy: Bool { false }
    func finish(by deadline: Instant, _ done: @escaping () -> Void) { done() }
}

extension Connection {
    /// Sends a message; an empty one is an empty record. One that cannot be sent (too long for a record or for the
    /// path) is dropped, as UDP would drop it, and counted.
    @inline(__always)
    func sendOrDrop(_ message: UnsafeRawBufferPointer) {
        do throws(EngineError) { try send(message) } catch {}
    }
}
