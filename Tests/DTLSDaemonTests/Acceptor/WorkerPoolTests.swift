import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// The decisions of the worker pool, without processes, channels or a clock.
@Suite struct WorkerPoolTests {
    private typealias Action = WorkerPool.Action

    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    /// A pool of workers that serve its first configuration. Their process IDs are 100, 101, 102 …
    private func pool(workers count: Int, capacity: UInt32 = 1_000) throws -> WorkerPool {
        var pool = WorkerPool()
        _ = pool.advance(to: Self.start)
        _ = pool.configure(
            count, started: try (0..<count).map { ($0, pid_t(100 + $0), try newTable($0, pool)) }, now: Self.start)
        for number in 0..<count {
            _ = pool.receive(.ready(generation: 1, capacity: capacity), from: pid_t(100 + number), now: Self.start)
        }
        return pool
    }

    /// The table for a worker that a test starts.
    private func table(_ number: Int, _ pool: WorkerPool, except taken: [Int] = []) throws -> Int {
        try pool.inheritance(of: number, except: taken) ?? pool.connections.makeTable(preferring: number).number
    }

    private func newTable(_ number: Int, _ pool: WorkerPool) throws -> Int {
        try pool.connections.makeTable(preferring: number).number
    }

    /// A hand-over that a test has done.
    private struct Handover {
        let worker: pid_t
        let connection: ConnectionNumber
    }

    /// Hands a connection over, as the supervisor does when no channel is full.
    private func handOver(_ pool: inout WorkerPool, _ target: UInt64 = SlotTarget.client("c")) throws -> Handover {
        let assignment = try #require(pool.assignment { _ in true })
        defer { _ = pool.handedOver(assignment, now: Self.start) }
        return try handOver(&pool, to: assignment, target)
    }

    private func handOver(
        _ pool: inout WorkerPool, to assignment: WorkerPool.Assignment, _ target: UInt64 = SlotTarget.client("c")
    ) throws -> Handover {
        let flow = FlowKey(
            peer: try #require(SocketAddress(host: "192.0.2.1", port: UInt16(pool.connections.count + 1))),
            local: try #require(SocketAddress(host: "192.0.2.100", port: 4_433)))
        let connection = try #require(
            pool.connections.begin(flow, target: target, in: assignment.table, now: Self.start))
        return Handover(worker: assignment.worker, connection: connection)
    }

    private func report(
        established: [ConnectionNumber] = [], closed: [ConnectionNumber] = []
    ) -> MessageFromWorker {
        .report(MessageFromWorker.Report(established: established, closed: closed))
    }

    /// The actions without the log.
    private func effects(_ actions: [Action]) -> [Action] {
        actions.filter { if case .log = $0 { false } else { true } }
    }

    private func logged(_ actions: [Action]) -> [LogEvent] {
        actions.compactMap { if case .log(let event, _, _) = $0 { event } else { nil } }
    }

    private func messages(_ actions: [Action]) -> [String] {
        actions.compactMap { if case .log(_, let message, _) = $0 { message } else { nil } }
    }

    // MARK: Configuration

    @Test func `the first configuration starts all workers and is complete when all are ready`() throws {
        var pool = WorkerPool()
        #expect(pool.missing(for: 2) == [0, 1])
        let actions = pool.configure(
            2, started: [(0, 100, try newTable(0, pool)), (1, 101, try newTable(1, pool))], now: Self.start)
        #expect(effects(actions) == [.configure(100, generation: 1), .configure(101, generation: 1)])
        #expect(logged(actions) == [.workerStarted, .workerStarted])
        #expect(pool.missing(for: 2).isEmpty)
        #expect(pool.receive(.ready(generation: 1, capacity: 5), from: 101, now: Self.start).isEmpty)
        #expect(pool.receive(.ready(generation: 1, capacity: 5), from: 100, now: Self.start) == [.report(.ready)])
        // It is reported once.
        #expect(pool.receive(.ready(generation: 1, capacity: 5), from: 100, now: Self.start).isEmpty)
    }

    @Test func `a new configuration is complete when every worker serves it`() throws {
        var pool = try pool(workers: 2)
        #expect(pool.kept(by: 2).map(\.pid) == [100, 101])
        let actions = pool.configure(2, started: [], now: Self.start)
        #expect(actions == [.configure(100, generation: 2), .configure(101, generation: 2)])
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 100, now: Self.start).isEmpty)
        // The answer to the previous configuration comes late.
        #expect(pool.receive(.ready(generation: 1, capacity: 5), from: 101, now: Self.start).isEmpty)
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 101, now: Self.start) == [.report(.ready)])
    }

    @Test func `more workers are started beside those that are there`() throws {
        var pool = try pool(workers: 1)
        #expect(pool.missing(for: 3) == [1, 2])
        let actions = pool.configure(
            3, started: [(1, 201, try newTable(1, pool)), (2, 202, try newTable(2, pool))], now: Self.start)
        #expect(
            effects(actions) == [
                .configure(100, generation: 2), .configure(201, generation: 2), .configure(202, generation: 2),
            ])
    }

    @Test func `workers above the configured number drain and end with their last connection`() throws {
        var pool = try pool(workers: 3)
        let first = try handOver(&pool)
        let second = try handOver(&pool)
        #expect([first.worker, second.worker] == [100, 101])
        #expect(
            pool.configure(1, started: [], now: Self.start) == [
                .configure(100, generation: 2),
                .configure(101, generation: 2), .release(101, count: .max),
                // Worker 2 has no connections.
                .stop(102, keepingConnections: false),
            ])
        // The reload does not wait for a worker that drains.
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 100, now: Self.start) == [.report(.ready)])
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 101, now: Self.start).isEmpty)
        for _ in 0..<3 { #expect(try handOver(&pool).worker == 100) }
        #expect(
            pool.receive(report(closed: [second.connection]), from: 101, now: Self.start) == [
                .stop(101, keepingConnections: false)
            ])
        for pid: pid_t in [102, 101] {
            // Its table is nobody's.
            #expect(pool.ended(pid, .exited(status: 0), now: Self.start) == [.report(.orphaned)])
            for table in pool.orphans { pool.connections.removeTable(table) }
        }
        #expect(pool.connections.numbers == [0])
        #expect(pool.workers.map(\.pid) == [100])
    }

    @Test func `where a configuration needs more than the workers can do, others take their place and connections`()
        throws
    {
        var pool = try pool(workers: 3)
        #expect(try [handOver(&pool).worker, handOver(&pool).worker] == [100, 101])
        #expect(pool.missing(for: 2, true) == [0, 1])
        #expect(pool.kept(by: 2, true).isEmpty)
        let actions = pool.configure(
            2, true, started: [(0, 200, try newTable(3, pool)), (1, 201, try newTable(4, pool))], now: Self.start)
        #expect(
            effects(actions) == [
                .configure(100, generation: 2), .configure(101, generation: 2), .configure(102, generation: 2),
                .configure(200, generation: 2), .configure(201, generation: 2),
                // The third one has no connections.
                .stop(102, keepingConnections: false),
            ])
        // A client asks again after a second.
        #expect(pool.assignment { _ in true } == nil)
        #expect(pool.refusal == .noWorker)
        // What the former workers have is released to the first that serves.
        #expect(
            pool.receive(.ready(generation: 2, capacity: 5), from: 200, now: Self.start) == [
                .release(100, count: .max), .release(101, count: .max),
            ])
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 201, now: Self.start) == [.report(.ready)])
        #expect(try handOver(&pool).worker == 200)
    }

    @Test func `a worker that drains is not taken back when more workers are configured`() throws {
        var pool = try pool(workers: 2)
        _ = try handOver(&pool)
        let draining = try handOver(&pool)
        _ = pool.configure(1, started: [], now: Self.start)
        #expect(pool.missing(for: 2) == [1])
        _ = pool.configure(2, started: [(1, 201, try newTable(1, pool))], now: Self.start)
        #expect(pool.worker(with: draining.connection) == 101)
        #expect(pool.receive(.ready(generation: 3, capacity: 5), from: 100, now: Self.start).isEmpty)
        #expect(pool.receive(.ready(generation: 3, capacity: 5), from: 201, now: Self.start) == [.report(.ready)])
    }

    @Test func `the death of a draining worker is logged and it is not replaced`() throws {
        var pool = try pool(workers: 2)
        _ = try handOver(&pool)
        _ = try handOver(&pool)
        _ = pool.configure(1, started: [], now: Self.start)
        let actions = pool.ended(101, .killed(signal: 9), now: Self.start)
        #expect(effects(actions) == [.report(.orphaned)])
        #expect(logged(actions) == [.workerDied])
        #expect(
            messages(actions) == [
                "worker 1 was killed by signal 9 (Killed): 0 connections are kept, 1 is lost (1 was in its handshake);"
                    + " it was draining, and is not replaced"
            ])
    }

    @Test func `a rejected configuration is reported if it is the newest`() throws {
        var pool = try pool(workers: 2)
        _ = pool.configure(2, started: [], now: Self.start)
        #expect(pool.receive(.rejected(generation: 1, reason: "old"), from: 100, now: Self.start).isEmpty)
        #expect(
            pool.receive(.rejected(generation: 2, reason: "no memory"), from: 101, now: Self.start) == [
                .report(.rejected(worker: 1, reason: "no memory"))
            ])
        // It gets no clients until it is given another configuration.
        for _ in 0..<3 { #expect(pool.assignment { _ in true }?.worker == 100) }
        #expect(
            pool.configure(2, started: [], now: Self.start) == [
                .configure(100, generation: 3), .configure(101, generation: 3),
            ])
    }

    @Test func `a worker that alone rejects the configuration is replaced`() throws {
        var pool = try pool(workers: 2)
        #expect(effects(pool.replace(1, reason: "no memory")) == [.stop(101, keepingConnections: true)])
        #expect(effects(pool.ended(101, .exited(status: 0), now: Self.start)) == [.start(number: 1)])
        #expect(pool.replace(7, reason: "there is no such worker").isEmpty)
    }

    @Test func `a configuration that was lost is sent again with the next ping and logged once`() throws {
        var pool = try pool(workers: 2)
        _ = pool.configure(2, started: [], now: Self.start)
        let actions = pool.receive(.setupLost(generation: 2), from: 100, now: Self.start)
        #expect(effects(actions).isEmpty)
        #expect(logged(actions) == [.descriptorLimit])
        #expect(pool.assignment { _ in true }?.worker == 101)
        var now = Self.start + WorkerPool.pingInterval
        #expect(effects(pool.advance(to: now)) == [.configure(100, generation: 2), .ping(100), .ping(101)])
        #expect(pool.receive(.setupLost(generation: 2), from: 100, now: Self.start).isEmpty)
        now = now + WorkerPool.pingInterval
        #expect(effects(pool.advance(to: now)) == [.configure(100, generation: 2), .ping(100), .ping(101)])
        _ = pool.receive(.ready(generation: 2, capacity: 5), from: 101, now: Self.start)
        #expect(pool.receive(.ready(generation: 2, capacity: 5), from: 100, now: Self.start) == [.report(.ready)])
        now = now + WorkerPool.pingInterval
        #expect(effects(pool.advance(to: now)) == [.ping(100), .ping(101)])
        // With another configuration, it is news again.
        _ = pool.configure(2, started: [], now: now)
        #expect(logged(pool.receive(.setupLost(generation: 3), from: 100, now: Self.start)) == [.descriptorLimit])
        // An answer to a configuration that was replaced meanwhile is of no interest.
        #expect(pool.receive(.setupLost(generation: 2), from: 101, now: Self.start).isEmpty)
        #expect(pool.assignment { _ in true }?.worker == 101)
    }

    @Test func `a configuration that could not be sent is sent again with the next ping`() throws {
        var pool = try pool(workers: 1)
        _ = pool.configure(1, started: [], now: Self.start)
        pool.configurationNotSent(to: 100)
        #expect(pool.assignment { _ in true } == nil)
        #expect(
            pool.advance(to: Self.start + WorkerPool.pingInterval) == [.configure(100, generation: 2), .ping(100)])
    }

    // MARK: Connections

    @Test func `a client goes to the worker with the fewest connections`() throws {
        var pool = try pool(workers: 3)
        #expect(try (0..<6).map { _ in try handOver(&pool).worker } == [100, 101, 102, 100, 101, 102])
        #expect(pool.connections.count == 6)
    }

    @Test func `a worker whose channel is full is passed over`() throws {
        let pool = try pool(workers: 2)
        #expect(pool.assignment { $0 != 100 }?.worker == 101)
        #expect(pool.assignment { _ in false } == nil)
    }

    @Test func `a worker has no more connections than its capacity`() throws {
        var pool = try pool(workers: 2, capacity: 2)
        let all = try (0..<4).map { _ in try handOver(&pool) }
        #expect(pool.assignment { _ in true } == nil)
        _ = pool.receive(report(closed: [all[2].connection]), from: all[2].worker, now: Self.start)
        #expect(try handOver(&pool).worker == all[2].worker)
    }

    @Test func `a worker gets no clients before it serves a configuration`() throws {
        var pool = WorkerPool()
        _ = pool.configure(1, started: [(0, 100, try newTable(0, pool))], now: Self.start)
        #expect(pool.assignment { _ in true } == nil)
        _ = pool.receive(.ready(generation: 1, capacity: 1), from: 100, now: Self.start)
        #expect(pool.assignment { _ in true } != nil)
    }

    /// The channel keeps its order, so what is handed over after the configuration is served by it.
    @Test func `a connection counts in the configuration that its worker was given last`() throws {
        var pool = try pool(workers: 1)
        #expect(pool.assignment { _ in true }?.generation == 1)
        _ = pool.configure(1, started: [], now: Self.start)
        #expect(pool.assignment { _ in true }?.generation == 2)
    }

    @Test func `connections have unique numbers by which their worker is found`() throws {
        var pool = try pool(workers: 3)
        let all = try (0..<30).map { _ in try handOver(&pool) }
        #expect(Set(all.map(\.connection)).count == all.count)
        for assignment in all { #expect(pool.worker(with: assignment.connection) == assignment.worker) }
        // An assignment whose message the channel has refused uses no number up.
        #expect(pool.assignment { _ in true } == pool.assignment { _ in true })
        _ = pool.receive(report(closed: [all[4].connection]), from: all[4].worker, now: Self.start)
        #expect(pool.worker(with: all[4].connection) == nil)
        _ = pool.ended(100, .killed(signal: 11), now: Self.start)
        for assignment in all where assignment.worker == 100 {
            #expect(pool.worker(with: assignment.connection) == nil)
        }
    }

    @Test func `a connection counts in the limits until its worker reports its end or dies`() throws {
        var pool = try pool(workers: 1)
        let admission = pool.connections.admission
        admission.apply(.empty(services: "a"), present: pool.connections.forEach)
        let all = try (0..<3).map { _ in try handOver(&pool, SlotTarget.service("a")).connection }
        #expect(admission.connections == 3 && admission.handshakes == 3)
        let unknown = ConnectionNumber(worker: 0, slot: 1, generation: 77)
        let ofAnother = ConnectionNumber(worker: 1, slot: 0, generation: 1)
        for _ in 0..<2 {
            _ = pool.receive(report(established: [all[0], unknown, ofAnother]), from: 100, now: Self.start)
            #expect(admission.connections == 3 && admission.handshakes == 2)
        }
        for _ in 0..<2 {
            _ = pool.receive(report(closed: [all[1], unknown, ofAnother]), from: 100, now: Self.start)
            #expect(admission.connections == 2 && admission.handshakes == 1)
        }
        _ = pool.ended(100, .killed(signal: 9), now: Self.start)
        #expect(admission.connections == 0 && admission.handshakes == 0)
    }

    @Test func `refused connections are reported, and starts and deaths of workers counted`() throws {
        var pool = try pool(workers: 2)
        var numbers = MessageFromWorker.Report(forged: 5)
        #expect(pool.receive(.report(numbers), from: 100, now: Self.start).isEmpty)
        numbers.refused.count(.descriptors, 4)
        #expect(
            pool.receive(.report(numbers), from: 101, now: Self.start) == [
                .report(.refused(worker: 1, numbers.refused))
            ])
        _ = pool.ended(100, .exited(status: 1), now: Self.start)
        #expect(pool.totals == WorkerPool.Totals(started: 2, died: 1, connectionsLost: 0))
    }

    // MARK: Connections that outlive their worker

    /// What a worker writes when a handshake is done.
    private func establish(_ connection: ConnectionNumber, _ pool: WorkerPool) throws {
        let slot = try #require(pool.connections.slot(of: connection))
        slot.establish(
            slot.prepare(random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero),
            isMovable: true)
    }

    @Test func `the successor of a worker that has died takes its connections over before it gets others`() throws {
        var pool = try pool(workers: 2)
        let kept = try handOver(&pool)
        try establish(kept.connection, pool)
        let actions = pool.ended(100, .killed(signal: 9), now: Self.start)
        #expect(effects(actions) == [.start(number: 0)])
        #expect(
            messages(actions) == [
                "worker 0 was killed by signal 9 (Killed): 1 connection is kept, 0 are lost; it is replaced at once"
            ])
        #expect(pool.inheritance(of: 0) == 0 && pool.orphans.isEmpty)
        #expect(pool.worker(with: kept.connection) == nil)
        #expect(effects(pool.started(0, pid: 200, table: 0, now: Self.start)) == [.configure(200, generation: 1)])
        #expect(pool.worker(with: kept.connection) == nil, "it serves nobody yet")
        // It dies in the midst of it.
        _ = pool.ended(200, .killed(signal: 9), now: Self.start)
        _ = pool.started(0, pid: 201, table: try #require(pool.inheritance(of: 0)), now: Self.start)
        #expect(
            pool.receive(.ready(generation: 1, capacity: 10), from: 201, now: Self.start) == [
                .takeOver(201), .report(.tookOver(table: 0)),
            ])
        #expect(pool.worker(with: kept.connection) == 201)
        #expect(pool.receive(.ready(generation: 1, capacity: 10), from: 201, now: Self.start).isEmpty)
    }

    @Test func `a worker that has given its connections up ends, and others have them`() throws {
        var pool = try pool(workers: 2)
        let all = try (0..<2).map { _ in try handOver(&pool).connection }
        for connection in all { try establish(connection, pool) }
        let actions = pool.configure(1, started: [], now: Self.start)
        #expect(actions.contains(.release(101, count: .max)))
        // The supervisor moves what comes.
        pool.connections.noteWithoutSocket(all[1])
        let destination = try #require(pool.destination(hasSocket: true, from: 101))
        #expect(destination.pid == 100)
        let moved = try #require(pool.connections.move(all[1], to: destination.table))
        pool.connections.noteSocket(moved)
        #expect(pool.moved(from: 101) == [.stop(101, keepingConnections: false)])
        #expect(pool.moved(from: 101).isEmpty)
        #expect(pool.worker(with: moved) == 100)
        #expect(pool.destination(hasSocket: true, from: 100) == nil, "there is no other")
    }

    @Test func `a worker that keeps connections which cannot move is asked again with each ping`() throws {
        var pool = try pool(workers: 2)
        let all = try (0..<2).map { _ in try handOver(&pool).connection }
        _ = pool.configure(1, started: [], now: Self.start)
        _ = pool.receive(.ready(generation: 2, capacity: 5), from: 100, now: Self.start)
        var now = Self.start + WorkerPool.pingInterval
        #expect(pool.advance(to: now) == [.ping(100), .ping(101)], "it has not answered")
        _ = pool.receive(.releaseDone, from: 101, now: now)
        // A worker that may be hung is no place for them.
        _ = pool.receive(report(closed: []), from: 100, now: now)
        now = now + WorkerPool.pingInterval
        #expect(effects(pool.advance(to: now)) == [.ping(100), .ping(101), .release(101, count: .max)])
        #expect(
            pool.receive(report(closed: [all[1]]), from: 101, now: now) == [.stop(101, keepingConnections: false)])
    }

    @Test func `the connections of a draining worker that has died are nobody's until they move`() throws {
        var pool = try pool(workers: 2)
        let all = try (0..<2).map { _ in try handOver(&pool).connection }
        for connection in all { try establish(connection, pool) }
        _ = pool.configure(1, started: [], now: Self.start)
        let actions = pool.ended(101, .killed(signal: 9), now: Self.start)
        #expect(effects(actions) == [.report(.orphaned)] && pool.orphans == [1])
        #expect(pool.destination(hasSocket: false, from: nil)?.pid == 100)
        // A worker that is started meanwhile goes on with them, whatever its number is.
        #expect(pool.inheritance(of: 7) == 1)
    }

    // MARK: A review that takes more than a turn

    /// A pool of two workers, of which the first has died with more handshakes than are looked at in a turn, and then one
    /// established connection.
    private func poolUnderReview() throws -> (WorkerPool, kept: ConnectionNumber, [Action]) {
        var pool = try pool(workers: 2)
        let assignment = try #require(pool.assignment { _ in true })
        for _ in 0..<(SlotReview.effortPerTurn / SlotReview.effortOfEnd + 50) {
            _ = try handOver(&pool, to: assignment, SlotTarget.service("a"))
        }
        let kept = try handOver(&pool, to: assignment, SlotTarget.service("a")).connection
        try establish(kept, pool)
        let actions = pool.ended(100, .killed(signal: 9), now: Self.start)
        #expect(pool.connections.isUnderReview(0))
        return (pool, kept, actions)
    }

    @Test func `a worker serves nobody before all connections of the last one have been looked at`() throws {
        var (pool, kept, actions) = try poolUnderReview()
        #expect(effects(actions) == [.review, .start(number: 0)] && logged(actions).isEmpty)
        _ = pool.started(0, pid: 200, table: try #require(pool.inheritance(of: 0)), now: Self.start)
        #expect(pool.receive(.ready(generation: 1, capacity: 10), from: 200, now: Self.start).isEmpty)
        #expect(pool.worker(with: kept) == nil && pool.workers.first { $0.pid == 200 }?.state == .starting)
        for _ in 0..<3 { #expect(try handOver(&pool).worker == 101) }
        #expect(pool.destination(hasSocket: false, from: nil)?.pid == 101)
        let last = pool.review()
        #expect(effects(last) == [.takeOver(200), .report(.tookOver(table: 0))])
        #expect(
            messages(last) == [
                "worker 0 was killed by signal 9 (Killed): 1 connection is kept, 1074 are lost (1074 were in their"
                    + " handshake); it is replaced at once"
            ])
        #expect(pool.worker(with: kept) == 200 && pool.workers.first { $0.pid == 200 }?.state == .serving)
        #expect(pool.totals.died == 1 && pool.totals.connectionsLost == 1_074)
        #expect(pool.review().isEmpty)
    }

    @Test func `the death of the next worker while the review goes on is logged after it, with nothing more lost`()
        throws
    {
        var (pool, kept, _) = try poolUnderReview()
        _ = pool.started(0, pid: 200, table: 0, now: Self.start)
        // The review is over in this turn.
        let actions = pool.ended(200, .killed(signal: 6), now: Self.start)
        #expect(logged(actions) == [.workerDied, .workerDied])
        #expect(messages(actions)[0].contains("1 connection is kept, 1074 are lost"))
        #expect(
            messages(actions)[1].contains("signal 6")
                && messages(actions)[1].contains("1 connection is kept, 0 are lost"))
        #expect(pool.totals.died == 2 && pool.totals.connectionsLost == 1_074)
        _ = pool.started(0, pid: 201, table: try #require(pool.inheritance(of: 0)), now: Self.start)
        #expect(
            pool.receive(.ready(generation: 1, capacity: 10), from: 201, now: Self.start) == [
                .takeOver(201), .report(.tookOver(table: 0)),
            ])
        #expect(pool.worker(with: kept) == 201)
    }

    @Test(arguments: [false, true])
    func `connections move once they have been looked at when a reload has left fewer workers meanwhile`(
        _ isStarted: Bool
    ) throws {
        var pool = try pool(workers: 2)
        let other = try #require(pool.assignment { _ in true })
        _ = try handOver(&pool, to: other)
        // It is the second worker that has the most.
        let assignment = try #require(pool.assignment { _ in true })
        #expect(assignment.worker == 101)
        for _ in 0..<(SlotReview.effortPerTurn / SlotReview.effortOfEnd + 50) {
            _ = try handOver(&pool, to: assignment, SlotTarget.service("a"))
        }
        let kept = try handOver(&pool, to: assignment, SlotTarget.service("a")).connection
        try establish(kept, pool)
        _ = pool.ended(101, .killed(signal: 9), now: Self.start)
        if isStarted { _ = pool.started(1, pid: 201, table: 1, now: Self.start) }
        let actions = effects(pool.configure(1, started: [], now: Self.start))
        #expect(!actions.contains(.report(.orphaned)) && pool.orphans.isEmpty, "they are still being looked at")
        _ = pool.receive(.ready(generation: 2, capacity: 10), from: 100, now: Self.start)
        if isStarted {
            // It may have become ready before or after.
            #expect(pool.receive(.ready(generation: 2, capacity: 10), from: 201, now: Self.start).isEmpty)
            #expect(
                effects(pool.review()) == [
                    .takeOver(201), .report(.tookOver(table: 1)), .release(201, count: .max),
                ])
        } else {
            #expect(effects(pool.review()) == [.report(.orphaned)] && pool.orphans == [1])
        }
    }

    @Test func `the review goes on while the daemon stops, and workers that start again take what is there`() throws {
        var (pool, kept, _) = try poolUnderReview()
        _ = pool.stop(keepingConnections: true)
        #expect(pool.ended(101, .exited(status: 0), now: Self.start) == [.review, .report(.ended)])
        #expect(pool.startAgain() == [.start(number: 0), .start(number: 1)])
        #expect(pool.inheritance(of: 0) == 0)
        _ = pool.started(0, pid: 200, table: 0, now: Self.start)
        #expect(pool.receive(.ready(generation: 1, capacity: 10), from: 200, now: Self.start).isEmpty)
        #expect(pool.worker(with: kept) == nil)
        #expect(effects(pool.review()).contains(.takeOver(200)))
        #expect(pool.worker(with: kept) == 200)
    }

    @Test func `uneven load is evened out and then left alone`() throws {
        var pool = try pool(workers: 2)
        var held = try (0..<400).map { _ in try handOver(&pool) }
        for connection in held { try establish(connection.connection, pool) }
        // Nearly all clients of worker 1 leave.
        let leaving = held.filter { $0.worker == 101 }.dropLast(10).map(\.connection)
        _ = pool.receive(report(closed: leaving), from: 101, now: Self.start)
        held.removeAll { leaving.contains($0.connection) }
        var now = Self.start
        func ping() -> [Action] {
            now = now + WorkerPool.pingInterval
            let actions = pool.advance(to: now)
            for pid: pid_t in [100, 101] { _ = pool.receive(report(), from: pid, now: now) }
            return actions.filter { if case .release = $0 { true } else { false } }
        }
        #expect(ping() == [.release(100, count: 95)])
        #expect(ping().isEmpty, "it has not done that yet")
        for connection in held.filter({ $0.worker == 100 }).prefix(95).map(\.connection) {
            pool.connections.noteWithoutSocket(connection)
            let moved = try #require(pool.connections.move(connection, to: 1))
            pool.connections.noteSocket(moved)
        }
        _ = pool.receive(.releaseDone, from: 100, now: now)
        for _ in 0..<5 { #expect(ping().isEmpty) }
        #expect(pool.connections[0]?.countWithSockets == 105 && pool.connections[1]?.countWithSockets == 105)
    }

    @Test func `a worker that is old is replaced by one that is ready, one at a time`() throws {
        var pool = try pool(workers: 2)
        let connection = try handOver(&pool).connection
        try establish(connection, pool)
        var now = Self.start + .seconds(86_400)
        #expect(effects(pool.advance(to: now)) == [.ping(100), .ping(101)])
        pool.recycling = .seconds(86_400)
        now = now + WorkerPool.pingInterval
        #expect(effects(pool.advance(to: now)) == [.ping(100), .ping(101), .start(number: 0)])
        #expect(effects(pool.startFailed(0, "EAGAIN", now: now)).isEmpty)
        now = now + WorkerPool.recyclingPause
        for pid: pid_t in [100, 101] { _ = pool.receive(report(), from: pid, now: now) }
        #expect(pool.advance(to: now).contains(.start(number: 0)))
        let table = try newTable(0, pool)
        #expect(pool.inheritance(of: 5) == table, "it is nobody's yet")
        _ = pool.started(0, pid: 200, table: table, now: now)
        for _ in 0..<3 { #expect(pool.assignment { _ in true }?.worker != 200) }
        #expect(!pool.advance(to: now + WorkerPool.recyclingPause).contains(.start(number: 1)))
        #expect(
            pool.receive(.ready(generation: 1, capacity: 10), from: 200, now: now) == [.release(100, count: .max)])
        #expect(pool.assignment { _ in true }?.worker != 100)
        #expect(pool.kept(by: 2).map(\.pid) == [101, 200])
        #expect(pool.missing(for: 2).isEmpty)
    }

    @Test func `workers are replaced one after the other when that is asked for, whatever their age`() throws {
        var pool = try pool(workers: 2)
        #expect(pool.replaceWorkers(7, now: Self.start).numbers.isEmpty)
        let (numbers, actions) = pool.replaceWorkers(nil, now: Self.start)
        #expect(numbers == [0, 1] && actions == [.start(number: 0)])
        #expect(pool.workers.map(\.state) == [.serving, .serving])
        _ = pool.started(0, pid: 200, table: try newTable(0, pool), now: Self.start)
        #expect(pool.workers.map(\.state) == [.serving, .serving, .starting])
        // The old one has no connections.
        #expect(
            effects(pool.receive(.ready(generation: 1, capacity: 10), from: 200, now: Self.start)) == [
                .stop(100, keepingConnections: false)
            ])
        #expect(pool.workers.first { $0.pid == 100 }?.state == .stopping)
        #expect(effects(pool.ended(100, .exited(status: 0), now: Self.start)).contains(.start(number: 1)))
        _ = pool.started(1, pid: 201, table: try newTable(1, pool), now: Self.start)
        _ = pool.receive(.ready(generation: 1, capacity: 10), from: 201, now: Self.start)
        #expect(
            !effects(pool.ended(101, .exited(status: 0), now: Self.start)).contains { action in
                if case .start = action { true } else { false }
            })
    }

    @Test func `a worker that is old goes on when its successor dies or cannot use the configuration`() throws {
        var pool = try pool(workers: 1)
        pool.recycling = .seconds(10)
        _ = pool.advance(to: Self.start + .seconds(10))
        _ = pool.started(0, pid: 200, table: try newTable(0, pool), now: Self.start)
        #expect(
            pool.receive(.rejected(generation: 1, reason: "no memory"), from: 200, now: Self.start) == [
                .stop(200, keepingConnections: true)
            ])
        #expect(effects(pool.ended(200, .exited(status: 0), now: Self.start)) == [.report(.orphaned)])
        #expect(pool.workers.map(\.pid) == [100] && pool.assignment { _ in true }?.worker == 100)
        // The old one dies while its successor starts.
        _ = pool.started(0, pid: 201, table: try newTable(0, pool), now: Self.start)
        #expect(!pool.ended(100, .killed(signal: 9), now: Self.start).contains(.start(number: 0)))
        _ = pool.receive(.ready(generation: 1, capacity: 5), from: 201, now: Self.start)
        #expect(pool.assignment { _ in true }?.worker == 201)
    }

    // MARK: Processes

    @Test func `a worker is replaced at once and then after pauses that double up to 30 seconds`() throws {
        var pool = try pool(workers: 1)
        var now = Self.start
        var pid: pid_t = 100
        var actions = pool.ended(pid, .killed(signal: 6), now: now)
        #expect(effects(actions) == [.start(number: 0)])
        #expect(logged(actions) == [.workerDied])
        for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000] {
            pid += 1
            actions = pool.started(0, pid: pid, table: try table(0, pool), now: now)
            #expect(effects(actions) == [.configure(pid, generation: 1)])
            #expect(effects(pool.ended(pid, .killed(signal: 6), now: now)).isEmpty)
            let due = now + .milliseconds(pause)
            #expect(pool.deadline.map { $0 <= due } == true)
            #expect(!pool.advance(to: due - .nanoseconds(1)).contains(.start(number: 0)), "\(pause)")
            #expect(pool.advance(to: due).contains(.start(number: 0)), "\(pause)")
            now = due
        }
    }

    @Test func `a worker that was stable for ten seconds is replaced at once`() throws {
        var pool = try pool(workers: 1)
        _ = pool.ended(100, .killed(signal: 6), now: Self.start)
        _ = pool.started(0, pid: 101, table: try table(0, pool), now: Self.start)
        let soon = Self.start + .seconds(10) - .nanoseconds(1)
        var early = pool
        #expect(effects(early.ended(101, .killed(signal: 6), now: soon)).isEmpty)
        #expect(
            effects(pool.ended(101, .killed(signal: 6), now: Self.start + .seconds(10))) == [.start(number: 0)])
    }

    @Test func `a worker that cannot be started is tried again after growing pauses`() throws {
        var pool = try pool(workers: 1)
        _ = pool.ended(100, .killed(signal: 6), now: Self.start)
        var now = Self.start
        for pause in [100, 200, 400] {
            let actions = pool.startFailed(0, "EAGAIN", now: now)
            #expect(effects(actions).isEmpty)
            #expect(messages(actions) == ["worker 0 cannot be started: EAGAIN; the next try is in \(pause) ms"])
            #expect(pool.missing(for: 1).isEmpty)
            now = now + .milliseconds(pause)
            #expect(pool.advance(to: now).contains(.start(number: 0)))
        }
    }

    @Test func `a worker that waits for its replacement is not started above the configured number`() throws {
        var pool = try pool(workers: 2)
        _ = pool.ended(101, .killed(signal: 6), now: Self.start)
        _ = pool.startFailed(1, "EAGAIN", now: Self.start)
        _ = pool.configure(1, started: [], now: Self.start)
        #expect(!pool.advance(to: Self.start + .seconds(60)).contains(.start(number: 1)))
    }

    @Test func `a child that is no worker is ignored`() throws {
        var pool = try pool(workers: 1)
        #expect(pool.ended(4_711, .exited(status: 0), now: Self.start).isEmpty)
        #expect(pool.receive(.ready(generation: 1, capacity: 1), from: 4_711, now: Self.start).isEmpty)
        #expect(pool.workers.count == 1)
    }

    @Test func `a worker is killed after six unanswered pings in a row, and reported once`() throws {
        var pool = try pool(workers: 1)
        var now = Self.start
        var kills = 0
        for ping in 1...20 {
            now = now + WorkerPool.pingInterval
            let actions = pool.advance(to: now)
            #expect(actions.contains(.ping(100)))
            #expect(actions.contains(.kill(100)) == (ping == 7))
            // It begins to count as hung with the second ping that has no answer.
            #expect(logged(actions) == (ping == 2 || ping == 7 ? [.workerStuck] : []))
            if actions.contains(.kill(100)) { kills += 1 }
        }
        #expect(kills == 1)
    }

    @Test func `a worker that owes an answer gets no client while another does not`() throws {
        var pool = try pool(workers: 2)
        // Worker 0 has fewer connections.
        _ = try handOver(&pool)
        _ = pool.receive(report(closed: [try handOver(&pool).connection]), from: 101, now: Self.start)
        #expect(pool.assignment { _ in true }?.worker == 101)
        _ = pool.advance(to: Self.start + WorkerPool.pingInterval)
        #expect(pool.assignment { _ in true }?.worker == 101, "both owe an answer")
        _ = pool.receive(report(), from: 100, now: Self.start)
        for _ in 0..<5 { #expect(try handOver(&pool).worker == 100) }
        #expect(pool.assignment { $0 == 101 }?.worker == 101, "it may only be slow")
        _ = pool.receive(report(), from: 101, now: Self.start)
        #expect(pool.assignment { _ in true }?.worker == 101)
    }

    @Test func `a worker with two unanswered pings gets no client, and clients are told to wait if there is no other`()
        throws
    {
        var pool = try pool(workers: 2)
        _ = pool.advance(to: Self.start + WorkerPool.pingInterval)
        _ = pool.receive(report(), from: 101, now: Self.start)
        let actions = pool.advance(to: Self.start + WorkerPool.pingInterval + WorkerPool.pingInterval)
        #expect(logged(actions) == [.workerStuck])
        #expect(
            messages(actions) == [
                "worker 0 has not answered for 5 s: it gets no new clients until it does, and is killed if it does not"
            ])
        for _ in 0..<5 { #expect(try handOver(&pool).worker == 101, "this one owes an answer too, but one alone") }
        #expect(pool.assignment { $0 == 100 } == nil)
        #expect(pool.refusal == .busy)
        _ = pool.receive(report(), from: 100, now: Self.start)
        #expect(pool.assignment { _ in true }?.worker == 100)
    }

    /// A worker that hangs between two pings is found out by the first client that it gets.
    @Test func `a worker that has been silent is sent a ping with a connection, and gets the next one when it answers`()
        throws
    {
        var pool = try pool(workers: 2)
        let soon = Self.start + WorkerPool.longestSilence - .nanoseconds(1)
        var assignment = try #require(pool.assignment { _ in true })
        #expect(assignment.worker == 100)
        #expect(pool.handedOver(assignment, now: soon).isEmpty, "it has just reported")

        let later = Self.start + WorkerPool.longestSilence
        assignment = try #require(pool.assignment { _ in true })
        #expect(assignment.worker == 100)
        #expect(pool.handedOver(assignment, now: later) == [.ping(100)])
        _ = try handOver(&pool, to: assignment)
        // Worker 1 has not been asked, and is: then both owe an answer, and the fewest connections decide.
        assignment = try #require(pool.assignment { _ in true })
        #expect(assignment.worker == 101)
        #expect(pool.handedOver(assignment, now: later) == [.ping(101)])
        _ = try handOver(&pool, to: assignment)
        _ = pool.receive(report(), from: 101, now: later)
        for _ in 0..<5 {
            assignment = try #require(pool.assignment { _ in true })
            #expect(assignment.worker == 101)
            #expect(pool.handedOver(assignment, now: later).isEmpty)
            _ = try handOver(&pool, to: assignment)
        }
        // The ping that came along is not one of those that are counted until a worker is killed.
        _ = pool.advance(to: later)
        _ = pool.receive(report(), from: 101, now: later)
        #expect(pool.assignment { $0 == 100 }?.worker == 100)
        _ = pool.receive(report(), from: 100, now: later)
        #expect(pool.assignment { _ in true }?.worker == 100)
    }

    @Test func `a refusal says whether workers are full, busy, or not there`() throws {
        var pool = WorkerPool()
        #expect(pool.refusal == .noWorker)
        _ = pool.configure(
            2, started: [(0, 100, try newTable(0, pool)), (1, 101, try newTable(1, pool))], now: Self.start)
        #expect(pool.refusal == .noWorker, "they have not taken up the configuration")
        _ = pool.receive(.ready(generation: 1, capacity: 1), from: 100, now: Self.start)
        _ = try handOver(&pool)
        #expect(pool.assignment { _ in true } == nil)
        #expect(pool.refusal == .full)
        _ = pool.receive(.ready(generation: 1, capacity: 1), from: 101, now: Self.start)
        #expect(pool.assignment { _ in false } == nil)
        #expect(pool.refusal == .busy, "the channel of the one with room is full")
        _ = pool.configure(2, started: [], now: Self.start)
        pool.configurationNotSent(to: 100)
        pool.configurationNotSent(to: 101)
        #expect(pool.refusal == .noWorker)
    }

    @Test func `any message of a worker answers its pings`() throws {
        var pool = try pool(workers: 1)
        let flow = FlowKey(
            peer: try #require(SocketAddress(host: "::1", port: 1)),
            local: try #require(SocketAddress(host: "::1", port: 2)))
        var now = Self.start
        for round in 0..<10 {
            for _ in 0..<6 {
                now = now + WorkerPool.pingInterval
                #expect(effects(pool.advance(to: now)) == [.ping(100)])
            }
            let empty = UnsafeRawBufferPointer(start: nil, count: 0)
            let message: MessageFromWorker =
                round.isMultiple(of: 2) ? report() : .misdelivered(flow: flow, datagram: empty)
            #expect(pool.receive(message, from: 100, now: Self.start).isEmpty)
        }
    }

    @Test func `pings go out every five seconds whatever wakes the pool up`() throws {
        var pool = try pool(workers: 1)
        #expect(pool.deadline == Self.start + WorkerPool.pingInterval)
        #expect(pool.advance(to: Self.start + .seconds(1)).isEmpty)
        // After a long pause there is one ping, not many.
        #expect(pool.advance(to: Self.start + .seconds(100)) == [.ping(100)])
        #expect(pool.deadline == Self.start + .seconds(100) + WorkerPool.pingInterval)
    }

    // MARK: Shutdown

    @Test func `a pool that stops ends with its last worker`() throws {
        var pool = try pool(workers: 2)
        #expect(pool.stop() == [.stop(100, keepingConnections: false), .stop(101, keepingConnections: false)])
        #expect(pool.assignment { _ in true } == nil)
        #expect(pool.deadline == nil)
        #expect(pool.advance(to: Self.start + .seconds(100)).isEmpty)
        #expect(pool.receive(.rejected(generation: 1, reason: "x"), from: 101, now: Self.start).isEmpty)
        #expect(pool.ended(100, .exited(status: 0), now: Self.start).isEmpty)
        #expect(pool.killAll() == [.kill(101)])
        #expect(pool.ended(101, .killed(signal: 9), now: Self.start) == [.report(.ended)])
    }

    @Test func `a pool without workers ends at once`() throws {
        var pool = WorkerPool()
        #expect(pool.stop() == [.report(.ended)])
    }

    // MARK: All of it

    /// Random configurations, deaths and failures: there is always one worker, or one that is to be started, for each
    /// number.
    @Test func `every number has exactly one worker that does not drain, or a time at which it is started`() throws {
        var random = SeededGenerator(seed: 5)
        for _ in 0..<200 {
            var pool = WorkerPool()
            var now = Self.start
            var count = 0
            var nextPID: pid_t = 1
            func perform(_ actions: [WorkerPool.Action]) throws {
                for case .start(let number) in actions {
                    nextPID += 1
                    try perform(
                        Bool.random(using: &random)
                            ? pool.started(number, pid: nextPID, table: try table(number, pool), now: now)
                            : pool.startFailed(number, "EAGAIN", now: now))
                }
            }
            for _ in 0..<60 {
                now = now + .milliseconds(Int.random(in: 1...20_000, using: &random))
                switch Int.random(in: 0..<4, using: &random) {
                case 0:
                    count = Int.random(in: 1...4, using: &random)
                    var started: [(number: Int, pid: pid_t, table: Int)] = []
                    for number in pool.missing(for: count) {
                        nextPID += 1
                        let table = try table(number, pool, except: started.map(\.table))
                        started.append((number: number, pid: nextPID, table: table))
                    }
                    try perform(pool.configure(count, started: started, now: now))
                case 1:
                    if let worker = pool.workers.randomElement(using: &random) {
                        try perform(pool.ended(worker.pid, .killed(signal: 9), now: now))
                    }
                default: try perform(pool.advance(to: now))
                }
                let serving = pool.workers.filter { !$0.isDraining }.map(\.number)
                #expect(Set(serving).count == serving.count)
                #expect(serving.allSatisfy { $0 < count })
                #expect(pool.missing(for: count).isEmpty)
                let tables = pool.workers.map(\.table)
                #expect(Set(tables).count == tables.count, "no table has two workers")
            }
        }
    }
}

extension Configuration {
    /// A configuration of services that have a name, limits, and nothing that could be served.
    static func empty(services names: String..., limits: LimitsConfiguration = .init()) -> Configuration {
        Configuration(
            workers: 1, stopTimeout: .zero, logLevel: .info, cookieSecret: nil,
            services: names.map { name in
                ServiceConfiguration(
                    name: name, listen: [], tls: ServerSettings(certificate: "", privateKey: ""),
                    handshakeTimeout: .seconds(2), idleTimeout: .zero, mtu: 1_400, handler: .echo,
                    socket: SocketOptions(), limits: limits)
            })
    }
}
