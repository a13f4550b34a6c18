import Primitives

/// Whether one backend takes datagrams, as far as one worker has seen. A backend that refuses is left alone for a while,
/// and a burst of refusals is one line in the log.
///
/// A refusal is the only thing that UDP tells for certain. So the first one begins an outage; after a pause the backend
/// is on trial with one connection's datagrams. An outage ends with an answer, or with a trial that has brought no
/// refusal, since some backends never answer.
struct BackendHealth {
    /// How long a backend is left alone: first, and at most; each trial that fails doubles it.
    static let pauses = (shortest: Duration.seconds(1), longest: Duration.seconds(30))
    /// How long a trial lasts that brings neither an answer nor a refusal. A machine that does not answer ARP is
    /// reported after three seconds.
    static let trialTime = Duration.seconds(5)

    private enum State {
        case serving
        /// It has no address that could be sent to.
        case unresolved
        case resting(until: Instant)
        /// One connection sends to it, to see whether it refuses.
        case onTrial(of: ObjectIdentifier, until: Instant)
    }

    private var state: State
    /// Whether health checks say that it is down, whatever it does with datagrams.
    private var isDown = false
    private var backoff = Backoff(from: Self.pauses.shortest, to: Self.pauses.longest)
    /// When the last trial ended without an answer, which does not prove that the backend is healthy.
    private var healthySince = Instant.distantPast
    private var refusals: UInt64 = 0

    init() { state = .serving }

    private init(state: State) { self.state = state }

    /// Of a backend whose host name has no address. It never changes: other backends take the place of this one.
    static let unresolved = BackendHealth(state: .unresolved)

    var isResolved: Bool {
        if case .unresolved = state { return false }
        return true
    }

    @inline(__always)
    var isServing: Bool {
        if case .serving = state { return !isDown }
        return false
    }

    /// What health checks say. A backend that has passed them takes datagrams, so it ends an outage, too.
    mutating func noteCheck(isDown: Bool) {
        guard isDown != self.isDown else { return }
        self.isDown = isDown
        guard !isDown, isResolved else { return }
        backoff.reset()
        state = .serving
        refusals = 0
    }

    /// - Returns: whether this refusal begins an outage.
    mutating func noteRefusal(now: Instant) -> Bool {
        refusals &+= 1
        switch state {
        case .serving:
            if now - healthySince > Self.pauses.longest { backoff.reset() }
            rest(now: now)
            return true
        case .unresolved:
            return false
        case .onTrial:
            rest(now: now)
            return false
        case .resting(let end):
            // During the pause this is about a datagram that was sent before it, or that was sent all the same since no
            // other backend was left. After the pause it counts as a failed trial: a backend that cannot be connected
            // to has its trial in connect(2), and would otherwise stay the choice.
            if now >= end { rest(now: now) }
            return false
        }
    }

    private mutating func rest(now: Instant) {
        state = .resting(until: now + backoff.next())
    }

    /// A datagram of the backend has come, or a Unix socket has taken one.
    /// - Returns: how many refusals the outage had that has ended now, or `nil` when there was none.
    mutating func noteAnswer() -> UInt64? {
        if case .serving = state { return nil }
        if !isResolved { return nil }
        backoff.reset()
        return endOutage()
    }

    private mutating func endOutage() -> UInt64 {
        state = .serving
        defer { refusals = 0 }
        return refusals
    }

    /// Whether a connection may send to the backend. ``begin(by:now:)`` follows for the backend that was chosen.
    func accepts(_ connection: ObjectIdentifier, now: Instant) -> Bool {
        if isDown { return false }
        return switch state {
        case .serving: true
        case .unresolved: false
        case .resting(let end): now >= end
        case .onTrial(let tester, let end): tester == connection || now >= end
        }
    }

    /// A connection for which ``accepts(_:now:)`` holds begins to send to the backend, or goes on.
    /// - Returns: how many refusals the outage had that has ended now, by a trial without any; else `nil`.
    mutating func begin(by connection: ObjectIdentifier, now: Instant) -> UInt64? {
        switch state {
        case .serving, .unresolved:
            return nil
        case .resting:
            state = .onTrial(of: connection, until: now + Self.trialTime)
            return nil
        case .onTrial(_, let end):
            guard now >= end else { return nil }
            healthySince = now
            return endOutage()
        }
    }
}
