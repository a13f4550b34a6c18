import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The worker's role: one thread and one loop, which serve the connections that the acceptor hands over on descriptor
/// 3.
///
/// Signals do not concern it. It ends when the acceptor says so: with close_notify to its clients, or leaving them to
/// the process that goes on with its slots. It leaves them too when the end of the channel shows that the acceptor is
/// gone.
final class Worker: MessageChannelDelegate {
    let datapath: Datapath
    let logs: WorkerLogs
    let handlerResources: HandlerResources
    /// Tells local senders that a datagram was too large.
    var packetTooBig = PacketTooBigSender()
    /// What a local sender's socket yields when it is closed, which can happen while another batch is worked on.
    let misdelivered = ReceiveBatch(capacity: 8)
    /// What has happened since the acceptor was last told.
    private var report = MessageFromWorker.Report()

    /// The number of the file with the slots, which is in the numbers of the connections.
    private var tableNumber = 0
    /// Whether there is a next main process that goes on with the connections when this one has died.
    private var slotsOutliveDaemon = false
    let loop: EventLoop
    let descriptors: DescriptorBudget
    private var channel: MessageChannel?
    private(set) lazy var parking = Parking(self)
    private(set) lazy var departure = Departure(self)
    private var services: [ServiceRuntime] = []
    private var clients: [ClientRuntime] = []
    /// The services that are not in the active configuration any more, by ``SlotTarget``, as long as they have
    /// connections here: those with a socket go on.
    private var departed: [UInt64: Departed] = [:]
    private struct Departed {
        let service: ServiceRuntime
        /// Whether a connection was seen since ``Worker/forgetUnusedServices()`` was called last.
        var isInUse = false
    }
    /// The services of the active configuration, by ``SlotTarget``.
    private var targets: [UInt64: ServiceRuntime] = [:]
    /// The clients that all services may serve; `nil`: any.
    private var access: AccessList?
    /// The generation of the active configuration, which `services`, `clients` and `access` come from.
    private var generation: UInt32 = 0
    private lazy var traceLog = TraceLog(loop: loop, worker: logs.worker)
    private var configuredLogLevel = LogLevel.info
    /// What holds in place of the configuration's level for a time.
    private var logLevel: LogLevel?
    /// How long a worker that is to stop may take before the acceptor kills it.
    private(set) var stopTimeout = Duration.zero
    /// Has the acceptor's secret. It asks clients for a cookie that begin a re-handshake on a connection's socket.
    private var cookies: CookieAuthority?
    /// The connections that have a socket, or a handler that stays while they have none.
    var connections: [ConnectionNumber: ServedConnection] = [:]
    var tunnels: [ConnectionNumber: ClientTunnel] = [:]
    /// Connections whose handshake, or whose records, OpenSSL has. They take most of the memory.
    private var openSSLCount = 0 {
        didSet { counterFile?.process.set(.openSSLConnections, to: openSSLCount) }
    }
    /// Where this process counts; `nil` before the main process has sent it. It is never given up, since connections
    /// count there.
    private var counterFile: CounterFile?
    private var meter: ProcessMeter?
    /// The socket that has come last, whose number tells how many there are (open(2)).
    private var lastDescriptor: Int32 = 0
    private lazy var reporter = Reporter(self)
    /// Has no keys: those of a client's sessions come with it (``ResumptionKeys``).
    private let ticketKeys = TicketKeyRing()
    private let keyLog: KeyLogWriter
    /// The private keys of all services and clients, which the key process has.
    private let heldKeys = HeldKeys()
    /// The key log file of the next configuration; not open where it has none.
    private var nextKeyLog = FileDescriptor(owning: -1)
    /// The sessions of clients without tickets that came for the next configuration; not open when none did.
    private var nextSessions = FileDescriptor(owning: -1)
    private var hasMissedKeyLog = false
    /// All connections are closed, and the process is about to end.
    private var isStopping = false
    private var lastReportTimer: CallbackTimer?

    /// Reports go out at most this often, in milliseconds: hand-overs need no exact counts.
    private static let reportInterval = Duration.milliseconds(10)

    /// How long new clients may take of a turn of the loop: each begins a handshake.
    private static let newClientsTurn = Duration.microseconds(250)

    private var trimming = HeapTrimming()
    /// Whether the walls of ``WorkerWalls`` are to be raised with the first configuration. They would hold for whatever else
    /// runs in this process, so a worker that is no process of its own (in a test) has none.
    private var awaitsWalls = false

    private lazy var trimmer = CallbackTimer { [unowned self] _ in
        guard trimming.isDue(openSSLCount) else { return }
        datapath.releaseKeySchedules()
        Heap.trim()
    }

    private final class Reporter: TimerTarget {
        /// Unowned, since a weak reference makes each use of the worker slower.
        unowned let worker: Worker
        init(_ worker: Worker) { self.worker = worker }
        override func timerFired(now: Instant) { worker.sendReport() }
    }

    /// Runs the role until it ends.
    static func run(number: Int) throws {
        let wipesSessions = FreedMemory.wipeSessions()
        LogBootstrap.start(role: "worker \(number)", level: .info)
        for signal in [SIGINT, SIGTERM, SIGHUP] { Glibc.signal(signal, SIG_IGN) }
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        let worker = try Worker(number: number, channel: channel)
        worker.awaitsWalls = true
        if !wipesSessions {
            worker.logs.always(.internalError, "OpenSSL does not wipe the sessions that it frees in this worker")
        }
        try worker.loop.run()
    }

    init(number: Int, channel: consuming FileDescriptor) throws {
        descriptors = DescriptorBudget(limit: OpenFileLimit.raise())
        loop = try EventLoop()
        datapath = try Datapath(loop: loop)
        logs = WorkerLogs(worker: number, loop: loop)
        handlerResources = HandlerResources(loop: loop, logs: logs)
        keyLog = KeyLogWriter(logs)
        try channel.makeNonBlocking()
        logs.onMessagesLost = { [unowned self] count, service in
            counters(of: SlotTarget.service(service)).countDropped(.log, count)
        }
        handlerResources.sharedState(AuthorizerLinks.self).onDropped = { [unowned self] reason in
            counterFile?.process.add(to: .authorizerAnswersDropped, reason.rawValue)
        }
        self.channel = try MessageChannel(channel, loop: loop, delegate: self)
        self.channel?.longestTurn = Self.newClientsTurn
        self.channel?.wipesMessages = true
        handlerResources.hosts.onRefused = { [unowned self] host in
            _ = self.channel?.offer(MessageFromWorker.encode(hostRefused: host))
        }
    }

    /// A host name has other addresses: backends and servers follow at once, as at a reload.
    private func replaceAddresses(_ addresses: [SocketAddress], of host: String) {
        handlerResources.hosts.replace(addresses, of: host)
        handlerResources.sharedState(ForwardServices.self).addressesChanged(of: host)
        for client in clients {
            guard case .name(host, _) = client.configuration.server, client.readAddresses() else { continue }
            for tunnel in tunnels.values where tunnel.isOf(client) { tunnel.serverFound() }
        }
    }

    // MARK: The acceptor's messages

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let decoded = try? MessageToWorker(decoding: message) else {
            return logs.always(.internalError, "a message from the main process is malformed and was ignored")
        }
        switch decoded {
        case .configure(let generation):
            let hasMissedKeyLog = self.hasMissedKeyLog
            self.hasMissedKeyLog = false
            guard let snapshot = descriptor, !hasMissedKeyLog else {
                _ = nextKeyLog.take()
                return channel.send(MessageFromWorker.encode(setupLost: generation))
            }
            configure(generation, snapshot)
        case .connection(let handover):
            if !isStopping { accept(handover, descriptor) }
        case .misdelivered(let id, let datagram):
            if connections[id]?.hasSocket != true, let slot = establishedSlot(id), let flow = slot.flow {
                // It has given its socket up meanwhile.
                parking.receive(datagram, flow, of: id)
            } else {
                connections[id]?.receive(datagram)
            }
            tunnels[id]?.receive(datagram)
        case .stop(let keepingConnections):
            if !keepingConnections { stop() } else if !isStopping { departure.leave(by: loop.now + leaveTimeout) }
        case .ping:
            sendReport(always: true)
        case .rehandshake(let id, let keys, let hello):
            if let keys = ResumptionKeys(keys) { connections[id]?.receive(hello, with: keys) }
        case .sessions:
            if let file = descriptor { nextSessions = file }
        case .keys:
            if let own = descriptor { connectKeys(KeyChannel(own)) }
        case .keyLog:
            if let file = descriptor { nextKeyLog = file } else { hasMissedKeyLog = true }
        case .slots(let table, let outliveDaemon):
            tableNumber = Int(table)
            slotsOutliveDaemon = outliveDaemon
            guard let file = descriptor else {
                return logs.always(.internalError, "the memory of the connections is lost")
            }
            map(file)
        case .counters:
            guard let file = descriptor else {
                return logs.always(.internalError, "the memory of the counters is lost: this worker counts nothing")
            }
            mapCounters(file)
        case .takeOver: parking.takeOver()
        case .adopt(let ids): parking.adopt(ids)
        case .records(let records):
            for record in records { parking.receive(record.datagram, record.flow, of: record.id) }
        case .farSocket(let id): if let socket = descriptor { parking.hold(far: socket, of: id) }
        case .resume(let id, let flow, let datagrams):
            if !isStopping { parking.resume(id, flow, over: descriptor, with: datagrams) }
        case .resumeFailed(let id): parking.resumeFailed(id)
        case .giveUpSocket(let id): parking.giveUpSocket(id)
        case .release(let count): departure.release(count)
        case .close(let ids):
            for id in ids where !isStopping { close(id) }
        case .logLevel(let level):
            logLevel = level
            LogBootstrap.setLevel(level ?? configuredLogLevel)
        case .trace(let patterns): datapath.trace = traceLog.trace(patterns)
        case .addresses(let addresses, let host): replaceAddresses(addresses, of: host)
        case .backend(let address, let service, let isDown):
            handlerResources.sharedState(ForwardServices.self).note(address, ofService: service, isDown: isDown)
        }
    }

    func channelEnded(_ channel: MessageChannel) {
        guard !isStopping else { return }
        guard slotsOutliveDaemon else {
            logs.always(
                .stopping,
                "the main process has ended: closing \(counted(connections.count + tunnels.count, "connection"))")
            return stop()
        }
        logs.always(
            .stopping,
            "the main process has ended: leaving \(counted(connections.count + tunnels.count, "connection")) to its successor"
        )
        departure.leave(by: loop.now)
    }

    private func connectKeys(_ channel: KeyChannel) {
        #if DEBUG
            StandIn.keys = channel
        #endif
        heldKeys.connect { [unowned self] request, isAnswered in
            let answer = channel.ask(request, isAnswered: isAnswered)
            if !channel.isOpen {
                heldKeys.disconnect()
                send(MessageFromWorker.keysLostBytes)
            }
            return answer
        }
    }

    private func map(_ file: consuming FileDescriptor) {
        do {
            let slots = try SlotFile(file)
            // Without LimitMEMLOCK=infinity, as in a shell, they may be swapped out, as all memory of other programs.
            _ = slots.lockOverflow()
            datapath.slots = slots
            #if DEBUG
                StandIn.shared = slots.bytes
            #endif
        } catch {
            logs.always(.internalError, "the memory of the connections cannot be used: \(error)")
        }
    }

    /// The sessions of clients without tickets that came for the next configuration; `nil` where there are none.
    private func takeSessions() -> SessionTable? {
        let file = nextSessions.take()
        guard file.isOpen else { return nil }
        do throws(SystemError) {
            let memory = try SharedMemory(file)
            return SessionTable(memory.bytes, owner: memory)
        } catch {
            logs.always(
                .internalError, "the memory of the sessions cannot be used: clients resume by tickets alone: \(error)")
            return nil
        }
    }

    private func mapCounters(_ file: consuming FileDescriptor) {
        guard counterFile == nil else { return }
        do throws(UnusableCounterFile) {
            let mapped = try CounterFile(file)
            mapped.resetGauges()
            counterFile = mapped
            meter = ProcessMeter(mapped.process, limit: descriptors.limit, loop: loop, isMainProcess: false)
            for (target, service) in targets { service.count(in: mapped.counters(of: target)) }
            for client in clients { client.count(in: counters(of: client.target)) }
        } catch {
            logs.always(.internalError, "the memory of the counters cannot be used: \(error)")
        }
    }

    /// Where this process counts for a service or client.
    /// - Parameter target: its ``SlotTarget``.
    func counters(of target: UInt64) -> TargetCounters {
        service(target)?.counters ?? counterFile?.counters(of: target) ?? .ignored
    }

    /// Activates a whole configuration, or keeps the active one.
    private func configure(_ generation: UInt32, _ snapshot: borrowing FileDescriptor) {
        let keyLogFile = nextKeyLog.take()
        let sessions = takeSessions()
        do {
            let decoded: Snapshot = try BinaryCoding.decode(from: MemoryFile.read(snapshot))
            let services = try decoded.configuration.services.map {
                try ServiceRuntime(
                    $0, ticketKeys: ticketKeys, sessions: sessions, heldKeys: heldKeys, handlerResources)
            }
            let clients = try decoded.configuration.clients.map { configuration in
                // An unchanged client keeps its sessions, and its CA certificates are not read again.
                try self.clients.first { $0.configuration == configuration }
                    ?? ClientRuntime(
                        configuration, hosts: handlerResources.hosts, heldKeys: heldKeys)
            }
            let cookies = try CookieAuthority(secret: decoded.cookieSecret)
            if keyLogFile.isOpen {
                for service in services { service.context.logKeys(to: keyLog.log) }
                for client in clients { client.context.logOwnKeys(to: keyLog.log) }
            }
            keyLog.replace(with: keyLogFile)
            self.cookies = cookies
            let previous = targets
            self.services = services
            targets = Dictionary(
                services.map { (SlotTarget.service($0.configuration.name), $0) }, uniquingKeysWith: { $1 })
            for target in targets.keys { departed[target] = nil }
            for (target, service) in previous where targets[target] == nil {
                departed[target] = Departed(service: service)
            }
            for service in services {
                service.activate(handlerResources)
                if let counterFile { service.count(in: counterFile.counters(of: service.target)) }
            }
            self.clients = clients
            for client in clients { client.count(in: counters(of: client.target)) }
            access = decoded.configuration.limits.access
            self.generation = generation
            stopTimeout = decoded.configuration.stopTimeout
            for tunnel in tunnels.values { tunnel.reconfigure() }
            handlerResources.reconfigure()
            configuredLogLevel = decoded.configuration.logLevel
            if logLevel == nil { LogBootstrap.setLevel(configuredLogLevel) }
            LogBootstrap.setFormat(decoded.configuration.logFormat)
            if departed.isEmpty { parking.scheduleSweep() } else { parking.endThoseOfRemovedServices() }
            wallIn(for: decoded.configuration)
            let capacity = descriptors.connections(of: decoded.configuration)
            channel?.send(MessageFromWorker.encode(ready: generation, capacity: UInt32(clamping: capacity)))
        } catch {
            channel?.send(MessageFromWorker.encode(rejected: generation, reason: "\(error)"))
        }
    }

    /// Raises the walls, before the first client comes. What a later configuration needs beyond them, the main process has
    /// other workers for.
    private func wallIn(for configuration: Configuration) {
        guard awaitsWalls else { return }
        awaitsWalls = false
        let needs = WorkerNeeds(configuration)
        // What is made once, and could not be made later.
        if !configuration.clients.isEmpty { packetTooBig.open() }
        if configuration.services.contains(where: { $0.authorize != nil }) { Verdict.prepareReading() }
        let failures = WorkerWalls(needs: needs).raise()
        guard !failures.isEmpty, logs.worker == 0 else { return }
        logs.always(
            .wallsMissing,
            "the kernel does not keep workers from all that they do not need: "
                + failures.map { "\($0)" }.joined(separator: "; ")
                + "; they serve without that (docs/security.md)")
    }

    private func accept(_ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor?) {
        guard let socket, allows(socket.rawValue) else {
            parking.relieveSoon()
            return reject(handover, .descriptors)
        }
        parking.relieveSoon()
        // The connection was handed over before the acceptor knew that this worker has lost or rejected the
        // configuration.
        guard handover.generation == generation else { return reject(handover, .noWorker) }
        switch handover.target {
        case .service(let index) where services.indices.contains(index):
            if let refusal = services[index].refusal(of: handover.flow.peer, handlerResources) {
                return reject(handover, refusal)
            }
            serve(handover, socket, services[index])
        case .client(let index) where clients.indices.contains(index):
            tunnel(handover, socket, clients[index])
        default:
            reject(handover, .noWorker)
        }
    }

    /// The client tries again by itself, since its hello is not answered, and may find another worker or more room.
    private func reject(_ handover: MessageToWorker.Handover, _ refusal: Refusal) {
        report.refused.count(refusal)
        if let slot = slot(handover.id) { counters(of: slot.target).count(refusal) }
        countClosed(handover.id)
    }

    private func serve(
        _ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor, _ service: ServiceRuntime
    ) {
        guard let bytes = handover.hello, let hello = VerifiedHello(handedOver: [UInt8](bytes), minute: .now()) else {
            logs.always(.internalError, "a client was handed over without its ClientHello and was rejected")
            return reject(handover, .noWorker)
        }
        do throws(OpenSSLError) {
            let served = try ServedConnection(handover, hello, socket: socket, service: service, worker: self)
            connections[handover.id] = served
            openSSLCount += 1
            trimming.connectionOpened(openSSLCount)
            served.start(with: handover.datagrams)
        } catch {
            service.counters.count(HandshakeResult.failed)
            service.counters.count(datapath.notes)
            datapath.notes.removeAll()
            logs.handshakeFailed(peer: handover.flow.peer, service, "\(error)")
            countClosed(handover.id)
        }
    }

    private func tunnel(
        _ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor, _ client: ClientRuntime
    ) {
        let tunnel = ClientTunnel(handover.id, handover.flow, client: client, worker: self)
        tunnels[handover.id] = tunnel
        tunnel.start(over: socket, with: handover.datagrams)
    }

    /// Goes on with a tunnel whose connection is in a slot.
    func resumeTunnel(
        _ id: ConnectionNumber, _ slot: ConnectionSlot, over socket: consuming FileDescriptor,
        _ far: consuming FileDescriptor, with datagrams: [UnsafeRawBufferPointer]
    ) {
        if let tunnel = tunnels[id] {
            for datagram in datagrams { tunnel.receive(datagram) }
            return
        }
        guard let flow = slot.flow, let client = client(slot.target) else { return countClosed(id) }
        let tunnel = ClientTunnel(id, flow, client: client, worker: self)
        tunnels[id] = tunnel
        tunnel.resume(slot, over: socket, far, with: datagrams)
    }

    /// Ends a connection with close_notify.
    private func close(_ id: ConnectionNumber) {
        if let tunnel = tunnels[id] { return tunnel.close(.closedHere) }
        if let served = connections[id], served.hasSocket { return served.close() }
        parking.close(id)
    }

    // MARK: Slots

    /// The slot of a connection, whatever its phase; `nil` where it is another connection's by now.
    func slot(_ id: ConnectionNumber) -> ConnectionSlot? {
        guard id.worker == tableNumber, let slots = datapath.slots, id.slot < slots.capacity else { return nil }
        let slot = slots[id.slot]
        return slot.generation == id.generation ? slot : nil
    }

    /// The slot of a connection that can go on by what is in it.
    func establishedSlot(_ id: ConnectionNumber) -> ConnectionSlot? {
        guard let slot = slot(id), slot.phase == .established else { return nil }
        return slot
    }

    func number(ofSlot index: Int, _ slot: ConnectionSlot) -> ConnectionNumber {
        ConnectionNumber(worker: tableNumber, slot: index, generation: slot.generation)
    }

    func hasObject(_ id: ConnectionNumber) -> Bool { connections[id] != nil || tunnels[id] != nil }

    /// The service that a connection in a slot belongs to: that of the active configuration, or the last one that was in
    /// any.
    func service(_ target: UInt64) -> ServiceRuntime? { targets[target] ?? departed[target]?.service }

    /// Whether a service is in the active configuration.
    func isActive(_ target: UInt64) -> Bool { targets[target] != nil }

    /// A connection of a service is in a slot.
    func noteUse(of target: UInt64) {
        if !departed.isEmpty, departed[target] != nil { departed[target]?.isInUse = true }
    }

    /// Forgets the services that have no connections any more, which a walk over all slots has shown.
    func forgetUnusedServices() {
        departed = departed.filter { $0.value.isInUse }
        for target in departed.keys { departed[target]?.isInUse = false }
    }

    /// The services that are not in the active configuration any more, and are kept for their connections.
    var countOfDepartedServices: Int { departed.count }

    func client(_ target: UInt64) -> ClientRuntime? {
        clients.first { SlotTarget.client($0.configuration.name) == target }
    }

    /// How long all slots may take to be looked at; `nil` where no connection ends for being idle, and no service is to be
    /// forgotten with its last one.
    var sweepCycle: Duration? {
        let limits =
            (targets.values.map { $0.limits.idleTimeout } + departed.values.map { $0.service.limits.idleTimeout })
            .filter { $0 > .zero }
        let longest = Duration.seconds(60)
        return limits.min().map { min($0 / 8, longest) } ?? (departed.isEmpty ? nil : longest)
    }

    /// Whether a socket with this number may be a connection's.
    func allows(_ descriptor: Int32) -> Bool {
        lastDescriptor = descriptor
        return descriptors.allows(connection: descriptor)
    }

    /// Whether more than three quarters of the descriptors are taken, as far as is known.
    var isShortOfDescriptors: Bool { Int(lastDescriptor) > descriptors.limit / 4 * 3 }

    /// A client of the active configuration, by its name.
    func client(named name: String) -> ClientRuntime? { clients.first { $0.configuration.name == name } }

    /// What a re-handshake on a connection of `service` is done with. The service's certificate may have been renewed
    /// since the connection began. Where the service, or the peer's access to it, is gone from the configuration, there
    /// is no context: the peer may not go on for ever on its old port, and the listener is to refuse it.
    /// - Parameters:
    ///   - staysBeside: see ``RehandshakeMaterial/staysBeside``.
    ///   - keys: what the main process has given for the hello; `nil` before it was asked.
    func rehandshakeMaterial(
        for service: ServiceRuntime, _ peer: SocketAddress, staysBeside: Bool, _ keys: ResumptionKeys?
    ) -> RehandshakeMaterial? {
        guard let cookies else { return nil }
        let active = active(service)
        return RehandshakeMaterial(
            context: allows(peer, service) ? active?.context : nil, cookies: cookies, staysBeside: staysBeside,
            keys: keys.map { .given($0) } ?? .wanted)
    }

    /// The service of the active configuration in a service's place; `nil` where that is gone from it.
    func active(_ service: ServiceRuntime) -> ServiceRuntime? {
        services.first { $0.configuration.name == service.configuration.name }
    }

    /// Whether the access lists allow clients of a service to be at an address.
    func allows(_ peer: SocketAddress, _ service: ServiceRuntime) -> Bool {
        [access, active(service)?.configuration.limits.access].allSatisfy { $0?.allows(peer) ?? true }
    }

    // MARK: What connections report

    /// The connection has ended.
    func remove(_ served: ServedConnection) {
        if connections.removeValue(forKey: served.id) != nil {
            if !served.hasLeftOpenSSL { leftOpenSSL() }
            countClosed(served.id)
        }
    }

    /// What is left of the connection is in its slot.
    func forget(_ served: ServedConnection) {
        if connections[served.id] === served { connections[served.id] = nil }
    }

    private func leftOpenSSL() {
        openSSLCount -= 1
        if let due = trimming.connectionClosed(openSSLCount, now: loop.now) { loop.timers.arm(trimmer, at: due) }
    }

    /// The tunnel is closed.
    func remove(_ tunnel: ClientTunnel) {
        if tunnels.removeValue(forKey: tunnel.id) != nil { countClosed(tunnel.id) }
    }

    /// Gives a misdelivered datagram to the main process, which reinjects it into the listener or passes it on to the
    /// connection that it belongs to.
    func reinject(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) {
        // The end of the connection that the datagram comes from is reported first: a limit on connections may leave
        // room for what the datagram begins only after that.
        sendReport()
        _ = channel?.offer(MessageFromWorker.encode(misdelivered: datagram, flow: flow))
    }

    /// The connection has ended for good.
    func countClosed(_ id: ConnectionNumber) {
        if let slot = slot(id), slot.phase != .ended { slot.end() }
        report.closed.append(id)
        scheduleReport()
        departure.handshakeEnded()
    }

    /// A connection that was handed over has done its first handshake.
    func reportEstablished(_ served: ServedConnection, isMovable: Bool) {
        report.established.append(served.id)
        if isMovable {
            served.hasLeftOpenSSL = true
            leftOpenSSL()
        }
        scheduleReport()
        departure.handshakeEnded()
    }

    /// Nobody can have sealed the datagram, or it is a copy. Its source is charged for it (``ForgedRecordLimits``), unless
    /// the connection is known to be there: such datagrams are never dropped for their number, and somebody who forges a
    /// client's address must not keep that client from moving.
    /// - Parameters:
    ///   - source: where it has come from.
    ///   - slot: that of the connection that it was for.
    func countForged(from source: FlowKey, _ slot: ConnectionSlot) {
        counters(of: slot.target).countDropped(.forged)
        guard source != slot.flow else { return }
        report.countForged(from: source.peer)
        scheduleReport()
    }

    /// Has the main process send a datagram to a peer that no socket is connected to. It may be lost, as on the wire.
    func sendFromListener(_ datagram: UnsafeRawBufferPointer, to flow: FlowKey) {
        _ = channel?.offer(MessageFromWorker.encode(sendFromListener: datagram, flow: flow))
    }

    /// Sends a message that must arrive.
    func send(_ message: [UInt8], _ descriptor: consuming FileDescriptor = FileDescriptor(owning: -1)) {
        channel?.send(message, descriptor: descriptor)
    }

    /// Whether what is sent to the main process has to wait.
    var isChannelFull: Bool { channel?.isFull ?? false }
    /// Whether there is a main process that hears what is sent to it.
    var canReport: Bool { channel?.isOpen ?? false }

    private func scheduleReport() {
        loop.timers.arm(reporter, at: loop.now + Self.reportInterval)
    }

    private func sendReport(always: Bool = false) {
        guard let channel, always || !report.isEmpty else { return }
        repeat {
            var rest = report
            guard channel.offer(MessageFromWorker.encode(rest.takePart())) else { return scheduleReport() }
            report = rest
        } while !report.isEmpty
    }

    /// How long handshakes may go on when the connections are left to another process.
    private var leaveTimeout: Duration { min(stopTimeout, .seconds(2)) }

    /// Closes all connections with close_notify, and ends the process once the acceptor has been sent the last report.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        for served in connections.values { served.close() }
        for tunnel in tunnels.values { tunnel.close(.closedHere) }
        // Some of the time is left for the last steps, and for a busy machine.
        let deadline = loop.now + stopTimeout / 5 * 3
        parking.stop(by: deadline)
        end(by: deadline)
    }

    /// Ends the process once what outlives its connections is done, `deadline` at the latest, and the acceptor has been
    /// sent the last report.
    func end(by deadline: Instant) {
        isStopping = true
        sendLastReport()
        handlerResources.finish(by: deadline) { [self] in
            parking.whenStopped { [self] in finish(by: deadline) }
        }
    }

    private func finish(by deadline: Instant) {
        logs.finish()
        sendLastReport()
        guard let channel else { return loop.stop() }
        // An acceptor that does not read its channel is not waited for longer than that.
        let timer = CallbackTimer { [loop] _ in loop.stop() }
        lastReportTimer = timer
        loop.timers.arm(timer, at: max(deadline, loop.now))
        channel.whenAllIsSent { [loop] in loop.stop() }
    }

    /// Sends everything that the acceptor has not been told, as messages that wait for room in the channel.
    private func sendLastReport() {
        while !report.isEmpty { channel?.send(MessageFromWorker.encode(report.takePart())) }
    }
}
