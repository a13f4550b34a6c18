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
///
/// A worker serves the connections of one ``SlotTable``. The next worker of its number takes that table over, where it
/// has died; where it has been told to give its connections up, they move to the tables of others.
struct WorkerPool {
    enum Action: Equatable {
        /// Start a worker. The outcome comes by ``started(_:pid:now:)`` or ``startFailed(_:_:now:)``.
        case start(number: Int)
        /// Send a worker the newest configuration.
        case configure(pid_t, generation: UInt32)
        /// Tell a worker to end: with close_notify to its clients, or leaving its connections in their slots.
        case stop(pid_t, keepingConnections: Bool)
        /// Tell a worker to serve the connections that it has found in its slots.
        case takeOver(pid_t)
        /// Call ``WorkerPool/review()`` in the next turn of the loop, once.
        case review
        /// Tell a worker to give up to so many connections up; `UInt32.max`: all that can move.
        case release(pid_t, count: UInt32)
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
        /// The worker of this table serves its connections from now on.
        case tookOver(table: Int)
        /// There are connections in tables that no worker serves: ``WorkerPool/orphans``.
        case orphaned
        /// The last process has ended, after ``WorkerPool/stop()``.
        case ended
    }

    /// Sums since the start.
    struct Totals: Equatable {
        /// Workers that were started.
        var started: UInt64 = 0
        /// Workers that have ended without having been told to.
        var died: UInt64 = 0
        /// Connections that have ended with their workers, those in their handshake included.
        var connectionsLost: UInt64 = 0
    }

    struct Worker {
        let number: Int
        let pid: pid_t
        let startedAt: Instant
        /// The number of the ``SlotTable`` with its connections, or ``WorkerPool/noTable``.
        fileprivate(set) var table: Int
        /// The configuration that it was given last. Connections that are handed over to it count in this one.
        fileprivate var givenGeneration: UInt32 = 0
        /// What has become of the configuration that it was given last.
        fileprivate var delivery = Delivery.given
        fileprivate var hasLostSetupBefore = false
        /// The configuration that it serves; `nil` before its first one.
        fileprivate(set) var servedGeneration: UInt32?
        /// The number of connections with sockets that its descriptors allow.
        fileprivate var capacity = 0
        /// It gets no new clients, gives its connections up, and ends when it has none.
        fileprivate(set) var isDraining = false
        /// It was started to replace a worker of the same number that is old, and gets no clients before that one
        /// drains.
        fileprivate(set) var isReserve = false
        /// It was told to give connections up, and has not said that it has.
        fileprivate var isReleasing = false
        /// The connections in its table, whose last worker has died, have not all been looked at: it serves none before.
        fileprivate var awaitsReview = false
        fileprivate var wasStopped = false
        /// Pings in a row, one each ``WorkerPool/pingInterval``, that no message has followed. Silence alone does not
        /// count: while this process is stopped (a paused virtual machine, a debugger), no pings are sent.
        fileprivate var unansweredPings = 0
        /// It was sent a ping together with a connection, and has sent no message since.
        fileprivate var wasAsked = false
        /// When it sent its last message.
        fileprivate var lastHeard: Instant

        enum State: String { case starting, serving, draining, stopping }

        var state: State {
            if wasStopped { return .stopping }
            if isDraining { return .draining }
            return servedGeneration == nil || isReserve || awaitsReview ? .starting : .serving
        }

        fileprivate enum Delivery { case given, lost, rejected }

        fileprivate init(number: Int, pid: pid_t, table: Int, startedAt: Instant) {
            self.number = number
            self.pid = pid
            self.table = table
            self.startedAt = startedAt
            lastHeard = startedAt
        }

        fileprivate var owesAnswer: Bool { wasAsked || unansweredPings > 0 }
        /// A ping has just been sent to all, so one that is not answered is nothing unusual.
        fileprivate var owesAnswerToEarlierPing: Bool { unansweredPings > 1 }
        fileprivate var isHung: Bool { unansweredPings >= WorkerPool.unansweredPingsOfHung }

        /// Whether it serves the configuration that it was given last, to new clients too.
        fileprivate var isServing: Bool {
            servedGeneration != nil && delivery == .given && !isDraining && !isReserve && !awaitsReview
        }
    }

    /// A worker that is to be started at a time.
    private struct Vacancy {
        let number: Int
        let startAt: Instant
    }

    let connections: ConnectionTable
    private(set) var workers: [Worker] = []
    private(set) var totals = Totals()
    /// The number of workers that the configuration asks for.
    private var count = 0
    private var generation: UInt32 = 0
    private var readyGeneration: UInt32 = 0
    private var vacancies: [Vacancy] = []
    /// The pauses before the replacement of a worker, by its number; none for a worker that was stable.
    private var backoffs: [Int: Backoff] = [:]
    /// The tables of workers that have died, for their successors, by the number of both.
    private var inheritances: [Int: Int] = [:]
    /// Those of workers whose connections have not all been looked at.
    private var deaths: [WorkerDeath] = []
    /// The age at which a worker is replaced; `nil`: never.
    var recycling: Duration?
    private var nextRecycling = Instant.distantPast
    /// Workers that are to be replaced whatever their age, since somebody has asked for it.
    private var toReplace: Set<pid_t> = []
    private var nextPing = Instant.distantPast
    private(set) var isStopping = false

    init(_ connections: ConnectionTable = ConnectionTable()) { self.connections = connections }

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
    /// Workers are uneven when one has so many more connections with sockets than another, and a quarter more.
    static let unevenFrom = 64
    /// The most connections that are moved to even them out every ``pingInterval``.
    static let movedTogether = 1_024
    /// At most one worker is replaced for its age in this time, so that one that cannot be is not tried all the time.
    static let recyclingPause = Duration.seconds(60)
    /// A worker that has been silent for so long is sent a ping together with a connection.
    static let longestSilence = Duration.seconds(1)

    // MARK: Configuration

    /// The workers that are kept by a configuration with `count` workers.
    /// - Parameter replacesAll: whether it needs more than the workers that there are can do.
    func kept(by count: Int, _ replacesAll: Bool = false) -> [Worker] {
        workers.filter { !$0.isDraining && $0.number < count && !replacesAll }
    }

    /// The numbers of the workers that a configuration with `count` workers has to start.
    func missing(for count: Int, _ replacesAll: Bool = false) -> [Int] {
        let present = Set(kept(by: count, replacesAll).map(\.number) + vacancies.map(\.number))
        return (0..<count).filter { !present.contains($0) }
    }

    /// The table for a worker that is to be started: that of its predecessor, or one that nobody serves. `nil`: a new
    /// one.
    /// - Parameter taken: tables that other workers were just started with.
    func inheritance(of number: Int, except taken: [Int] = []) -> Int? {
        if let table = inheritances[number] { return table }
        let free = unclaimed.filter { !taken.contains($0) }
        // Those that a predecessor of the main process has kept have the numbers of the workers of that time.
        return free.first { $0 == number } ?? free.max { sizeOfTable($0) < sizeOfTable($1) }
    }

    private func sizeOfTable(_ number: Int) -> Int { connections[number]?.count ?? 0 }

    /// The tables that no worker serves, and none is going to take over, and whose connections may move.
    var orphans: [Int] { unclaimed.filter { !connections.isUnderReview($0) } }

    private var unclaimed: [Int] {
        let claimed = Set(workers.map(\.table)).union(inheritances.values)
        return connections.numbers.filter { !claimed.contains($0) }
    }

    /// Distributes a new configuration: to the workers that it keeps, and to those that were started for it. The
    /// workers above `count` begin to drain. They get it too, for the connections that they have: their backends may
    /// have moved. With `replacesAll`, all those that were there before begin to drain.
    mutating func configure(
        _ count: Int, _ replacesAll: Bool = false, started: [(number: Int, pid: pid_t, table: Int)], now: Instant
    ) -> [Action] {
        self.count = count
        generation &+= 1
        let replaced = replacesAll ? workers.filter { !$0.isDraining }.map(\.pid) : []
        for index in workers.indices where replacesAll {
            workers[index].isDraining = true
            workers[index].isReserve = false
        }
        var actions = kept(by: count).flatMap { configure($0.pid) }
        // Those that go on draining first, so that what they cannot give away is served by the new configuration.
        for worker in workers where worker.isDraining { actions += configure(worker.pid) }
        vacancies.removeAll { $0.number >= count }
        inheritances = inheritances.filter { $0.key < count }
        for (number, pid, table) in started { actions += self.started(number, pid: pid, table: table, now: now) }
        for index in workers.indices where !workers[index].isDraining && workers[index].number >= count {
            if sizeOfTable(workers[index].table) > 0 { actions += configure(workers[index].pid) }
            actions += drain(index)
        }
        // Those with connections wait for one that serves.
        for index in workers.indices where replaced.contains(workers[index].pid) { actions += advanceDraining(index) }
        return actions + reportOrphans()
    }

    /// From now on, a worker gives its connections up.
    private mutating func drain(_ index: Int) -> [Action] {
        workers[index].isDraining = true
        workers[index].isReserve = false
        return advanceDraining(index)
    }

    /// Tells a worker that drains to give its connections up, or to end once it has none.
    private mutating func advanceDraining(_ index: Int) -> [Action] {
        let worker = workers[index]
        if sizeOfTable(worker.table) == 0 {
            guard !worker.wasStopped else { return [] }
            workers[index].wasStopped = true
            return [.stop(worker.pid, keepingConnections: false)]
        }
        guard !worker.isReleasing, !worker.awaitsReview, worker.servedGeneration != nil,
            destination(hasSocket: true, from: worker.pid) != nil
        else {
            return []
        }
        workers[index].isReleasing = true
        return [.release(worker.pid, count: .max)]
    }

    private func reportOrphans() -> [Action] { orphans.isEmpty ? [] : [.report(.orphaned)] }

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

    /// Where a new connection goes.
    struct Assignment: Equatable {
        let worker: pid_t
        /// The table that the connection takes a slot of.
        let table: Int
        /// The configuration that the worker serves the connection with.
        let generation: UInt32
    }

    /// Assigns a new connection to the worker with the fewest connections that have sockets, of those that have room for
    /// one more. A worker that owes an answer to a ping is passed over for one that does not: it may be hung, and would
    /// have the fewest connections for ever.
    /// - Parameter canSend: whether the channel of a worker takes a message at this moment.
    /// - Returns: `nil` when no worker can take it; see ``refusal``.
    func assignment(canSend: (pid_t) -> Bool) -> Assignment? {
        guard !isStopping else { return nil }
        var chosen: Worker?
        for worker in workers where worker.isServing && !isFull(worker) && !worker.isHung && canSend(worker.pid) {
            if let best = chosen,
                best.owesAnswer == worker.owesAnswer ? load(best) <= load(worker) : worker.owesAnswer
            {
                continue
            }
            chosen = worker
        }
        return chosen.map { Assignment(worker: $0.pid, table: $0.table, generation: $0.givenGeneration) }
    }

    private func load(_ worker: Worker) -> Int { connections[worker.table]?.countWithSockets ?? 0 }

    private func isFull(_ worker: Worker) -> Bool {
        load(worker) >= worker.capacity || connections[worker.table]?.hasRoom != true
    }

    /// Why no worker can take a connection, where ``assignment(canSend:)`` is `nil`.
    var refusal: Refusal {
        let serving = workers.filter(\.isServing)
        if serving.isEmpty || isStopping { return .noWorker }
        return serving.allSatisfy(isFull) ? .full : .busy
    }

    /// Notes that a connection was handed over.
    mutating func handedOver(_ assignment: Assignment, now: Instant) -> [Action] {
        guard let index = index(of: assignment.worker) else { return [] }
        // Whether it still answers shows before it gets the next client. A busy worker reports all the time.
        guard !workers[index].owesAnswer, now - workers[index].lastHeard >= Self.longestSilence else { return [] }
        workers[index].wasAsked = true
        return [.ping(assignment.worker)]
    }

    /// The worker that serves a connection; `nil` when the connection is gone, or no worker serves it at the moment.
    func worker(with connection: ConnectionNumber) -> pid_t? {
        connections.contains(connection) ? worker(ofTable: connection.worker) : nil
    }

    /// The worker that serves the connections in a table; `nil` where none does at the moment.
    func worker(ofTable table: Int) -> pid_t? {
        workers.first { $0.table == table && $0.servedGeneration != nil && !$0.awaitsReview }?.pid
    }

    /// Whether the worker of a table has a descriptor for one more socket.
    func hasDescriptor(table: Int) -> Bool {
        guard let worker = workers.first(where: { $0.table == table }) else { return false }
        return load(worker) < worker.capacity
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
            let isFirst = workers[index].servedGeneration == nil
            workers[index].servedGeneration = generation
            workers[index].capacity = Int(capacity)
            return (isFirst && !workers[index].awaitsReview ? begin(index) : []) + confirm()
        case .rejected(let generation, let reason):
            guard generation == workers[index].givenGeneration else { return [] }
            workers[index].delivery = .rejected
            // It may have been given another one meanwhile.
            guard generation == self.generation, !isStopping, !workers[index].isDraining else { return [] }
            // The worker that it was to replace serves this configuration, and goes on.
            if workers[index].isReserve { return [.stop(pid, keepingConnections: true)] }
            return [.report(.rejected(worker: number, reason: reason))]
        case .setupLost(let generation):
            guard generation == workers[index].givenGeneration else { return [] }
            workers[index].delivery = .lost
            defer { workers[index].hasLostSetupBefore = true }
            return workers[index].hasLostSetupBefore ? [] : [lostSetup(number)]
        case .report(let report): return count(report, of: index)
        case .parked(let parked):
            for connection in parked where connection.worker == workers[index].table {
                connections.noteWithoutSocket(connection)
            }
            return []
        case .releaseDone:
            workers[index].isReleasing = false
            return []
        case .misdelivered, .wake, .rebind, .sendFromListener, .farSocket, .released, .hostRefused, .keysLost,
            .rehandshake:
            return []
        }
    }

    /// A worker serves its first configuration, and with it the connections that are in its slots already.
    private mutating func begin(_ index: Int) -> [Action] {
        let worker = workers[index]
        var actions: [Action] = []
        if sizeOfTable(worker.table) > 0 { actions = [.takeOver(worker.pid), .report(.tookOver(table: worker.table))] }
        if worker.isReserve { actions += relieve(index) }
        for index in workers.indices where workers[index].isDraining { actions += advanceDraining(index) }
        return actions + reportOrphans()
    }

    /// A worker that was started to replace an old one of its number can serve.
    private mutating func relieve(_ index: Int) -> [Action] {
        workers[index].isReserve = false
        let number = workers[index].number
        let pid = workers[index].pid
        guard let old = workers.firstIndex(where: { $0.number == number && !$0.isDraining && $0.pid != pid }) else {
            return []
        }
        workers[old].isDraining = true
        return []
    }

    private func lostSetup(_ number: Int) -> Action {
        .log(
            .descriptorLimit,
            "worker \(number) has no file descriptors left to take up the configuration: it goes on with its connections,"
                + " gets no new clients, and is given the configuration again every \(Self.pingInterval.seconds) s",
            fields: ["WORKER": "\(number)"])
    }

    private mutating func confirm() -> [Action] {
        let serving = workers.filter { !$0.isDraining && !$0.isReserve }
        guard readyGeneration != generation, serving.count == count,
            serving.allSatisfy({ $0.servedGeneration == generation })
        else { return [] }
        readyGeneration = generation
        return [.report(.ready)]
    }

    private mutating func count(_ report: MessageFromWorker.Report, of index: Int) -> [Action] {
        let table = workers[index].table
        for connection in report.established where connection.worker == table { connections.establish(connection) }
        for connection in report.closed where connection.worker == table { connections.end(connection) }
        var actions: [Action] = []
        if report.refused.total > 0 {
            actions.append(.report(.refused(worker: workers[index].number, report.refused)))
        }
        if workers[index].isDraining, sizeOfTable(table) == 0 { actions += advanceDraining(index) }
        return actions
    }

    /// The worker that takes a connection which another one has released: the one with the fewest connections.
    /// - Parameters:
    ///   - hasSocket: whether its socket comes along.
    ///   - source: the worker that has released it.
    func destination(hasSocket: Bool, from source: pid_t?) -> Worker? {
        let candidates = workers.filter {
            $0.isServing && !$0.isHung && $0.pid != source && connections[$0.table]?.hasRoom == true
                && (!hasSocket || load($0) < $0.capacity)
        }
        return hasSocket
            ? candidates.min { load($0) < load($1) }
            : candidates.min { sizeOfTable($0.table) < sizeOfTable($1.table) }
    }

    /// Notes that connections of a worker have moved to others.
    mutating func moved(from pid: pid_t) -> [Action] {
        guard let index = index(of: pid), workers[index].isDraining, sizeOfTable(workers[index].table) == 0 else {
            return []
        }
        return advanceDraining(index)
    }

    // MARK: Processes

    /// Notes that a worker was started. It is given the newest configuration.
    /// - Parameter table: the one of ``inheritance(of:except:)``, or a new one.
    mutating func started(_ number: Int, pid: pid_t, table: Int, now: Instant) -> [Action] {
        var worker = Worker(number: number, pid: pid, table: table, startedAt: now)
        worker.awaitsReview = connections.isUnderReview(table)
        worker.isReserve = workers.contains { $0.number == number && !$0.isDraining }
        if inheritances[number] == table { inheritances[number] = nil }
        workers.append(worker)
        totals.started &+= 1
        return [
            .log(
                .workerStarted, "worker \(number) started",
                fields: ["WORKER": "\(number)", "WORKER_PID": "\(pid)"])
        ] + configure(pid)
    }

    /// The table of a worker that was started without one, and gets it by ``give(_:to:)``.
    static let noTable = -1

    /// Gives a worker its table, which may have connections.
    mutating func give(_ table: Int, to pid: pid_t) -> [Action] {
        guard let index = index(of: pid) else { return [] }
        workers[index].table = table
        if inheritances[workers[index].number] == table { inheritances[workers[index].number] = nil }
        workers[index].awaitsReview = connections.isUnderReview(table)
        guard worker(ofTable: table) == pid, sizeOfTable(table) > 0 else { return [] }
        return [.takeOver(pid), .report(.tookOver(table: table))]
    }

    /// Notes that a worker could not be started: there are too few processes, descriptors or memory. The pauses between
    /// the tries grow, so that the log does not fill.
    mutating func startFailed(_ number: Int, _ reason: String, now: Instant) -> [Action] {
        if workers.contains(where: { $0.number == number && !$0.isDraining }) {
            return [
                .log(
                    .internalError,
                    "worker \(number), which is old enough to be replaced, goes on: a new one cannot be started: \(reason)",
                    fields: ["WORKER": "\(number)"])
            ]
        }
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
        toReplace.remove(pid)
        connections.workerDied(worker.table, now: now)
        if isStopping {
            let actions = review(worker.table)
            return workers.isEmpty ? actions + [.report(.ended)] : actions
        }
        func note(_ consequence: String, isExpected: Bool = false) -> [Action] {
            deaths.append(
                WorkerDeath(
                    number: worker.number, pid: pid, table: worker.table, ending: ending, consequence: consequence,
                    isExpected: isExpected))
            return review(worker.table)
        }
        if worker.isDraining || worker.isReserve {
            let actions =
                worker.isReserve
                ? note("the old worker that it was to replace goes on")
                : note("it was draining, and is not replaced", isExpected: ending == .exited(status: 0))
            return actions + recycle(now: now) + reportOrphans()
        }
        // One that was to replace it is there.
        if let successor = workers.firstIndex(where: { $0.number == worker.number && $0.isReserve }) {
            workers[successor].isReserve = false
            return note("its successor has been started already") + reportOrphans()
        }
        if worker.table != Self.noTable { inheritances[worker.number] = worker.table }
        if now - worker.startedAt >= Self.stableAfter { backoffs[worker.number] = nil }
        let pause = nextPause(worker.number)
        if pause == .zero { return note("it is replaced at once") + [.start(number: worker.number)] }
        vacancies.append(Vacancy(number: worker.number, startAt: now + pause))
        return note("it is replaced in \(pause.milliseconds) ms")
    }

    /// Goes on with the review of the connections of workers that have died, where there is one.
    mutating func review() -> [Action] {
        guard let table = connections.tableUnderReview else { return [] }
        return review(table) + goOn(with: table)
    }

    /// Looks at the next connections of a table whose worker has died. After the last, the log says what has become of all.
    private mutating func review(_ table: Int) -> [Action] {
        guard var survival = connections.review(table) else { return [.review] }
        var actions: [Action] = []
        for death in deaths where death.table == table {
            if !death.isExpected || survival.kept + survival.lost > 0 {
                totals.died &+= 1
                totals.connectionsLost &+= UInt64(survival.lost)
                actions += death.entries(survival, connections.admission)
            }
            // The next worker has died before the review was over, and has served nobody.
            survival = SlotReview.Survival(kept: survival.kept)
        }
        deaths.removeAll { $0.table == table }
        return connections.tableUnderReview == nil ? actions : actions + [.review]
    }

    /// Where all connections of a table have been looked at, its next worker may serve them.
    private mutating func goOn(with table: Int) -> [Action] {
        guard !connections.isUnderReview(table) else { return [] }
        guard let index = workers.firstIndex(where: { $0.table == table && $0.awaitsReview }) else {
            return isStopping ? [] : reportOrphans()
        }
        workers[index].awaitsReview = false
        return workers[index].servedGeneration == nil || isStopping ? [] : begin(index)
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
        guard let worker = workers.first(where: { $0.number == number && !$0.isDraining && !$0.isReserve }) else {
            return []
        }
        return [
            .log(
                .internalError, "worker \(number) cannot use the configuration, and is replaced: \(reason)",
                fields: ["WORKER": "\(number)"]),
            .stop(worker.pid, keepingConnections: true),
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
        for index in workers.indices where workers[index].isDraining { actions += advanceDraining(index) }
        actions += evenOut() + recycle(now: now) + reportOrphans()
        return actions
    }

    /// Where one worker has many more connections with sockets than another, it gives some of them up. They are at most
    /// half of the difference, so no worker ever has more afterwards than the one that gave them.
    private mutating func evenOut() -> [Action] {
        guard !workers.contains(where: \.isReleasing) else { return [] }
        let serving = workers.indices.filter { workers[$0].isServing && !workers[$0].owesAnswerToEarlierPing }
        guard let most = serving.max(by: { load(workers[$0]) < load(workers[$1]) }),
            let fewest = serving.min(by: { load(workers[$0]) < load(workers[$1]) })
        else { return [] }
        let difference = load(workers[most]) - load(workers[fewest])
        guard difference >= Self.unevenFrom, difference * 4 >= load(workers[fewest]) else { return [] }
        workers[most].isReleasing = true
        return [.release(workers[most].pid, count: UInt32(min(difference / 2, Self.movedTogether)))]
    }

    /// Starts a successor for a worker that has become too old, one at a time. The old one drains once that is ready.
    private mutating func recycle(now: Instant) -> [Action] {
        guard vacancies.isEmpty, workers.count == count, workers.allSatisfy(\.isServing) else { return [] }
        if let asked = workers.first(where: { toReplace.contains($0.pid) }) {
            toReplace.remove(asked.pid)
            return [.start(number: asked.number)]
        }
        guard let recycling, now >= nextRecycling,
            let oldest = workers.min(by: { $0.startedAt < $1.startedAt }), now - oldest.startedAt >= recycling
        else { return [] }
        nextRecycling = now + Self.recyclingPause
        return [.start(number: oldest.number)]
    }

    /// Replaces workers as those that are too old are: one after the other, as soon as the one before is gone.
    /// - Parameter number: of one; `nil`: all.
    /// - Returns: the numbers of those that are to be replaced.
    mutating func replaceWorkers(_ number: Int?, now: Instant) -> (numbers: [Int], actions: [Action]) {
        let chosen = workers.filter { $0.isServing && (number == nil || $0.number == number) }
        toReplace.formUnion(chosen.map(\.pid))
        return (chosen.map(\.number).sorted(), recycle(now: now))
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

    /// The number of the worker that serves a table; `nil` where none does at the moment.
    func number(ofTable table: Int) -> Int? { workers.first { $0.table == table }?.number }

    /// The number of the table that a worker serves; `nil` when it has ended.
    func table(of pid: pid_t) -> Int? { index(of: pid).map { workers[$0].table } }

    private func index(of pid: pid_t) -> Int? { workers.firstIndex { $0.pid == pid } }

    // MARK: Shutdown

    /// Tells all workers to end: with close_notify to their clients, or leaving all connections in their slots.
    mutating func stop(keepingConnections: Bool = false) -> [Action] {
        isStopping = true
        return workers.isEmpty
            ? [.report(.ended)] : workers.map { .stop($0.pid, keepingConnections: keepingConnections) }
    }

    /// Starts workers again, after all have ended by ``stop(keepingConnections:)``. They serve what is in the tables.
    mutating func startAgain() -> [Action] {
        isStopping = false
        vacancies = []
        deaths = []
        inheritances = [:]
        return (0..<count).map { .start(number: $0) }
    }

    /// Kills the workers that have not ended.
    func killAll() -> [Action] { workers.map { .kill($0.pid) } }
}
