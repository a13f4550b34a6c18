import LinuxSystem
import Primitives

/// The way of one client's messages to a backend (handler "forward"): which backend they go to, when the socket is
/// connected, and what happens to messages that were not taken. It does no I/O. Each call takes what has happened and
/// returns what is to be done next; ``ForwardHandler`` does it.
///
/// The backend is the first one in the client's own order that takes datagrams (``ForwardBackends``). It is chosen
/// again whenever messages are to be sent, so a client goes back to its own backend once that is up again.
///
/// A reload may change the backends. A connection stays with its own as long as that stands in the configuration, also
/// where a new one comes before it in the client's order, since the backend may keep a state of its client. When its
/// own is gone, the connection moves with its next message.
struct BackendRoute {
    /// What is to be done next for the messages that are to be sent.
    enum Step: Equatable {
        /// Connect the socket to ``backend``; open one first where there is none.
        case connect
        /// Close the socket, which belongs to another backend, and connect a new one to ``backend``.
        case switchBackend
        /// Send the messages that are left over the socket, which is connected.
        case send
        /// The backend's queue is full: the messages that are left wait until it has room.
        case keepRest
        /// Nothing more. Messages that are left are dropped.
        case finish
    }

    /// What an operator is to be told.
    enum Notice: Equatable {
        /// A backend refuses datagrams from now on; `errno` says why.
        case outage(backend: ForwardBackend, errno: Int32)
        /// A backend that had refused so many times takes datagrams again.
        case recovery(backend: ForwardBackend, refusals: UInt64)
    }

    struct Transition: Equatable {
        var step: Step
        var notice: Notice?
    }

    private var backends: ForwardBackends
    /// The client's part in the choice.
    private let client: UInt64
    /// Names the connection where a backend is on trial with one connection's messages.
    private let connection: ObjectIdentifier
    /// The backend that the connection returns to after an outage: the first in the client's order when the connection
    /// began, or when it had to choose again.
    private var home: ForwardBackend
    /// The backend that the client's messages go to now.
    private(set) var backend: ForwardBackend
    /// Whether the socket is connected to ``backend``. A Unix socket has to be connected again after its backend was
    /// restarted, since that has made a new socket under the old path.
    private var isConnected = false
    /// Whether the messages were sent once more after an error that may have been an earlier datagram's, or an old Unix
    /// socket's.
    private var hasRetried = false

    /// - Parameter last: the backend that the connection has been with in another process; `nil` for a new connection.
    init(
        _ backends: ForwardBackends, client address: SocketAddress, connection: ObjectIdentifier,
        last: ForwardBackend? = nil
    ) {
        self.backends = backends
        self.connection = connection
        client = RendezvousHash.client(address)
        home = last ?? backends.home(of: client)
        backend = home
    }

    var transport: MessageSocket.Transport {
        switch backend.configuration.address {
        case .udp, .name: .udp
        case .unix: .unix
        }
    }

    // MARK: Sending

    /// Messages are to be sent, or a socket is to be made ready for the first ones.
    @inline(__always)
    mutating func begin(now: Instant) -> Step {
        hasRetried = false
        return next(now: now)
    }

    @inline(__always)
    private mutating func next(now: Instant) -> Step {
        if isConnected, backend == home, home.isConfigured, home.isServing || !backends.areSeveral { return .send }
        return choose(now: now)
    }

    private mutating func choose(now: Instant) -> Step {
        if switchBackend(now: now) { return .switchBackend }
        return isConnected ? .send : .connect
    }

    /// Goes over to the backend that is the right one now.
    /// - Returns: false where that is the present one.
    private mutating func switchBackend(now: Instant) -> Bool {
        followReload()
        let better = backends.choice(of: client, home: home, for: connection, now: now)
        if better == backend { return false }
        backend = better
        isConnected = false
        return true
    }

    /// A reload has left the rule of ``backend`` out: the messages go to these from now on.
    mutating func change(to backends: ForwardBackends) { self.backends = backends }

    /// Whether ``backend`` stands in the configuration as it did when it was chosen.
    @inline(__always)
    var isBackendConfigured: Bool { backend.isConfigured }

    /// Whether a reload has left ``backend`` out, so that the next message goes to another one.
    @inline(__always)
    var isBackendGone: Bool { !backend.isConfigured && backends.successor(of: backend) == nil }

    /// Finds another home where a reload has left it out.
    private mutating func followReload() {
        // A reload may have left an address out, and another one have brought it back.
        if !backend.isConfigured, let same = backends.successor(of: backend) { backend = same }
        if home.isConfigured { return }
        home = backends.successor(of: home) ?? (backend.isConfigured ? backend : backends.home(of: client))
    }

    /// The socket has been connected to ``backend``.
    mutating func connected() -> Step {
        isConnected = true
        return .send
    }

    /// There is no socket, for want of descriptors for example, which is not the backend's fault.
    mutating func socketFailed() -> Step {
        isConnected = false
        return .finish
    }

    /// The socket could not be connected to ``backend``.
    mutating func connectFailed(_ error: Int32, now: Instant) -> Transition {
        let notice = backend.isResolved ? noteRefusal(error, now: now) : nil
        let hasSwitched = switchBackend(now: now)
        return Transition(step: hasSwitched ? .switchBackend : .finish, notice: notice)
    }

    /// Messages are about to be sent to ``backend``. Where it is in an outage, this is its trial.
    @inline(__always)
    func willSend(now: Instant) -> Notice? {
        backend.isServing ? nil : beginTrial(now: now)
    }

    private func beginTrial(now: Instant) -> Notice? {
        guard let refusals = backend.begin(by: connection, now: now) else { return nil }
        backends.noteStates()
        return .recovery(backend: backend, refusals: refusals)
    }

    /// Messages were sent, with this errno, or 0. As long as the clock stands still, this ends in `keepRest` or
    /// `finish` after a bounded number of steps: a backend that has refused is not chosen again, unless all have.
    mutating func sent(_ error: Int32, now: Instant) -> Transition {
        switch MessageSocket.Remainder(after: error, over: transport) {
        case .none:
            backends.noteUse(of: backend)
            // A Unix socket that takes a datagram has somebody who reads it. Over UDP only an answer proves that.
            return Transition(step: .finish, notice: transport == .unix ? markBackendAlive() : nil)
        case .waits:
            return Transition(step: .keepRest)
        case .refused where transport == .unix && !hasRetried:
            isConnected = false
            hasRetried = true
            return Transition(step: next(now: now))
        case .refused:
            let notice = noteRefusal(error, now: now)
            if switchBackend(now: now) {
                hasRetried = false
                return Transition(step: .switchBackend, notice: notice)
            }
            // The error was an earlier datagram's.
            guard transport == .udp, backends.areSeveral, !hasRetried else {
                return Transition(step: .finish, notice: notice)
            }
            hasRetried = true
            return Transition(step: next(now: now), notice: notice)
        }
    }

    /// Messages that had waited for room were refused with this errno. What is left of them is to be sent as if it had
    /// just come.
    mutating func pendingRefused(_ error: Int32, now: Instant) -> Transition {
        var notice: Notice?
        switch transport {
        case .udp: notice = noteRefusal(error, now: now)
        case .unix: isConnected = false
        }
        return Transition(step: begin(now: now), notice: notice)
    }

    // MARK: The backend's health

    /// A datagram from ``backend`` has come, or it has taken one.
    @inline(__always)
    func markBackendAlive() -> Notice? {
        backend.isServing ? nil : endOutage()
    }

    private func endOutage() -> Notice? {
        guard let refusals = backend.noteAnswer() else { return nil }
        backends.noteStates()
        return backend.isConfigured ? .recovery(backend: backend, refusals: refusals) : nil
    }

    /// The socket has given an error that says that ``backend`` takes no datagrams. An operator is told of backends
    /// that stand in the configuration.
    func noteRefusal(_ error: Int32, now: Instant) -> Notice? {
        let beginsOutage = backend.noteRefusal(now: now) && backend.isConfigured
        backends.countError(beginsOutage: beginsOutage)
        backends.noteRefusal(by: backend, now: now)
        return beginsOutage ? .outage(backend: backend, errno: error) : nil
    }
}
