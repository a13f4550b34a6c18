import Glibc
import LinuxSystem
import Testing

@testable import DTLSDaemon

/// Messages over a pair of connected Unix sockets, whose full queue is a real one.
@Suite struct MessageSocketTests {
    private let loop: EventLoop
    private let resources: HandlerResources

    init() throws {
        loop = try EventLoop()
        resources = HandlerResources(loop: loop, logs: WorkerLogs(worker: 0, loop: loop))
    }

    /// A socket with its owner, and the other end.
    private final class End: EventHandler {
        let socket: MessageSocket
        private var other: FileDescriptor
        private(set) var events: [EventLoop.Events] = []
        /// The outcomes of pending messages that were refused.
        private(set) var refusals: [DatagramSender.Outcome] = []

        init(_ resources: HandlerResources) throws {
            let pair = try UnixChannel.pair()
            socket = MessageSocket(resources)
            other = pair.other
            try socket.open(pair.one, .unix, for: self)
        }

        func append(_ text: String) { Array(text.utf8).withUnsafeBytes { socket.append($0) } }

        func write(_ text: String) {
            Array(text.utf8).withUnsafeBytes { _ = Glibc.send(other.rawValue, $0.baseAddress, $0.count, 0) }
        }

        /// What has arrived at the other end.
        func received() -> [String] {
            var messages: [String] = []
            var bytes = [UInt8](repeating: 0, count: 65_536)
            while true {
                let count = recv(other.rawValue, &bytes, bytes.count, 0)
                if count <= 0 { return messages }
                messages.append(String(decoding: bytes.prefix(count), as: UTF8.self))
            }
        }

        /// Goes on over another pair of sockets.
        func reconnect() throws {
            let pair = try UnixChannel.pair()
            socket.close()
            try socket.open(pair.one, .unix, for: self)
            other = pair.other
        }

        func shutDownOther() { shutdown(other.rawValue, Int32(SHUT_RDWR)) }

        func ready(_ events: EventLoop.Events) {
            self.events.append(events)
            if events.contains(.writable), socket.hasPending { socket.sendPending { refusals.append($0) } }
        }
    }

    @Test func `the messages of a batch leave in their order`() throws {
        let end = try End(resources)
        for number in 0..<5 { end.append("\(number)") }
        var error: Int32 = -1
        end.socket.finishBatch { error = end.socket.sendBatch().error }
        #expect(error == 0 && end.socket.isBatchEmpty)
        #expect(end.received() == ["0", "1", "2", "3", "4"])
        end.socket.finishBatch { Issue.record("an empty batch is sent") }
        end.socket.close()
    }

    @Test func `what one client has sent never leaves over the socket of another`() throws {
        let one = try End(resources)
        let other = try End(resources)
        // One's connection ends, or does a re-handshake, before its batch does, and nobody empties the batch.
        one.append("a secret of one")
        other.append("hello")
        other.socket.finishBatch { _ = other.socket.sendBatch() }
        #expect(other.received() == ["hello"])
        one.socket.finishBatch { _ = one.socket.sendBatch() }
        #expect(one.received().isEmpty && other.received().isEmpty)
        one.socket.close()
        other.socket.close()
    }

    @Test func `a handler that is destroyed in the middle of a batch leaves nothing to its successor`() throws {
        var before: End? = try End(resources)
        before?.append("of the life before")
        before?.socket.close()
        before = nil
        let after = try End(resources)
        #expect(after.socket.isBatchEmpty)
        after.append("new")
        after.socket.finishBatch { _ = after.socket.sendBatch() }
        #expect(after.received() == ["new"])
        after.socket.close()
    }

    @Test func `messages that wait leave over another socket before those of the batch`() throws {
        let end = try End(resources)
        for text in ["1", "2"] { end.append(text) }
        end.socket.finishBatch { #expect(end.socket.keepBatch() == 0) }
        end.append("3")
        #expect(end.socket.gatherPending() == 0)
        #expect(!end.socket.hasPending && end.socket.batchCount == 3)
        try end.reconnect()
        end.socket.finishBatch { #expect(end.socket.sendBatch().error == 0) }
        #expect(end.received() == ["1", "2", "3"])
        end.append("4")
        #expect(end.socket.removeMessages() == 1 && end.socket.isBatchEmpty)
        end.socket.close()
    }

    @Test func `messages that a full queue refuses wait and leave in their order`() throws {
        let end = try End(resources)
        var sent = 0
        // Fills the other end's queue, however long it is.
        while !end.socket.hasPending, sent < 100_000 {
            for _ in 0..<16 {
                end.append("\(sent)")
                sent += 1
            }
            end.socket.finishBatch {
                let outcome = end.socket.sendBatch()
                guard end.socket.remainder(after: outcome.error) == .waits else { return }
                #expect(end.socket.keepBatch(from: outcome.handled) == 0)
            }
        }
        #expect(end.socket.hasPending)
        var arrived: [String] = []
        while end.socket.hasPending {
            arrived += end.received()
            try loop.poll(timeout: .seconds(1))
        }
        arrived += end.received()
        #expect(arrived == (0..<sent).map { "\($0)" })
        // Once nothing waits, room is of no interest.
        let count = end.events.count
        try loop.poll(timeout: .zero)
        #expect(end.events.count == count)
        end.socket.close()
    }

    @Test func `the queue has a bound`() throws {
        let end = try End(resources)
        for _ in 0..<70 { end.append("x") }
        var dropped = 0
        end.socket.finishBatch { dropped = end.socket.keepBatch() }
        #expect(dropped == 6)
        try loop.poll(timeout: .zero)
        #expect(end.received().count == 64)
        end.socket.close()
    }

    @Test func `messages that waited and are refused can leave over another socket`() throws {
        let end = try End(resources)
        for number in 0..<3 { end.append("\(number)") }
        end.socket.finishBatch { _ = end.socket.keepBatch() }
        end.shutDownOther()
        var handled: [Int] = []
        end.socket.sendPending { outcome in
            handled.append(outcome.handled)
            do {
                try end.reconnect()
                _ = end.socket.sendBatch(from: outcome.handled)
            } catch {
                Issue.record(error)
            }
        }
        #expect(handled == [0])
        #expect(!end.socket.hasPending && end.socket.isBatchEmpty)
        #expect(end.received() == ["0", "1", "2"])
        end.socket.close()
    }

    @Test func `a socket may be closed while it is read empty`() throws {
        let end = try End(resources)
        for number in 0..<3 { end.write("\(number)") }
        var read: [Int] = []
        end.socket.receiveAll { index in
            read.append(index)
            end.socket.close()
        }
        #expect(read == [0, 1, 2])
        #expect(!end.socket.isOpen)
    }

    @Test func `a closed socket sends nothing and drops what waits when it is told`() throws {
        let end = try End(resources)
        end.append("x")
        end.socket.finishBatch { _ = end.socket.keepBatch() }
        end.socket.close()
        #expect(end.socket.hasPending)
        end.socket.removeMessages()
        #expect(!end.socket.hasPending && resources.pendingBudget.used == 0)
        end.append("y")
        var error: Int32 = 0
        end.socket.finishBatch { error = end.socket.sendBatch().error }
        #expect(error == EBADF)
    }

    private static let remainders: [(Int32, MessageSocket.Transport, MessageSocket.Remainder)] = [
        (0, .udp, .none), (EMSGSIZE, .udp, .none), (EMSGSIZE, .unix, .none), (EAGAIN, .udp, .waits),
        (EAGAIN, .unix, .waits), (ENOBUFS, .unix, .waits),
        // An interface's full queue: the socket itself has room, and to wait for it would be to spin.
        (ENOBUFS, .udp, .none), (ECONNREFUSED, .udp, .refused), (ECONNREFUSED, .unix, .refused),
        (EHOSTUNREACH, .udp, .refused), (EPIPE, .unix, .refused),
    ]

    @Test(arguments: remainders)
    func `an error says what becomes of the messages that are left`(
        _ error: Int32, _ transport: MessageSocket.Transport, _ expected: MessageSocket.Remainder
    ) {
        #expect(MessageSocket.Remainder(after: error, over: transport) == expected)
    }
}
