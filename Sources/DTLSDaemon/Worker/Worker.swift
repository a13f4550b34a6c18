import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The worker's role: one thread, one loop, the connections that the acceptor hands over on descriptor 3.
///
/// Signals do not concern it: it ends when the acceptor says so, or when the channel's end tells that the acceptor is
/// gone. Either way its clients get close_notify.
final class Worker: MessageChannelDelegate {
    let datapath: Datapath
    let logs: WorkerLogs
    let handlerResources: HandlerResources
    var notices = TooLargeNotices()
    /// What a sender's socket yields when it is closed, which can happen while another batch is worked through.
    let leftovers = ReceiveBatch(capacity: 8)
    /// What the acceptor has not been told yet.
    private var report = MessageFromWorker.Report()

    private let number: Int
    private let loop: EventLoop
    private let descriptorLimit: Int
    private var channel: MessageChannel?
    private var services: [ServiceRuntime] = []
    private var clients: [ClientRuntime] = []
    /// Whose peers are served, by all services.
    private var access: AccessList?
    /// Of the configuration that `services`, `clients` and `access` are of.
    private var generation: UInt32 = 0
    /// Milliseconds after which the acceptor kills a worker that is to stop.
    private var stopTimeout = Duration.zero
    /// With the acceptor's secret: clients that begin anew on a connection's socket are asked here.
    private var cookies: CookieAuthority?
    private var connections: [UInt64: ServedConnection] = [:]
    private var tunnels: [UInt64: ClientTunnel] = [:]
    private let reporter = Reporter()
    /// Of all services, and of those of configurations to come.
    private let ticketKeys = TicketKeyRing()
    private let keyLog: KeyLogWriter
    /// The next configuration's; not open where it has none.
    private var nextKeyLog = FileDescriptor(owning: -1)
    private var hasMissedKeyLog = false

    /// Descriptors for everything but connections: channel, epoll, standard streams, the journal, a snapshot.
    private static let reservedDescriptors = 32
    /// Those of them that no newcomer is let near, so that a configuration always arrives. A count of connections does
    /// not tell how many are free: those of an earlier configuration may have more each, programs outlive theirs, and
    /// logs have files. But a new descriptor has the lowest number that is free (open(2)), so its own number does.
    private static let spareDescriptors = 16

    /// Reports go out at most this often, in milliseconds: hand-overs need no exact counts.
    private static let reportInterval = Duration.milliseconds(10)

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
        descriptorLimit = OpenFileLimit.raise()
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
            return logs.always(.internalError, "a message from the acceptor is malformed")
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
            accept(handover, descriptor)
        case .misdelivered(let id, let datagram):
            connections[id]?.connection?.receive(datagram)
            tunnels[id]?.receive(datagram)
        case .stop:
            stop()
        case .ping:
            sendReport(always: true)
        case .ticketKeys(let keys):
            ticketKeys.keys = keys
        case .keyLog:
            if let file = descriptor { nextKeyLog = file } else { hasMissedKeyLog = true }
        }
    }

    func channelEnded(_ channel: MessageChannel) {
        logs.always(.stopping, "the main process is gone: closing \(connections.count + tunnels.count) connections")
        stop()
    }

    /// Takes a configuration whole, or keeps the one that it has.
    private func configure(_ generation: UInt32, _ snapshot: borrowing FileDescriptor) {
        let keyLogFile = nextKeyLog.take()
        do {
            let decoded: Snapshot = try BinaryCoding.decode(from: MemoryFile.read(snapshot))
            let services = try decoded.configuration.services.map {
                try ServiceRuntime($0, ticketKeys: ticketKeys)
            }
            let clients = try decoded.configuration.clients.map { configuration in
                // With its sessions, and without reading the CA certificates again.
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
            self.clients = clients
            access = decoded.configuration.limits.access
            self.generation = generation
            stopTimeout = decoded.configuration.stopTimeout
            for tunnel in tunnels.values { tunnel.reconfigured() }
            handlerResources.reconfigure()
            LogBootstrap.setLevel(decoded.configuration.logLevel)
            channel?.send(MessageFromWorker.encode(ready: generation, capacity: capacity))
        } catch {
            channel?.send(MessageFromWorker.encode(rejected: generation, reason: "\(error)"))
        }
    }

    /// Connections that this process has descriptors for, whatever service they belong to.
    private var capacity: UInt32 {
        let each = (services.map(\.descriptorsPerConnection) + clients.map(\.descriptorsPerTunnel)).max() ?? 1
        return UInt32(clamping: max(1, (descriptorLimit - Self.reservedDescriptors) / each))
    }

    private func accept(_ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor?) {
        guard let socket, socket.rawValue < descriptorLimit - Self.spareDescriptors else {
            return turnAway(handover, .descriptors)
        }
        // It was handed over before the acceptor knew that this process has missed or rejected the configuration.
        guard handover.generation == generation else { return turnAway(handover, .full) }
        switch handover.target {
        case .service(let index) where services.indices.contains(index):
            guard let bytes = handover.hello, let hello = VerifiedHello(handedOver: [UInt8](bytes)) else {
                logs.always(.internalError, "a client was handed over without its ClientHello")
                return turnAway(handover, .full)
            }
            let served = ServedConnection(handover, hello, socket: socket, service: services[index], worker: self)
            if served.connection != nil { connections[handover.id] = served }
        case .client(let index) where clients.indices.contains(index):
            tunnel(handover, socket, clients[index])
        default:
            turnAway(handover, .full)
        }
    }

    /// The client's next try finds another place, or a better time.
    private func turnAway(_ handover: MessageToWorker.Handover, _ refusal: Refusal) {
        report.refused.count(refusal)
        countClosed(handover.id)
    }

    private func tunnel(
        _ handover: MessageToWorker.Handover, _ socket: consuming FileDescriptor, _ client: ClientRuntime
    ) {
        let tunnel = ClientTunnel(handover.id, handover.flow, client: client, worker: self)
        tunnels[handover.id] = tunnel
        tunnel.start(over: socket, with: handover.datagrams)
    }

    /// A client of the configuration in force, by its name.
    func client(named name: String) -> ClientRuntime? { clients.first { $0.configuration.name == name } }

    /// The service's certificate may have been renewed since the connection began. Where the service, or the peer's
    /// access to it, is gone, the peer may not go on for ever on its old port: it is for the listener to refuse.
    func restartMaterial(for service: ServiceRuntime, _ peer: SocketAddress) -> RehandshakeMaterial? {
        guard let cookies else { return nil }
        let present = services.first { $0.configuration.name == service.configuration.name }
        let isAllowed = [access, present?.configuration.limits.access].allSatisfy { $0?.allows(peer) ?? true }
        return RehandshakeMaterial(context: isAllowed ? present?.context : nil, cookies: cookies)
    }

    // MARK: What connections report

    /// The connection is gone.
    func forget(_ served: ServedConnection) {
        connections.removeValue(forKey: served.id)
        countClosed(served.id)
    }

    /// The tunnel is gone.
    func forget(_ tunnel: ClientTunnel) {
        if tunnels.removeValue(forKey: tunnel.id) != nil { countClosed(tunnel.id) }
    }

    func giveBack(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey) {
        // First, the end of the connection that the datagram comes from: what has no place beside it has one after it.
        sendReport()
        _ = channel?.offer(MessageFromWorker.encode(misdelivered: datagram, flow: key))
    }

    private func countClosed(_ id: UInt64) {
        report.closed.append(id)
        scheduleReport()
    }

    /// A connection that was handed over has done its first handshake.
    func reportEstablished(_ id: UInt64) { report.established.append(id) }

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

    /// Says close_notify to all, and ends.
    private func stop() {
        for served in connections.values { served.connection?.close() }
        for tunnel in tunnels.values { tunnel.close(.closedHere) }
        sendReport()
        channel?.close()
        // Some of the time is left for the last steps, and for a machine that has much to do.
        let deadline = loop.now + stopTimeout / 5 * 3
        handlerResources.finish(by: deadline) { [logs, loop] in
            logs.finish()
            loop.stop()
        }
    }
}
