import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives
import Testing

@testable import DTLSDaemon

/// Who is refused a connection, and how the log says why, without listeners or workers.
@Suite struct ConnectionDispatcherTests {
    private func dispatcher(_ configuration: Configuration) throws -> ConnectionDispatcher {
        let loop = try EventLoop()
        let workers = WorkerSupervisor(loop: loop, logger: Logger(label: "test")) { _, _ throws(SystemError) in
            throw SystemError("spawn", errno: EAGAIN)
        }
        let dispatcher = ConnectionDispatcher(workers: workers, loop: loop)
        dispatcher.activate(configuration, targets: [:])
        return dispatcher
    }

    private func peer() throws -> SocketAddress { try #require(SocketAddress(host: "192.0.2.1", port: 1_000)) }

    @Test func `a client is admitted where workers have room and no limit is reached`() throws {
        let dispatcher = try dispatcher(.empty(services: "a", "b"))
        for service in 0..<2 {
            #expect(dispatcher.refusal(of: try peer(), .service(service), by: nil)?.refusal == nil)
        }
    }

    @Test func `a client that no worker takes is refused, and the reason says why`() throws {
        let dispatcher = try dispatcher(.empty(services: "a"))
        let refusal = try #require(dispatcher.refusal(of: try peer(), .service(0), by: .full))
        #expect(refusal.refusal == .full)
        #expect(refusal.reason.hasPrefix("all workers are full: "))
        let busy = try #require(dispatcher.refusal(of: try peer(), .service(0), by: .busy))
        #expect(busy.refusal == .busy)
        #expect(busy.reason == "no worker with room reads its channel, or answers, at the moment")
        let noWorker = try #require(dispatcher.refusal(of: try peer(), .service(0), by: .noWorker))
        #expect(noWorker.refusal == .noWorker)
        #expect(noWorker.reason.hasPrefix("no worker is ready: "))
    }

    /// The listener may have been closed by a reload while its datagrams were read.
    @Test func `a client of a listener without a service is refused`() throws {
        let dispatcher = try dispatcher(.empty(services: "a"))
        #expect(try #require(dispatcher.refusal(of: try peer(), nil, by: nil)).refusal == .noWorker)
    }

    @Test func `a local sender is refused by no limit, but when all workers are full`() throws {
        var configuration = Configuration.empty(services: "a", limits: LimitsConfiguration(connections: 0))
        configuration.limits.connections = 0
        let dispatcher = try dispatcher(configuration)
        #expect(dispatcher.refusal(of: try peer(), .client(0), by: nil)?.refusal == nil)
        #expect(try #require(dispatcher.refusal(of: try peer(), .client(0), by: .full)).refusal == .full)
    }

    @Test func `a client is refused by a limit of its service, which the reason names`() throws {
        let dispatcher = try dispatcher(
            .empty(services: "a", "b.c", limits: LimitsConfiguration(connections: 0)))
        let refusal = try #require(dispatcher.refusal(of: try peer(), .service(1), by: nil))
        #expect(refusal.refusal == .connections)
        #expect(refusal.reason == "service.\"b.c\".limits.connections is reached")
    }

    @Test func `a client is refused by a limit of all services, which the reason names`() throws {
        var configuration = Configuration.empty(services: "a")
        configuration.limits.handshakes = 0
        let refusal = try #require(
            try dispatcher(configuration).refusal(of: try peer(), .service(0), by: nil))
        #expect(refusal.refusal == .handshakes)
        #expect(refusal.reason == "limits.handshakes is reached")
    }

    @Test func `a reload changes the limits of new clients`() throws {
        let dispatcher = try dispatcher(.empty(services: "a", limits: LimitsConfiguration(connections: 0)))
        dispatcher.activate(.empty(services: "a", limits: LimitsConfiguration(connections: 1)), targets: [:])
        #expect(dispatcher.refusal(of: try peer(), .service(0), by: nil)?.refusal == nil)
    }

    @Test func `the reasons for which the kernel gives no socket are told apart, and every reason has its own key`() {
        #expect(Refusal(SystemError("bind", errno: EADDRINUSE)) == .addressFull)
        for code in [EMFILE, ENFILE, ENOBUFS, ENOMEM] {
            #expect(Refusal(SystemError("socket", errno: code)) == .descriptors)
        }
        #expect(Refusal(SystemError("bind", errno: EADDRNOTAVAIL)) == .socket)
        #expect(Set(Refusal.allCases.map(\.key)).count == Refusal.allCases.count)
    }

    @Test func `without workers there is no room`() throws {
        let loop = try EventLoop()
        let workers = WorkerSupervisor(loop: loop, logger: Logger(label: "test")) { _, _ throws(SystemError) in
            throw SystemError("spawn", errno: EAGAIN)
        }
        #expect(workers.refusal == .noWorker)
        #expect(!workers.deliver(UnsafeRawBufferPointer(start: nil, count: 0), to: ConnectionNumber(rawValue: 1)))
    }
}

/// A worker whose channel is full, with the real channel.
@Suite struct FullWorkerChannelTests {
    private final class Reader: MessageChannelDelegate {
        func channel(
            _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
            descriptorWasLost: Bool
        ) {}
        func channelEnded(_ channel: MessageChannel) {}
    }

    @Test func `a worker whose channel is full gets no client until its channel has room`() throws {
        let loop = try EventLoop()
        let ends = try UnixChannel.pair()
        let reader = Reader()
        let channel = try MessageChannel(ends.one, loop: loop, delegate: reader)
        var pool = WorkerPool()
        let table = try pool.connections.makeTable(preferring: 0).number
        _ = pool.configure(1, started: [(0, 100, table)], now: .distantPast)
        _ = pool.receive(.ready(generation: 1, capacity: 100_000), from: 100, now: .distantPast)
        func canSend(_ pid: Int32) -> Bool { channel.isOpen && !channel.isFull }

        let message = [UInt8](repeating: 1, count: 1_000)
        var sent = 0
        while pool.assignment(canSend: canSend) != nil {
            if channel.offer(message) { sent += 1 }
            try #require(sent < 100_000)
        }
        #expect(sent > 0)
        #expect(channel.isFull)
        #expect(!channel.offer(message))

        // The worker reads.
        var received = 0
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 2_000, alignment: 8)
        defer { buffer.deallocate() }
        while case .message = try UnixChannel.receive(into: buffer, from: ends.other) { received += 1 }
        #expect(received == sent)
        channel.ready(.writable)
        #expect(pool.assignment(canSend: canSend) != nil)
    }
}
