import LinuxSystem
import Primitives

/// Where the peer of a connection with connection IDs (RFC 9146) is, and what may be sent there, without I/O and without
/// a clock. Each call takes what has happened and returns what is to be done; ``Connection`` does it.
///
/// A newer record than all before, from another address, makes that flow the *candidate*. Where both sides have agreed
/// on return routability checks, the candidate is challenged first (RFC 9853, the basic check), and the socket moves when
/// the peer has answered there. Otherwise the socket moves at once. What is sent to an address that is not proven is at
/// most three times what has come from it (RFC 9146, section 6; RFC 9000, section 8.1).
///
/// A socket that is connected to another flow is made by somebody else, and comes later, by ``moved(to:from:)``. One is
/// asked for at a time, so that a peer that changes its address with each record makes no more work than that.
package struct PathCheck {
    /// What is to be done.
    package enum Action: Equatable {
        /// Send a path_challenge with this cookie to the flow, if ``take(_:to:)`` allows it.
        case challenge(UInt64, FlowKey)
        /// The peer is at the flow: the connection wants a socket that is connected there.
        case wantSocket(FlowKey)
        /// Nobody has answered the challenges at the flow.
        case giveUp(FlowKey)
    }

    /// Where a datagram of the connection is to be sent.
    package enum Route: Equatable {
        /// Over the connection's socket.
        case socket
        /// To the candidate, which no socket is connected to.
        case candidate(FlowKey)
        /// Nowhere: as much was sent to the only known address as its proof allows.
        case nowhere
    }

    /// How many times the bytes that have come from an address may be sent there before it is proven: RFC 9000, section
    /// 8.1, and the same number in RFC 9853's limit on amplification.
    package static let amplification = 3

    /// What may be sent to an address before it is proven.
    private struct Budget {
        /// Bytes that may be sent yet.
        var allowance = 0
        var hasSent = false

        mutating func receive(_ count: Int) { allowance += amplification * count }

        mutating func take(_ count: Int) -> Bool {
            guard count <= allowance else { return false }
            allowance -= count
            hasSent = true
            return true
        }
    }

    /// Challenges that were sent to a flow. Any of the cookies is a good answer, since an answer may be late.
    private struct Challenges {
        var cookies: [UInt64]
        /// When the challenge is repeated, or given up.
        var due: Instant
    }

    /// The flow that the peer seems to have moved to.
    private struct Candidate {
        enum Stage {
            case challenged(Challenges)
            /// A socket that is connected there is wanted.
            case wanted
        }

        let flow: FlowKey
        var budget: Budget
        var isProven: Bool
        var stage: Stage
        /// Whether a newer record has come over the present path meanwhile.
        var isAbandoned = false
    }

    /// What is known of the flow that the socket is connected to.
    private enum Standing {
        case proven
        case unproven(Budget, Challenges?)
    }

    /// There is something to be settled.
    private struct Changing {
        var present = Standing.proven
        var candidate: Candidate?
        /// The flow that a socket was asked for, as long as there is no answer.
        var asked: FlowKey?
        /// The proven flow that the peer has left last. It may come back there without a proof.
        var former: FlowKey?

        /// Whether the peer has shown before that it is at the address that it has in a flow.
        func knows(_ flow: FlowKey, present: FlowKey) -> Bool {
            if flow == former { return true }
            guard case .proven = self.present else { return false }
            return flow.peer == present.peer
        }
    }

    /// Of one word: nearly all connections are settled.
    private indirect enum State {
        case settled
        case changing(Changing)
    }

    private var state = State.settled

    /// How long an answer to a challenge is waited for.
    package static let patience = Duration.seconds(1)
    /// The most challenges of a flow.
    package static let maximumChallenges = 4

    /// The peer is where the socket is connected to.
    package init() {}

    /// The socket is connected to a flow that is not proven.
    /// - Parameter allowance: bytes that may be sent there before anything comes; see ``unprovenAllowance``.
    package static func unproven(allowance: Int = 0) -> PathCheck {
        var check = PathCheck()
        check.state = .changing(Changing(present: .unproven(Budget(allowance: allowance), nil)))
        return check
    }

    /// Bytes that may yet be sent to the flow that the socket is connected to; `nil` where the peer has shown that it is
    /// there.
    package var unprovenAllowance: Int? {
        guard case .changing(let changing) = state, case .unproven(let budget, _) = changing.present else { return nil }
        return budget.allowance
    }

    /// Whether the peer is where the socket is connected to, and nothing has to be counted.
    @inline(__always)
    package var isSettled: Bool {
        if case .settled = state { return true }
        return false
    }

    /// Whether a socket is waited for, or the answer to a challenge of a candidate.
    package var hasCandidate: Bool {
        guard case .changing(let changing) = state else { return false }
        return changing.candidate != nil || changing.asked != nil
    }

    /// Works on what is to be settled, and notes where nothing is left of it.
    private mutating func change(_ body: (inout Changing) -> [Action]) -> [Action] {
        var changing = Changing()
        if case .changing(let present) = state { changing = present }
        let actions = body(&changing)
        if case .proven = changing.present, changing.candidate == nil, changing.asked == nil {
            state = .settled
        } else {
            state = .changing(changing)
        }
        return actions
    }

    // MARK: Receiving

    /// A datagram with an authentic record has come.
    /// - Parameters:
    ///   - present: the flow that the socket is connected to.
    ///   - isNewest: whether the datagram has held a record that is newer than all before.
    ///   - checks: whether both sides have agreed on return routability checks.
    ///   - cookie: 64 random bits.
    package mutating func received(
        _ byteCount: Int, from flow: FlowKey, present: FlowKey, isNewest: Bool, checks: Bool, now: Instant,
        cookie: () -> UInt64
    ) -> [Action] {
        if isSettled, flow == present || !isNewest { return [] }
        return change { changing in
            if flow == present {
                return Self.receivedOverPresent(
                    byteCount, present, isNewest: isNewest, checks: checks, now: now, cookie: cookie, &changing)
            }
            if changing.candidate?.flow == flow {
                changing.candidate?.budget.receive(byteCount)
                if isNewest { changing.candidate?.isAbandoned = false }
                return []
            }
            guard isNewest else { return [] }
            var budget = Budget()
            budget.receive(byteCount)
            let isProven = changing.knows(flow, present: present)
            guard checks, !isProven else {
                changing.candidate = Candidate(flow: flow, budget: budget, isProven: isProven, stage: .wanted)
                return Self.ask(&changing)
            }
            let cookie = cookie()
            changing.candidate = Candidate(
                flow: flow, budget: budget, isProven: false,
                stage: .challenged(Challenges(cookies: [cookie], due: now + Self.patience)))
            return [.challenge(cookie, flow)]
        }
    }

    private static func receivedOverPresent(
        _ byteCount: Int, _ present: FlowKey, isNewest: Bool, checks: Bool, now: Instant, cookie: () -> UInt64,
        _ changing: inout Changing
    ) -> [Action] {
        if isNewest {
            switch changing.candidate?.stage {
            case .challenged: changing.candidate = nil
            // The socket may be on its way already.
            case .wanted: changing.candidate?.isAbandoned = true
            case nil: break
            }
        }
        guard case .unproven(var budget, var challenges) = changing.present else { return [] }
        budget.receive(byteCount)
        guard checks else {
            // The peer has answered something that was sent here.
            changing.present = isNewest && budget.hasSent ? .proven : .unproven(budget, nil)
            return []
        }
        defer { changing.present = .unproven(budget, challenges) }
        guard isNewest, challenges == nil else { return [] }
        let cookie = cookie()
        challenges = Challenges(cookies: [cookie], due: now + Self.patience)
        return [.challenge(cookie, present)]
    }

    /// The peer has answered a challenge.
    /// - Parameter flow: where the answer has come from.
    package mutating func receivedResponse(_ cookie: UInt64, from flow: FlowKey, present: FlowKey) -> [Action] {
        guard case .changing = state else { return [] }
        return change { changing in
            if flow == present, case .unproven(_, let challenges?) = changing.present,
                challenges.cookies.contains(cookie)
            {
                changing.present = .proven
            }
            guard var candidate = changing.candidate, candidate.flow == flow,
                case .challenged(let challenges) = candidate.stage, challenges.cookies.contains(cookie)
            else { return [] }
            candidate.isProven = true
            candidate.stage = .wanted
            changing.candidate = candidate
            return Self.ask(&changing)
        }
    }

    // MARK: Sockets

    /// Asks for a socket for the candidate, unless one is waited for.
    private static func ask(_ changing: inout Changing) -> [Action] {
        guard changing.asked == nil, let candidate = changing.candidate, case .wanted = candidate.stage else {
            return []
        }
        changing.asked = candidate.flow
        return [.wantSocket(candidate.flow)]
    }

    /// The connection has another socket, which is connected to `flow`. The former one was connected to `left`.
    package mutating func moved(to flow: FlowKey, from left: FlowKey) -> [Action] {
        change { changing in
            changing.asked = nil
            if flow.peer != left.peer {
                if case .proven = changing.present { changing.former = left }
                changing.present = .unproven(Budget(), nil)
            }
            guard let candidate = changing.candidate else { return [] }
            guard candidate.flow == flow else { return Self.ask(&changing) }
            changing.candidate = nil
            changing.present = candidate.isProven ? .proven : .unproven(candidate.budget, nil)
            guard candidate.isAbandoned, let former = changing.former, former != flow else { return [] }
            // The peer is back where it was before, and its newest record has shown so.
            changing.candidate = Candidate(flow: former, budget: Budget(), isProven: true, stage: .wanted)
            return Self.ask(&changing)
        }
    }

    /// There is no socket at the moment that is connected to the flow that one was asked for. The next record from there
    /// begins again.
    package mutating func moveFailed() -> [Action] {
        guard case .changing = state else { return [] }
        return change { changing in
            if changing.candidate?.flow == changing.asked { changing.candidate = nil }
            changing.asked = nil
            return Self.ask(&changing)
        }
    }

    // MARK: Sending

    /// Where a datagram of `byteCount` bytes is to be sent. It counts as sent.
    package mutating func route(_ byteCount: Int) -> Route {
        guard case .changing(var changing) = state else { return .socket }
        defer { state = .changing(changing) }
        if var candidate = changing.candidate, !candidate.isAbandoned {
            let mayTake = candidate.isProven || candidate.budget.take(byteCount)
            changing.candidate = candidate
            if mayTake { return .candidate(candidate.flow) }
        }
        guard case .unproven(var budget, let challenges) = changing.present else { return .socket }
        let mayTake = budget.take(byteCount)
        changing.present = .unproven(budget, challenges)
        return mayTake ? .socket : .nowhere
    }

    /// Whether a challenge of `byteCount` bytes may be sent to a flow. It counts as sent.
    package mutating func take(_ byteCount: Int, to flow: FlowKey) -> Bool {
        guard case .changing(var changing) = state else { return true }
        defer { state = .changing(changing) }
        if changing.candidate?.flow == flow { return changing.candidate?.budget.take(byteCount) ?? false }
        guard case .unproven(var budget, let challenges) = changing.present else { return true }
        let mayTake = budget.take(byteCount)
        changing.present = .unproven(budget, challenges)
        return mayTake
    }

    // MARK: Time

    /// When ``handleTimeout(present:now:cookie:)`` is to be called; ``Instant/distantFuture`` where it need not be.
    package var deadline: Instant {
        guard case .changing(let changing) = state else { return .distantFuture }
        var deadline = Instant.distantFuture
        if case .challenged(let challenges) = changing.candidate?.stage { deadline = challenges.due }
        if case .unproven(_, let challenges?) = changing.present { deadline = min(deadline, challenges.due) }
        return deadline
    }

    /// Repeats challenges that nobody has answered, with another cookie, or gives them up.
    package mutating func handleTimeout(present: FlowKey, now: Instant, cookie: () -> UInt64) -> [Action] {
        guard deadline <= now else { return [] }
        return change { changing in
            var actions: [Action] = []
            if var candidate = changing.candidate, case .challenged(let challenges) = candidate.stage,
                challenges.due <= now
            {
                if let repeated = Self.repeated(challenges, candidate.flow, now: now, cookie, &actions) {
                    candidate.stage = .challenged(repeated)
                    changing.candidate = candidate
                } else {
                    changing.candidate = nil
                }
            }
            if case .unproven(let budget, let challenges?) = changing.present, challenges.due <= now {
                changing.present = .unproven(budget, Self.repeated(challenges, present, now: now, cookie, &actions))
            }
            return actions
        }
    }

    private static func repeated(
        _ challenges: Challenges, _ flow: FlowKey, now: Instant, _ cookie: () -> UInt64, _ actions: inout [Action]
    ) -> Challenges? {
        guard challenges.cookies.count < maximumChallenges else {
            actions.append(.giveUp(flow))
            return nil
        }
        let cookie = cookie()
        actions.append(.challenge(cookie, flow))
        return Challenges(cookies: challenges.cookies + [cookie], due: now + patience)
    }
}
