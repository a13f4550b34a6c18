import DTLSTransport
import LinuxSystem
import TestSupport
import Testing

/// One end of a channel in a loop, and all that it has told its delegate.
private final class End: MessageChannelDelegate {
    private(set) var channel: MessageChannel?
    /// The messages, by their bytes, and how many descriptors came with them.
    private(set) var messages: [[UInt8]] = []
    private(set) var descriptors = 0
    private(set) var ends = 0
    /// Runs with each message.
    var react: (End) -> Void = { _ in }

    func open(_ descriptor: consuming FileDescriptor, loop: EventLoop) throws {
        channel = try MessageChannel(descriptor, loop: loop, delegate: self)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        messages.append(Array(message))
        switch consume descriptor {
        case .some(let descriptor): if descriptor.isOpen { descriptors += 1 }
        case nil: break
        }
        react(self)
    }

    func channelEnded(_ channel: MessageChannel) { ends += 1 }

    func close() { channel?.close() }
}

/// Both ends of a channel, each in a loop of its own, so that a test says whose turn it is.
private struct Fixture {
    let nearLoop: EventLoop
    let farLoop: EventLoop
    let near = End()
    let far = End()

    init() throws {
        nearLoop = try EventLoop()
        farLoop = try EventLoop()
        var pair = try UnixChannel.pair()
        try near.open(pair.one.take(), loop: nearLoop)
        try far.open(pair.other.take(), loop: farLoop)
    }

    func offer(_ bytes: [UInt8]) -> Bool { near.channel?.offer(bytes) ?? false }

    func send(_ bytes: [UInt8]) { near.channel?.send(bytes) }

    var isFull: Bool { near.channel?.isFull ?? false }

    /// Lets both ends work until neither has more to do: as many turns as `count` messages can take.
    func exchange() throws {
        for _ in 0..<200 {
            try farLoop.poll(timeout: .zero)
            try nearLoop.poll(timeout: .zero)
        }
    }

    /// Offers messages of 4 KiB until one is refused, and returns how many were taken.
    func fill() -> Int {
        var count = 0
        while offer(Self.message(count)) { count += 1 }
        return count
    }

    static func message(_ number: Int, size: Int = 4_096) -> [UInt8] {
        [UInt8(truncatingIfNeeded: number)] + [UInt8](repeating: 0xee, count: size - 1)
    }
}

@Suite struct MessageChannelTests {
    @Test func `messages arrive whole and in their order, 64 in a turn`() throws {
        let channel = try Fixture()
        let messages = (0..<100).map { Fixture.message($0, size: $0 + 1) }
        for message in messages { #expect(channel.offer(message)) }
        try channel.farLoop.poll(timeout: .zero)
        #expect(channel.far.messages == Array(messages.prefix(64)), "others of the loop get their turn then")
        try channel.farLoop.poll(timeout: .zero)
        #expect(channel.far.messages == messages)
    }

    @Test func `reading to the end takes more than a turn's messages, and tells the end after them`() throws {
        let channel = try Fixture()
        let messages = (0..<100).map { Fixture.message($0, size: $0 + 1) }
        for message in messages { #expect(channel.offer(message)) }
        channel.far.channel?.readToEnd()
        #expect(channel.far.messages == messages)
        #expect(channel.far.ends == 0, "the other end is open")
        #expect(channel.offer([1]))
        channel.near.close()
        channel.far.channel?.readToEnd()
        #expect(channel.far.messages == messages + [[1]])
        #expect(channel.far.ends == 1)
        channel.far.channel?.readToEnd()
        #expect(channel.far.ends == 1)
    }

    @Test func `work waits until all messages are sent, or until nobody can read them`() throws {
        let channel = try Fixture()
        var done: [Int] = []
        channel.near.channel?.whenAllIsSent { done.append(1) }
        #expect(done == [1], "nothing waits")
        let taken = channel.fill()
        channel.send([1])
        channel.near.channel?.whenAllIsSent { done.append(2) }
        #expect(done == [1])
        try channel.exchange()
        #expect(channel.far.messages.count == taken + 1)
        #expect(done == [1, 2])
        _ = channel.fill()
        channel.send([1])
        channel.near.channel?.whenAllIsSent { done.append(3) }
        channel.far.close()
        try channel.nearLoop.poll(timeout: .zero)
        #expect(done == [1, 2, 3])
        channel.near.channel?.whenAllIsSent { done.append(4) }
        #expect(done == [1, 2, 3, 4], "the channel is closed")
    }

    @Test func `a full channel refuses offers until its reader has made room`() throws {
        let channel = try Fixture()
        let taken = channel.fill()
        #expect(taken > 0)
        #expect(channel.isFull)
        #expect(!channel.offer([1]), "there is no room for a smaller one either")
        try channel.nearLoop.poll(timeout: .zero)
        #expect(channel.isFull, "nothing has been read")
        try channel.exchange()
        #expect(!channel.isFull)
        #expect(channel.far.messages.count == taken, "a refused message is not sent later")
        #expect(channel.offer([1]))
    }

    @Test func `messages that must arrive wait for room, and stay ahead of later ones`() throws {
        let channel = try Fixture()
        let taken = channel.fill()
        let urgent = (0..<300).map { Fixture.message($0, size: 2_000) }
        for message in urgent { channel.send(message) }
        try channel.farLoop.poll(timeout: .zero)
        #expect(!channel.offer([1]), "there is room now, which is for the messages that wait")
        try channel.exchange()
        #expect(Array(channel.far.messages.dropFirst(taken)) == urgent)
        #expect(channel.offer([1]))
        try channel.exchange()
        #expect(channel.far.messages.last == [1])
    }

    @Test func `a descriptor waits with its message, and is closed here when it has been sent`() throws {
        let channel = try Fixture()
        let taken = channel.fill()
        let attached = try Fixture()
        // The far end of `attached` hears of its near end's going when the last copy of it is closed.
        var pair = try UnixChannel.pair()
        try attached.far.open(pair.one.take(), loop: attached.farLoop)
        channel.near.channel?.send([1], descriptor: pair.other.take())
        try attached.farLoop.poll(timeout: .zero)
        #expect(attached.far.ends == 0, "the waiting message keeps it open")
        try channel.exchange()
        #expect(channel.far.messages.count == taken + 1)
        #expect(channel.far.descriptors == 1)
        try attached.farLoop.poll(timeout: .zero)
        #expect(attached.far.ends == 1, "the receiver has closed its copy, and no other is left")
    }

    @Test func `closing a channel closes the descriptors of the messages that wait`() throws {
        let channel = try Fixture()
        _ = channel.fill()
        let attached = try Fixture()
        var pair = try UnixChannel.pair()
        try attached.far.open(pair.one.take(), loop: attached.farLoop)
        channel.near.channel?.send([1], descriptor: pair.other.take())
        channel.near.close()
        try attached.farLoop.poll(timeout: .zero)
        #expect(attached.far.ends == 1)
    }

    @Test func `a copy of an offered descriptor arrives, and the original stays open`() throws {
        let channel = try Fixture()
        let file = try MemoryFile.make([1, 2, 3], name: "offered")
        #expect(channel.near.channel?.offer([1], descriptor: file.rawValue) == true)
        try channel.exchange()
        #expect(channel.far.descriptors == 1)
        #expect(try MemoryFile.read(file) == [1, 2, 3])
    }

    @Test func `a message above the maximal size is not sent, and does not count as a full channel`() throws {
        let channel = try Fixture()
        let tooLong = [UInt8](repeating: 1, count: UnixChannel.maximumMessageSize + 1)
        #expect(!channel.offer(tooLong))
        channel.send(tooLong)
        #expect(!channel.isFull)
        #expect(channel.offer(Array(tooLong.dropFirst())))
        try channel.exchange()
        #expect(channel.far.messages.map(\.count) == [UnixChannel.maximumMessageSize])
    }

    @Test func `a message that is too long for the reader, or has no bytes, comes as one without bytes`() throws {
        let loop = try EventLoop()
        let end = End()
        var pair = try UnixChannel.pair()
        try end.open(pair.one.take(), loop: loop)
        let tooLong = [UInt8](repeating: 1, count: UnixChannel.maximumMessageSize + 1)
        for message in [[1], tooLong, [2], [], [3]] {
            try #require(try message.withUnsafeBytes { try UnixChannel.send($0, over: pair.other) })
        }
        try loop.poll(timeout: .zero)
        #expect(end.messages == [[1], [], [2], [], [3]])
        #expect(end.ends == 0)
    }

    @Test func `the end is told once, after the messages that came before it`() throws {
        let channel = try Fixture()
        #expect(channel.offer([1]))
        #expect(channel.offer([2]))
        channel.near.close()
        try channel.exchange()
        #expect(channel.far.messages == [[1], [2]])
        #expect(channel.far.ends == 1)
        #expect(channel.far.channel?.isOpen == false)
        #expect(channel.near.ends == 0, "an end that closes the channel knows")
    }

    @Test func `an end whose messages nobody reads any more is told the end`() throws {
        let channel = try Fixture()
        let taken = channel.fill()
        channel.send([1])
        channel.far.close()
        try channel.nearLoop.poll(timeout: .zero)
        #expect(taken > 0)
        #expect(channel.near.ends == 1)
        #expect(!channel.offer([2]), "a closed channel takes nothing")
        channel.send([3])
        #expect(channel.near.channel?.isFull == true || channel.near.channel?.isOpen == false)
    }

    @Test func `a delegate that closes the channel gets no further message`() throws {
        let channel = try Fixture()
        for number in 0..<3 { #expect(channel.offer([UInt8(number)])) }
        channel.far.react = { if $0.messages.count == 2 { $0.close() } }
        try channel.exchange()
        #expect(channel.far.messages == [[0], [1]])
        #expect(channel.far.ends == 0)
        #expect(channel.near.ends == 1)
    }

    @Test func `a message without its descriptor says that one was lost`() throws {
        let lost = try OwnThread.run(freeDescriptors: 6) {
            let loop = try EventLoop()
            let recorder = LossRecorder()
            var pair = try UnixChannel.pair()
            let channel = try MessageChannel(pair.one.take(), loop: loop, delegate: recorder)
            let file = try MemoryFile.make([1], name: "attached")
            let other = pair.other.take()
            let raw = file.rawValue
            for number in [UInt8(1), 2, 3] {
                try #require(try [number].withUnsafeBytes { try UnixChannel.send($0, descriptor: raw, over: other) })
                // Each descriptor that arrives is kept, until there is room for none.
                try loop.poll(timeout: .zero)
            }
            try #require(try [4].withUnsafeBytes { try UnixChannel.send($0, over: other) })
            try loop.poll(timeout: .zero)
            channel.close()
            return recorder.received
        }
        #expect(lost == [.with, .with, .lost, .without])
    }
}

/// Keeps every descriptor that comes.
private final class LossRecorder: MessageChannelDelegate {
    enum Received: Sendable { case with, without, lost }

    private final class Kept {
        let descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private(set) var received: [Received] = []
    private var kept: [Kept] = []

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        switch consume descriptor {
        case .some(let descriptor):
            kept.append(Kept(descriptor))
            received.append(.with)
        case nil: received.append(descriptorWasLost ? .lost : .without)
        }
    }

    func channelEnded(_ channel: MessageChannel) {}
}
