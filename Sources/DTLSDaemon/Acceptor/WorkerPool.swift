import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The worker processes, as the main process sees them: which ones there are, which configuration each of them serves,
/// and which one gets the next client.
///
/// It is a value without I/O. Its methods take what has happened, and return the actions to perform, in this order. A
/// worker is known by its process ID, and has a number: 0 to the number of workers - 1. The worker that replaces a dead
/// one takes over its number.
struct WorkerPool {
    enum Action: Equatable {
        /// Start a worker. The outcome comes by ``started(_:pid:now:)`` or ``startFailed(_:_:now:)``.
        case start(number: Int)
        /// Send a worker the newest configuration.
        case configure(pid_t, generation: UInt32)
        /// Tell a worker to send close_notify to its clients, and to end.
        case stop(pid_t)
        case ping(pid_t)
        case kill(pid_t)
        case log(LogEvent, String, fields: [String: String])
        case report(Event)
    }

    /// What concerns others than the pool.
    enum Event: Equatable {
        /// All workers serve the newest configuration.
        case ready
        /// A worker cannot use the newest configuration, and goes on with the previous one.
        case rejected(worker: Int, reason: String)
        /// A worker has refused connections that were handed over to it.
        case refused(worker: Int, Tally<Refusal>)
        /// The last process has ended, after ``WorkerPool/stop()``.
        case ended
    }

    /// Sums over all workers since the start.
    struct Totals: Equatable {
        var handshakes: UInt64 = 0
        var resumed: UInt64 = 0
        var failed: UInt64 = 0
        /// Datagrams of clients that were dropped because they exceeded the limits of their connection.
        var dropped = Tally<TrafficExcess>()
        /// Connections that workers have refused.
        var refused = Tally<Refusal>()
    }

    /// A connection that was handed over to a worker and that the worker has not reported closed.
    enum Connection {
        /// It counts in the limits for as long as it is here.
        case ofService(AdmittedConnection)
        /// No limits apply to local senders.
        case ofClient
    }

    struct Worker {
        let number: Int
        let pid: pid_t
        fileprivate let startedAt: Instant
        fileprivate(set) var connections: [ConnectionNumber: Connection] = [:]
        /// The configuration that it was given last. Connections that are handed over to it count in this one.
        fileprivate var givenGeneration: UInt32 = 0
        /// What has become of the configuration that it was given last.
        fileprivate var delivery = Delivery.given
        fileprivate var hasLostSetupBefore = false
        /// The configuration that it serves; `nil` before its first one.
        fileprivate(set) var servedGeneration: UInt32?
        /// The number of connections that its descriptors allow.
        fileprivate var capacity = 0
        /// It gets no new clients, and ends when its last connection has ended.
        fileprivate(set) var isDraining = false
        /// Pings in a row, one each ``WorkerPool/pingInterval``, that no message has followed. Silence alone does not
        /// count: while this process is stopped (a paused virtual machine, a debugger), no pings are sent.
        fileprivate var unansweredPings = 0
        /// It was sent a ping together with a connection, and has sent no message since.
        fileprivate var wasAsked = false
        /// When it sent its last message.
        fileprivate var lastHeard: Instant

        fileprivate enum Delivery { case given, lost, rejected }

        fileprivate init(number: Int, pid: pid_t, startedAt: Instant) {
            self.number = number
            self.pid = pid
            self.startedAt = startedAt
            lastHeard = startedAt
        }

        fileprivate var owesAnswer: Bool { wasAsked || unansweredPings > 0 }
        fileprivate var isHung: Bool { unansweredPings >= WorkerPool.unansweredPingsOfHung }

        /// Whether it serves the configuration that it was given last, to new clients too.
        fileprivate var isServing: Bool { servedGeneration != nil && delivery == .given && !isDraining }
        fileprivate var isFull: Bool { connections.count >= capacity }
    }

    /// A worker that is to be started at a time.
    private struct Vacancy {
        let number: Int
        let startAt: Instant
    }

    private(set) var workers: [Worker] = []
    private(set) var totals = Totals()
    /// The number of workers that the configuration asks for.
    private var count = 0
    private var generation: UInt32 = 0
    private var readyGeneration: UInt32 = 0
    private var vacancies: [Vacancy] = []
    /// The pauses before the replacement of a worker, by its number; none for a worker that was stable.
    private var backoffs: [Int: Backoff] = [:]
    private var nextPing = Instant.distantPast
    private var connectionCount: UInt64 = 1
    private(set) var isStopping = false

    private static let shortestPause = Duration.milliseconds(100)
    private static let longestPause = Duration.seconds(30)
    /// A worker that has lived this long is replaced at once, whatever was before.
    private static let stableAfter = Duration.seconds(10)
    static let pingInterval = Duration.seconds(5)
    /// Pings in a row that a worker may leave unanswered before it is killed.
    static let maximumUnansweredPings = 6
    /// A worker that has left so many pings unanswered gets no new clients. They would wait until it is killed, while
    /// clients that are refused are served when they ask again.
    static let unansweredPingsOfHung = 2
    /// A worker that has been silent for so long is sent a ping together with a connection.
    static let longestSilence = Duration.seconds(1)

    // MARK: Configuration

    /// The workers that are kept by a configuration with `count` workers.
    func kept(by count: Int) -> [Worker] { workers.filter { !$0.isDraining && $0.number < count } }

    /// The numbers of the workers that a configuration with `count` workers has to start.
    func missing(for count: Int) -> [Int] {
        let present = Set(workers.filter { !$0.isDraining }.map(\.number) + vacancies.map(\.number))
        return (0..<count).filter { !present.contains($0) }
    }

    /// Distributes a new configuration: to the workers that it keeps, and to those that were started for it. The
    /// workers above `count` begin to drain. They get it too, for the connections that they have: their backends may
    /// have moved.
    mutating func configure(_ count: Int, started: [(number: Int, pid: pid_t)], now: Instant) -> [Action] {
        self.count = count
        generation &+= 1
        var actions = kept(by: count).flatMap { configure($0.pid) }
        for index in workers.indices where !workers[index].isDraining && workers[index].number >= count {
            workers[index].isDraining = true
            if workers[index].connections.isEmpty { actions.append(.stop(workers[index].pid)) }
        }
        let draining = workers.filter { $0.isDraining && !$0.connections.isEmpty }
        actions += draining.flatMap { configure($0.pid) }
        vacancies.removeAll { $0.number >= count }
        for (number, pid) in started { actions += self.started(number, pid: pid, now: now) }
        return actions
    }

    private mutating func configure(_ pid: pid_t) -> [Action] {
        guard let index = index(of: pid) else { return [] }
        if workers[index].givenGeneration != generation { workers[index].hasLostSetupBefore = false }
        workers[index].givenGeneration = generation
        workers[index].delivery = .given
        return [.configure(pid, generation: generation)]
    }

    /// The action ``Action/configure(_:generation:)`` has failed, for want of descriptors in this process. It is tried
    /// again with the next ping.
    mutating func configurationNotSent(to pid: pid_t) {
        if let index = index(of: pid) { workers[index].delivery = .lost }
    }

    // MARK: Connections

    /// The connections of all workers.
    var connectionsInUse: Int { workers.reduce(0) { $0 + $1.connections.count } }

    /// The connections of all workers that count in limits.
    var admitted: [AdmittedConnection] {
        workers.flatMap { worker in
            worker.connections.values.compactMap { if case .ofService(let admitted) = $0 { admitted } else { nil } }
        }
    }

    /// The place of a new connection.
    struct Assignment: Equatable {
        let worker: pid_t
        /// The number of the connection, unique among all connections of the daemon.
        let connection: ConnectionNumber
        /// The configuration that the worker serves the connection with.
        let generation: UInt32
    }

    /// Assigns a new connection to the worker with the fewest connections, of those that have room for one more. A
    /// worker that owes an answer to a ping is passed over for one that does not: it may be hung, and would have the
    /// fewest connections for ever.
    /// - Parameter canSend: whether the channel of a worker takes a message at this moment.
    /// - Returns: `nil` when no worker can take it; see ``refusal``.
    func assignment(canSend: (pid_t) -> Bool) -> Assignment? {
        guard !isStopping else { return nil }
        var chosen: Int?
        for index in workers.indices {
            let worker = workers[index]
            guard worker.isServing, !worker.isFull, !worker.isHung, canSend(worker.pid) else { continue }
            if let best = chosen.map({ workers[$0] }),
                best.owesAnswer == worker.owesAnswer
                    ? best.connections.count <= worker.connections.count : worker.owesAnswer
            {
                continue
            }
            chosen = index
        }
        guard let chosen else { return nil }
        return Assignment(
            worker: workers[chosen].pid,
            connection: ConnectionNumber(
                worker: workers[chosen].number, slot: Int(connectionCount & 0xff_ffff),
                generation: UInt32(truncatingIfNeeded: connectionCount >> 24)),
            generation: workers[chosen].givenGeneration)
    }

    /// Why no worker can take a connection, where ``assignment(canSend:)`` is `nil`.
    var refusal: Refusal {
        let serving = workers.filter(\.isServing)
        if serving.isEmpty || isStopping { return .noWorker }
        return serving.allSatisfy(\.isFull) ? .full : .busy
    }

    /// Notes that a connection was handed over.
    mutating func handedOver(_ connection: Connection, _ assignment: Assignment, now: Instant) -> [Action] {
        guard let index = index(of: assignment.worker) else { return [] }
        connectionCount &+= 1
        workers[index].connections[assignment.connection] = connection
        // Whether it still answers shows before it gets the next client. A busy worker reports all the time.
        guard !workers[index].owesAnswer, now - workers[index].lastHeard >= Self.longestSilence else { return [] }
        workers[index].wasAsked = true
        return [.ping(assignment.worker)]
    }

    /// The worker that has a connection; `nil` when the connection is gone.
    func worker(with connection: ConnectionNumber) -> pid_t? {
        workers.first { $0.number == connection.worker && $0.connections.keys.contains(connection) }?.pid
    }

    // MARK: Messages of workers

    /// A datagram that was misdelivered is not the pool's business, but it is a sign of life.
    mutating func receive(_ message: MessageFromWorker, from pid: pid_t, now: Instant) -> [Action] {
        guard let index = index(of: pid) else { return [] }
        workers[index].unansweredPings = 0
        workers[index].wasAsked = false
        workers[index].lastHeard = now
        let number = workers[index].number
        switch message {
        case .ready(let generation, let capacity):
            workers[index].servedGeneration = generation
            workers[index].capacity = Int(capacity)
            return confirm()
        case .rejected(let generation, let reason):
            guard generation == workers[index].givenGeneration else { return [] }
            workers[index].delivery = .rejected
            // It may have been given another one meanwhile.
            guard generation == self.generation, !isStopping, !workers[index].isDraining else { return [] }
            return [.report(.rejected(worker: number, reason: reason))]
        case .setupLost(let generation):
            guard generation == workers[index].givenGeneration else { return [] }
            workers[index].delivery = .lost
            defer { workers[index].hasLostSetupBefore = true }
            return workers[index].hasLostSetupBefore ? [] : [lostSetup(number)]
        case .report(let report): return count(report, of: index)
        case .misdelivered, .wake, .parked, .farSocket, .released, .releaseDone: return []
        }
    }

    private func lostSetup(_ number: Int) -> Action {
        .log(
            .descriptorLimit,
            "worker \(number) has no file descriptors left to take up the configuration: it goes on with its connections,"
                + " gets no new clients, and is given the configuration again every \(Self.pingInterval.seconds) s",
            fields: ["WORKER": "\(number)"])
    }

    private mutating func confirm() -> [Action] {
        let serving = workers.filter { !$0.isDraining }
        guard readyGeneration != generation, serving.count == count,
            serving.allSatisfy({ $0.servedGeneration == generation })
        else { return [] }
        readyGeneration = generation
        return [.report(.ready)]
    }

    private mutating func count(_ report: MessageFromWorker.Report, of index: Int) -> [Action] {
        for id in report.established {
            if case .ofService(let admitted) = workers[index].connections[id] { admitted.establish() }
        }
        for id in report.closed { workers[index].connections.removeValue(forKey: id) }
        totals.handshakes &+= UInt64(report.handshakes)
        totals.resumed &+= UInt64(report.resumed)
        totals.failed &+= UInt64(report.failed)
        totals.dropped.add(report.dropped)
        totals.refused.add(report.refused)
        var actions: [Action] = []
        if report.refused.total > 0 {
            actions.append(.report(.refused(worker: workers[index].number, report.refused)))
        }
        if workers[index].isDraining, workers[index].connections.isEmpty { actions.append(.stop(workers[index].pid)) }
        return actions
    }

    // MARK: Processes

    /// Notes that a worker was started. It is given the newest configuration.
    mutating func started(_ number: Int, pid: pid_t, now: Instant) -> [Action] {
        workers.append(Worker(number: number, pid: pid, startedAt: now))
        return [
            .log(
                .workerStarted, "worker \(number) started",
                fields: ["WORKER": "\(number)", "WORKER_PID": "\(pid)"])
        ] + configure(pid)
    }

    /// Notes that a worker could not be started: there are too few processes, descriptors or memory. The pauses between
    /// the tries grow, so that the log does not fill.
    mutating func startFailed(_ number: Int, _ reason: String, now: Instant) -> [Action] {
        let pause = max(nextPause(number), Self.shortestPause)
        vacancies.append(Vacancy(number: number, startAt: now + pause))
        return [
            .log(
                .internalError,
                "worker \(number) cannot be started: \(reason); the next try is in \(pause.milliseconds) ms",
                fields: ["WORKER": "\(number)"])
        ]
    }

    /// Notes that a child process has ended. Children that are no workers are ignored.
    mutating func ended(_ pid: pid_t, _ ending: ChildProcess.Ending, now: Instant) -> [Action] {
        guard let index = index(of: pid) else { return [] }
        let worker = workers.remove(at: index)
        if isStopping { return workers.isEmpty ? [.report(.ended)] : [] }
        if worker.isDraining {
            let isExpected = ending == .exited(status: 0) && worker.connections.isEmpty
            return isExpected ? [] : [death(of: worker, ending, "it was draining, and is not replaced")]
        }
        if now - worker.startedAt >= Self.stableAfter { backoffs[worker.number] = nil }
        let pause = nextPause(worker.number)
        if pause == .zero {
            return [death(of: worker, ending, "it is replaced at once"), .start(number: worker.number)]
        }
        vacancies.append(Vacancy(number: worker.number, startAt: now + pause))
        return [death(of: worker, ending, "it is replaced in \(pause.milliseconds) ms")]
    }

    private func death(of worker: Worker, _ ending: ChildProcess.Ending, _ consequence: String) -> Action {
        let lost = worker.connections.count
        return .log(
            .workerDied, "worker \(worker.number) \(ending), with \(lost) connections lost; \(consequence)",
            fields: [
                "WORKER": "\(worker.number)", "WORKER_PID": "\(worker.pid)", "CONNECTIONS_LOST": "\(lost)",
                "ENDING": "\(ending)",
            ])
    }

    /// There is no pause before the first replacement. Each one after it is twice as long as the one before.
    private mutating func nextPause(_ number: Int) -> Duration {
        guard backoffs[number] != nil else {
            backoffs[number] = Backoff(from: Self.shortestPause, to: Self.longestPause)
            return .zero
        }
        return backoffs[number]?.next() ?? .zero
    }

    /// Tells a worker to end, so that it is replaced. The other workers can use the configuration that it has rejected,
    /// so it is short of memory, or worse.
    func replace(_ number: Int, reason: String) -> [Action] {
        guard let worker = workers.first(where: { $0.number == number && !$0.isDraining }) else { return [] }
        return [
            .log(
                .internalError, "worker \(number) cannot use the configuration, and is replaced: \(reason)",
                fields: ["WORKER": "\(number)"]),
            .stop(worker.pid),
        ]
    }

    /// When ``advance(to:)`` is to be called next; `nil` once the pool stops.
    var deadline: Instant? {
        isStopping ? nil : vacancies.map(\.startAt).reduce(nextPing) { min($0, $1) }
    }

    /// Starts the workers whose pause is over, and pings all workers every ``pingInterval``.
    mutating func advance(to now: Instant) -> [Action] {
        guard !isStopping else { return [] }
        let due = vacancies.filter { $0.startAt <= now }
        vacancies.removeAll { $0.startAt <= now }
        var actions = due.map { Action.start(number: $0.number) }
        guard now >= nextPing else { return actions }
        nextPing = now + Self.pingInterval
        for index in workers.indices { actions += ping(index) }
        return actions
    }

    /// A worker that has lost its configuration is given it again. A worker that has left too many pings unanswered is
    /// killed. When it begins to count as hung, and when it is killed, this is logged once.
    private mutating func ping(_ index: Int) -> [Action] {
        let worker = workers[index]
        var actions = worker.delivery == .lost && !worker.isDraining ? configure(worker.pid) : []
        actions.append(.ping(worker.pid))
        workers[index].unansweredPings += 1
        if workers[index].unansweredPings == Self.unansweredPingsOfHung {
            actions.append(
                .log(
                    .workerStuck,
                    "worker \(worker.number) has not answered for \(Self.pingInterval.seconds) s: it gets no new clients"
                        + " until it does, and is killed if it does not",
                    fields: ["WORKER": "\(worker.number)"]))
        }
        if worker.unansweredPings == Self.maximumUnansweredPings {
            actions.append(
                .log(
                    .workerStuck, "worker \(worker.number) does not answer, and is killed",
                    fields: ["WORKER": "\(worker.number)"]))
            actions.append(.kill(worker.pid))
        }
        return actions
    }

    private func index(of pid: pid_t) -> Int? { workers.firstIndex { $0.pid == pid } }

    // MARK: Shutdown

    /// Tells all workers to close their connections and to end.
    mutating func stop() -> [Action] {
        isStopping = true
        return workers.isEmpty ? [.report(.ended)] : workers.map { .stop($0.pid) }
    }

    /// Kills the workers that have not ended.
    func killAll() -> [Action] { workers.map { .kill($0.pid) } }
}
