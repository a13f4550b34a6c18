import DTLSTransport
import Glibc
import Primitives

/// The state of one local sender's tunnel (client mode), without I/O and without a clock. Each call takes what has
/// happened and returns what is to be done; ``ClientTunnel`` does it.
///
/// A connection to the server is made when there is something to send. One that fails, or ends before it was of any
/// use, is followed by a pause in which datagrams wait. Pauses double from 0.5 s to 30 s, and begin small again after
/// a connection that was of use.
struct TunnelState {
    enum Phase: Equatable {
        /// There is no connection, and nothing to send.
        case idle
        case connecting
        case established
        /// The last connection was of no use, and the next one is not made before this time.
        case pausing(until: Instant)
        case closed
    }

    /// The times that the configuration gives; zero: no limit.
    struct Timeouts: Equatable {
        /// How long datagrams may be sent and the server send nothing before the connection is replaced.
        let answer: Duration
        /// How long the tunnel may be without a datagram from either side.
        let idle: Duration
        /// `answer` as an integer, since it is looked at for each datagram, and a Duration has 128 bits.
        fileprivate let answerNanoseconds: UInt64

        init(answer: Duration, idle: Duration) {
            self.answer = answer
            self.idle = idle
            answerNanoseconds = UInt64(clamping: answer.nanoseconds)
        }

        /// How long a connection must have lived to have been of use, even if the server has never sent anything.
        fileprivate var useful: Duration { answer > .zero ? min(answer, .seconds(10)) : .seconds(10) }
    }

    /// What is to be done with a datagram for the server.
    enum Delivery: Equatable {
        case send
        /// It waits for the connection.
        case keep
        /// It waits, and a connection is to be made.
        case keepAndConnect
        case drop
    }

    /// What the end of a connection means.
    enum Ended: Equatable {
        /// The handshake has failed. There is another try after the pause.
        case handshakeFailed(pause: Duration)
        /// An established connection has ended. Where it was of no use, the next one is not made before the pause.
        case connectionLost(pause: Duration?)
        /// The tunnel was closed during the handshake.
        case nothing
    }

    /// What is to be done since time has passed.
    enum Due: Equatable {
        case nothing
        case connect
        case closeIdle
        /// The server is to be asked whether it knows the connection (``Connection/askPeer()``).
        case ask
        /// The server has not answered: it has lost its state, and the connection is to be closed.
        case serverIsGone
    }

    /// What an errno of the socket to the server asks for.
    enum SocketFailure: Equatable {
        case nothing
        /// A router has said that a datagram which has left already was too large.
        case reportTooLarge
        /// Nothing listens at the server's port, so the connection is to be closed. If that is forged, it costs a new
        /// handshake and no more.
        case serverIsGone
        /// The handshake is to be given up, since another try later is better than to wait for its end.
        case giveUpHandshake
        /// The socket's own address is gone. The connection goes on over another socket.
        case replaceSocket
        /// Perhaps the server is to be reached from another address of this machine by now.
        case checkRoute
    }

    private(set) var phase = Phase.idle
    var timeouts: Timeouts
    private var backoff = Backoff(from: .milliseconds(500), to: .seconds(30))
    /// When the last datagram came, from either side, or was taken by the sender.
    private var lastActive: Instant
    /// When the present connection was established; `nil` where none is.
    private var establishedAt: Instant?
    /// Whether the server has sent anything over the present connection.
    private var hasHeardServer = false
    /// Whether the server knows the connection by its connection ID (RFC 9146), whatever address it is used from.
    private var survivesMoves = false
    /// Whether the server answers when it is asked whether it knows the connection (RFC 9853).
    private var answersQuestions = false
    private var question: Question?
    /// How long datagrams are unanswered before the server is asked.
    private var questionPause = TunnelState.questionPauses.lowerBound
    /// Whether ``deadline`` has become earlier than it was.
    private(set) var hasEarlierDeadline = false
    private var route = RouteCheck()
    /// When the first datagram was sent that the server has sent nothing since; `nil` where there is none.
    private var unansweredSince: Instant?

    /// A server that is asked whether it knows the connection.
    private struct Question {
        var count = 1
        /// When it is asked again, or taken for gone.
        var due: Instant
    }

    /// A server is asked so often, with 1 s between the first and the second question, and double the time after each. So
    /// it has 15 s, and the last question 8 s, to answer.
    static let maximumQuestions = 4
    /// The pause is the lower bound where the server has answered the last datagram, and doubles as long as it says nothing
    /// but that it knows the connection: a server need not answer.
    private static let questionPauses = Duration.seconds(2)...Duration.seconds(30)

    init(_ timeouts: Timeouts, now: Instant) {
        self.timeouts = timeouts
        lastActive = now
    }

    // MARK: Datagrams

    /// The sender has sent something, or has taken what the server has sent.
    mutating func noteSenderActive(now: Instant) { lastActive = now }

    /// The server has sent something.
    @inline(__always)
    mutating func noteServerActive(now: Instant) {
        hasHeardServer = true
        unansweredSince = nil
        guard survivesMoves else { return }
        question = nil
        questionPause = Self.questionPauses.lowerBound
        route.heardPeer(now: now)
    }

    /// The server has said that it knows the connection, and nothing else.
    mutating func serverHasAnswered(now: Instant) {
        hasHeardServer = true
        unansweredSince = nil
        question = nil
        questionPause = min(questionPause * 2, Self.questionPauses.upperBound)
        route.heardPeer(now: now)
    }

    /// Datagrams, or a question, have not left this machine: it has no address to send from, or no route. The server cannot
    /// answer them.
    mutating func noteUnsent() {
        guard answersQuestions else { return }
        question = nil
        unansweredSince = nil
    }

    /// Whether it is to be found out, before more is delivered, from which address of this machine the server is reached:
    /// it has not been heard for a while, and answers to an address that is gone would be lost.
    mutating func shallCheckRoute(now: Instant) -> Bool {
        survivesMoves && phase == .established && route.isDue(now: now)
    }

    /// Whether the server has sent nothing for so long that it may have lost its state. Then the connection is to be
    /// closed, before more is delivered.
    ///
    /// A server that has lost its state drops all that is sent to it. Where it has not agreed on return routability checks,
    /// there is no other way to see this than its silence: OpenSSL 3 no longer has heartbeats (RFC 6520), and a peer that
    /// does not know a connection says nothing about its records. Where the server knows the connection by its ID, a new
    /// binding of a NAT is no reason for its silence, and the time is not looked at.
    func isServerSilent(now: Instant) -> Bool {
        let limit = timeouts.answerNanoseconds
        guard limit > 0, !survivesMoves, phase == .established, let since = unansweredSince, now > since else {
            return false
        }
        return now.nanoseconds - since.nanoseconds >= limit
    }

    /// There is a datagram to be sent to the server.
    mutating func deliver(now: Instant) -> Delivery {
        switch phase {
        case .established:
            if unansweredSince == nil {
                unansweredSince = now
                if answersQuestions { hasEarlierDeadline = true }
            }
            return .send
        case .connecting, .pausing: return .keep
        case .closed: return .drop
        case .idle:
            phase = .connecting
            return .keepAndConnect
        }
    }

    // MARK: The connection

    /// The handshake is done.
    /// - Parameters:
    ///   - survivesMoves: whether the server has given a connection ID (RFC 9146), so that the connection can go on from
    ///     another address.
    ///   - answersQuestions: whether it has agreed on return routability checks (RFC 9853), and so answers when it is asked
    ///     whether it knows the connection.
    mutating func connectionEstablished(
        survivesMoves: Bool = false, answersQuestions: Bool = false, now: Instant
    ) {
        guard phase == .connecting else { return }
        begin(survivesMoves, answersQuestions, now: now)
        establishedAt = now
        hasHeardServer = false
    }

    private mutating func begin(_ survivesMoves: Bool, _ answersQuestions: Bool, now: Instant) {
        phase = .established
        self.survivesMoves = survivesMoves
        self.answersQuestions = survivesMoves && answersQuestions
        route = RouteCheck(now: now)
        question = nil
        questionPause = Self.questionPauses.lowerBound
        unansweredSince = nil
    }

    /// The tunnel goes on with a connection that another process has had, and that has been of use.
    /// Its parameters are those of ``connectionEstablished(survivesMoves:answersQuestions:now:)``.
    mutating func resumed(survivesMoves: Bool = false, answersQuestions: Bool = false) {
        guard phase == .idle else { return }
        begin(survivesMoves, answersQuestions, now: .distantPast)
        hasHeardServer = true
    }

    /// There is nothing to go on with: the next datagram makes a connection.
    mutating func resumeFailed() {
        if phase == .established { phase = .idle }
    }

    /// The connection has ended, or could not be made.
    /// - Parameter chance: 0 to 1, evenly distributed. It makes the pause up to 20 % shorter or longer, so that tunnels
    ///   that fail together do not all come back together.
    mutating func connectionEnded(now: Instant, chance: Double) -> Ended {
        let established = establishedAt
        establishedAt = nil
        question = nil
        switch phase {
        case .connecting:
            return .handshakeFailed(pause: pause(now: now, chance: chance))
        case .established:
            let wasUseful = hasHeardServer || established.map { now - $0 >= timeouts.useful } ?? false
            guard wasUseful else { return .connectionLost(pause: pause(now: now, chance: chance)) }
            backoff.reset()
            phase = .idle
            return .connectionLost(pause: nil)
        case .closed:
            return established == nil ? .nothing : .connectionLost(pause: nil)
        case .idle, .pausing:
            return .nothing
        }
    }

    private mutating func pause(now: Instant, chance: Double) -> Duration {
        let length = backoff.next() * (0.8 + 0.4 * min(max(chance, 0), 1))
        phase = .pausing(until: now + length)
        return length
    }

    /// The socket to the server has given an error.
    func socketFailed(_ error: Int32) -> SocketFailure {
        if let fault = OwnAddressFault(errno: error) {
            return maySurvive(by: fault == .isGone ? .replaceSocket : .checkRoute)
        }
        return switch error {
        case EMSGSIZE: .reportTooLarge
        // The datagrams are lost, as on any wire.
        case EAGAIN, ENOBUFS: .nothing
        case ECONNREFUSED: .serverIsGone
        default: phase == .connecting ? .giveUpHandshake : .nothing
        }
    }

    private func maySurvive(by failure: SocketFailure) -> SocketFailure {
        if survivesMoves, phase == .established { return failure }
        return phase == .connecting ? .giveUpHandshake : .nothing
    }

    // MARK: Time

    /// When ``timePassed(now:hasPending:)`` is to be called; ``Instant/distantFuture`` once the tunnel is closed.
    var deadline: Instant {
        switch phase {
        case .closed: .distantFuture
        case .pausing(let end): min(end, idleEnd)
        case .idle, .connecting: idleEnd
        case .established: min(questionDue, idleEnd)
        }
    }

    /// ``deadline``, which has been heard of from now on.
    mutating func takeDeadline() -> Instant {
        hasEarlierDeadline = false
        return deadline
    }

    /// When the server is to be asked, or asked again, or taken for gone.
    private var questionDue: Instant {
        guard answersQuestions else { return .distantFuture }
        return question?.due ?? unansweredSince.map { $0 + questionPause } ?? .distantFuture
    }

    private var idleEnd: Instant { timeouts.idle > .zero ? lastActive + timeouts.idle : .distantFuture }

    /// - Parameter hasPending: whether datagrams wait.
    mutating func timePassed(now: Instant, hasPending: Bool) -> Due {
        if phase == .closed { return .nothing }
        if now >= idleEnd { return .closeIdle }
        if phase == .established { return now >= questionDue ? ask(now: now) : .nothing }
        guard case .pausing(let end) = phase, now >= end else { return .nothing }
        phase = hasPending ? .connecting : .idle
        return hasPending ? .connect : .nothing
    }

    private mutating func ask(now: Instant) -> Due {
        let count = question?.count ?? 0
        guard count < Self.maximumQuestions else {
            question = nil
            unansweredSince = nil
            return .serverIsGone
        }
        question = Question(count: count + 1, due: now + .seconds(1 << count))
        return .ask
    }

    /// The reason for a pause may be gone.
    /// - Returns: whether there was a pause, which has ended.
    mutating func endPause(now: Instant) -> Bool {
        guard case .pausing(let end) = phase, end > now else { return false }
        phase = .pausing(until: now)
        return true
    }

    // MARK: Shutdown

    /// - Returns: false where the tunnel was closed already.
    mutating func close() -> Bool {
        defer { phase = .closed }
        return phase != .closed
    }
}
