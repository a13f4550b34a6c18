import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

/// A descriptor that a test makes readable, and what its loop says of it.
private final class Source: EventHandler {
    private(set) var registration: EventLoop.Registration?
    private var near: FileDescriptor
    private var far: FileDescriptor
    private(set) var events: [EventLoop.Events] = []
    /// Runs with each event, after it has been noted.
    var react: () -> Void = {}

    init() throws {
        var pair = try UnixChannel.pair()
        near = pair.one.take()
        far = pair.other.take()
    }

    func add(to loop: EventLoop, _ interest: EventLoop.Events = .readable) throws {
        registration = try loop.add(near, interest, self)
    }

    func modify(_ interest: EventLoop.Events, in loop: EventLoop) throws {
        try loop.modify(near, interest, try #require(registration))
    }

    /// - Parameter registration: another one than the source's own, of earlier, perhaps.
    func remove(from loop: EventLoop, _ registration: EventLoop.Registration? = nil) throws {
        loop.remove(near, try #require(registration ?? self.registration))
    }

    func pause(until end: Instant, in loop: EventLoop) throws {
        loop.pause(near, .readable, try #require(registration), until: end)
    }

    func duplicate() throws -> FileDescriptor { try near.duplicate() }

    func close() { _ = near.take() }

    /// The other end goes.
    func hangUp() { _ = far.take() }

    /// Makes it readable, until ``read()``.
    func write() throws { try #require(try [1].withUnsafeBytes { try UnixChannel.send($0, over: far) }) }

    func read() { _ = recv(near.rawValue, nil, 0, Int32(MSG_DONTWAIT) | Int32(MSG_TRUNC)) }

    func ready(_ events: EventLoop.Events) {
        self.events.append(events)
        react()
    }
}

@Suite struct EventLoopTests {
    private let loop: EventLoop

    init() throws { loop = try EventLoop() }

    private func source(_ interest: EventLoop.Events = .readable) throws -> Source {
        let source = try Source()
        try source.add(to: loop, interest)
        return source
    }

    // MARK: Descriptors

    @Test func `a descriptor is reported in every turn for as long as it is ready`() throws {
        let source = try source()
        try loop.poll(timeout: .zero)
        #expect(source.events.isEmpty)
        try source.write()
        try loop.poll(timeout: .zero)
        try loop.poll(timeout: .zero)
        #expect(source.events == [.readable, .readable])
        source.read()
        try loop.poll(timeout: .zero)
        #expect(source.events.count == 2)
    }

    @Test func `a descriptor that is left alone is reported when its pause is over, and then in every turn`() throws {
        let source = try source()
        try source.write()
        let end = Instant.now() + .milliseconds(5)
        try source.pause(until: end, in: loop)
        while Instant.now() < end {
            try loop.poll(timeout: .zero)
            #expect(source.events.isEmpty || loop.now >= end)
        }
        // The pause ends in one turn, and the descriptor is reported in the next.
        for _ in 0..<2 { try loop.poll(timeout: .milliseconds(100)) }
        try loop.poll(timeout: .zero)
        #expect(source.events.count >= 2)
    }

    @Test func `a wait ends when the pause of a descriptor does`() throws {
        let source = try source()
        try source.write()
        try source.pause(until: Instant.now() + .microseconds(300), in: loop)
        for _ in 0..<3 where source.events.isEmpty { try loop.poll(timeout: nil) }
        #expect(source.events == [.readable])
    }

    @Test func `a descriptor that is removed while it is left alone leaves its number to the next`() throws {
        let first = try source()
        try first.pause(until: Instant.now() + .milliseconds(1), in: loop)
        try first.remove(from: loop)
        first.close()
        // It has the number and the place of the first one, and is not to be reported until it can be written to.
        let second = try source([])
        try second.write()
        let end = Instant.now() + .milliseconds(3)
        while Instant.now() < end { try loop.poll(timeout: .milliseconds(1)) }
        #expect(first.events.isEmpty)
        #expect(second.events.isEmpty)
    }

    @Test func `an error of a descriptor that is left alone is reported at once`() throws {
        let source = try source()
        try source.pause(until: Instant.now() + .seconds(3600), in: loop)
        source.hangUp()
        try loop.poll(timeout: .zero)
        #expect(source.events.count == 1)
    }

    @Test func `only what was asked for is reported, and the question can change`() throws {
        let source = try source(.writable)
        try source.write()
        try loop.poll(timeout: .zero)
        try source.modify([.readable, .writable], in: loop)
        try loop.poll(timeout: .zero)
        try source.modify(.readable, in: loop)
        try loop.poll(timeout: .zero)
        try source.modify([], in: loop)
        try loop.poll(timeout: .zero)
        #expect(source.events == [.writable, [.readable, .writable], .readable])
    }

    @Test func `a peer that hangs up is reported though nothing was asked for`() throws {
        let source = try source([])
        source.hangUp()
        try loop.poll(timeout: .zero)
        #expect(source.events.count == 1)
        #expect(source.events.first?.isDisjoint(with: .hangUp) == false)
    }

    @Test func `a removed descriptor is not reported, also where another process has it open`() throws {
        let source = try source()
        // It stands for another process' descriptor: epoll watches the open file, which it keeps.
        let copy = try source.duplicate()
        try source.write()
        try source.remove(from: loop)
        source.close()
        try loop.poll(timeout: .zero)
        #expect(source.events.isEmpty)
        let isOpen = copy.isOpen
        #expect(isOpen)
    }

    @Test func `a descriptor cannot be added twice, and the failure takes up no place`() throws {
        let source = try source()
        #expect(throws: SystemError("epoll_ctl", errno: EEXIST)) { _ = try source.add(to: loop) }
        // The next one uses the place that the failed one was to have.
        let next = try self.source()
        try next.write()
        try loop.poll(timeout: .zero)
        #expect(source.events.isEmpty)
        #expect(next.events == [.readable])
    }

    @Test func `the loop keeps a handler alive until it is removed`() throws {
        weak var handler: Source?
        var registration: EventLoop.Registration?
        try {
            let source = try source()
            handler = source
            registration = source.registration
        }()
        #expect(registration != nil)
        try handler?.write()
        try loop.poll(timeout: .zero)
        #expect(handler?.events == [.readable])
        try handler?.remove(from: loop)
        #expect(handler == nil)
    }

    // MARK: Removal in a turn

    @Test func `a handler that another removes does not get its event of this turn`() throws {
        let first = try source()
        let second = try source()
        // Which comes first is the kernel's affair: each removes the other.
        first.react = { try? second.remove(from: self.loop) }
        second.react = { try? first.remove(from: self.loop) }
        try first.write()
        try second.write()
        try loop.poll(timeout: .zero)
        #expect(first.events.count + second.events.count == 1)
    }

    @Test func `a handler that gets the place of a removed one does not get its event`() throws {
        let sources = [try source(), try source()]
        let newcomer = try Source()
        for (own, other) in [(sources[0], sources[1]), (sources[1], sources[0])] {
            own.react = {
                do {
                    try other.remove(from: self.loop)
                    try newcomer.add(to: self.loop)
                } catch {
                    Issue.record(error)
                }
            }
            try own.write()
        }
        try loop.poll(timeout: .zero)
        #expect(sources.reduce(0) { $0 + $1.events.count } == 1)
        #expect(newcomer.events.isEmpty)
        try newcomer.write()
        for source in sources { source.react = {} }
        try loop.poll(timeout: .zero)
        #expect(newcomer.events == [.readable])
    }

    @Test func `a handler can remove itself, and add itself again`() throws {
        let source = try source()
        source.react = {
            do {
                try source.remove(from: self.loop)
                if source.events.count == 1 { try source.add(to: self.loop) }
            } catch {
                Issue.record(error)
            }
        }
        try source.write()
        for _ in 0..<3 { try loop.poll(timeout: .zero) }
        #expect(source.events == [.readable, .readable])
    }

    @Test func `a registration of earlier does not remove the one that has its place now`() throws {
        let first = try source()
        let outdated = try #require(first.registration)
        try first.remove(from: loop)
        let second = try source()
        try first.remove(from: loop, outdated)
        try second.remove(from: loop, outdated)
        try second.write()
        try loop.poll(timeout: .zero)
        #expect(second.events == [.readable])
        #expect(second.registration != outdated)
    }

    @Test func `many handlers come and go without meeting each other's events`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = SeededGenerator(seed: seed)
        var present: [Source] = []
        for _ in 0..<2_000 {
            if present.count < 20, Bool.random(using: &random) {
                let source = try source()
                source.react = { source.read() }
                present.append(source)
            } else if let index = present.indices.randomElement(using: &random) {
                let source = present.remove(at: index)
                try source.remove(from: loop)
                try source.write()
                source.react = { Issue.record("an event after its removal (seed \(seed))") }
            }
            let written = present.filter { _ in Bool.random(using: &random) }
            for source in written { try source.write() }
            let before = present.map(\.events.count)
            try loop.poll(timeout: .zero)
            for (source, count) in zip(present, before) {
                let isWritten = written.contains { $0 === source }
                #expect(source.events.count == count + (isWritten ? 1 : 0), "seed \(seed)")
            }
        }
    }

    // MARK: Deferred work, timers, and the end

    private final class Timer: TimerTarget {
        let action: () -> Void
        init(_ action: @escaping () -> Void) { self.action = action }
        override func timerFired(now: Instant) { action() }
    }

    @Test func `in a turn events come first, then timers, then deferred work`() throws {
        var order: [String] = []
        let source = try source()
        source.react = {
            order.append("event")
            source.read()
            self.loop.atEndOfTurn { order.append("work of the event") }
        }
        let timer = Timer {
            order.append("timer")
            self.loop.atEndOfTurn { order.append("work of the timer") }
        }
        loop.timers.arm(timer, at: loop.now)
        loop.atEndOfTurn { order.append("work of before") }
        try source.write()
        try loop.poll(timeout: .zero)
        #expect(order == ["event", "timer", "work of before", "work of the event", "work of the timer"])
    }

    @Test func `work that is deferred by deferred work waits for the next turn, which does not wait`() throws {
        var order: [String] = []
        loop.atEndOfTurn {
            order.append("first")
            self.loop.atEndOfTurn { order.append("second") }
        }
        try loop.poll(timeout: .zero)
        #expect(order == ["first"])
        let start = Instant.now()
        try loop.poll(timeout: .seconds(10))
        #expect(order == ["first", "second"])
        #expect(Instant.now() < start + .seconds(10))
    }

    @Test func `a timer that an event disarms does not fire in this turn`() throws {
        var fired = 0
        let timer = Timer { fired += 1 }
        let source = try source()
        source.react = { self.loop.timers.disarm(timer) }
        loop.timers.arm(timer, at: loop.now)
        try source.write()
        try loop.poll(timeout: .zero)
        #expect(fired == 0)
        #expect(loop.timers.earliest == nil)
    }

    @Test func `a timer that is armed for the past by a timer fires in the same turn`() throws {
        var order: [Int] = []
        let second = Timer { order.append(2) }
        let first = Timer {
            order.append(1)
            self.loop.timers.arm(second, at: self.loop.now)
        }
        loop.timers.arm(first, at: loop.now)
        try loop.poll(timeout: .zero)
        #expect(order == [1, 2])
    }

    @Test func `a turn without events ends when the first timer is due, and not before`() throws {
        var fired: Instant?
        let due = Instant.now() + .milliseconds(20)
        let timer = Timer { fired = self.loop.now }
        loop.timers.arm(timer, at: due)
        try loop.poll(timeout: .seconds(10))
        #expect(try #require(fired) >= due)
    }

    @Test func `a turn ends at its timeout where nothing happens`() throws {
        var fired = false
        let timer = Timer { fired = true }
        let start = Instant.now()
        loop.timers.arm(timer, at: start + .milliseconds(3_600_000))
        try loop.poll(timeout: .milliseconds(20))
        #expect(Instant.now() >= start + .milliseconds(20))
        #expect(!fired)
    }

    @Test func `stopping ends the run after its turn`() throws {
        var order: [String] = []
        let source = try source()
        source.react = {
            order.append("event")
            self.loop.stop()
            self.loop.atEndOfTurn { order.append("work") }
        }
        try source.write()
        try loop.run()
        #expect(order == ["event", "work"])
        // The loop can run again.
        try loop.run()
        #expect(order == ["event", "work", "event", "work"])
    }

    @Test func `a stop that came before the run ends it before its first turn, and not the run after`() throws {
        var turns = 0
        let source = try source()
        source.react = {
            turns += 1
            self.loop.stop()
        }
        try source.write()
        loop.stop()
        try loop.run()
        #expect(turns == 0)
        try loop.run()
        #expect(turns == 1)
    }

    @Test func `a waker ends a turn from another thread, and is quiet after its reset`() async throws {
        let waker = try Waker()
        final class Woken: EventHandler {
            var count = 0
            func ready(_ events: EventLoop.Events) { count += 1 }
        }
        let woken = Woken()
        let registration = try loop.add(waker.descriptor, .readable, woken)
        waker.wake()
        waker.wake()
        try loop.poll(timeout: .seconds(10))
        waker.reset()
        try loop.poll(timeout: .zero)
        #expect(woken.count == 1)
        loop.remove(waker.descriptor, registration)
    }
}
