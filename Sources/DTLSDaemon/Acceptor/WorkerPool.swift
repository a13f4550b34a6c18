import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// Who is told what becomes of the pool.
protocol WorkerPoolDelegate: AnyObject {
    /// Every worker serves the newest configuration.
    func poolIsReady(_ pool: WorkerPool)
    /// A worker cannot use the newest configuration, and goes on with the one before.
    /// - Returns: whether another one is, or has been, put in force instead.
    func pool(_ pool: WorkerPool, rejectedBy worker: Int, _ reason: String) -> Bool
    /// A worker has turned newcomers away that were handed over to it.
    func pool(_ pool: WorkerPool, worker: Int, refused: Tally<Refusal>)
    func pool(_ pool: WorkerPool, gaveBack datagram: UnsafeRawBufferPointer, key: FlowKey)
    /// The last process is gone, after `stop()`.
    func poolHasEnded(_ pool: WorkerPool)
}

/// The workers: started, given their configuration and newcomers, watched, replaced when they die.
final class WorkerPool: TimerTarget, WorkerHandleDelegate {
    /// Sums over all workers since the start.
    struct Totals {
        var handshakes: UInt64 = 0
        var resumed: UInt64 = 0
        var failed: UInt64 = 0
        /// Clients' datagrams beyond the limits of their connection.
        var dropped = Tally<TrafficExcess>()
        /// Newcomers that workers have turned away.
        var refused = Tally<Refusal>()
    }

    private(set) var totals = Totals()
    private var workers: [WorkerHandle] = []
    private var vacancies: [Vacancy] = []
    private var count = 0
    private var generation: UInt32 = 0
    /// Of the newest configuration.
    private(set) var provision: WorkerSetup?
    private var isStopping = false
    private var handedOver: UInt64 = 1
    private var announcedGeneration: UInt32 = 0
    private var nextPing = Instant.distantPast
    private let environment: [String: String]
    private let loop: EventLoop
    private let logger: Logger
    private unowned let delegate: any WorkerPoolDelegate

    /// A worker that is to be started at a time.
    private struct Vacancy {
        let number: Int
        let at: Instant
    }

    /// The pauses before replacements of workers, by number; none for a worker that has run long enough.
    private var backoffs: [Int: Backoff] = [:]
    /// A connection's number ends with its worker's.
    private static let numberBits: UInt64 = 16
    private static let firstPause = Duration.milliseconds(100)
    private static let longestPause = Duration.milliseconds(30_000)
    /// A worker that has lived this long is replaced at once, whatever was before.
    private static let goodLife = Duration.milliseconds(10_000)
    private static let pingInterval = Duration.milliseconds(5_000)

    init(
        environment: [String: String], loop: EventLoop, logger: Logger, delegate: any WorkerPoolDelegate
    ) {
        self.environment = environment
        self.loop = loop
        self.logger = logger
        self.delegate = delegate
        super.init()
    }

    // MARK: Configuration

    /// Puts a configuration in force: starts what workers are missing, retires those that are too many, and tells all.
    ///
    /// When this throws, all is as before.
    /// - Parameter provision: what also the workers get that are started later.
    func configure(workers count: Int, _ provision: WorkerSetup) throws(SystemError) {
        let next = generation &+ 1
        let present = workers.filter { !$0.isRetired }
        let kept = present.filter { $0.number < count }
        let copies = try kept.map { _ throws(SystemError) in try provision.copy() }
        let taken = Set(present.map(\.number) + vacancies.map(\.number))
        let missing = (0..<count).filter { !taken.contains($0) }
        let added = try spawnAll(missing, next, provision)

        self.count = count
        self.provision = provision
        generation = next
        for (worker, copy) in zip(kept, copies) {
            worker.configure(generation: next, copy)
        }
        for worker in present where worker.number >= count {
            worker.isRetired = true
            if worker.load == 0 { worker.stop() }
        }
        vacancies.removeAll { $0.number >= count }
        for worker in added { admit(worker) }
        schedule()
    }

    /// The same with another snapshot alone.
    func configure(workers count: Int, newSnapshot snapshot: consuming FileDescriptor) throws(SystemError) {
        guard let provision else { return }
        let next = try provision.copy()
        next.snapshot = snapshot
        try configure(workers: count, next)
    }

    /// Seals session tickets with other keys from now on, in all workers.
    func replaceTicketKeys(_ keys: [TicketKey]) {
        provision?.ticketKeys = keys
        for worker in workers { worker.give(ticketKeys: keys) }
    }

    /// Starts processes that are not the pool's yet: all of them, or none.
    private func spawnAll(
        _ numbers: [Int], _ generation: UInt32, _ provision: WorkerSetup
    ) throws(SystemError) -> [WorkerHandle] {
        var started: [WorkerHandle] = []
        do throws(SystemError) {
            for number in numbers { started.append(try spawn(number, generation, provision)) }
        } catch {
            for worker in started {
                worker.stop()
                worker.close()
            }
            throw error
        }
        return started
    }

    private func spawn(
        _ number: Int, _ generation: UInt32, _ provision: WorkerSetup
    ) throws(SystemError) -> WorkerHandle {
        let copy = try provision.copy()
        let worker = try WorkerHandle(number: number, environment: environment, loop: loop, delegate: self)
        worker.configure(generation: generation, copy)
        return worker
    }

    private func admit(_ worker: WorkerHandle) {
        workers.append(worker)
        logger.log(
            .workerStarted, "worker \(worker.number) started",
            ["WORKER": "\(worker.number)", "WORKER_PID": "\(worker.pid)"])
    }

    // MARK: Newcomers

    /// Connections of all workers.
    var load: Int { workers.reduce(0) { $0 + $1.load } }

    /// Those of them that limits count.
    var admitted: [AdmittedConnection] { workers.flatMap { $0.connections.values.compactMap { $0 } } }

    var hasRoom: Bool { !isStopping && workers.contains { $0.hasRoom } }

    /// Gives a newcomer to the worker with the fewest connections; one whose channel is full is passed over.
    /// - Parameters:
    ///   - target: the table of the newest configuration that it belongs to.
    ///   - admitted: its place in the limits, kept until the connection is gone; `nil` where there are none for it.
    /// - Returns: the connection's number, or `nil` when nobody could take it.
    func handOver(_ newcomer: borrowing IncomingConnection, to target: Target, _ admitted: AdmittedConnection?)
        -> UInt64?
    {
        while let worker = workers.lazy.filter(\.hasRoom).min(by: { $0.load < $1.load }) {
            let id = handedOver << Self.numberBits | UInt64(truncatingIfNeeded: worker.number)
            // One that refuses is full from now on, so this ends.
            if worker.handOver(id, to: target, newcomer, admitted) {
                handedOver &+= 1
                return id
            }
            if worker.hasRoom { return nil }
        }
        return nil
    }

    /// Passes a datagram on to the connection that it belongs to.
    /// - Returns: false when no worker has that connection any more.
    @discardableResult
    func deliver(_ datagram: UnsafeRawBufferPointer, to connection: UInt64) -> Bool {
        let number = Int(connection & (1 << Self.numberBits - 1))
        let worker = workers.first { $0.number == number && $0.connections.keys.contains(connection) }
        worker?.deliver(datagram, to: connection)
        return worker != nil
    }

    // MARK: Workers' lives

    /// Takes note of a child that has ended, if it is one of the pool's.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        guard let index = workers.firstIndex(where: { $0.pid == pid }) else { return }
        let worker = workers.remove(at: index)
        let lost = worker.load
        worker.close()
        if isStopping {
            if workers.isEmpty { delegate.poolHasEnded(self) }
            return
        }
        if worker.isRetired {
            if ending != .exited(status: 0) || lost > 0 { logDeath(of: worker, ending, lost, "it had been retired") }
            return
        }
        let pause = pauseAfterDeath(of: worker)
        logDeath(
            of: worker, ending, lost,
            pause == .zero ? "it is replaced at once" : "it is replaced in \(pause.milliseconds) ms")
        replace(worker.number, after: pause)
    }

    private func logDeath(of worker: WorkerHandle, _ ending: ChildProcess.Ending, _ lost: Int, _ consequence: String) {
        logger.log(
            .workerDied, "worker \(worker.number) \(ending), with \(lost) connections lost; \(consequence)",
            [
                "WORKER": "\(worker.number)", "WORKER_PID": "\(worker.pid)", "CONNECTIONS_LOST": "\(lost)",
                "ENDING": "\(ending)",
            ])
    }

    /// Nothing after a good life; else the pause doubles with every death.
    private func pauseAfterDeath(of worker: WorkerHandle) -> Duration {
        if loop.now - worker.startedAt >= Self.goodLife { backoffs[worker.number] = nil }
        return nextPause(of: worker.number)
    }

    private func nextPause(of number: Int) -> Duration {
        guard var backoff = backoffs[number] else {
            backoffs[number] = Backoff(from: Self.firstPause, to: Self.longestPause)
            return .zero
        }
        defer { backoffs[number] = backoff }
        return backoff.next()
    }

    private func replace(_ number: Int, after pause: Duration) {
        guard pause == .zero, let provision else { return leaveVacant(number, for: max(pause, Self.firstPause)) }
        do throws(SystemError) {
            admit(try spawn(number, generation, provision))
        } catch {
            // Short of processes, descriptors or memory: the pauses grow, so the log does not fill.
            let pause = max(nextPause(of: number), Self.firstPause)
            logger.log(
                .internalError,
                "worker \(number) cannot be started: \(error); the next try is in \(pause.milliseconds) ms",
                ["WORKER": "\(number)"])
            leaveVacant(number, for: pause)
        }
    }

    private func leaveVacant(_ number: Int, for pause: Duration) {
        vacancies.append(Vacancy(number: number, at: loop.now + pause))
        schedule()
    }

    override func timerFired(now: Instant) {
        let due = vacancies.filter { $0.at <= now }
        vacancies.removeAll { $0.at <= now }
        for vacancy in due { replace(vacancy.number, after: .zero) }
        if now >= nextPing {
            nextPing = now + Self.pingInterval
            for worker in workers { look(after: worker) }
        }
        schedule()
    }

    private func look(after worker: WorkerHandle) {
        // Short of descriptors here, too: the next time.
        if worker.lacksConfiguration, let copy = try? provision?.copy() {
            worker.configure(generation: generation, copy)
        }
        guard worker.ping() else { return }
        logger.log(
            .workerStuck, "worker \(worker.number) does not answer: it is killed", ["WORKER": "\(worker.number)"])
        worker.kill(SIGKILL)
    }

    private func schedule() {
        guard !isStopping else { return }
        let next = vacancies.map(\.at).min() ?? .distantFuture
        loop.timers.arm(self, at: min(next, max(nextPing, loop.now)))
    }

    // MARK: The end

    /// Tells all workers to say close_notify to their clients and end.
    func stop() {
        isStopping = true
        loop.timers.disarm(self)
        for worker in workers { worker.stop() }
        if workers.isEmpty { delegate.poolHasEnded(self) }
    }

    /// Ends what has not ended by itself.
    func killAll() {
        for worker in workers { worker.kill(SIGKILL) }
    }

    // MARK: What workers say

    func worker(_ worker: WorkerHandle, ready generation: UInt32) { announceIfReady() }

    private func announceIfReady() {
        let serving = workers.filter { !$0.isRetired }
        guard announcedGeneration != generation, serving.count == count,
            serving.allSatisfy({ $0.generation == generation })
        else { return }
        announcedGeneration = generation
        delegate.poolIsReady(self)
    }

    func worker(_ worker: WorkerHandle, rejected generation: UInt32, reason: String) {
        // It may have been given another one meanwhile.
        guard generation == self.generation, !isStopping, !worker.isRetired,
            !delegate.pool(self, rejectedBy: worker.number, reason)
        else { return }
        // Others use this very configuration, so this one is short of memory or worse: it takes leave of its clients.
        logger.log(
            .internalError, "worker \(worker.number) cannot use the configuration, and is replaced: \(reason)",
            ["WORKER": "\(worker.number)"])
        worker.stop()
    }

    func workerMissedConfiguration(_ worker: WorkerHandle) {
        logger.log(
            .descriptorLimit,
            "worker \(worker.number) has no descriptors left to take up the configuration: it serves its connections,"
                + " no newcomers, and is given it again every \(Self.pingInterval / 1_000_000_000) s",
            ["WORKER": "\(worker.number)"])
    }

    func worker(_ worker: WorkerHandle, reported report: MessageFromWorker.Report) {
        totals.handshakes &+= UInt64(report.handshakes)
        totals.resumed &+= UInt64(report.resumed)
        totals.failed &+= UInt64(report.failed)
        totals.dropped.add(report.dropped)
        guard report.refused.total > 0 else { return }
        totals.refused.add(report.refused)
        delegate.pool(self, worker: worker.number, refused: report.refused)
    }

    func worker(_ worker: WorkerHandle, gaveBack datagram: UnsafeRawBufferPointer, key: FlowKey) {
        delegate.pool(self, gaveBack: datagram, key: key)
    }
}
