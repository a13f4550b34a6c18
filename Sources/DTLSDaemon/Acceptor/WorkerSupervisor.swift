import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Starts, feeds and watches the worker processes, as the ``WorkerPool`` decides.
final class WorkerSupervisor: TimerTarget, MessageChannelDelegate {
    private(set) var pool = WorkerPool()
    /// The channels of the workers, by their process IDs.
    private var channels: [pid_t: MessageChannel] = [:]
    /// The worker whose last messages are being read. Another process may have its ID by now.
    private var reaped: pid_t?
    /// What every worker is given with the newest configuration; `nil` before the first one.
    private var setup: WorkerSetup?
    /// Starts the process of a worker with this number and this end of its channel.
    typealias Starter = (Int, consuming FileDescriptor) throws(SystemError) -> pid_t
    private let starter: Starter
    private let loop: EventLoop
    private let logger: Logger
    /// Is called from the loop.
    var onEvent: (WorkerPool.Event) -> Void = { _ in }
    /// Is called with each datagram that reached the socket of a connection and belongs to a listener. The datagram is
    /// valid during the call.
    var onMisdelivered: (UnsafeRawBufferPointer, FlowKey) -> Void = { _, _ in }

    init(loop: EventLoop, logger: Logger, starter: @escaping Starter) {
        self.starter = starter
        self.loop = loop
        self.logger = logger
        super.init()
    }

    // MARK: Configuration

    /// Gives the workers a configuration: starts the workers that are missing, and lets those drain that are too many.
    ///
    /// When this throws, everything is as it was.
    func configure(workers count: Int, _ setup: WorkerSetup) throws(SystemError) {
        var copies: [pid_t: WorkerSetup] = [:]
        for worker in pool.kept(by: count) { copies[worker.pid] = try setup.copy() }
        let started = try startAll(pool.missing(for: count), setup, &copies)
        // Nothing below can fail.
        self.setup = setup
        perform(pool.configure(count, started: started, now: loop.now), copies)
    }

    /// Starts several workers: all of them, or none.
    private func startAll(
        _ numbers: [Int], _ setup: WorkerSetup, _ copies: inout [pid_t: WorkerSetup]
    ) throws(SystemError) -> [(number: Int, pid: pid_t)] {
        var started: [(number: Int, pid: pid_t)] = []
        do throws(SystemError) {
            for number in numbers {
                let copy = try setup.copy()
                let pid = try start(number)
                started.append((number, pid))
                copies[pid] = copy
            }
        } catch {
            for (_, pid) in started {
                channels[pid]?.send(MessageToWorker.encode(stopKeepingConnections: false))
                channels.removeValue(forKey: pid)?.close()
            }
            throw error
        }
        return started
    }

    private func start(_ number: Int) throws(SystemError) -> pid_t {
        let ends = try UnixChannel.pair()
        let pid = try starter(number, ends.other)
        channels[pid] = try MessageChannel(ends.one, loop: loop, delegate: self)
        return pid
    }

    /// Sends all workers other keys for session tickets.
    func replaceTicketKeys(_ keys: [TicketKey]) {
        setup?.ticketKeys = keys
        for channel in channels.values { channel.send(MessageToWorker.encode(ticketKeys: keys)) }
    }

    // MARK: Connections

    /// Why no worker can take one more connection at this moment; `nil` when one can.
    var refusal: Refusal? { pool.assignment(canSend: canSend) == nil ? pool.refusal : nil }

    private func canSend(_ pid: pid_t) -> Bool {
        guard let channel = channels[pid] else { return false }
        return channel.isOpen && !channel.isFull
    }

    /// Hands a new client over to the worker that the pool chooses. A worker whose channel is full is passed over.
    /// - Parameter target: the table of the newest configuration that the connection belongs to.
    /// - Returns: the number of the connection, or `nil` when no worker could take it.
    func handOver(
        _ incoming: borrowing IncomingConnection, to target: Target, _ connection: WorkerPool.Connection
    ) -> ConnectionNumber? {
        while let assignment = pool.assignment(canSend: canSend), let channel = channels[assignment.worker] {
            let message = MessageToWorker.encode(
                connection: assignment.connection, generation: assignment.generation, target: target,
                flow: incoming.flow, hello: incoming.helloHandover, datagrams: incoming.datagrams)
            if channel.offer(message, descriptor: incoming.socket.rawValue) {
                perform(pool.handedOver(connection, assignment, now: loop.now))
                return assignment.connection
            }
            // A channel that refuses a message is full from now on, so the loop ends.
            if canSend(assignment.worker) { return nil }
        }
        return nil
    }

    /// Passes a datagram on to the connection that it belongs to.
    /// - Returns: false when no worker has that connection any more.
    @discardableResult
    func deliver(_ datagram: UnsafeRawBufferPointer, to connection: ConnectionNumber) -> Bool {
        guard let pid = pool.worker(with: connection) else { return false }
        _ = channels[pid]?.offer(MessageToWorker.encode(misdelivered: datagram, id: connection))
        return true
    }

    // MARK: Receiving

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let pid = channels.first(where: { $0.value === channel })?.key else { return }
        // A worker whose message is malformed has a defect. It is not worth the life of this process.
        guard let decoded = try? MessageFromWorker(decoding: message) else {
            if pid != reaped { kill(pid, SIGABRT) }
            return
        }
        perform(pool.receive(decoded, from: pid, now: loop.now))
        if case .misdelivered(let flow, let datagram) = decoded { onMisdelivered(datagram, flow) }
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
        channels[pid] = nil
        channel.close()
        perform(pool.ended(pid, ending, now: loop.now))
    }

    /// Ends a worker that cannot use a configuration that the others can use, so that it is replaced.
    func replace(_ number: Int, reason: String) { perform(pool.replace(number, reason: reason)) }

    override func timerFired(now: Instant) { perform(pool.advance(to: now)) }

    /// Tells all workers to close their connections and to end.
    func stop() {
        perform(pool.stop())
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
            case .stop(let pid): channels[pid]?.send(MessageToWorker.encode(stopKeepingConnections: false))
            // A worker whose channel is full does not read, so its ping counts as unanswered, too.
            case .ping(let pid): _ = channels[pid]?.offer(MessageToWorker.pingBytes)
            case .kill(let pid): kill(pid, SIGKILL)
            case .log(let event, let message, let fields):
                logger.log(event, message, fields.mapValues { .string($0) })
            case .report(let event): onEvent(event)
            }
        }
        if let deadline = pool.deadline { loop.timers.arm(self, at: deadline) }
    }

    private func restart(_ number: Int) {
        guard let setup else { return }
        do throws(SystemError) {
            let copy = try setup.copy()
            let pid = try start(number)
            perform(pool.started(number, pid: pid, now: loop.now), [pid: copy])
        } catch {
            perform(pool.startFailed(number, "\(error)\(ChildProcess.hint(error))", now: loop.now))
        }
    }

    private func configure(_ pid: pid_t, _ generation: UInt32, _ copy: WorkerSetup?) {
        guard let channel = channels[pid], let copy = copy ?? (try? setup?.copy()) else {
            return pool.configurationNotSent(to: pid)
        }
        channel.send(MessageToWorker.encode(ticketKeys: copy.ticketKeys))
        if copy.keyLog.isOpen { channel.send(MessageToWorker.keyLogBytes, descriptor: copy.keyLog.take()) }
        channel.send(MessageToWorker.encode(configure: generation), descriptor: copy.snapshot.take())
    }
}
