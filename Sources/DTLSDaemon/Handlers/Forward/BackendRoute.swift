import LinuxSystem
import Primitives

/// The way of one client's messages to a backend (handler "forward"): which backend they go to, when the socket is
/// connected, and what happens to messages that were not taken. It does no I/O. Each call takes what has happened and
/// returns what is to be done next; ``ForwardHandler`` does it.
///
/// The backend is the first one in the client's own order that takes datagrams (``ForwardBackends``). It is chosen
/// again whenever messages are to be sent, so a client goes back to its own backend once that is up again.
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
        case outage(backend: Int, errno: Int32)
        /// A backend that had refused so many times takes datagrams again.
        case recovery(backend: Int, refusals: UInt64)
    }

    struct Transition: Equatable {
        var step: Step
        var notice: Notice?
    }

    private let backends: ForwardBackends
    /// The client's part in the choice.
    private let client: UInt64
    /// Names the connection where a backend is on trial with one connection's messages.
    private let connection: ObjectIdentifier
    /// The backend that is first in the client's order.
    private let home: Int
    /// The backend that the client's messages go to now.
    private(set) var backend: Int
    /// Whether the socket is connected to ``backend``. A Unix socket has to be connected again after its backend was
    /// restarted, since that has made a new socket under the old path.
    private var isConnected = false
    /// Whether the messages were sent once more after an error that may have been an earlier datagram's, or an old Unix
    /// socket's.
    private var hasRetried = false

    init(_ backends: ForwardBackends, client address: SocketAddress, connection: ObjectIdentifier) {
        self.backends = backends
        self.connection = connection
        client = backends.areSeveral ? RendezvousHash.client(address) : 0
        home = backends.areSeveral ? backends.home(of: client) : 0
        backend = home
    }

    var transport: MessageSocket.Transport {
        switch backends.backends[backend].address {
        case .udp: .udp
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
        if isConnected, backend == home, !backends.areSeveral || backends.isServing(home) { return .send }
        return choose(now: now)
    }

    private mutating func choose(now: Instant) -> Step {
        if backends.areSeveral, switchBackend(now: now) { return .switchBackend }
        return isConnected ? .send : .connect
    }

    /// Goes over to the backend that is the right one now.
    /// - Returns: false where that is the present one.
    private mutating func switchBackend(now: Instant) -> Bool {
        let better = backends.choice(of: client, for: connection, now: now)
        if better == backend { return false }
        backend = better
        isConnected = false
        return true
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
        let notice = noteRefusal(error, now: now)
        let hasSwitched = backends.areSeveral && switchBackend(now: now)
        return Transition(step: hasSwitched ? .switchBackend : .finish, notice: notice)
    }

    /// Messages are about to be sent to ``backend``. Where it is in an outage, this is its trial.
    @inline(__always)
    func willSend(now: Instant) -> Notice? {
        backends.isServing(backend) ? nil : beginTrial(now: now)
    }

    private func beginTrial(now: Instant) -> Notice? {
        backends.begin(backend, by: connection, now: now).map { .recovery(backend: backend, refusals: $0) }
    }

    /// Messages were sent, with this errno, or 0. As long as the clock stands still, this ends in `keepRest` or
    /// `finish` after a bounded number of steps: a backend that has refused is not chosen again, unless all have.
    mutating func sent(_ error: Int32, now: Instant) -> Transition {
        switch MessageSocket.Remainder(after: error, over: transport) {
        case .none:
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
        backends.isServing(backend) ? nil : endOutage()
    }

    private func endOutage() -> Notice? {
        backends.noteAnswer(backend).map { .recovery(backend: backend, refusals: $0) }
    }

    /// The socket has given an error that says that ``backend`` takes no datagrams.
    func noteRefusal(_ error: Int32, now: Instant) -> Notice? {
        backends.noteRefusal(backend, now: now) ? .outage(backend: backend, errno: error) : nil
    }
}
