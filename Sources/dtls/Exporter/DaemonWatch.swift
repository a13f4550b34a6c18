import ControlProtocol
import LinuxSystem
import Primitives

/// What the exporter knows of the daemon.
enum DaemonState {
    /// Nobody has wanted to know yet.
    case unasked
    case answering(DaemonAnswer, at: UnixTime)
    /// - Parameters:
    ///   - since: when it was asked in vain for the first time after its last answer.
    ///   - lastAnswer: when that was; `nil` where there was none since the exporter was started.
    ///   - reason: a sentence for an operator.
    case away(since: UnixTime, lastAnswer: UnixTime?, reason: String)

    var answer: DaemonAnswer? {
        if case .answering(let answer, _) = self { answer } else { nil }
    }

    /// The state after a question that has failed.
    func losing(_ reason: String, at time: UnixTime) -> DaemonState {
        switch self {
        case .unasked: .away(since: time, lastAnswer: nil, reason: reason)
        case .answering(_, let last): .away(since: time, lastAnswer: last, reason: reason)
        case .away(let since, let last, _): .away(since: since, lastAnswer: last, reason: reason)
        }
    }
}

/// Asks the daemon for everything when somebody wants to know, and never waits. However many want to know, there is one
/// question at a time, whose answer is for all of them, and at most two questions a second.
struct DaemonWatch {
    /// Between the end of one question and the next.
    private static let pause = Duration.milliseconds(500)
    /// Prometheus waits 10 seconds by default; until then it has to be told that the daemon is not there.
    private static let patience = Duration.seconds(4)

    private struct Question {
        let connection: ControlConnection
        let askedAt: Instant
        var counters: CountersResult?
    }

    private let path: String
    private(set) var state = DaemonState.unasked
    private var question: Question?
    /// Whether somebody wants to know, and was not told yet.
    private var isWanted = false
    private var nextQuestion = Instant.distantPast

    /// - Parameter path: of the control socket.
    init(path: String) { self.path = path }

    /// Readable when there is something for ``run(at:)``; -1 where nothing was asked.
    var descriptor: Int32 { question?.connection.descriptor ?? -1 }

    /// Whether a question is under way, or will be without another call of ``want()``.
    var isBusy: Bool { question != nil || isWanted }

    /// How long ``run(at:)`` need not be called while ``descriptor`` is not readable.
    func patience(at now: Instant) -> Duration {
        if let question { return max(.zero, question.askedAt + Self.patience - now) }
        return isWanted ? max(.zero, nextQuestion - now) : .seconds(3_600)
    }

    /// Says that somebody wants to know ``state``, as it is from now on.
    mutating func want() { isWanted = true }

    /// Asks, if somebody wants to know, and reads what has come.
    /// - Returns: whether ``state`` was renewed, so that all who want to know can be told.
    mutating func run(at now: Instant) -> Bool {
        if question == nil, isWanted, now >= nextQuestion {
            do throws(ToolFailure) {
                let connection = try ControlConnection(path: path)
                // A small request fits into the socket's buffer at once.
                try connection.send(.counters, within: .zero)
                try connection.send(.status, within: .zero)
                question = Question(connection: connection, askedAt: now)
            } catch {
                return lose(error.message, at: now)
            }
        }
        return receive(at: now)
    }

    private mutating func receive(at now: Instant) -> Bool {
        guard var current = question else { return false }
        do throws(ToolFailure) {
            while let reply = try current.connection.receive() {
                guard let counters = current.counters else {
                    current.counters = try reply.get().decoded()
                    question = current
                    continue
                }
                let status: StatusResult = try reply.get().decoded()
                state = .answering(
                    DaemonAnswer(status: status, counters: counters, duration: now - current.askedAt), at: .now())
                return settle(at: now)
            }
        } catch {
            return lose(error.message, at: now)
        }
        guard now - current.askedAt >= Self.patience else { return false }
        return lose("dtlsd does not answer: \(path) is open, but nothing has come over it for a while.", at: now)
    }

    private mutating func lose(_ reason: String, at now: Instant) -> Bool {
        state = state.losing(reason, at: .now())
        return settle(at: now)
    }

    private mutating func settle(at now: Instant) -> Bool {
        question = nil
        isWanted = false
        nextQuestion = now + Self.pause
        return true
    }
}
