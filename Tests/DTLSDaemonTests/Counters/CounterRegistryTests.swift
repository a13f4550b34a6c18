import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct CounterRegistryTests {
    private let registry: CounterRegistry
    private let web = SlotTarget.service("web")
    private let out = SlotTarget.client("out")

    init() throws {
        registry = try CounterRegistry()
        registry.activate(
            Configuration(
                workers: 2, stopTimeout: .zero, logLevel: .debug,
                services: [
                    ServiceConfiguration(
                        name: "web", listen: [], tls: ServerSettings(certifiedKeys: []), socket: SocketOptions())
                ]))
    }

    /// A worker's mapping of the file of a table.
    private func worker(_ table: Int) throws -> CounterFile {
        try CounterFile(try registry.file(ofTable: table).descriptor.duplicate())
    }

    /// Counts what the web service does in a worker.
    private func count(_ table: Int, _ body: (TargetCounters) -> Void) throws {
        let file = try worker(table)
        withExtendedLifetime(file) { body(file.counters(of: web)) }
    }

    private func number(_ values: CounterSnapshot.Values?, _ name: String, _ label: String? = nil) -> UInt64? {
        switch (values?[name], label) {
        case (.number(let number), nil): number
        case (.labelled(let numbers), let label?): numbers[label]
        default: nil
        }
    }

    @Test func `a service's counters are those of all workers, of the main process and of its listeners together`()
        throws
    {
        try count(0) { $0.count(Refusal.descriptors) }
        try count(1) { $0.count(Refusal.descriptors) }
        registry.counters(of: web).count(ConnectionMove.worker)
        var endpoint = Endpoint.Counters()
        endpoint.hellos = 9
        endpoint.hellosAnswered = 5
        endpoint.unsent = 1
        endpoint.refused.count(.denied, 4)
        endpoint.ofNoConnection = 2
        var sources = CounterRegistry.Sources()
        sources.endpoints = [web: endpoint]
        sources.recordsWithConnectionIDs.limitedByTarget = [web: 6]
        sources.occupancy.change(web, from: nil, to: .handshaking)
        sources.occupancy.change(web, from: nil, to: .handshaking)
        sources.occupancy.change(web, from: .handshaking, to: .parked)
        let values = registry.snapshot(sources).services["web"]
        #expect(number(values, "refusals_total", "descriptors") == 2)
        #expect(number(values, "refusals_total", "denied") == 4)
        #expect(number(values, "connections_moved_total", "worker") == 1)
        #expect(number(values, "client_hellos_total") == 9 && number(values, "cookies_sent_total") == 4)
        #expect(number(values, "datagrams_dropped_total", "no_connection") == 2)
        #expect(number(values, "datagrams_dropped_total", "forged_limit") == 6)
        #expect(number(values, "connections", "handshaking") == 1 && number(values, "connections", "parked") == 1)
        #expect(number(values, "connections", "open") == 0)
    }

    @Test func `a worker's counters are its process's and the sums over all services`() throws {
        let file = try worker(3)
        file.process.set(.openDescriptors, to: 40)
        file.counters(of: web).countDropped(.forged, 2)
        file.counters(of: out).countDropped(.forged, 3)
        var sources = CounterRegistry.Sources()
        sources.workers = [(number: 0, processID: 77, table: 3), (number: 1, processID: 78, table: 9)]
        sources.totals.died = 4
        let snapshot = registry.snapshot(sources)
        #expect(snapshot.workers.map(\.processID) == [77, 78])
        #expect(number(snapshot.workers[0].values, "datagrams_dropped_total", "forged") == 5)
        #expect(number(snapshot.workers[0].values, "open_fds") == 40)
        #expect(snapshot.workers[0].values["workers_died_total"] == nil, "it is of the main process alone")
        #expect(snapshot.workers[1].values.isEmpty, "it has not got its table yet")
        #expect(number(snapshot.main, "workers_died_total") == 4)
        #expect(snapshot.clients.isEmpty, "no client was ever configured")
    }

    @Test func `a service that is gone from the configuration keeps its counters`() throws {
        try count(0) { $0.count(Refusal.full) }
        registry.activate(Configuration(workers: 1, stopTimeout: .zero, logLevel: .debug, services: []))
        #expect(number(registry.snapshot(CounterRegistry.Sources()).services["web"], "refusals_total", "full") == 1)
    }

    @Test func `a backend is out where one of the workers knows it`() throws {
        try count(0) { $0.block.setMember(0, of: .backendsOut, true) }
        try count(1) { $0.block.setMember(0, of: .backendsOut, true) }
        try count(1) { $0.block.setMember(5, of: .backendsOut, true) }
        try count(1) { $0.block.setMember(64, of: .backendsOut, true) }
        let snapshot = registry.snapshot(CounterRegistry.Sources())
        #expect(number(snapshot.services["web"], "backends_out") == 2 && snapshot.backends["web"]?.out == 0b100001)
        try count(1) { $0.block.setMember(5, of: .backendsOut, false) }
        #expect(number(registry.snapshot(CounterRegistry.Sources()).services["web"], "backends_out") == 1)
    }

    @Test func `what a listener has counted is in its values`() throws {
        let address = try #require(SocketAddress(host: "127.0.0.1", port: 4_433))
        var endpoint = Endpoint.Counters()
        endpoint.datagrams = 100
        endpoint.bytes = 5_000
        endpoint.admitted = 7
        endpoint.malformed = 1
        endpoint.unrelated = 2
        var sources = CounterRegistry.Sources()
        sources.listeners = [
            .init(address: address, slotTarget: web, counters: endpoint, queueDrops: 31),
            .init(address: address, slotTarget: 1, counters: endpoint, queueDrops: 31),
        ]
        let listeners = registry.snapshot(sources).listeners
        #expect(listeners.count == 1 && listeners.first?.name == "web")
        let values = listeners.first?.values
        #expect(number(values, "listener_datagrams_received_total") == 100)
        #expect(number(values, "listener_queue_drops_total") == 31)
        #expect(number(values, "listener_datagrams_dropped_total") == 3)
        #expect(number(values, "listener_connections_total") == 7)
    }

    @Test func `reloads count by result`() {
        registry.count(.reloaded)
        registry.count(.reloaded)
        registry.count(.reloadFailed)
        registry.count(.ready)
        let main = registry.snapshot(CounterRegistry.Sources()).main
        #expect(number(main, "reloads_total", "succeeded") == 2 && number(main, "reloads_total", "failed") == 1)
    }

    // MARK: Connections of the table

    private func flow(_ port: UInt16) throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress(host: "192.0.2.1", port: port)),
            local: try #require(SocketAddress(host: "192.0.2.100", port: 4_433)))
    }

    @Test func `a connection counts in the state that it is in, and a dead worker's ends are counted by kind`() throws {
        let connections = ConnectionTable()
        connections.counters = registry
        let table = try connections.makeTable(preferring: 0)
        func states() -> [Int] { ConnectionState.allCases.map { connections.occupancy[web, $0] } }
        let numbers = try (1...4).map { port in
            try #require(connections.begin(try flow(UInt16(port)), target: web, in: table.number, now: .distantPast))
        }
        #expect(states() == [4, 0, 0])
        for (number, isMovable) in [(numbers[0], true), (numbers[1], true), (numbers[2], false)] {
            let slot = try #require(connections.slot(of: number))
            slot.establish(
                slot.prepare(
                    random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero),
                isMovable: isMovable)
            connections.establish(number)
        }
        #expect(states() == [1, 3, 0])
        connections.noteWithoutSocket(numbers[0])
        #expect(states() == [1, 2, 1])
        connections.noteSocket(numbers[0])
        #expect(states() == [1, 3, 0])
        connections.rebind(numbers[0], to: try flow(50))
        #expect(states() == [1, 3, 0])
        connections.noteWithoutSocket(numbers[0])
        let other = try connections.makeTable(preferring: 1)
        #expect(connections.move(numbers[0], to: other.number) != nil)
        #expect(states() == [1, 2, 1])
        let survival = connections.reviewAll(0, now: .distantPast)
        #expect(survival.kept == 1 && survival.lost == 2)
        #expect(states() == [0, 0, 2])
        connections.end(numbers[1])
        #expect(states() == [0, 0, 1])
        let values = registry.snapshot(CounterRegistry.Sources()).services["web"]
        #expect(number(values, "connections_moved_total", "worker") == 1)
        #expect(number(values, "connections_closed_total", "worker_died") == 1)
        #expect(number(values, "handshakes_total", "worker_died") == 1)
        _ = connections.forgetAll()
        #expect(states() == [0, 0, 0])
    }

    @Test func `a local sender's tunnel is open from the beginning`() throws {
        let connections = ConnectionTable()
        let table = try connections.makeTable(preferring: 0)
        _ = connections.begin(try flow(1), target: out, in: table.number, now: .distantPast)
        #expect(connections.occupancy[out, .open] == 1 && connections.occupancy[out, .handshaking] == 0)
    }

    // MARK: Workers

    /// The messages and descriptors that workers are sent.
    private final class Workers {
        private final class Channel {
            var descriptor: FileDescriptor
            init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
        }

        private var channels: [Channel] = []

        func start(_ channel: consuming FileDescriptor) -> pid_t {
            channels.append(Channel(channel))
            return 2_000_000_000 + pid_t(channels.count - 1)
        }

        func end(_ index: Int) { channels[index] = Channel(FileDescriptor(owning: -1)) }

        /// The file that a worker was sent to count in.
        func counters(_ index: Int) throws -> CounterFile? {
            let buffer = UnsafeMutableRawBufferPointer.allocate(
                byteCount: UnixChannel.maximumMessageSize, alignment: 16)
            defer { buffer.deallocate() }
            var file: CounterFile?
            while true {
                let received = try UnixChannel.receive(into: buffer, from: channels[index].descriptor)
                guard case .message(let count, let attached, _) = consume received else { return file }
                let message = try MessageToWorker(decoding: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                if case .counters = message, let attached { file = try CounterFile(attached) }
            }
        }
    }

    /// Counts as a worker does that has the file.
    private func countRefusal(in file: CounterFile) {
        withExtendedLifetime(file) { file.counters(of: web).count(Refusal.localPorts) }
    }

    @Test func `the worker that replaces a dead one goes on with its counts`() throws {
        let loop = try EventLoop()
        let workers = Workers()
        let supervisor = WorkerSupervisor(loop: loop, logger: Logger(label: "test")) {
            [workers] _, channel throws(SystemError) in workers.start(channel)
        }
        supervisor.counters = registry
        try supervisor.configure(
            workers: 1,
            WorkerSetup(
                snapshot: try MemoryFile.make([1], name: "snapshot"), keyLog: FileDescriptor(owning: -1)))
        countRefusal(in: try #require(try workers.counters(0)))
        workers.end(0)
        supervisor.childEnded(2_000_000_000, .killed(signal: 9))
        #expect(
            number(registry.snapshot(CounterRegistry.Sources()).services["web"], "refusals_total", "local_ports") == 1)
        countRefusal(in: try #require(try workers.counters(1)))
        #expect(
            number(registry.snapshot(CounterRegistry.Sources()).services["web"], "refusals_total", "local_ports") == 2)
        #expect(supervisor.pool.totals.started == 2 && supervisor.pool.totals.died == 1)
    }
}
