import DTLSTransport
import LinuxSystem
import Primitives

/// Brings connections without sockets and what comes for them to a listener together: records go to the worker, which
/// authenticates them; a socket is made when the worker wants one, or when the peer's address is proven.
///
/// While no worker serves a connection (its worker has died), what comes is kept, within ``maximumKept`` bytes: the
/// peer notices nothing but the time that a new worker takes to start.
final class SocketRestorer {
    private let workers: WorkerSupervisor
    private let loop: EventLoop
    /// The listener that gets the datagrams of a local address.
    var listener: (SocketAddress) -> DatagramListener? = { _ in nil }
    /// Is told why no socket could be made for a connection: the kernel gave none, or its worker can take none.
    var onFailure: (Failure, SocketAddress, DatagramListener) -> Void = { _, _, _ in }
    /// Why there is no socket.
    enum Failure {
        case kernel(SystemError)
        case worker(Refusal)
    }

    /// Connections whose workers wait for a socket, in the order in which they have asked; the first ones have been
    /// served.
    private var waking: [ConnectionNumber] = []
    private var served = 0
    private var isScheduled = false
    private lazy var retry = CallbackTimer { [weak self] _ in self?.schedule() }
    private static let retryPause = Duration.milliseconds(5)
    private var kept: [Kept] = []
    private var keptBytes = 0
    /// What workers have said was read for want of a connection, in this turn of the loop.
    private var hasReadWorkers = false

    private struct Kept {
        let datagram: [UInt8]
        let flow: FlowKey
        let isProven: Bool
    }

    /// Sockets that are made in a turn of the loop, each by several system calls: 70 µs, and more beside many IPv6 ones.
    private static let socketsPerTurn = 64
    /// Bytes of datagrams that are kept while no worker serves their connections, with 64 for each.
    static let maximumKept = 256 * 1024
    private static let overhead = 64

    init(workers: WorkerSupervisor, loop: EventLoop) {
        self.workers = workers
        self.loop = loop
        workers.onWake = { [unowned self] in wake($0) }
        workers.onAdopted = { [unowned self] in adopted($0) }
    }

    // MARK: Datagrams of listeners

    /// Takes a datagram of a flow that has a connection without a socket.
    /// - Parameter isProven: whether the peer's address is proven, or needs no proof: a socket is made at once.
    /// - Returns: whether there is such a connection.
    func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, isProven: Bool, on listener: DatagramListener
    ) -> Bool {
        receive(datagram, flow, isProven: isProven, wasKept: false, on: listener)
    }

    private func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, isProven: Bool, wasKept: Bool,
        on listener: DatagramListener
    ) -> Bool {
        guard let connection = connection(of: flow, wasKept: wasKept) else { return false }
        guard workers.isServed(connection) else {
            keep(datagram, flow, isProven: isProven)
            return true
        }
        if isProven {
            _ = makeSocket(for: connection, flow, on: listener, with: [[UInt8](datagram)])
        } else {
            // What was kept is bounded, and may be more than a channel takes at once.
            workers.deliverRecord(datagram, flow, to: connection, waits: wasKept)
        }
        return true
    }

    /// A worker says that it gives a socket up before it does, but this process may read the listener first. So what
    /// workers have said is read before a datagram counts as one of no connection.
    ///
    /// What was kept is handed out while a worker's message is handled, and then no other may be read.
    private func connection(of flow: FlowKey, wasKept: Bool) -> ConnectionNumber? {
        if let connection = workers.connections.connectionWithoutSocket(of: flow) { return connection }
        guard !hasReadWorkers, !wasKept else { return nil }
        hasReadWorkers = true
        loop.atEndOfTurn { [weak self] in self?.hasReadWorkers = false }
        workers.readWorkers()
        return workers.connections.connectionWithoutSocket(of: flow)
    }

    private func keep(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, isProven: Bool) {
        guard keptBytes + datagram.count + Self.overhead <= Self.maximumKept else { return }
        keptBytes += datagram.count + Self.overhead
        kept.append(Kept(datagram: [UInt8](datagram), flow: flow, isProven: isProven))
    }

    // MARK: Workers

    /// The worker of a table serves its connections from now on.
    func tookOver(table number: Int) {
        guard let table = workers.connections[number] else { return }
        adopted(table.indices.lazy.compactMap { table.number(at: $0) }.filter { !table.hasSocket($0) })
    }

    /// Workers serve connections that none has served: they get what has come for them meanwhile, and the sockets of
    /// local senders, whose addresses need no proof.
    private func adopted(_ connections: [ConnectionNumber]) {
        let waiting = kept
        kept = []
        keptBytes = 0
        for item in waiting {
            guard let listener = listener(item.flow.local) else { continue }
            _ = item.datagram.withUnsafeBytes {
                receive($0, item.flow, isProven: item.isProven, wasKept: true, on: listener)
            }
        }
        wake(
            connections.filter { connection in
                workers.connections.slot(of: connection).map { !SlotTarget.isService($0.target) } ?? false
            })
    }

    private func wake(_ connections: [ConnectionNumber]) {
        waking += connections
        schedule()
    }

    private func schedule() {
        guard !isScheduled, served < waking.count else { return }
        isScheduled = true
        loop.atEndOfTurn { [weak self] in
            self?.isScheduled = false
            self?.makeSockets()
        }
    }

    private func makeSockets() {
        // Where a worker's channel is full at the moment, its connections wait: they would lose what it keeps for them.
        var later: [ConnectionNumber] = []
        for connection in waking[served...].prefix(Self.socketsPerTurn) {
            served += 1
            if workers.connections.lacksSocket(connection), workers.refusalOfSocket(for: connection) == .busy {
                later.append(connection)
            } else {
                wake(connection)
            }
        }
        if served == waking.count {
            waking = []
            served = 0
        }
        waking += later
        if later.isEmpty { schedule() } else { loop.timers.arm(retry, at: loop.now + Self.retryPause) }
    }

    private func wake(_ connection: ConnectionNumber) {
        // It has got one meanwhile, or is gone: then its worker knows.
        guard !workers.connections.hasSocket(connection), workers.connections.contains(connection) else { return }
        guard workers.connections.lacksSocket(connection), let flow = workers.connections.slot(of: connection)?.flow,
            let listener = listener(flow.local), makeSocket(for: connection, flow, on: listener, with: [])
        else { return workers.resumeFailed(connection) }
    }

    // MARK: Sockets

    private func makeSocket(
        for connection: ConnectionNumber, _ flow: FlowKey, on listener: DatagramListener, with datagrams: [[UInt8]]
    ) -> Bool {
        if let refusal = workers.refusalOfSocket(for: connection) {
            onFailure(.worker(refusal), flow.peer, listener)
            return false
        }
        do throws(SystemError) {
            let incoming = try listener.makeSocket(for: flow, with: datagrams)
            guard workers.resume(connection, with: incoming) else { return false }
            listener.expectLateDatagrams(of: flow, for: connection.rawValue)
            return true
        } catch {
            onFailure(.kernel(error), flow.peer, listener)
            return false
        }
    }
}
