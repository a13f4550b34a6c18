import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The worker's role: one thread and one loop, which serve the connections that the acceptor hands over on descriptor
/// 3.
///
/// Signals do not concern it. It ends when the acceptor says so, or when the end of the channel shows that the acceptor
/// is gone. Either way its clients get close_notify.
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

    private let number: Int
    private let loop: EventLoop
    private let descriptors: DescriptorBudget
    private var channel: MessageChannel?
    private var services: [ServiceRuntime] = []
    private var clients: [ClientRuntime] = []
    /// The clients that all services may serve; `nil`: any.
    private var access: AccessList?
    /// The generation of the active configuration, which `services`, `clients` and `access` come from.
    private var generation: UInt32 = 0
    /// How long a worker that is to stop may take before the acceptor kills it.
    private var stopTimeout = Duration.zero
    /// Has the acceptor's secret. It asks clients for a cookie that begin a re-handshake on a connection's socket.
    private var cookies: CookieAuthority?
    private var connections: [ConnectionNumber: ServedConnection] = [:]
    private var tunnels: [ConnectionNumber: ClientTunnel] = [:]
    private let reporter = Reporter()
    /// Ticket keys of every service, including services that a later reload adds.
    private let ticketKeys = TicketKeyRing()
    private let keyLog: KeyLogWriter
    /// The key log file of the next configuration; not open where it has none.
    private var nextKeyLog = FileDescriptor(owning: -1)
    private var hasMissedKeyLog = false
    /// All connections are closed, and the process is about to end.
    private var isStopping = false
    private var lastReportTimer: CallbackTimer?

    /// Reports go out at most this often, in milliseconds: hand-overs need no exact counts.
    private static let reportInterval = Duration.milliseconds(10)

    private var trimming = HeapTrimming()
    private lazy var trimmer = CallbackTimer { [weak self] _ in
        guard let self else { return }
        if trimming.isDue(connectionCount) { Heap.trim() }
    }

    private final class Reporter: TimerTarget {
        weak var worker: Worker?
        override func timerFired(now: Instant) { worker?.sendReport() }
    }

    /// Runs the role until it ends.
    static func run(number: Int) throws {
        LogBootstrap.start(role: "worker \(number)", level: .info)
        for signal in [SIGINT, SIGTERM, SIGHUP] { Glibc.signal(signal, SIG_IGN) }
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        let worker = try Worker(number: number, channel: channel)
        try worker.loop.run()
    }

    private init(number: Int, channel: consuming FileDescriptor) throws {
        self.number = number
        descriptors = DescriptorBudget(limit: OpenFileLimit.raise())
        loop = try EventLoop()
        datapath = try Datapath(loop: loop)
        logs = WorkerLogs(worker: number, loop: loop)
        handlerResources = HandlerResources(loop: loop, logs: logs)
        keyLog = KeyLogWriter(logs)
        try channel.makeNonBlocking()
        self.channel = try MessageChannel(channel, loop: loop, delegate: self)
        reporter.worker = self
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
            connections[id]?.receive(datagram)
            tunnels[id]?.receive(datagram)
        case .stop:
            stop()
        case .ping:
            sendReport(always: true)
        case .ticketKeys(let keys):
            ticketKeys.keys = keys
        case .keyLog:
            if let file = descriptor { nextKeyLog = file } else { hasMissedKeyLog = true }
        case .resume(let id, _), .resumeFailed(let id), .farSocket(let id), .recordOfParked(let id, _):
            _ = id
        case .slots, .takeOver, .adopt, .release:
            break
        }
    }

    func channelEnded(_ channel: MessageChannel) {
        guard !isStopping else { return }
        logs.always(
            .stopping, "the main process has ended: closing \(connections.count + tunnels.count) connections")
        stop()
    }

    /// Activates a whole configuration, or keeps the active one.
    private func configure(_ generation: UInt32, _ snapshot: borrowing FileDescriptor) {
        let keyLogFile = nextKeyLog.take()
        do {
            let decoded: Snapshot = try BinaryCoding.decode(from: MemoryFile.read(snapshot))
            let services = try decoded.configuration.services.map {
                try ServiceRuntime($0, ticketKeys: ticketKeys, handlerResources)
            }
            let clients = try decoded.configuration.clients.map { configuration in
                // An unchanged client keeps its sessions, and its CA certificates are not read again.
                try self.clients.first { $0.configuration == configuration } ?? ClientRuntime(configuration)
            }
            let cookies = try CookieAuthority(secret: decoded.cookieSecret)
            if keyLogFile.isOpen {
                for service in services { service.context.logKeys(to: keyLog.log) }
                for client in clients { client.context.logOwnKeys(to: keyLog.log) }
            }
            keyLog.replace(with: keyLogFile)
            self.cookies = cookies
            self.services = services
            for service in services { service.activate(handlerResources) }
            self.clients = clients
            access = decoded.configuration.limits.access
            self.generation = generation
            stopTimeout = decoded.configuration.stopTimeout
            for tunnel in tunnels.values { tunnel.reconfigure() }
            handlerResources.reconfigure()
            LogBootstrap.setLevel(decoded.configuration.logLevel)
            let capacity = descriptors.connections(of: decoded.configuration)
            channel?.send(MessageFromWorker.encode(ready: generation, capacity: UInt32(clamping: capacity)))
        } catch {
            channel?.send(MessageFromWorker.encode(rejected: generation, reason: "\(error)"))
        }
    }

    private func accept(_ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor?) {
        guard let socket, descriptors.allows(connection: socket.rawValue) else {
            return reject(handover, .descriptors)
        }
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
        countClosed(handover.id)
    }

    private func serve(
        _ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor, _ service: ServiceRuntime
    ) {
        guard let bytes = handover.hello, let hello = VerifiedHello(handedOver: [UInt8](bytes)) else {
            logs.always(.internalError, "a client was handed over without its ClientHello and was rejected")
            return reject(handover, .noWorker)
        }
        do throws(OpenSSLError) {
            let served = try ServedConnection(handover, hello, socket: socket, service: service, worker: self)
            connections[handover.id] = served
            trimming.connectionOpened(connectionCount)
            served.start(with: handover.datagrams)
        } catch {
            countFailure()
            logs.handshakeFailed(peer: handover.flow.peer, service, "\(error)")
            countClosed(handover.id)
        }
    }

    private func tunnel(
        _ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor, _ client: ClientRuntime
    ) {
        let tunnel = ClientTunnel(handover.id, handover.flow, client: client, worker: self)
        tunnels[handover.id] = tunnel
        trimming.connectionOpened(connectionCount)
        tunnel.start(over: socket, with: handover.datagrams)
    }

    /// A client of the active configuration, by its name.
    func client(named name: String) -> ClientRuntime? { clients.first { $0.configuration.name == name } }

    /// What a re-handshake on a connection of `service` is done with. The service's certificate may have been renewed
    /// since the connection began. Where the service, or the peer's access to it, is gone from the configuration, there
    /// is no context: the peer may not go on for ever on its old port, and the listener is to refuse it.
    func rehandshakeMaterial(for service: ServiceRuntime, _ peer: SocketAddress) -> RehandshakeMaterial? {
        guard let cookies else { return nil }
        let active = services.first { $0.configuration.name == service.configuration.name }
        let isAllowed = [access, active?.configuration.limits.access].allSatisfy { $0?.allows(peer) ?? true }
        return RehandshakeMaterial(context: isAllowed ? active?.context : nil, cookies: cookies)
    }

    // MARK: What connections report

    /// The connection has ended.
    func remove(_ served: ServedConnection) {
        if connections.removeValue(forKey: served.id) != nil { countClosed(served.id) }
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

    private var connectionCount: Int { connections.count + tunnels.count }

    private func countClosed(_ id: ConnectionNumber) {
        report.closed.append(id)
        if let due = trimming.connectionClosed(connectionCount, now: loop.now) { loop.timers.arm(trimmer, at: due) }
        scheduleReport()
    }

    /// A connection that was handed over has done its first handshake.
    func reportEstablished(_ id: ConnectionNumber) { report.established.append(id) }

    func countHandshake(resumed: Bool) {
        report.handshakes &+= 1
        if resumed { report.resumed &+= 1 }
        scheduleReport()
    }

    func countFailure() {
        report.failed &+= 1
        scheduleReport()
    }

    func countDropped(_ excess: TrafficExcess) {
        report.dropped.count(excess)
        scheduleReport()
    }

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

    /// Closes all connections with close_notify, and ends the process once the acceptor has been sent the last report.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        for served in connections.values { served.close() }
        for tunnel in tunnels.values { tunnel.close(.closedHere) }
        sendLastReport()
        // Some of the time is left for the last steps, and for a busy machine.
        let deadline = loop.now + stopTimeout / 5 * 3
        handlerResources.finish(by: deadline) { [self] in
            logs.finish()
            sendLastReport()
            guard let channel else { return loop.stop() }
            // An acceptor that does not read its channel is not waited for longer than that.
            let timer = CallbackTimer { [loop] _ in loop.stop() }
            lastReportTimer = timer
            loop.timers.arm(timer, at: max(deadline, loop.now))
            channel.whenAllIsSent { [loop] in loop.stop() }
        }
    }

    /// Sends everything that the acceptor has not been told, as messages that wait for room in the channel.
    private func sendLastReport() {
        while !report.isEmpty { channel?.send(MessageFromWorker.encode(report.takePart())) }
    }
}
