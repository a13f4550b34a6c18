import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Testing

@testable import DTLSDaemon

/// The supervisor with workers that are no processes: a test has the other end of each channel.
@Suite struct WorkerSupervisorTests {
    private final class Workers {
        private final class Channel {
            var descriptor: FileDescriptor
            init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
        }

        private var channels: [pid_t: Channel] = [:]
        private var started: pid_t = 0

        /// No process has this ID, or one near it (PID_MAX_LIMIT).
        static let first: pid_t = 2_000_000_000

        func start(_ number: Int, _ channel: consuming FileDescriptor) -> pid_t {
            let pid = Self.first + started
            started += 1
            channels[pid] = Channel(channel)
            return pid
        }

        func send(_ bytes: [UInt8], from pid: pid_t) throws {
            let channel = try #require(channels[pid])
            #expect(try bytes.withUnsafeBytes { try UnixChannel.send($0, over: channel.descriptor) })
        }

        /// The kernel closes the channels of a process that ends.
        func end(_ pid: pid_t) { channels[pid] = nil }
    }

    private let loop: EventLoop
    private let workers = Workers()
    private let supervisor: WorkerSupervisor

    init() throws {
        loop = try EventLoop()
        supervisor = WorkerSupervisor(loop: loop, logger: Logger(label: "test")) {
            [workers] number, channel throws(SystemError) in workers.start(number, channel)
        }
    }

    private func configure(workers count: Int) throws {
        let setup = WorkerSetup(
            snapshot: try MemoryFile.make([1], name: "snapshot"), keyLog: FileDescriptor(owning: -1))
        try supervisor.configure(workers: count, setup)
    }

    /// SIGCHLD may be handled in the turn in which the last messages have come, or before.
    @Test(arguments: [ChildProcess.Ending.exited(status: 0), .killed(signal: SIGKILL)])
    func `everything that a worker has reported before its end is counted`(_ ending: ChildProcess.Ending) throws {
        try configure(workers: 1)
        let pid = Workers.first
        try workers.send(MessageFromWorker.encode(ready: 1, capacity: 1_000), from: pid)
        try loop.poll(timeout: .zero)
        // More than a turn reads. The worker has not read what it was sent, its configuration among that.
        var forged = 0
        supervisor.onForged = { forged += $1 }
        for _ in 0..<200 {
            try workers.send(MessageFromWorker.encode(MessageFromWorker.Report(forged: 1)), from: pid)
        }
        workers.end(pid)
        supervisor.childEnded(pid, ending)
        #expect(forged == 200)
    }

    @Test func `what a worker has reported before its end counts in a stop too`() throws {
        var ended = 0
        var forged = 0
        supervisor.onEvent = { if case .ended = $0 { ended += 1 } }
        supervisor.onForged = { forged += $1 }
        try configure(workers: 2)
        supervisor.stop()
        for number in 0..<2 {
            let pid = Workers.first + pid_t(number)
            try workers.send(MessageFromWorker.encode(MessageFromWorker.Report(forged: 3)), from: pid)
            workers.end(pid)
            supervisor.childEnded(pid, .exited(status: 0))
        }
        #expect(ended == 1)
        #expect(forged == 6)
    }

    @Test func `a worker that has closed its channel gets no clients, and its end is noted when it comes`() throws {
        try configure(workers: 1)
        let pid = Workers.first
        try workers.send(MessageFromWorker.encode(ready: 1, capacity: 1_000), from: pid)
        try loop.poll(timeout: .zero)
        #expect(supervisor.refusal == nil)
        var forged = 0
        supervisor.onForged = { forged += $1 }
        try workers.send(MessageFromWorker.encode(MessageFromWorker.Report(forged: 5)), from: pid)
        workers.end(pid)
        try loop.poll(timeout: .zero)
        #expect(supervisor.refusal == .busy)
        #expect(forged == 5)
        #expect(supervisor.pool.workers.map(\.pid) == [pid], "it has not ended")
        supervisor.childEnded(pid, .exited(status: 0))
        #expect(supervisor.pool.workers.map(\.pid) == [pid + 1], "it is replaced")
    }

    @Test func `the end of a child that is no worker changes nothing`() throws {
        try configure(workers: 1)
        supervisor.childEnded(Workers.first + 7, .exited(status: 0))
        #expect(supervisor.pool.workers.count == 1)
    }

    // MARK: Many connections

    /// Established connections without sockets in a table.
    private func park(_ count: Int, in table: Int) throws -> [ConnectionNumber] {
        let local = try #require(SocketAddress("192.0.2.100:4433"))
        let connections = supervisor.connections
        return try (1...count).map { number in
            let peer = try #require(SocketAddress(host: "192.0.2.\(table)", port: UInt16(number)))
            let connection = try #require(
                connections.begin(
                    FlowKey(peer: peer, local: local), target: SlotTarget.service("a"), in: table, now: loop.now))
            let slot = try #require(connections.slot(of: connection))
            slot.establish(
                slot.prepare(
                    random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero),
                isMovable: true)
            connections.noteWithoutSocket(connection)
            return connection
        }
    }

    /// Lets the loop turn until all connections are in table 0.
    /// - Returns: how many have come there in each turn.
    private func arrivals(_ total: Int) throws -> [Int] {
        var counts: [Int] = []
        var before = supervisor.connections[0]?.count ?? 0
        for _ in 0..<1_000 where before < total {
            try loop.poll(timeout: .milliseconds(1))
            let after = supervisor.connections[0]?.count ?? 0
            counts.append(after - before)
            before = after
        }
        return counts
    }

    @Test func `the connections of a worker that has died while it drained move some in each turn`() throws {
        try configure(workers: 2)
        for number in 0..<2 {
            try workers.send(
                MessageFromWorker.encode(ready: 1, capacity: 1_000), from: Workers.first + pid_t(number))
        }
        try loop.poll(timeout: .zero)
        _ = try park(5_000, in: 1)
        try configure(workers: 1)
        try workers.send(MessageFromWorker.encode(ready: 2, capacity: 1_000), from: Workers.first)
        try loop.poll(timeout: .zero)
        workers.end(Workers.first + 1)
        supervisor.childEnded(Workers.first + 1, .killed(signal: SIGKILL))
        let counts = try arrivals(5_000)
        #expect(counts.reduce(0, +) == 5_000 && counts.allSatisfy { $0 <= 1_024 })
        for _ in 0..<2 { try loop.poll(timeout: .milliseconds(1)) }
        #expect(supervisor.connections.numbers == [0])
    }

    @Test func `connections without sockets that a worker has released move some in each turn`() throws {
        try configure(workers: 2)
        for number in 0..<2 {
            try workers.send(
                MessageFromWorker.encode(ready: 1, capacity: 1_000), from: Workers.first + pid_t(number))
        }
        try loop.poll(timeout: .zero)
        let all = try park(4_096, in: 1)
        try workers.send(MessageFromWorker.encode(released: all, hadSocket: false), from: Workers.first + 1)
        // One of them gets a socket while this is under way: its worker goes on with it.
        try loop.poll(timeout: .zero)
        #expect(supervisor.connections[0]?.count ?? 0 <= 1_024)
        supervisor.connections.noteSocket(all[4_000])
        let counts = try arrivals(4_095)
        #expect(counts.allSatisfy { $0 <= 1_024 })
        #expect(supervisor.connections.count == 4_096 && supervisor.connections[1]?.count == 1)
        #expect(supervisor.connections.hasSocket(all[4_000]))
    }
}
