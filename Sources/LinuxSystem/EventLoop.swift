import CLinux
import Glibc
import Primitives

/// An object that the event loop calls when a descriptor is ready.
public protocol EventHandler: AnyObject {
    /// The descriptor is ready for what was asked, or has an error or hang-up, which the next system call reports.
    func ready(_ events: EventLoop.Events)
}

/// The epoll loop of one thread: descriptors, timers, and work that is deferred to the end of a turn.
///
/// Not thread-safe, on purpose. A handler may remove itself or others, or stop the loop, at any moment.
public final class EventLoop {
    public struct Events: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let readable = Events(rawValue: EPOLLIN.rawValue)
        public static let writable = Events(rawValue: EPOLLOUT.rawValue)
        /// The peer of a Unix stream or sequenced-packet socket has shut down sending; unread data may remain.
        public static let peerClosed = Events(rawValue: EPOLLRDHUP.rawValue)
        public static let hangUp = Events(rawValue: EPOLLHUP.rawValue | EPOLLERR.rawValue)
    }

    /// A handler's slot in the loop, and which of the successive handlers of that slot is meant.
    public struct Registration: Equatable, Sendable {
        fileprivate let smallIndex: UInt32
        fileprivate let generation: UInt32

        fileprivate init(index: Int, generation: UInt32) {
            smallIndex = UInt32(truncatingIfNeeded: index)
            self.generation = generation
        }

        fileprivate var index: Int { Int(smallIndex) }
    }

    /// A descriptor whose events are not wanted until a point in time. The number is valid as long as the registration is.
    private struct Pause {
        let descriptor: Int32
        let registration: Registration
        let interest: Events
        let end: Instant
    }

    private struct Place {
        var handler: (any EventHandler)?
        var generation: UInt32 = 0
    }

    private let epoll: FileDescriptor
    private var places: [Place] = []
    private var freePlaces: [Int] = []
    private let events: UnsafeMutablePointer<epoll_event>
    private static let eventCapacity = 256
    private var deferred: [() -> Void] = []
    private var isStopped = false
    /// Where it is counted how long turns take and how late timers are, if anywhere. The memory must outlive the loop.
    public var turnTimes: SharedHistogram?
    public var timerDelays: SharedHistogram?
    /// Whether ``now`` is the beginning of a turn whose end was not counted.
    private var hasTurned = false
    private var pauses: [Pause] = []
    private lazy var endOfPauses = CallbackTimer { [unowned self] now in endPauses(now: now) }

    /// The time at which this turn began.
    public private(set) var now: Instant
    /// The number of turns, which begins again at 0 after a long time.
    public private(set) var turn: UInt32 = 0
    public var timers = Timers()

    public init() throws(SystemError) {
        epoll = FileDescriptor(owning: try system("epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) })
        events = .allocate(capacity: Self.eventCapacity)
        now = Instant.now()
    }

    deinit { events.deallocate() }

    /// Watches a descriptor, level-triggered, until `remove`. The loop retains the handler until then.
    public func add(
        _ descriptor: borrowing FileDescriptor, _ interest: Events, _ handler: any EventHandler
    ) throws(SystemError) -> Registration {
        let index = freePlaces.popLast() ?? places.count
        if index == places.count { places.append(Place()) }
        let registration = Registration(index: index, generation: places[index].generation)
        do {
            try control(EPOLL_CTL_ADD, descriptor, interest, registration)
        } catch {
            freePlaces.append(index)
            throw error
        }
        places[index].handler = handler
        return registration
    }

    public func modify(
        _ descriptor: borrowing FileDescriptor, _ interest: Events, _ registration: Registration
    ) throws(SystemError) {
        try control(EPOLL_CTL_MOD, descriptor, interest, registration)
    }

    /// Stops watching a descriptor. Call it before the descriptor is closed or passed on. Its undelivered events of
    /// this turn are dropped.
    public func remove(_ descriptor: borrowing FileDescriptor, _ registration: Registration) {
        guard places.indices.contains(registration.index),
            places[registration.index].generation == registration.generation
        else { return }
        // Closing alone is not enough if another process has the same open file: epoll would still report it.
        var none = epoll_event()
        epoll_ctl(epoll.rawValue, EPOLL_CTL_DEL, descriptor.rawValue, &none)
        places[registration.index].handler = nil
        places[registration.index].generation &+= 1
        freePlaces.append(registration.index)
    }

    /// Delivers no events of this descriptor until `end`, but errors and hang-ups; after that those of `interest`.
    public func pause(
        _ descriptor: borrowing FileDescriptor, _ interest: Events, _ registration: Registration, until end: Instant
    ) {
        guard (try? control(EPOLL_CTL_MOD, descriptor, [], registration)) != nil else { return }
        pauses.append(
            Pause(descriptor: descriptor.rawValue, registration: registration, interest: interest, end: end))
        timers.arm(endOfPauses, at: end)
    }

    private func endPauses(now: Instant) {
        pauses.removeAll { pause in
            guard pause.end <= now else { return false }
            // A descriptor that has been removed since may be closed, and its number another's.
            if places[pause.registration.index].generation == pause.registration.generation {
                try? control(EPOLL_CTL_MOD, pause.descriptor, pause.interest, pause.registration)
            }
            return true
        }
        if let next = pauses.map(\.end).min() { timers.arm(endOfPauses, at: next) }
    }

    private func control(
        _ operation: Int32, _ descriptor: borrowing FileDescriptor, _ interest: Events, _ registration: Registration
    ) throws(SystemError) {
        try control(operation, descriptor.rawValue, interest, registration)
    }

    private func control(
        _ operation: Int32, _ descriptor: Int32, _ interest: Events, _ registration: Registration
    ) throws(SystemError) {
        var event = epoll_event()
        event.events = interest.rawValue
        event.data.u64 = UInt64(registration.generation) << 32 | UInt64(UInt32(truncatingIfNeeded: registration.index))
        _ = try system("epoll_ctl") { epoll_ctl(epoll.rawValue, operation, descriptor, &event) }
    }

    /// Looks at the clock again, after work of this turn that has taken long, or before the first turn.
    public func renewTime() { now = Instant.now() }

    /// Runs `work` at the end of this turn, after all events and timers, or of the next turn if called from there.
    public func atEndOfTurn(_ work: @escaping () -> Void) { deferred.append(work) }

    /// Drops what waits for the end of the turn. A loop that will have no more turns calls this: such work often holds an
    /// object that holds the loop.
    public func dropDeferredWork() { deferred = [] }

    /// Ends `run()` after this turn. Where the loop does not run yet, the next `run()` returns at once.
    public func stop() { isStopped = true }

    /// Runs until `stop()`, or not at all if `stop()` has been called since the last run.
    public func run() throws(SystemError) {
        defer { isStopped = false }
        while !isStopped { try poll(timeout: nil) }
    }

    /// The descriptor of the loop itself, which is readable while any descriptor that it watches is ready (epoll(7)).
    public var descriptor: Int32 { epoll.rawValue }

    /// How long until the next turn is due although no descriptor is ready; `nil`: for ever.
    public var timeUntilDue: Duration? {
        deferred.isEmpty ? timers.earliest.map { max(.zero, $0 - Instant.now()) } : .zero
    }

    /// Runs one turn: waits for the first event or timer, at most for `timeout` (`nil`: without limit), and handles all
    /// that are due.
    public func poll(timeout: Duration?) throws(SystemError) {
        var count = Int(waitForEvents(timeLeft(timeout)))
        if count < 0 {
            // A signal interrupted the wait (SIGCONT). Waiting for the same time again would delay the timers.
            guard errno == EINTR else { throw SystemError("epoll_wait", errno: errno) }
            count = 0
        }
        now = Instant.now()
        turn &+= 1
        hasTurned = true
        if let timerDelays, let earliest = timers.earliest, earliest <= now {
            timerDelays.observe(nanoseconds: now.nanoseconds - earliest.nanoseconds)
        }
        for index in 0..<count { dispatch(events[index]) }
        while let target = timers.popExpired(now: now) { target.timerFired(now: now) }
        let work = deferred
        deferred.removeAll(keepingCapacity: true)
        for item in work { item() }
    }

    @inline(__always)
    private func dispatch(_ event: epoll_event) {
        let index = Int(UInt32(truncatingIfNeeded: event.data.u64))
        let generation = UInt32(truncatingIfNeeded: event.data.u64 >> 32)
        guard index < places.count, places[index].generation == generation, let handler = places[index].handler else {
            return
        }
        handler.ready(Events(rawValue: event.events))
    }

    /// The end of a turn, by the reading of the clock that the wait for the next one needs, too.
    @inline(__always)
    private func countTurn(until present: Instant) {
        guard let turnTimes, hasTurned else { return }
        hasTurned = false
        turnTimes.observe(nanoseconds: present.nanoseconds &- now.nanoseconds)
    }

    /// How long the next wait may take, `nil`: without limit.
    private func timeLeft(_ timeout: Duration?) -> Duration? {
        if isStopped || !deferred.isEmpty {
            if turnTimes != nil { countTurn(until: Instant.now()) }
            return .zero
        }
        let timeout = timeout.map { max(.zero, $0) }
        guard turnTimes != nil || timers.earliest != nil else { return timeout }
        let present = Instant.now()
        countTurn(until: present)
        guard let earliest = timers.earliest else { return timeout }
        let left = max(.zero, earliest - present)
        return timeout.map { min(left, $0) } ?? left
    }

    /// Whether the system has epoll_pwait2(2), with nanoseconds: Linux has it since 5.11, a sandbox may deny it.
    private var waitsForNanoseconds = true

    private func waitForEvents(_ time: Duration?) -> Int32 {
        let capacity = Int32(truncatingIfNeeded: Self.eventCapacity)
        guard let time else { return epoll_wait(epoll.rawValue, events, capacity, -1) }
        if time > .zero, waitsForNanoseconds {
            let (seconds, nanoseconds) = time.nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
            var limit = timespec(tv_sec: Int(seconds), tv_nsec: Int(nanoseconds))
            let count = epoll_pwait2(epoll.rawValue, events, capacity, &limit, nil)
            guard count < 0, errno == ENOSYS || errno == EPERM else { return count }
            waitsForNanoseconds = false
        }
        // The time is rounded up, since waking a millisecond too early would make the loop spin.
        let milliseconds = Int32(clamping: (time.nanoseconds + 999_999) / 1_000_000)
        return epoll_wait(epoll.rawValue, events, capacity, milliseconds)
    }
}

/// Wakes a loop from any thread, by an eventfd that becomes readable.
public final class Waker: Sendable {
    /// The descriptor that the loop watches.
    public let descriptor: FileDescriptor

    public init() throws(SystemError) {
        descriptor = FileDescriptor(owning: try system("eventfd") { eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC)) })
    }

    /// Makes the descriptor readable, if it is not readable already.
    public func wake() {
        var one: UInt64 = 1
        _ = write(descriptor.rawValue, &one, 8)
    }

    /// Makes the descriptor unreadable again.
    public func reset() {
        var count: UInt64 = 0
        _ = read(descriptor.rawValue, &count, 8)
    }
}
