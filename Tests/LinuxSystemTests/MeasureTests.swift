import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

/// What a process is told of its queues, its loop and itself.
@Suite struct MeasureTests {
    @Test func `datagrams that a full socket drops are counted from the beginning of the watch on`() throws {
        let address = try #require(SocketAddress(host: "127.0.0.1", port: 0))
        let socket = try UDPSocket.open(.ipv4)
        try UDPSocket.bind(socket, to: address)
        try UDPSocket.setReceiveBuffer(2_048, on: socket)
        let sender = try UDPSocket.open(.ipv4)
        try UDPSocket.connect(sender, to: try #require(try UDPSocket.localAddress(of: socket)))
        let datagram = [UInt8](repeating: 1, count: 500)
        func send(_ count: Int) throws {
            for _ in 0..<count { try #require(try datagram.withUnsafeBytes { try UDPSocket.send($0, over: sender) }) }
        }
        try send(100)
        // Those were before.
        var drops = QueueDrops(of: socket)
        drops.update(from: socket)
        #expect(drops.total == 0)
        try send(50)
        drops.update(from: socket)
        #expect(drops.total == 50)
        drops.update(from: socket)
        #expect(drops.total == 50, "nothing is counted twice")
        let batch = ReceiveBatch(capacity: 64, slotSize: 512)
        var received = 0
        batch.receiveAll(from: socket) { _ in received += 1 }
        #expect(received > 0)
        try send(1)
        drops.update(from: socket)
        #expect(drops.total == 50, "there was room")
        let other = try UDPSocket.open(.ipv4)
        drops.continue(with: other, after: socket)
        drops.update(from: other)
        #expect(drops.total == 50)
    }

    /// Histograms in memory of this process.
    private final class Histogram {
        private let words = UnsafeMutableRawPointer.allocate(byteCount: 8 * SharedHistogram.wordCount, alignment: 8)
        var shared: SharedHistogram { SharedHistogram(words) }

        init() { words.initializeMemory(as: UInt64.self, repeating: 0, count: SharedHistogram.wordCount) }
        deinit { words.deallocate() }

        private func word(_ index: Int) -> UInt64 { SharedWord.loadRelaxed(words + 8 * index) }
        var count: UInt64 { (0...SharedHistogram.bounds.count).reduce(0) { $0 + word($1) } }
        /// How many were above a bound.
        func count(above bound: UInt64) -> UInt64 {
            SharedHistogram.bounds.indices.filter { SharedHistogram.bounds[$0] > bound }.reduce(
                word(SharedHistogram.bounds.count)
            ) { $0 + word($1) }
        }
        var sum: UInt64 { word(SharedHistogram.wordCount - 1) }
    }

    @Test func `a loop counts how long each turn takes, and not the wait for it`() throws {
        let loop = try EventLoop()
        let turns = Histogram()
        loop.turnTimes = turns.shared
        loop.atEndOfTurn {
            let start = Instant.now()
            while Instant.now() - start < .milliseconds(6) {}
        }
        try loop.poll(timeout: .zero)
        #expect(turns.count == 0, "the end of a turn is the beginning of the next wait")
        try loop.poll(timeout: .milliseconds(20))
        #expect(turns.count == 1 && turns.count(above: 5_000_000) == 1)
        let sum = turns.sum
        #expect(sum >= 6_000_000)
        try loop.poll(timeout: .zero)
        #expect(turns.count == 2)
        #expect(turns.sum - sum < 20_000_000, "the wait is no work")
    }

    @Test func `a loop counts how late its timers are`() throws {
        let loop = try EventLoop()
        let delays = Histogram()
        loop.timerDelays = delays.shared
        let timer = CallbackTimer { _ in }
        try loop.poll(timeout: .zero)
        #expect(delays.count == 0, "no timer was due")
        loop.timers.arm(timer, at: Instant.now() - .milliseconds(30))
        try loop.poll(timeout: .zero)
        #expect(delays.count == 1 && delays.count(above: 25_000_000) == 1 && delays.sum >= 30_000_000)
        loop.timers.arm(timer, at: Instant.now() + .seconds(60))
        try loop.poll(timeout: .zero)
        #expect(delays.count == 1)
    }

    @Test func `a process knows its memory and how many descriptors it has open`() throws {
        #expect(ProcessResources.residentBytes > 1 << 20)
        #expect(ProcessResources.availableBytes.map { $0 > 0 } ?? true)
        // Other tests of this process open descriptors, too, but not thousands.
        var limit = rlimit()
        try #require(getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
        try #require(limit.rlim_cur > 600, "the limit of descriptors is too low for this test")
        let before = ProcessResources.openDescriptors
        #expect(before >= 3)
        let descriptors = (0..<400).map { _ in dup(0) }
        let between = ProcessResources.openDescriptors
        for descriptor in descriptors { close(descriptor) }
        #expect(between >= before + 300, "\(before), then \(between)")
    }
}
