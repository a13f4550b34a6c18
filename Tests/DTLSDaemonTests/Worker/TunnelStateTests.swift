import Glibc
import Primitives
import Testing

@testable import DTLSDaemon

/// What a client's tunnel does when, without a socket and by a clock that the tests set.
@Suite struct TunnelStateTests {
    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    private func time(_ seconds: Double) -> Instant { Self.start + .seconds(seconds) }

    /// A tunnel that does nothing by itself.
    private func idle(answer: Duration = .zero, idle: Duration = .zero) -> TunnelState {
        TunnelState(TunnelState.Timeouts(answer: answer, idle: idle), now: Self.start)
    }

    /// A tunnel whose first connection is being made.
    private func connecting(answer: Duration = .zero, idle: Duration = .zero) -> TunnelState {
        var state = self.idle(answer: answer, idle: idle)
        let delivery = state.deliver(now: Self.start)
        #expect(delivery == .keepAndConnect)
        return state
    }

    private func established(answer: Duration = .zero, idle: Duration = .zero) -> TunnelState {
        var state = connecting(answer: answer, idle: idle)
        state.connectionEstablished(now: Self.start)
        return state
    }

    // MARK: Connecting

    @Test func `the first datagram connects and the next ones wait`() {
        var state = connecting()
        #expect(state.deliver(now: time(0)) == .keep)
        state.connectionEstablished(now: time(0))
        #expect(state.phase == .established)
        #expect(state.deliver(now: time(0)) == .send)
    }

    @Test func `pauses after failures double up to half a minute`() {
        var state = connecting()
        var now = time(0)
        var pauses: [Int] = []
        for _ in 0..<9 {
            guard case .handshakeFailed(let pause) = state.connectionEnded(now: now, chance: 0.5) else {
                Issue.record("a failure in phase \(state.phase) has no pause")
                return
            }
            pauses.append(pause.milliseconds)
            #expect(state.deliver(now: now) == .keep)
            #expect(state.deadline == now + pause)
            #expect(state.timePassed(now: now + pause - .nanoseconds(1), hasPending: true) == .nothing)
            now = now + pause
            #expect(state.timePassed(now: now, hasPending: true) == .connect)
        }
        #expect(pauses == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000])
    }

    @Test(arguments: [(-1.0, 400), (0.0, 400), (0.25, 450), (1.0, 600), (7.0, 600)])
    func `chance shortens or lengthens a pause by a fifth`(_ chance: Double, _ milliseconds: Int) {
        var state = connecting()
        guard case .handshakeFailed(let pause) = state.connectionEnded(now: time(0), chance: chance) else {
            Issue.record("a failure has no pause")
            return
        }
        #expect(abs(pause.nanoseconds - Int64(milliseconds) * 1_000_000) < 1_000)
    }

    /// Without anything to send there is no connection; the next datagram makes one at once, and the next pause is the
    /// longer one.
    @Test func `a pause with nothing to send ends without a connection`() {
        var state = connecting()
        #expect(state.connectionEnded(now: time(0), chance: 0.5) == .handshakeFailed(pause: .milliseconds(500)))
        #expect(state.timePassed(now: time(1), hasPending: false) == .nothing)
        #expect(state.phase == .idle)
        #expect(state.deliver(now: time(1)) == .keepAndConnect)
        #expect(state.connectionEnded(now: time(1), chance: 0.5) == .handshakeFailed(pause: .seconds(1)))
    }

    // MARK: Connections that end

    @Test func `a connection over which the server has sent something is followed by no pause`() {
        var state = connecting()
        _ = state.connectionEnded(now: time(0), chance: 0.5)
        _ = state.timePassed(now: time(1), hasPending: true)
        state.connectionEstablished(now: time(1))
        state.noteServerActive(now: time(1))
        #expect(state.connectionEnded(now: time(1), chance: 0.5) == .connectionLost(pause: nil))
        #expect(state.phase == .idle)
        // The pauses begin small again.
        #expect(state.deliver(now: time(2)) == .keepAndConnect)
        #expect(state.connectionEnded(now: time(2), chance: 0.5) == .handshakeFailed(pause: .milliseconds(500)))
    }

    /// A server that lets clients in only to throw them out again is not asked in a loop.
    @Test func `a short connection without a word from the server is followed by a pause`() {
        var state = established()
        #expect(state.connectionEnded(now: time(9.9), chance: 0.5) == .connectionLost(pause: .milliseconds(500)))
        #expect(state.deliver(now: time(10)) == .keep)
    }

    @Test(arguments: [(0, 10.0), (2, 2.0), (60, 10.0)])
    func `a connection that has lived long enough was of use`(_ answer: Int, _ seconds: Double) {
        var early = established(answer: .seconds(answer))
        #expect(
            early.connectionEnded(now: time(seconds) - .nanoseconds(1), chance: 0.5)
                == .connectionLost(pause: .milliseconds(500)))
        var late = established(answer: .seconds(answer))
        #expect(late.connectionEnded(now: time(seconds), chance: 0.5) == .connectionLost(pause: nil))
    }

    @Test func `what the server said over an earlier connection does not count for the next one`() {
        var state = established()
        state.noteServerActive(now: time(1))
        _ = state.connectionEnded(now: time(1), chance: 0.5)
        _ = state.deliver(now: time(1))
        state.connectionEstablished(now: time(1))
        #expect(state.connectionEnded(now: time(2), chance: 0.5) == .connectionLost(pause: .milliseconds(500)))
    }

    // MARK: A silent server

    @Test func `a server that sends nothing for answer_timeout gets a new connection with the next datagram`() {
        var state = established(answer: .seconds(5))
        #expect(state.deliver(now: time(1)) == .send)
        #expect(!state.isServerSilent(now: time(5.9)))
        #expect(state.deliver(now: time(5.9)) == .send)
        #expect(state.isServerSilent(now: time(6)))
        #expect(state.connectionEnded(now: time(6), chance: 0.5) == .connectionLost(pause: nil))
        #expect(state.deliver(now: time(6)) == .keepAndConnect)
        #expect(!state.isServerSilent(now: time(60)))
        state.connectionEstablished(now: time(6))
        #expect(!state.isServerSilent(now: time(60)))
        #expect(state.deliver(now: time(7)) == .send)
    }

    @Test func `an answer ends the silence`() {
        var state = established(answer: .seconds(5))
        #expect(state.deliver(now: time(1)) == .send)
        state.noteServerActive(now: time(1))
        #expect(!state.isServerSilent(now: time(100)))
        #expect(state.deliver(now: time(100)) == .send)
        #expect(state.deliver(now: time(104)) == .send)
        #expect(!state.isServerSilent(now: time(104)))
        #expect(state.isServerSilent(now: time(105)))
    }

    @Test func `without answer_timeout a server may be silent for ever`() {
        var state = established()
        #expect(state.deliver(now: time(1)) == .send)
        #expect(!state.isServerSilent(now: time(1_000_000)))
    }

    // MARK: Errors of the socket to the server

    @Test func `a closed port ends the connection in every phase`() {
        #expect(connecting().socketFailed(ECONNREFUSED) == .serverIsGone)
        #expect(established().socketFailed(ECONNREFUSED) == .serverIsGone)
    }

    @Test func `a network that cannot be reached ends a handshake and nothing else`() {
        #expect(connecting().socketFailed(ENETUNREACH) == .giveUpHandshake)
        #expect(established().socketFailed(ENETUNREACH) == .nothing)
    }

    @Test func `a full queue is nothing and a datagram that is too large is reported`() {
        #expect(connecting().socketFailed(EAGAIN) == .nothing)
        #expect(connecting().socketFailed(ENOBUFS) == .nothing)
        #expect(established().socketFailed(EMSGSIZE) == .reportTooLarge)
    }

    // MARK: Idle tunnels

    @Test func `a tunnel without datagrams is closed after idle_timeout in every phase`() {
        for state in [self.idle(idle: .seconds(30)), connecting(idle: .seconds(30)), established(idle: .seconds(30))] {
            var state = state
            #expect(state.deadline == time(30))
            #expect(state.timePassed(now: time(30) - .nanoseconds(1), hasPending: true) == .nothing)
            #expect(state.timePassed(now: time(30), hasPending: true) == .closeIdle)
        }
    }

    @Test func `every datagram moves the end of an idle tunnel`() {
        var state = established(idle: .seconds(30))
        state.noteSenderActive(now: time(20))
        #expect(state.deadline == time(50))
        #expect(state.timePassed(now: time(30), hasPending: false) == .nothing)
        #expect(state.timePassed(now: time(50), hasPending: false) == .closeIdle)
    }

    @Test func `a changed configuration changes the timeouts`() {
        var state = established(idle: .seconds(30))
        state.timeouts = TunnelState.Timeouts(answer: .zero, idle: .zero)
        #expect(state.deadline == .distantFuture)
    }

    @Test func `the earlier of two deadlines counts in a pause`() {
        var state = connecting(idle: .seconds(30))
        _ = state.connectionEnded(now: time(0), chance: 0.5)
        #expect(state.deadline == time(0.5))
        state.timeouts = TunnelState.Timeouts(answer: .zero, idle: .milliseconds(100))
        #expect(state.deadline == time(0.1))
    }

    // MARK: The end

    @Test func `nothing happens in a closed tunnel`() {
        var state = connecting(idle: .seconds(30))
        let wasOpen = state.close()
        let wasStillOpen = state.close()
        #expect(wasOpen && !wasStillOpen)
        state.connectionEstablished(now: time(0))
        #expect(state.deliver(now: time(0)) == .drop)
        #expect(state.connectionEnded(now: time(0), chance: 0.5) == .nothing)
        #expect(state.timePassed(now: .distantFuture, hasPending: true) == .nothing)
        #expect(state.deadline == .distantFuture)
        #expect(state.phase == .closed)
    }

    @Test func `the end of an established connection is known even where the tunnel was closed first`() {
        var state = established()
        _ = state.close()
        #expect(state.connectionEnded(now: time(1), chance: 0.5) == .connectionLost(pause: nil))
        #expect(state.connectionEnded(now: time(1), chance: 0.5) == .nothing)
    }

    @Test func `a tunnel that goes on from another process sends at once, and has been of use`() {
        var state = idle()
        state.resumed()
        let delivery = state.deliver(now: time(0))
        #expect(delivery == .send && state.phase == .established)
        // The next connection is made without a pause.
        let ended = state.connectionEnded(now: time(1), chance: 0.5)
        #expect(ended == .connectionLost(pause: nil) && state.phase == .idle)

        var failed = idle()
        failed.resumed()
        failed.resumeFailed()
        let next = failed.deliver(now: time(0))
        #expect(next == .keepAndConnect)
    }

    // MARK: Connection IDs

    private func establishedWithID(answer: Duration = .zero) -> TunnelState {
        var state = connecting(answer: answer)
        state.connectionEstablished(survivesMoves: true, now: time(0))
        return state
    }

    @Test func `a server that knows the connection by its ID is not taken for gone when it is silent`() {
        var silent = established(answer: .seconds(5))
        var known = establishedWithID(answer: .seconds(5))
        for second in 0..<100 {
            _ = silent.deliver(now: time(Double(second)))
            _ = known.deliver(now: time(Double(second)))
        }
        #expect(silent.isServerSilent(now: time(100)) && !known.isServerSilent(now: time(100)))
        // The next connection may be to a server that gives none.
        _ = known.connectionEnded(now: time(100), chance: 0.5)
        _ = known.deliver(now: time(200))
        known.connectionEstablished(now: time(200))
        _ = known.deliver(now: time(200))
        #expect(known.isServerSilent(now: time(206)))
    }

    @Test func `the route is looked at when the server has been silent, in pauses that double up to half a minute`() {
        var state = establishedWithID()
        var checks: [Int] = []
        for second in 0..<150 where state.shallCheckRoute(now: time(Double(second))) { checks.append(second) }
        #expect(checks == [2, 6, 14, 30, 60, 90, 120])
        state.noteServerActive(now: time(150))
        let then = [151.9, 152, 153].map { state.shallCheckRoute(now: time($0)) }
        #expect(then == [false, true, false])

        var others = [established(), connecting()]
        for index in others.indices {
            let isToCheck = others[index].shallCheckRoute(now: time(1_000))
            #expect(!isToCheck)
        }
    }

    @Test func `an address that is gone asks for another socket only where the server knows the connection by its ID`()
    {
        let errors = [EINVAL, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, ENETDOWN]
        let known = establishedWithID()
        #expect(
            errors.map { known.socketFailed($0) }
                == [.replaceSocket, .replaceSocket, .checkRoute, .checkRoute, .checkRoute])
        let unknown = established()
        #expect(errors.allSatisfy { unknown.socketFailed($0) == .nothing })
        let connecting = connecting()
        #expect(errors.allSatisfy { connecting.socketFailed($0) == .giveUpHandshake })
        #expect(known.socketFailed(ECONNREFUSED) == .serverIsGone && known.socketFailed(ENOBUFS) == .nothing)
    }

    // MARK: Servers that have lost their state

    private func establishedWithQuestions() -> TunnelState {
        var state = connecting(answer: .seconds(5))
        state.connectionEstablished(survivesMoves: true, answersQuestions: true, now: time(0))
        return state
    }

    /// Lets time pass from one deadline to the next, and returns what is due when, in seconds.
    private func pass(_ state: inout TunnelState, until end: Double) -> [(TunnelState.Due, Double)] {
        var found: [(TunnelState.Due, Double)] = []
        while state.deadline <= time(end) {
            let now = state.deadline
            let due = state.timePassed(now: now, hasPending: false)
            found.append((due, Double((now - Self.start).nanoseconds) / 1e9))
            if due == .serverIsGone { break }
        }
        return found
    }

    @Test func `a server that does not answer is asked whether it knows the connection, and taken for gone at last`() {
        var state = establishedWithQuestions()
        #expect(pass(&state, until: 1_000).isEmpty)
        _ = state.deliver(now: time(10))
        #expect(state.hasEarlierDeadline && state.takeDeadline() == time(12) && !state.hasEarlierDeadline)
        _ = state.deliver(now: time(11))
        let due = pass(&state, until: 1_000)
        #expect(due.map(\.1) == [12, 13, 15, 19, 27])
        #expect(due.map(\.0) == [.ask, .ask, .ask, .ask, .serverIsGone])
        // The next connection may be to a server that answers no questions.
        _ = state.connectionEnded(now: time(27), chance: 0.5)
        _ = state.deliver(now: time(30))
        state.connectionEstablished(survivesMoves: true, now: time(30))
        _ = state.deliver(now: time(31))
        #expect(pass(&state, until: 1_000).isEmpty)
    }

    @Test func `whatever the server says ends the questions`() {
        for isMessage in [true, false] {
            var state = establishedWithQuestions()
            _ = state.deliver(now: time(0))
            #expect(pass(&state, until: 8).map(\.0) == [.ask, .ask, .ask])
            if isMessage { state.noteServerActive(now: time(8)) } else { state.serverHasAnswered(now: time(8)) }
            #expect(pass(&state, until: 1_000).isEmpty)
            #expect(state.connectionEnded(now: time(9), chance: 0.5) == .connectionLost(pause: nil))
        }
    }

    /// It may be one that takes readings and answers none.
    @Test func `a server that says nothing but that it knows the connection is asked in pauses of up to half a minute`()
    {
        var state = establishedWithQuestions()
        var pauses: [Double] = []
        for round in 0..<6 {
            let now = Double(round) * 100
            _ = state.deliver(now: time(now))
            let due = pass(&state, until: now + 30)
            pauses.append(due[0].1 - now)
            state.serverHasAnswered(now: time(now + 40))
        }
        #expect(pauses == [2, 4, 8, 16, 30, 30])
        state.noteServerActive(now: time(700))
        _ = state.deliver(now: time(700))
        #expect(state.deadline == time(702))
    }

    @Test func `what has not left this machine is no question`() {
        var state = establishedWithQuestions()
        _ = state.deliver(now: time(0))
        #expect(pass(&state, until: 5).map(\.0) == [.ask, .ask, .ask])
        state.noteUnsent()
        #expect(pass(&state, until: 1_000).isEmpty)
        _ = state.deliver(now: time(2_000))
        #expect(state.deadline == time(2_002))
    }
}
