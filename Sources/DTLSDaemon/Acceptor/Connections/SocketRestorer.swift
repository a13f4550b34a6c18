import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// Brings connections and what comes for them to a listener together: records go to the worker, which authenticates
/// them; a socket is made when the worker wants one, for the flow that the connection has or for another one that its
/// peer is at now, or when the peer's address is proven.
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

    /// What workers wait for, in the order in which they have asked; the first ones have been served.
    private var waking: [Wish] = []
    /// A socket for a connection.
    private struct Wish {
        let connection: ConnectionNumber
        /// Where its peer is now; `nil`: where it was before.
        let newFlow: FlowKey?
    }
    private var served = 0
    private var isScheduled = false
    private lazy var retry = CallbackTimer { [unowned self] _ in schedule() }
    private static let retryPause = Duration.milliseconds(5)
    private var kept: [Kept] = []
    private var keptBytes = 0
    /// The slot from which on tunnels are still to be looked for, by table.
    private var tunnelSearches: [Int: Int] = [:]
    private var isSearching = false
    /// What workers have said was read for want of a connection, in this turn of the loop.
    private var hasReadWorkers = false

    private struct Kept {
        let datagram: [UInt8]
        let flow: FlowKey
        let claim: Claim
    }

    /// Why a datagram may be a connection's.
    private enum Claim {
        /// Its flow is, and it looks like a record.
        case flow
        /// Its flow is, and the peer's address is proven, or needs no proof.
        case provenFlow
        /// It has a record with a connection ID, and came to a listener of the service of this ``SlotTarget``.
        case connectionID(ConnectionID, target: UInt64)
    }

    private var limits = ForgedRecordLimits()
    private(set) var counters = Counters()

    /// What has become of records with connection IDs.
    struct Counters {
        /// Connections that have got sockets for other flows than before.
        var rebound: UInt64 = 0
        /// Records for machines with another `server_id`, or that nobody has made.
        var ofOtherMachines: UInt64 = 0
        /// Records that ``ForgedRecordLimits`` has not admitted.
        var limited: UInt64 = 0
        /// The same, by the ``SlotTarget`` of their connections.
        var limitedByTarget: [UInt64: UInt64] = [:]

        /// For the status.
        var text: [String] {
            var parts: [String] = []
            if rebound > 0 { parts.append("\(rebound) changes of a client's address") }
            if limited > 0 {
                parts.append(
                    "\(counted(limited, "record with a connection ID", "records with connection IDs")) dropped for many forged ones"
                )
            }
            if ofOtherMachines > 0 {
                parts.append(
                    "\(counted(ofOtherMachines, "record with a connection ID", "records with connection IDs")) of other machines"
                )
            }
            return parts
        }
    }

    /// Sockets that are made in a turn of the loop, each by several system calls: 70 µs, and more beside many IPv6 ones.
    /// Between them the listeners are read, whose queues have room for some milliseconds of what a crowd sends.
    private static let socketsPerTurn = 8
    /// Bytes of datagrams that are kept while no worker serves their connections, with 64 for each.
    static let maximumKept = 256 * 1024
    private static let overhead = 64

    init(workers: WorkerSupervisor, loop: EventLoop) {
        self.workers = workers
        self.loop = loop
        workers.onWake = { [unowned self] in wake($0) }
        workers.onRebind = { [unowned self] in rebind($0, to: $1) }
        workers.onForged = { [unowned self] source, count in
            if let source {
                limits.charge(source, count: count, now: loop.now)
            } else {
                limits.charge(count: count, now: loop.now)
            }
        }
        workers.onAdopted = { [unowned self] in adopted($0) }
    }

    // MARK: Datagrams of listeners

    /// Takes a datagram of a flow that has a connection without a socket.
    /// - Parameter isProven: whether the peer's address is proven, or needs no proof: a socket is made at once.
    /// - Returns: whether there is such a connection.
    func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, isProven: Bool, on listener: DatagramListener
    ) -> Bool {
        receive(datagram, flow, isProven ? .provenFlow : .flow, wasKept: false, on: listener)
    }

    /// Takes a datagram with a record that has a connection ID, whatever its flow is.
    /// - Parameter target: the ``SlotTarget`` of the listener.
    /// - Returns: whether there is a connection with this ID.
    func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, with id: ConnectionID, target: UInt64,
        on listener: DatagramListener
    ) -> Bool {
        receive(datagram, flow, .connectionID(id, target: target), wasKept: false, on: listener)
    }

    private func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, _ claim: Claim, wasKept: Bool,
        on listener: DatagramListener
    ) -> Bool {
        let connection: ConnectionNumber
        switch claim {
        case .connectionID(let id, let target):
            switch find(id, flow, target: target) {
            case .found(let found): connection = found
            case .notHere: return false
            case .dropped: return true
            }
        case .flow, .provenFlow:
            guard let found = self.connection(of: flow, wasKept: wasKept) else { return false }
            if case .provenFlow = claim, staysBesideHellos(found) { return false }
            connection = found
        }
        guard workers.isServed(connection) else {
            keep(datagram, flow, claim)
            return true
        }
        if case .provenFlow = claim {
            _ = makeSocket(for: connection, flow, on: listener, with: [[UInt8](datagram)])
        } else {
            // What was kept is bounded, and may be more than a channel takes at once.
            workers.deliverRecord(datagram, flow, to: connection, waits: wasKept)
        }
        return true
    }

    /// Whether a hello of a connection's flow begins another connection, and this one stays: its client is known by a
    /// connection ID, and may be at another address by now, while a NAT has given its port to the client that says hello.
    /// (Where it is the same client, which has lost its state, this one ends by its timeout.)
    func staysBesideHellos(_ connection: ConnectionNumber) -> Bool {
        workers.connections.slot(of: connection)?.ownConnectionID != nil
    }

    private enum Search {
        case found(ConnectionNumber)
        /// It may have a connection by its flow.
        case notHere
        /// Nobody is to look at the record, which is counted.
        case dropped
    }

    /// The connection of a connection ID.
    private func find(_ id: ConnectionID, _ flow: FlowKey, target: UInt64) -> Search {
        guard limits.admits(flow.peer, now: loop.now) else {
            // The peer is where it was: that nobody else gets its records dropped.
            if let connection = workers.connections.connection(of: flow),
                let slot = workers.connections.slot(of: connection), slot.target == target,
                slot.phase == .handshaking || slot.ownConnectionID == id
            {
                return .found(connection)
            }
            counters.limited &+= 1
            counters.limitedByTarget[target, default: 0] &+= 1
            return .dropped
        }
        let reading = workers.connections.connectionIDs?.read(id) ?? .unknownKey
        if case .connection(let name) = reading,
            let connection = workers.connections.connection(with: id, named: name),
            workers.connections.slot(of: connection)?.target == target
        {
            return .found(connection)
        }
        // A key may have been removed since the connection began.
        if let connection = workers.connections.connection(of: flow),
            workers.connections.slot(of: connection)?.ownConnectionID == id
        {
            return .found(connection)
        }
        if case .ofAnotherMachine = reading { counters.ofOtherMachines &+= 1 }
        return .notHere
    }

    /// A worker says that it gives a socket up before it does, but this process may read the listener first. So what
    /// workers have said is read before a datagram counts as one of no connection.
    ///
    /// What was kept is handed out while a worker's message is handled, and then no other may be read.
    private func connection(of flow: FlowKey, wasKept: Bool) -> ConnectionNumber? {
        if let connection = workers.connections.connectionWithoutSocket(of: flow) { return connection }
        guard !hasReadWorkers, !wasKept else { return nil }
        hasReadWorkers = true
        loop.atEndOfTurn { [self] in hasReadWorkers = false }
        workers.readWorkers()
        return workers.connections.connectionWithoutSocket(of: flow)
    }

    private func keep(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, _ claim: Claim) {
        guard keptBytes + datagram.count + Self.overhead <= Self.maximumKept else { return }
        keptBytes += datagram.count + Self.overhead
        kept.append(Kept(datagram: [UInt8](datagram), flow: flow, claim: claim))
    }

    // MARK: Workers

    /// The worker of a table serves its connections from now on.
    func tookOver(table number: Int) {
        adopted([])
        guard workers.connections.occupancy.hasParkedTunnels else { return }
        tunnelSearches[number] = 0
        searchSoon()
    }

    private func searchSoon() {
        guard !isSearching else { return }
        isSearching = true
        loop.atEndOfTurn { [self] in
            isSearching = false
            searchTunnels()
        }
    }

    /// Looks for tunnels in the next slots of a table whose worker has taken it over: their local senders' sockets are sent
    /// without being asked for.
    private func searchTunnels() {
        guard let (number, start) = tunnelSearches.first else { return }
        // Where the worker has died, the next one begins from the first slot.
        guard let table = workers.connections[number], workers.pool.worker(ofTable: number) != nil else {
            tunnelSearches[number] = nil
            return searchSoon()
        }
        let end = min(start + SlotReview.effortPerTurn, table.indices.upperBound)
        tunnelSearches[number] = end < table.indices.upperBound ? end : nil
        wakeTunnels(
            (start..<max(start, end)).compactMap { table.number(at: $0) }.filter { !table.hasSocket($0) })
        if !tunnelSearches.isEmpty { searchSoon() }
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
                receive($0, item.flow, item.claim, wasKept: true, on: listener)
            }
        }
        wakeTunnels(connections)
    }

    private func wakeTunnels(_ connections: [ConnectionNumber]) {
        wake(
            connections.filter { connection in
                workers.connections.slot(of: connection).map { !SlotTarget.isService($0.target) } ?? false
            })
    }

    private func wake(_ connections: [ConnectionNumber]) {
        waking += connections.map { Wish(connection: $0, newFlow: nil) }
        schedule()
    }

    private func rebind(_ connection: ConnectionNumber, to flow: FlowKey) {
        waking.append(Wish(connection: connection, newFlow: flow))
        schedule()
    }

    private func schedule() {
        guard !isScheduled, served < waking.count else { return }
        isScheduled = true
        loop.atEndOfTurn { [self] in
            isScheduled = false
            makeSockets()
        }
    }

    private func makeSockets() {
        // Where a worker's channel is full at the moment, its connections wait: they would lose what it keeps for them.
        var later: [Wish] = []
        for wish in waking[served...].prefix(Self.socketsPerTurn) {
            served += 1
            if needsSocket(wish), workers.refusalOfSocket(for: wish.connection) == .busy {
                later.append(wish)
            } else {
                fulfil(wish)
            }
        }
        if served == waking.count {
            waking = []
            served = 0
        }
        waking += later
        if later.isEmpty { schedule() } else { loop.timers.arm(retry, at: loop.now + Self.retryPause) }
    }

    private func needsSocket(_ wish: Wish) -> Bool {
        guard let flow = wish.newFlow else { return workers.connections.lacksSocket(wish.connection) }
        let connections = workers.connections
        guard connections.slot(of: wish.connection)?.phase == .established else { return false }
        return !(connections.hasSocket(wish.connection) && connections.connection(of: flow) == wish.connection)
    }

    private func fulfil(_ wish: Wish) {
        let connection = wish.connection
        guard workers.connections.contains(connection) else { return }
        guard let flow = wish.newFlow else {
            // It has got one meanwhile, and its worker knows.
            if workers.connections.hasSocket(connection) { return }
            guard needsSocket(wish), let flow = workers.connections.slot(of: connection)?.flow,
                let listener = listener(flow.local), makeSocket(for: connection, flow, on: listener, with: [])
            else { return workers.resumeFailed(connection) }
            return
        }
        guard needsSocket(wish), let listener = listener(flow.local),
            makeSocketElsewhere(for: connection, flow, on: listener)
        else { return workers.resumeFailed(connection) }
        counters.rebound &+= 1
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
            workers.resume(connection, with: try listener.makeSocket(for: flow, with: datagrams))
            listener.expectLateDatagrams(of: flow, for: connection.rawValue)
            return true
        } catch {
            onFailure(.kernel(error), flow.peer, listener)
            return false
        }
    }

    /// Makes a socket for a flow that the connection has not had before.
    private func makeSocketElsewhere(
        for connection: ConnectionNumber, _ flow: FlowKey, on listener: DatagramListener
    ) -> Bool {
        if let refusal = workers.refusalOfSocket(for: connection) {
            onFailure(.worker(refusal), flow.peer, listener)
            return false
        }
        do throws(SystemError) {
            workers.rebind(connection, with: try listener.makeSocket(for: flow, with: []))
            listener.expectLateDatagrams(of: flow, for: connection.rawValue)
            return true
        } catch {
            onFailure(.kernel(error), flow.peer, listener)
            return false
        }
    }
}
