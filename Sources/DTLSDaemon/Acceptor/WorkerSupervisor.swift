import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Starts, feeds and watches the worker processes, as the ``WorkerPool`` decides.
final class WorkerSupervisor: TimerTarget, MessageChannelDelegate {
    private(set) var pool = WorkerPool()
    /// The connections of all workers, and those that no worker serves at the moment.
    var connections: ConnectionTable { pool.connections }
    /// The channels of the workers, by their process IDs.
    private var channels: [pid_t: MessageChannel] = [:]
    /// The worker whose last messages are being read. Another process may have its ID by now.
    private var reaped: pid_t?
    /// The far socket of the connection that a worker is about to release.
    private var farSockets: [pid_t: ReleasedSocket] = [:]
    private final class ReleasedSocket {
        let connection: ConnectionNumber
        var descriptor: FileDescriptor
        init(_ connection: ConnectionNumber, _ descriptor: consuming FileDescriptor) {
            self.connection = connection
            self.descriptor = descriptor
        }
    }
    /// Workers are started without tables, and get them by ``giveTables()``: another main process still has the
    /// connections that they are to serve.
    var isAwaitingTables = false
    /// The files of connections that another main process has been given.
    private var filesGiven: [Int: SlotFile] = [:]
    /// Records that go to the workers at the end of the turn.
    private var gathered: [pid_t: RecordGathering] = [:]
    private var hasScheduledGathered = false
    /// When records may go to the workers again, unless a message is full before.
    private var gatheringEnd = Instant.distantPast
    /// How long records are gathered where others have just been sent. A message wakes a worker up, in 10 µs of all
    /// processes; in a flood there would be one for each two or three records.
    private static let gatheringPause = Duration.milliseconds(1)
    private lazy var gatheredRetry = CallbackTimer { [unowned self] _ in sendGathered() }
    private var isMovingOrphans = false
    /// What it costs to move a connection to another table, in looks at a slot (``SlotReview/effortPerTurn``).
    private static let effortOfMove = 8
    private var isReviewing = false
    /// Connections without sockets that workers have released, and that have not moved.
    private var released: [Released] = []
    private struct Released {
        let pid: pid_t
        let table: Int
        var connections: ArraySlice<ConnectionNumber>
    }
    private var isMovingReleased = false
    /// The level of the log that holds in place of the configuration's; `nil`: that of the configuration.
    private var logLevel: LogLevel?
    /// The peers that are logged in detail.
    private var traces: [AddressPattern] = []
    /// The addresses of host names that workers are started with.
    private var addresses: [String: [SocketAddress]] = [:]
    /// The backends whose checks fail, which workers are told before each configuration.
    private var backendsDown: Set<CheckTable.Target> = []
    /// What every worker is given with the newest configuration; `nil` before the first one.
    private var setup: WorkerSetup?
    /// What all workers can serve. The walls around each are those of its first configuration (``WorkerWalls``), and a
    /// configuration that needs more gets others; `nil` before the first one.
    private var needs: WorkerNeeds?
    /// Starts the process of a worker with this number and this end of its channel.
    typealias Starter = (Int, consuming FileDescriptor) throws(SystemError) -> pid_t
    private let starter: Starter
    /// The memory that the workers count in; `nil` where nobody asks.
    var counters: CounterRegistry? { didSet { connections.counters = counters } }
    /// Has the key process; `nil` where nobody has private keys.
    var keys: KeyKeeper? {
        didSet {
            keys?.onStarted = { [unowned self] in for pid in channels.keys { giveKeys(to: pid) } }
            keys?.onChannelWanted = { [unowned self] in giveKeys(to: $0) }
            keys?.onViolation = { [unowned self] pid, reason in
                end(pid, because: "has asked the key process for \(reason)")
            }
        }
    }
    /// What the keys of clients' sessions are derived with. Workers have none of these.
    let tickets = TicketKeyRing()
    private let loop: EventLoop
    private let logger: Logger
    /// Whether the service manager keeps the tables of connections for the next main process.
    var tablesOutliveDaemon = false
    /// Is called from the loop.
    var onEvent: (WorkerPool.Event) -> Void = { _ in }
    /// Is called when a worker may be able to take connections again.
    var onRoom: () -> Void = {}
    /// Is called with connections that lack a socket, whose workers wait for one.
    var onWake: ([ConnectionNumber]) -> Void = { _ in }
    /// Is called with a connection that wants a socket, and the flow that its peer is at.
    var onRebind: (ConnectionNumber, FlowKey) -> Void = { _, _ in }
    /// Is called with datagrams that are to be sent to peers without sockets, valid during the call.
    var onDatagrams: ([MessageFromWorker.DatagramToSend]) -> Void = { _ in }
    /// Is called with how many records were forged that have come from an address, and from some that are not known.
    var onForged: (SocketAddress?, Int) -> Void = { _, _ in }
    /// Is called with a host name whose addresses all refuse datagrams.
    var onHostRefused: (String) -> Void = { _ in }
    /// Is called with connections without sockets that no worker has served, and one does now.
    var onAdopted: ([ConnectionNumber]) -> Void = { _ in }
    /// Is called with each datagram that reached the socket of a connection and belongs to a listener. The datagram is
    /// valid during the call.
    var onMisdelivered: (UnsafeRawBufferPointer, FlowKey) -> Void = { _, _ in }

    init(loop: EventLoop, logger: Logger, starter: @escaping Starter) {
        self.starter = starter
        self.loop = loop
        self.logger = logger
        super.init()
        connections.onFlowLeft = { [unowned self] in leftFlow($0) }
    }

    // MARK: Configuration

    /// Gives the workers a configuration: starts the workers that are missing, and lets those drain that are too many.
    ///
    /// When this throws, everything is as it was.
    func configure(workers count: Int, _ setup: WorkerSetup) throws(SystemError) {
        var copies: [pid_t: WorkerSetup] = [:]
        let replacesAll = !(needs?.cover(setup.needs) ?? true)
        for worker in pool.kept(by: count, replacesAll) { copies[worker.pid] = try setup.copy() }
        let started = try startAll(pool.missing(for: count, replacesAll), setup, &copies)
        // Nothing below can fail.
        self.setup = setup
        if replacesAll { needs = setup.needs } else if !started.isEmpty { noteStart(for: setup.needs) }
        perform(pool.configure(count, replacesAll, started: started, now: loop.now), copies)
    }

    private func noteStart(for needs: WorkerNeeds) { self.needs = self.needs?.common(with: needs) ?? needs }

    /// The age at which workers are replaced; `nil`: they are not.
    func recycleWorkers(after age: Duration?) { pool.recycling = age }

    /// Starts several workers: all of them, or none.
    private func startAll(
        _ numbers: [Int], _ setup: WorkerSetup, _ copies: inout [pid_t: WorkerSetup]
    ) throws(SystemError) -> [(number: Int, pid: pid_t, table: Int)] {
        var started: [(number: Int, pid: pid_t, table: Int)] = []
        do throws(SystemError) {
            for number in numbers {
                let copy = try setup.copy()
                let (pid, table) = try start(number, except: started.map(\.table))
                started.append((number, pid, table))
                copies[pid] = copy
            }
        } catch {
            for (_, pid, _) in started {
                channels[pid]?.send(MessageToWorker.encode(stopKeepingConnections: false))
                channels.removeValue(forKey: pid)?.close()
            }
            throw error
        }
        return started
    }

    /// Starts a worker with the table that it inherits, or a new one.
    private func start(
        _ number: Int, except taken: [Int] = []
    ) throws(SystemError) -> (pid: pid_t, table: Int) {
        if isAwaitingTables { return (try startProcess(number).pid, WorkerPool.noTable) }
        let table = try table(for: number, except: taken)
        do throws(SystemError) {
            let file = try table.file.descriptor.duplicate()
            let (pid, channel) = try startProcess(number)
            channel.send(
                MessageToWorker.encode(slotsOfTable: table.number, outliveDaemon: tablesOutliveDaemon), descriptor: file
            )
            try sendCounters(ofTable: table.number, over: channel)
            return (pid, table.number)
        } catch {
            connections.removeTable(table.number)
            throw error
        }
    }

    private func sendCounters(ofTable number: Int, over channel: MessageChannel?) throws(SystemError) {
        guard let counters else { return }
        let file = try counters.file(ofTable: number).descriptor.duplicate()
        channel?.send(MessageToWorker.countersBytes, descriptor: file)
    }

    private func startProcess(_ number: Int) throws(SystemError) -> (pid: pid_t, channel: MessageChannel) {
        let ends = try UnixChannel.pair()
        let pid = try starter(number, ends.other)
        let channel = try MessageChannel(ends.one, loop: loop, delegate: self)
        channel.onRoom = { [unowned self] in onRoom() }
        channels[pid] = channel
        return (pid, channel)
    }

    /// The table that a worker inherits, or a new one.
    private func table(for number: Int, except taken: [Int] = []) throws(SystemError) -> SlotTable {
        if let inherited = pool.inheritance(of: number, except: taken).flatMap({ connections[$0] }) { return inherited }
        return try connections.makeTable(preferring: number)
    }

    // MARK: Control

    /// Sets the level of the workers' logs, whatever the configuration says; `nil`: as the configuration says.
    func setLogLevel(_ level: LogLevel?) {
        logLevel = level
        for channel in channels.values { channel.send(MessageToWorker.encode(logLevel: level)) }
    }

    /// Has the workers log all that passes between them and these peers.
    func trace(_ patterns: [AddressPattern]) {
        traces = patterns
        for channel in channels.values { channel.send(MessageToWorker.encode(trace: patterns)) }
    }

    /// Tells all workers the addresses of a host name.
    func publish(_ addresses: [SocketAddress], of host: String) {
        self.addresses[host] = addresses
        for channel in channels.values {
            channel.send(MessageToWorker.encode(addresses: addresses, ofHost: host))
        }
    }

    /// Tells all workers whether a backend is down, by its checks.
    func publish(_ target: CheckTable.Target, isDown: Bool) {
        if isDown { backendsDown.insert(target) } else { backendsDown.remove(target) }
        for channel in channels.values {
            channel.send(
                MessageToWorker.encode(backend: target.address, ofService: target.service, isDown: isDown))
        }
    }

    /// The host names of the active configuration: workers are told of no others when they are started.
    func keepAddresses(of hosts: Set<String>) { addresses = addresses.filter { hosts.contains($0.key) } }

    /// Has the workers end connections with close_notify. Those that no worker serves at the moment stay.
    /// - Returns: how many of them workers were told to end.
    func close(_ all: [ConnectionNumber]) -> Int {
        var count = 0
        for (table, ids) in Dictionary(grouping: all, by: \.worker) {
            guard let pid = pool.worker(ofTable: table), let channel = channels[pid] else { continue }
            count += ids.count
            var rest = ids[...]
            while !rest.isEmpty {
                channel.send(MessageToWorker.encode(close: Array(rest.prefix(ConnectionNumber.maximumOfMessage))))
                rest = rest.dropFirst(ConnectionNumber.maximumOfMessage)
            }
        }
        return count
    }

    /// Replaces one worker, or all, by new processes, which take the connections over.
    /// - Returns: the numbers of the workers.
    func replaceWorkers(_ number: Int?) -> [Int] {
        let (numbers, actions) = pool.replaceWorkers(number, now: loop.now)
        perform(actions)
        return numbers
    }

    // MARK: Connections

    /// Why no worker can take one more connection at this moment; `nil` when one can.
    var refusal: Refusal? { pool.assignment(canSend: canSend) == nil ? pool.refusal : nil }

    private func canSend(_ pid: pid_t) -> Bool {
        guard let channel = channels[pid] else { return false }
        return channel.isOpen && !channel.isFull
    }

    /// Hands a new client over to the worker that the pool chooses. A worker whose channel is full is passed over; where the
    /// last one's has become full by the message before, the client waits for room in it.
    /// - Parameters:
    ///   - target: the table of the newest configuration that the connection belongs to.
    ///   - slotTarget: the ``SlotTarget`` of that table.
    ///   - connectionIDLength: of its connection ID; `nil`: it gets none.
    /// - Returns: the number of the connection, or `nil` when no worker could take it.
    func handOver(
        _ incoming: consuming IncomingConnection, to target: Target, _ slotTarget: UInt64, connectionIDLength: Int?
    ) -> ConnectionNumber? {
        while let assignment = pool.assignment(canSend: canSend), let channel = channels[assignment.worker] {
            guard
                let connection = connections.begin(
                    incoming.flow, target: slotTarget, in: assignment.table, now: loop.now)
            else { return nil }
            let message = MessageToWorker.encode(
                connection: connection, generation: assignment.generation, target: target, flow: incoming.flow,
                connectionID: connectionIDLength.flatMap {
                    connections.connectionIDs?.makeConnectionID(for: connection, length: $0)
                }, resumptionKeys: resumptionKeys(for: incoming), hello: incoming.helloHandover,
                datagrams: incoming.datagrams)
            keys?.noteHandOver(
                to: assignment.worker, connections: connections[assignment.table]?.count ?? 0)
            if !channel.offer(message, descriptor: incoming.socket.rawValue) {
                // A channel that refuses a message is full from now on, so the loop ends; or the message is too long for any.
                let isTooLong = canSend(assignment.worker)
                if isTooLong || pool.assignment(canSend: canSend) != nil {
                    connections.end(connection)
                    if isTooLong { return nil }
                    continue
                }
                channel.send(message, descriptor: incoming.socket.take())
            }
            perform(pool.handedOver(assignment, now: loop.now))
            return connection
        }
        return nil
    }

    /// The keys of the sessions of a new client; `nil` for a sender of plain datagrams.
    private func resumptionKeys(for incoming: borrowing IncomingConnection) -> [UInt8]? {
        guard incoming.isOfClient else { return nil }
        return tickets.makeResumptionKeys(offered: incoming.offeredSession)
    }

    /// The same for the client of a connection, which begins another handshake with this datagram.
    private func resumptionKeys(forHello datagram: UnsafeRawBufferPointer) -> [UInt8] {
        guard case .hello(let hello) = ClientHello.parse(datagram) else {
            return tickets.makeResumptionKeys(offered: nil)
        }
        return tickets.makeResumptionKeys(offered: hello.offeredSession)
    }

    /// Passes a datagram on to the connection that it belongs to.
    /// - Returns: false when no worker has a socket of that connection any more.
    @discardableResult
    func deliver(_ datagram: UnsafeRawBufferPointer, to connection: ConnectionNumber) -> Bool {
        guard connections.hasSocket(connection), let pid = pool.worker(with: connection) else { return false }
        _ = channels[pid]?.offer(MessageToWorker.encode(misdelivered: datagram, id: connection))
        return true
    }

    // MARK: Connections without sockets

    /// Whether a worker serves the connection at the moment.
    func isServed(_ connection: ConnectionNumber) -> Bool { pool.worker(with: connection) != nil }

    /// Passes a datagram on that may be a record of a connection, at the end of this turn of the loop, or a millisecond
    /// after the last ones: together with others, since a message that wakes the worker up costs several times what its
    /// records do.
    /// - Parameter waits: whether it waits for room where the channel of the worker is full, and is passed on at once.
    ///   Otherwise it is lost where more has come than one message holds.
    func deliverRecord(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, to connection: ConnectionNumber, waits: Bool
    ) {
        guard let pid = pool.worker(with: connection) else { return }
        if waits {
            var one = RecordGathering()
            one.add(datagram, flow, of: connection)
            channels[pid]?.send(one.bytes)
            return
        }
        if gathered[pid]?.isFull(for: datagram) == true { sendGathered(to: pid) }
        if gathered[pid]?.isFull(for: datagram) == true { return }
        gathered[pid, default: RecordGathering()].add(datagram, flow, of: connection)
        guard !hasScheduledGathered else { return }
        hasScheduledGathered = true
        loop.atEndOfTurn { [self] in sendGathered() }
    }

    private func sendGathered() {
        hasScheduledGathered = false
        guard loop.now >= gatheringEnd else { return loop.timers.arm(gatheredRetry, at: gatheringEnd) }
        gatheringEnd = loop.now + Self.gatheringPause
        for pid in gathered.keys where !sendGathered(to: pid) { loop.timers.arm(gatheredRetry, at: gatheringEnd) }
    }

    /// - Returns: false where the channel is full, and the records wait.
    @discardableResult
    private func sendGathered(to pid: pid_t) -> Bool {
        guard let index = gathered.index(forKey: pid), gathered.values[index].count > 0 else { return true }
        // What is for a worker that has ended is lost with it.
        guard let channel = channels[pid], channel.isOpen else {
            gathered[pid] = nil
            return true
        }
        guard channel.offer(gathered.values[index].bytes) else { return false }
        gathered.values[index].removeAll()
        return true
    }

    /// Why the worker of a connection can take no socket for it at the moment; `nil` when it can.
    func refusalOfSocket(for connection: ConnectionNumber) -> Refusal? {
        guard let pid = pool.worker(with: connection) else { return .noWorker }
        guard canSend(pid) else { return .busy }
        return pool.hasDescriptor(table: connection.worker) ? nil : .full
    }

    /// Gives a connection the socket that was made for it. Call it only where ``refusalOfSocket(for:)`` does not object.
    /// Where the channel of its worker has become full by the message before, the socket waits for room: the worker keeps
    /// what has woken the connection up until it has the socket.
    func resume(_ connection: ConnectionNumber, with incoming: consuming IncomingConnection) {
        guard let pid = pool.worker(with: connection), let channel = channels[pid] else { return }
        let message = MessageToWorker.encode(
            resume: connection, flow: incoming.flow, datagrams: incoming.datagrams)
        connections.noteSocket(connection)
        channel.send(message, descriptor: incoming.socket.take())
    }

    /// Gives a connection the socket that was made for the flow that its peer is at now. Call it only where
    /// ``refusalOfSocket(for:)`` does not object, so that the message is sent at once. A connection that has a socket of
    /// that flow is told to give it up.
    func rebind(_ connection: ConnectionNumber, with incoming: consuming IncomingConnection) {
        guard let pid = pool.worker(with: connection), let channel = channels[pid] else { return }
        let message = MessageToWorker.encode(
            resume: connection, flow: incoming.flow, datagrams: incoming.datagrams)
        connections.rebind(connection, to: incoming.flow)
        channel.send(message, descriptor: incoming.socket.take())
    }

    /// The flow of a connection is another one's from now on.
    private func leftFlow(_ connection: ConnectionNumber) {
        guard connections.hasSocket(connection), let pid = pool.worker(with: connection) else { return }
        channels[pid]?.send(MessageToWorker.encode(giveUpSocketOf: connection))
    }

    /// Tells the worker of a connection that there is no socket for it.
    func resumeFailed(_ connection: ConnectionNumber) {
        guard let pid = pool.worker(with: connection) else { return }
        channels[pid]?.send(MessageToWorker.encode(resumeFailed: connection))
    }

    /// Reads what workers have said and no turn of the loop has brought yet: which connections have no socket any more,
    /// for example, when something has come for one of them.
    func readWorkers() {
        for channel in channels.values where channel.isOpen { channel.ready(.readable) }
    }

    // MARK: Moving

    /// Moves connections without sockets that a worker has given up, some in each turn of the loop.
    private func moveSoon(_ connections: [ConnectionNumber], from pid: pid_t, table: Int) {
        released.append(Released(pid: pid, table: table, connections: connections[...]))
        guard !isMovingReleased else { return }
        isMovingReleased = true
        loop.atEndOfTurn { [self] in moveReleased() }
    }

    private func moveReleased() {
        isMovingReleased = false
        guard let next = released.first else { return }
        let some = next.connections.prefix(SlotReview.effortPerTurn / Self.effortOfMove)
        released[0].connections = next.connections.dropFirst(some.count)
        if released[0].connections.isEmpty { released.removeFirst() }
        move(withoutSockets(some), from: next.pid, FileDescriptor(owning: -1), table: next.table)
        guard !released.isEmpty, !isMovingReleased else { return }
        isMovingReleased = true
        loop.atEndOfTurn { [self] in moveReleased() }
    }

    /// Those of the connections that a worker has given up without sockets that can move. One that has a socket by now has
    /// got it while this was under way: the worker finds it in its channel, and goes on with the connection.
    private func withoutSockets(_ released: some Sequence<ConnectionNumber>) -> [ConnectionNumber] {
        released.filter { !connections.hasSocket($0) }
    }

    /// Moves connections that a worker has given up to others. Where no other can take one, it gets it back.
    private func move(
        _ released: [ConnectionNumber], from pid: pid_t, _ socket: consuming FileDescriptor, table: Int
    ) {
        var far = farSockets.removeValue(forKey: pid)
        var adopted: [pid_t: [ConnectionNumber]] = [:]
        let hasSocket = socket.isOpen && released.count == 1
        for connection in released where connection.worker == table && connections.contains(connection) {
            // Whatever happens below, it waits for its peer where it gets no socket.
            connections.noteWithoutSocket(connection)
            let destination = pool.destination(hasSocket: hasSocket, from: pid)
            let moved = destination.flatMap { connections.move(connection, to: $0.table) }
            let worker = moved == nil ? pid : destination?.pid ?? pid
            let number = moved ?? connection
            guard let channel = channels[worker] else { continue }
            if let descriptor = far, descriptor.connection == connection {
                far = nil
                channel.send(MessageToWorker.encode(farSocketOf: number), descriptor: descriptor.descriptor.take())
            }
            if hasSocket, let flow = connections.slot(of: number)?.lastFlow {
                channel.send(MessageToWorker.encode(resume: number, flow: flow, datagrams: []), descriptor: socket)
                connections.noteSocket(number)
                return perform(pool.moved(from: pid))
            }
            adopted[worker, default: []].append(number)
        }
        send(adopted)
        perform(pool.moved(from: pid))
    }

    private func send(_ adopted: [pid_t: [ConnectionNumber]]) {
        for (pid, all) in adopted {
            var rest = all[...]
            while !rest.isEmpty {
                channels[pid]?.send(
                    MessageToWorker.encode(adopt: Array(rest.prefix(ConnectionNumber.maximumOfMessage))))
                rest = rest.dropFirst(ConnectionNumber.maximumOfMessage)
            }
        }
    }

    /// Moves connections that no worker serves to the tables of those that there are, some in each turn of the loop.
    private func moveOrphans() {
        guard !isMovingOrphans, !pool.isStopping else { return }
        isMovingOrphans = true
        loop.atEndOfTurn { [self] in
            isMovingOrphans = false
            if moveSomeOrphans() { moveOrphans() }
        }
    }

    /// - Returns: whether there are more that can move.
    private func moveSomeOrphans() -> Bool {
        var adopted: [pid_t: [ConnectionNumber]] = [:]
        defer {
            send(adopted)
            if !adopted.isEmpty { onAdopted(adopted.values.flatMap(\.self)) }
        }
        var effort = SlotReview.effortPerTurn
        for number in pool.orphans {
            guard let table = connections[number] else { continue }
            while let connection = table.firstConnection(effort: &effort) {
                effort -= Self.effortOfMove
                guard table[connection].phase == .established, table[connection].flow != nil else {
                    connections.end(connection)
                    continue
                }
                guard let destination = pool.destination(hasSocket: false, from: nil),
                    let moved = connections.move(connection, to: destination.table)
                else { return false }
                adopted[destination.pid, default: []].append(moved)
            }
            guard effort > 0 else { return true }
            connections.removeTable(number)
        }
        return false
    }

    /// Goes on with the review of dead workers' connections in the next turn of the loop.
    private func reviewSoon() {
        guard !isReviewing else { return }
        isReviewing = true
        loop.atEndOfTurn { [self] in
            isReviewing = false
            perform(pool.review())
        }
    }

    // MARK: Receiving

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let pid = channels.first(where: { $0.value === channel })?.key else { return }
        guard let decoded = try? MessageFromWorker(decoding: message) else {
            let kind = message.first.map { "of kind \($0), with \(message.count) bytes" } ?? "empty, or too long"
            return end(pid, because: "has sent a message that no worker sends (\(kind))")
        }
        let table = pool.table(of: pid)
        perform(pool.receive(decoded, from: pid, now: loop.now))
        defer { onRoom() }
        switch decoded {
        case .misdelivered(let flow, let datagram): onMisdelivered(datagram, flow)
        case .wake(let waiting):
            // What has moved meanwhile is not the worker's any more, which may keep something for it.
            for connection in waiting where !connections.contains(connection) {
                channel.send(MessageToWorker.encode(resumeFailed: connection))
            }
            onWake(waiting.filter { $0.worker == table })
        case .rebind(let connection, let flow):
            if connection.worker == table, connections.contains(connection) {
                onRebind(connection, flow)
            } else {
                channel.send(MessageToWorker.encode(resumeFailed: connection))
            }
        case .sendFromListener(let datagrams): onDatagrams(datagrams)
        case .hostRefused(let host): onHostRefused(host)
        case .keysLost: keys?.channelLost(by: pid)
        case .rehandshake(let connection, let hello):
            guard connection.worker == table else { break }
            channel.send(
                MessageToWorker.encode(
                    rehandshake: connection, resumptionKeys: resumptionKeys(forHello: hello), hello: hello))
        case .report(let report) where report.forged > 0: reportForged(report)
        case .farSocket(let connection):
            if let descriptor { farSockets[pid] = ReleasedSocket(connection, descriptor) }
        case .released(let released, let hadSocket):
            guard let table else { break }
            if released.count > 1 {
                moveSoon(released, from: pid, table: table)
            } else if hadSocket {
                // It may have lost it on its way here.
                move(released, from: pid, descriptor ?? FileDescriptor(owning: -1), table: table)
            } else {
                // At once, since its far socket may have come along.
                move(withoutSockets(released), from: pid, FileDescriptor(owning: -1), table: table)
            }
        default: break
        }
    }

    /// A worker that does what no worker does has a defect, or somebody else controls it. It says nothing more, and has no
    /// time left: its connections go on in the next one, by what is in their slots.
    /// - Parameter reason: what it has done, as a sentence without its subject.
    private func end(_ pid: pid_t, because reason: String) {
        // Before the channel is closed: from its end it would conclude that this process is gone, and close connections.
        if pid != reaped { kill(pid, SIGKILL) }
        channels[pid]?.close()
        let number = pool.workers.first { $0.pid == pid }.map { "\($0.number)" } ?? "?"
        logger.log(
            .internalError,
            "worker \(number) \(reason): it is killed, since it is defective or controlled by somebody else",
            ["WORKER": .string(number), "WORKER_PID": "\(pid)"])
    }

    private func reportForged(_ report: MessageFromWorker.Report) {
        var known = 0
        for source in report.forgedFrom.values {
            known += Int(source.count)
            onForged(source.address, Int(source.count))
        }
        if known < Int(report.forged) { onForged(nil, Int(report.forged) - known) }
    }

    /// The process has ended, or is about to. It gets no new clients, and SIGCHLD brings the rest. One that goes on
    /// without its channel leaves its pings unanswered, and is killed.
    func channelEnded(_ channel: MessageChannel) {}

    // MARK: Lifecycle

    /// Notes that a child process has ended. Children that are no workers are ignored.
    ///
    /// SIGCHLD can be handled before the channel has been read, so the worker's last messages are read first: they say
    /// which connections had closed, and what it has counted.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        guard let channel = channels[pid] else { return }
        reaped = pid
        channel.readToEnd()
        reaped = nil
        farSockets[pid] = nil
        gathered[pid] = nil
        // They are in its table, and its successor's.
        released.removeAll { $0.pid == pid }
        channels[pid] = nil
        channel.close()
        perform(pool.ended(pid, ending, now: loop.now))
    }

    /// Ends a worker that cannot use a configuration that the others can use, so that it is replaced.
    func replace(_ number: Int, reason: String) { perform(pool.replace(number, reason: reason)) }

    override func timerFired(now: Instant) { perform(pool.advance(to: now)) }

    /// Tells all workers to end: with close_notify to their clients, or leaving all connections in their slots.
    func stop(keepingConnections: Bool = false) {
        perform(pool.stop(keepingConnections: keepingConnections))
        loop.timers.disarm(self)
    }

    /// Kills the workers that have not ended.
    func killAll() { perform(pool.killAll()) }

    /// - Parameter copies: the setups of the workers that are configured, by their process IDs. Others are copied here.
    private func perform(_ actions: [WorkerPool.Action], _ copies: [pid_t: WorkerSetup] = [:]) {
        for action in actions {
            switch action {
            case .start(let number): restart(number)
            case .configure(let pid, let generation): configure(pid, generation, copies[pid])
            case .stop(let pid, let keeping):
                channels[pid]?.send(MessageToWorker.encode(stopKeepingConnections: keeping))
            case .review: reviewSoon()
            case .takeOver(let pid): channels[pid]?.send(MessageToWorker.takeOverBytes)
            case .release(let pid, let count): channels[pid]?.send(MessageToWorker.encode(release: count))
            // A worker whose channel is full does not read, so its ping counts as unanswered, too.
            case .ping(let pid):
                noteConnections(of: pid)
                _ = channels[pid]?.offer(MessageToWorker.pingBytes)
            case .kill(let pid): kill(pid, SIGKILL)
            case .log(let event, let message, let fields):
                logger.log(event, message, fields.mapValues { .string($0) })
            case .report(.orphaned): moveOrphans()
            case .report(let event): onEvent(event)
            }
        }
        if let deadline = pool.deadline { loop.timers.arm(self, at: deadline) }
    }

    private func restart(_ number: Int) {
        guard let setup else { return }
        do throws(SystemError) {
            let copy = try setup.copy()
            let (pid, table) = try start(number)
            noteStart(for: setup.needs)
            perform(pool.started(number, pid: pid, table: table, now: loop.now), [pid: copy])
        } catch {
            perform(pool.startFailed(number, "\(error)\(ChildProcess.hint(error))", now: loop.now))
        }
    }

    /// Gives a worker a channel to the key process, where there is one and the worker has none.
    private func giveKeys(to pid: pid_t) {
        guard let channel = channels[pid], channel.isOpen, let own = keys?.connect(pid) else { return }
        channel.send(MessageToWorker.keysBytes, descriptor: own)
        noteConnections(of: pid)
    }

    /// They explain handshakes that the worker does by itself.
    private func noteConnections(of pid: pid_t) {
        guard let table = pool.table(of: pid) else { return }
        keys?.noteConnections(connections[table]?.count ?? 0, of: pid)
    }

    private func configure(_ pid: pid_t, _ generation: UInt32, _ copy: WorkerSetup?) {
        guard let channel = channels[pid], let copy = copy ?? (try? setup?.copy()) else {
            return pool.configurationNotSent(to: pid)
        }
        if let logLevel { channel.send(MessageToWorker.encode(logLevel: logLevel)) }
        if !traces.isEmpty { channel.send(MessageToWorker.encode(trace: traces)) }
        // A worker that does not get them serves clients without tickets by full handshakes.
        if let sessions = try? copy.sessions?.descriptor.duplicate() {
            channel.send(MessageToWorker.sessionsBytes, descriptor: sessions)
        }
        if copy.keys != nil { giveKeys(to: pid) }
        if copy.keyLog.isOpen { channel.send(MessageToWorker.keyLogBytes, descriptor: copy.keyLog.take()) }
        for (host, found) in addresses { channel.send(MessageToWorker.encode(addresses: found, ofHost: host)) }
        for target in backendsDown {
            channel.send(MessageToWorker.encode(backend: target.address, ofService: target.service, isDown: true))
        }
        channel.send(MessageToWorker.encode(configure: generation), descriptor: copy.snapshot.take())
    }
}

/// Connections that outlive a main process.
extension WorkerSupervisor {
    /// The slot files with all connections, by the numbers of their tables.
    var slotFiles: [(table: Int, descriptor: Int32)] {
        connections.numbers.compactMap { number in
            connections[number].map { (number, $0.file.descriptor.rawValue) }
        }
    }

    /// Takes up the connections in the slot file of a table, which no process serves. Workers that are started from now
    /// on serve them.
    /// - Returns: the number of connections.
    /// - Throws: ``UnusableSlotFile``, or an error of the system.
    func adopt(_ file: consuming FileDescriptor, table number: Int) throws -> Int {
        guard number < FlowTable.maximumTables, connections[number] == nil else { throw UnusableSlotFile.foreign }
        connections.adopt(try SlotFile(file), number: number)
        return connections[number]?.count ?? 0
    }

    /// Gives each worker its table, after ``isAwaitingTables``.
    func giveTables() throws(SystemError) {
        isAwaitingTables = false
        for worker in pool.workers where worker.table == WorkerPool.noTable {
            let table = try table(for: worker.number)
            channels[worker.pid]?.send(
                MessageToWorker.encode(slotsOfTable: table.number, outliveDaemon: tablesOutliveDaemon),
                descriptor: try table.file.descriptor.duplicate())
            try sendCounters(ofTable: table.number, over: channels[worker.pid])
            perform(pool.give(table.number, to: worker.pid))
        }
        moveOrphans()
    }

    /// Forgets all connections, which another main process has been given. There are no workers.
    func letGo() { filesGiven = connections.forgetAll() }

    /// Starts workers again, after all have ended by ``stop(keepingConnections:)``. They serve what is in the slots,
    /// whatever another main process has done with them meanwhile.
    func startAgain() {
        for (number, file) in filesGiven { connections.adopt(file, number: number) }
        filesGiven = [:]
        perform(pool.startAgain())
    }
}
