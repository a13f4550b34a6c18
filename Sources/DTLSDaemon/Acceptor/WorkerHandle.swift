import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// Who is told what a worker says.
protocol WorkerHandleDelegate: AnyObject {
    func worker(_ worker: WorkerHandle, ready generation: UInt32)
    func worker(_ worker: WorkerHandle, rejected generation: UInt32, reason: String)
    /// It had no descriptors for the configuration that it was given last; said once for each.
    func workerMissedConfiguration(_ worker: WorkerHandle)
    func worker(_ worker: WorkerHandle, reported report: MessageFromWorker.Report)
    func worker(_ worker: WorkerHandle, gaveBack datagram: UnsafeRawBufferPointer, key: FlowKey)
}

/// One worker process, as the acceptor sees it: its channel, its load, its health.
final class WorkerHandle: MessageChannelDelegate {
    /// 0 to the number of workers - 1; the one that replaces a dead worker takes over its number.
    let number: Int
    let pid: pid_t
    let startedAt: Instant
    /// Connections that were handed over and not reported closed.
    private(set) var connections: [UInt64: AdmittedConnection?] = [:]
    var load: Int { connections.count }
    /// The generation of the configuration that it serves; `nil` until its first ready.
    private(set) var generation: UInt32?
    /// The generation that it was given last: what is handed over after it counts in that one.
    private var sentGeneration: UInt32 = 0
    /// What has become of that one.
    private enum Delivery { case given, missed, rejected }
    private var delivery = Delivery.given
    private var hasMissedBefore = false
    /// Gets no newcomers any more, and ends when its connections have.
    var isRetired = false
    private var capacity = 0
    private var heartbeat = Heartbeat()
    private let loop: EventLoop
    private unowned let delegate: any WorkerHandleDelegate
    private var channel: MessageChannel?

    /// Starts the process.
    init(
        number: Int, environment: [String: String], loop: EventLoop, delegate: any WorkerHandleDelegate
    ) throws(SystemError) {
        let ends = try UnixChannel.pair()
        self.number = number
        self.loop = loop
        self.delegate = delegate
        startedAt = loop.now
        pid = try ChildProcess.spawn(
            arguments: Role.worker(number: number).arguments, environment: environment, channel: ends.other)
        channel = try MessageChannel(ends.one, loop: loop, delegate: self)
    }

    // MARK: Saying

    /// Whether it can take a newcomer at this moment.
    var hasRoom: Bool {
        guard let channel, generation != nil, delivery == .given, !isRetired else { return false }
        return channel.isOpen && !channel.isFull && load < capacity
    }

    /// - Parameter provision: this worker's own; its descriptors are sent.
    func configure(generation: UInt32, _ provision: WorkerSetup) {
        if generation != sentGeneration { hasMissedBefore = false }
        sentGeneration = generation
        delivery = .given
        give(ticketKeys: provision.ticketKeys)
        if provision.keyLog.isOpen {
            channel?.send(MessageToWorker.keyLogBytes, descriptor: provision.keyLog.take())
        }
        channel?.send(MessageToWorker.encode(configure: generation), descriptor: provision.snapshot.take())
    }

    /// Whether it has to be given the configuration once more.
    var lacksConfiguration: Bool { delivery == .missed && !isRetired }

    func give(ticketKeys: [TicketKey]) { channel?.send(MessageToWorker.encode(ticketKeys: ticketKeys)) }

    /// - Returns: false when there was no room for it after all.
    func handOver(
        _ id: UInt64, to target: Target, _ newcomer: borrowing IncomingConnection, _ admitted: AdmittedConnection?
    ) -> Bool {
        let message = MessageToWorker.encode(
            connection: id, generation: sentGeneration, target: target, flow: newcomer.flow,
            hello: newcomer.helloHandover, datagrams: newcomer.datagrams)
        guard channel?.offer(message, descriptor: newcomer.socket.rawValue) == true else { return false }
        connections.updateValue(admitted, forKey: id)
        return true
    }

    func deliver(_ datagram: UnsafeRawBufferPointer, to id: UInt64) {
        _ = channel?.offer(MessageToWorker.encode(misdelivered: datagram, id: id))
    }

    func stop() { channel?.send(MessageToWorker.stopBytes) }

    func kill(_ signal: Int32) { Glibc.kill(pid, signal) }

    /// Asks for a sign of life. One whose channel is full is asked too: it does not read.
    /// - Returns: whether it has left so many pings unanswered that it is stuck (``Heartbeat``).
    func ping() -> Bool {
        _ = channel?.offer(MessageToWorker.pingBytes)
        return heartbeat.asks()
    }

    /// The process has ended, and its connections with it.
    func close() {
        channel?.close()
        connections = [:]
    }

    // MARK: Hearing

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        heartbeat.hears()
        // A worker that talks nonsense is a defect of ours; it is not worth the daemon's life.
        guard let decoded = try? MessageFromWorker(decoding: message) else { return kill(SIGABRT) }
        switch decoded {
        case .ready(let generation, let capacity):
            self.generation = generation
            self.capacity = Int(capacity)
            delegate.worker(self, ready: generation)
        case .rejected(let generation, let reason):
            if generation == sentGeneration { delivery = .rejected }
            delegate.worker(self, rejected: generation, reason: reason)
        case .setupLost(let generation):
            guard generation == sentGeneration else { return }
            delivery = .missed
            if !hasMissedBefore { delegate.workerMissedConfiguration(self) }
            hasMissedBefore = true
        case .report(let report):
            for id in report.established { connections[id]??.establish() }
            for id in report.closed { connections.removeValue(forKey: id) }
            delegate.worker(self, reported: report)
            if isRetired, load == 0 { stop() }
        case .misdelivered(let key, let datagram):
            delegate.worker(self, gaveBack: datagram, key: key)
        }
    }

    /// SIGCHLD brings the rest.
    func channelEnded(_ channel: MessageChannel) {}
}
