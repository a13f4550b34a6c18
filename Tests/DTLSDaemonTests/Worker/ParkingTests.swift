import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon
@testable import DTLSEngine

/// Connections without a socket in a worker: how they end, and how they get sockets.
@Suite struct ParkingTests {
    private static func service(_ name: String, _ more: String = "") -> String {
        """
        [service.\(name)]
        listen = ["127.0.0.1:\(name == "one" ? 5_001 : 5_002)"]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"
        \(more)

        """
    }

    private static func flow(_ port: Int) throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress("127.0.0.2:\(port)")), local: try #require(SocketAddress("127.0.0.1:5001"))
        )
    }

    /// The client of a connection that ``ConnectionSlot/establish(with:)`` has made up.
    private final class Client {
        private let memory = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
        private let bio: DatagramBIO
        private let engine: Engine

        init() throws {
            let terms = RecordState.Terms(
                isServer: false, algorithm: .aes128GCM, suite: 0xc02f, contentLimit: 16_384, noncePrefix: 1,
                connectionIDs: nil)
            [UInt8](repeating: 7, count: 32).withUnsafeBytes { [memory] bytes in
                let keys = RecordState.Keys(
                    key: UnsafeRawBufferPointer(rebasing: bytes[..<16]),
                    nonce: UnsafeRawBufferPointer(rebasing: bytes[16..<20]))
                RecordState.write(terms, send: keys, receive: keys, nextNumber: 1 << 48, to: memory)
            }
            bio = try DatagramBIO()
            engine = try Engine(resuming: memory, over: bio)
        }

        deinit { memory.deallocate() }

        /// Whether the datagram is a close_notify of its server.
        func isClosed(by datagram: [UInt8]) throws -> Bool {
            try datagram.withUnsafeBytes {
                engine.deliver($0)
                if case .closed = try engine.next(now: .now()) { return true }
                return false
            }
        }

        func message(_ text: String) throws -> [UInt8] {
            bio.outbox.removeAll()
            var text = text
            try text.withUTF8 { try engine.send(UnsafeRawBufferPointer($0)) }
            return bio.outbox.withDatagrams { bytes, _ in [UInt8](bytes) }
        }
    }

    @Test func `an idle connection without a socket gets close_notify from the listener`() throws {
        let lone = try LoneWorker(Self.service("one", "idle_timeout = 1"))
        let idle = lone.park(try Self.flow(1), "one", lastReceived: .now() - .seconds(2))
        let busy = lone.park(try Self.flow(2), "one", lastReceived: .now() + .seconds(60))
        try lone.takeOver()
        let heard = try lone.received { $0.closed == [idle] }
        #expect(heard.closed == [idle])
        let datagrams = heard.sent
        #expect(Array(datagrams.keys) == [try Self.flow(1)])
        let last = try #require(datagrams[try Self.flow(1)])
        let isClosed = try Client().isClosed(by: last[0])
        #expect(last.count == 1 && isClosed)
        #expect(lone.slots[idle.slot].phase == .ended && lone.slots[busy.slot].phase == .established)
    }

    /// Its client may be anywhere by now.
    @Test func `a connection that has left its flow ends without a word`() throws {
        let lone = try LoneWorker(Self.service("one", "idle_timeout = 1"))
        let idle = lone.park(try Self.flow(1), "one", lastReceived: .now() - .seconds(2))
        lone.slots[idle.slot].leaveFlow()
        try lone.takeOver()
        let heard = try lone.received { $0.closed == [idle] }
        #expect(heard.closed == [idle] && heard.sent.isEmpty)
    }

    @Test func `connections without sockets end with their service, which is forgotten after its last one`() throws {
        let both = Self.service("one", "idle_timeout = 2") + Self.service("two", "idle_timeout = 2")
        let lone = try LoneWorker(both)
        let later = Instant.now() + .seconds(600)
        var parked: Set<ConnectionNumber> = []
        // More than are ended in one turn.
        for port in 1...1_300 { parked.insert(lone.park(try Self.flow(port), "one", lastReceived: later)) }
        let other = lone.park(try Self.flow(2_000), "two", lastReceived: later)
        try lone.takeOver()
        // One that is in its handshake stays.
        let busy = lone.slots.used
        lone.slots[busy].take(try Self.flow(3_000), target: SlotTarget.service("one"), now: .now())
        lone.slots.used = busy + 1
        try lone.configure(Self.service("two", "idle_timeout = 2"))
        let heard = try lone.received { $0.closed == parked }
        #expect(heard.closed == parked)
        #expect(heard.sent.count == parked.count && heard.sent.values.allSatisfy { $0.count == 1 })
        #expect(lone.slots[other.slot].phase == .established && lone.slots[busy].phase == .handshaking)
        #expect(lone.worker.countOfDepartedServices == 1)
        lone.slots[busy].end()
        _ = try lone.received { _ in lone.worker.countOfDepartedServices == 0 }
        #expect(lone.worker.countOfDepartedServices == 0)
    }

    @Test func `all connections without sockets get close_notify when the worker stops`() throws {
        let lone = try LoneWorker("stop_timeout = 60\n" + Self.service("one"))
        var parked: Set<ConnectionNumber> = []
        for port in 1...2_000 { parked.insert(lone.park(try Self.flow(port), "one")) }
        try lone.takeOver()
        try lone.send(MessageToWorker.encode(stopKeepingConnections: false))
        let heard = try lone.received { $0.closed == parked }
        #expect(heard.closed == parked)
        #expect(heard.sent.count == parked.count)
        for (_, datagrams) in heard.sent {
            let isClosed = try Client().isClosed(by: datagrams[0])
            #expect(datagrams.count == 1 && isClosed)
        }
    }

    @Test func `a worker that has no time to stop sends no close_notify`() throws {
        let lone = try LoneWorker("stop_timeout = 0\n" + Self.service("one"))
        for port in 1...10 { _ = lone.park(try Self.flow(port), "one") }
        try lone.takeOver()
        try lone.send(MessageToWorker.encode(stopKeepingConnections: false))
        var turns = 0
        let heard = try lone.received { _ in
            turns += 1
            return turns > 20
        }
        #expect(heard.sent.isEmpty && heard.closed.isEmpty)
    }

    // MARK: Getting sockets

    /// epoll takes no file of a file system (EPERM), as it takes no more sockets where fs.epoll.max_user_watches is
    /// reached (ENOSPC).
    @Test func `a connection whose new socket cannot be watched is parked again`() throws {
        let lone = try LoneWorker(Self.service("one"))
        let flow = try Self.flow(1)
        let id = lone.park(flow, "one")
        try lone.takeOver()
        try lone.send(
            MessageToWorker.encode(resume: id, flow: flow, datagrams: [try Client().message("hello")]),
            try MemoryFile.make([1], name: "no socket"))
        let heard = try lone.received { $0.contains(.parked([id])) || !$0.closed.isEmpty }
        #expect(heard == [.parked([id])])
        let slot = lone.slots[id.slot]
        #expect(slot.phase == .established && slot.counters.messagesIn == 1, "what had come was served")
    }

    /// Its record would be lost with its place in the queue.
    @Test func `a connection that waits for a socket is not given to another worker before it has that`() throws {
        let lone = try LoneWorker(Self.service("one"))
        let (waking, silent) = (lone.park(try Self.flow(1), "one"), lone.park(try Self.flow(2), "one"))
        try lone.takeOver()
        var records = RecordGathering()
        try Client().message("hello").withUnsafeBytes { records.add($0, try Self.flow(1), of: waking) }
        try lone.send(records.bytes)
        try lone.send(MessageToWorker.encode(release: .max))
        let heard = try lone.received { $0.contains(.releaseDone) && $0.contains(.wake([waking])) }
        #expect(heard.contains(.released([silent])) && !heard.contains(.released([waking])))
        #expect(heard.contains(.wake([waking])))
    }

    /// The main process may be copying its slot (Tests/Models/handover.pml).
    @Test func `a connection that was given up is left alone until it comes back`() throws {
        let lone = try LoneWorker(Self.service("one"))
        let id = lone.park(try Self.flow(1), "one")
        try lone.takeOver()
        for message in [
            MessageToWorker.encode(release: .max), MessageToWorker.encode(close: [id]),
            MessageToWorker.encode(release: .max),
        ] { try lone.send(message) }
        let heard = try lone.received { $0.count { $0 == .releaseDone } == 2 }
        #expect(heard.released == [[id]] && heard.sent.isEmpty && heard.closed.isEmpty)
        #expect(lone.slots[id.slot].phase == .established)
        // No other worker has room for it.
        try lone.send(MessageToWorker.encode(adopt: [id]))
        try lone.send(MessageToWorker.encode(close: [id]))
        let after = try lone.received { !$0.closed.isEmpty }
        #expect(after.closed == [id] && after.sent.count == 1)
    }

    // MARK: More slots than are looked at in one turn

    @Test func `a record wakes a connection whose slot the worker has not come to yet, and another one is closed`()
        throws
    {
        let lone = try LoneWorker(Self.service("one"), capacity: 32_768)
        let all = try (1...20_000).map { lone.park(try Self.flow($0), "one", lastReceived: .now() + .seconds(600)) }
        var records = RecordGathering()
        try Client().message("hello").withUnsafeBytes { records.add($0, try Self.flow(20_000), of: all[19_999]) }
        // All of them come in one turn.
        try lone.send(MessageToWorker.takeOverBytes)
        try lone.send(records.bytes)
        try lone.send(MessageToWorker.encode(close: [all[19_998]]))
        let heard = try lone.received { $0.contains(.wake([all[19_999]])) && $0.closed.contains(all[19_998]) }
        #expect(heard.contains(.wake([all[19_999]])) && heard.closed == [all[19_998]])
        let told = try Self.flow(19_999)
        #expect(Array(heard.sent.keys) == [told])
        // The worker gives all up only after it has come to the last one, and each of them once.
        try lone.send(MessageToWorker.encode(release: .max))
        let released = try lone.received { $0.contains(.releaseDone) }.released
        #expect(released.allSatisfy { $0.count <= ConnectionNumber.maximumOfMessage } && released.count >= 5)
        #expect(released.flatMap(\.self) == Array(all[..<19_998]))
    }

    @Test func `of many connections without sockets, as many are released as are asked for`() throws {
        let lone = try LoneWorker(Self.service("one"), capacity: 16_384)
        let all = try (1...9_000).map { lone.park(try Self.flow($0), "one", lastReceived: .now() + .seconds(600)) }
        try lone.takeOver()
        try lone.send(MessageToWorker.encode(release: 5_000))
        let heard = try lone.received { $0.contains(.releaseDone) }
        #expect(heard.released.flatMap(\.self) == Array(all[..<5_000]) && heard.last == .releaseDone)
    }

    @Test func `a far socket that came for a connection which has ended is closed`() throws {
        let lone = try LoneWorker(Self.service("one"))
        let ids = try (1...3).map { lone.park(try Self.flow($0), "one") }
        try lone.takeOver()
        for id in ids {
            try lone.send(MessageToWorker.encode(farSocketOf: id), try MemoryFile.make([1], name: "far"))
        }
        lone.slots[ids[0].slot].end()
        lone.slots[ids[1].slot].end()
        try lone.send(MessageToWorker.encode(adopt: [ids[0]]))
        try lone.send(
            MessageToWorker.encode(resume: ids[1], flow: try Self.flow(2), datagrams: []),
            try MemoryFile.make([1], name: "socket"))
        try lone.send(MessageToWorker.encode(release: .max))
        let heard = try lone.received { $0.contains(.releaseDone) }
        #expect(heard.contains(.released([ids[2]])))
        #expect(lone.worker.parking.countOfFarSockets == 0)
    }
}
