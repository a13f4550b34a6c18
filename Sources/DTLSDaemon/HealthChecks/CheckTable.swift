import LinuxSystem
import Primitives

/// The backends that are checked, what the checks have found out, and when each is checked. It does no I/O and has no
/// clock: each call takes what has happened and returns what is to be done.
///
/// A backend counts as one that serves until as many checks as ``HealthCheck/fall`` have failed one after the other. It
/// comes back with ``HealthCheck/rise`` good ones.
struct CheckTable {
    /// A backend of a service. Of a host name, each address is one.
    struct Target: Hashable {
        var service: String
        var address: Backend.Address
    }

    enum Action: Equatable {
        case check(CheckQuestion)
        /// Workers are to be told whether the backend is down.
        case publish(Target, isDown: Bool)
        /// The backend is down from now on; why the last check has failed.
        case logDown(Target, reason: String, failures: Int)
        /// The backend serves again, after so long.
        case logUp(Target, downtime: Duration)
        /// The backend cannot be checked, for the first time since it could, or at all.
        case logImpossible(Target, reason: String)
        case count(service: String, hasPassed: Bool)
    }

    /// What is known of a backend.
    enum State: Equatable {
        /// No check has ended yet.
        case untested
        case up
        case down(reason: String)
    }

    private enum Phase {
        case due(Instant)
        case asked(number: UInt64, since: Instant)
    }

    private struct Entry {
        var check: HealthCheck
        var phase: Phase
        var state = State.untested
        /// Checks that have ended one after the other otherwise than ``state`` says.
        var contradictions = 0
        var downSince = Instant.distantPast
        /// Whether this machine has given no socket for the last check.
        var isImpossible = false
    }

    /// The most checks at a time: each has a socket.
    static let maximumQuestions = 256
    /// How long after a check's timeout an answer of the checker is waited for.
    static let patience = Duration.seconds(5)

    private var entries: [Target: Entry] = [:]
    private var questions = 0
    private var lastNumber: UInt64 = 0

    var isEmpty: Bool { entries.isEmpty }

    /// - Returns: `nil` for a backend that is not checked.
    func state(of target: Target) -> State? { entries[target]?.state }

    /// The backends that are down.
    var down: [Target] {
        entries.compactMap { target, entry in
            if case .down = entry.state { target } else { nil }
        }
    }

    // MARK: What is checked

    /// Checks these backends from now on, and no others. One that was checked before keeps its state.
    mutating func configure(_ wanted: [Target: HealthCheck], now: Instant) -> [Action] {
        var actions: [Action] = []
        for (target, entry) in entries where wanted[target] == nil {
            if case .asked = entry.phase { questions -= 1 }
            if case .down = entry.state { actions.append(.publish(target, isDown: false)) }
            entries[target] = nil
        }
        for (target, check) in wanted {
            guard let entry = entries[target] else {
                entries[target] = Entry(check: check, phase: .due(now))
                continue
            }
            guard entry.check != check else { continue }
            // What is under way asks the former question, and its answer is nobody's.
            if case .asked = entry.phase { questions -= 1 }
            entries[target]?.check = check
            entries[target]?.phase = .due(now)
            entries[target]?.contradictions = 0
        }
        return actions
    }

    // MARK: Events

    /// When ``advance(to:)`` is to be called.
    var deadline: Instant {
        entries.values.map { entry in
            switch entry.phase {
            case .due(let time): questions < Self.maximumQuestions ? time : .distantFuture
            case .asked(_, let since): since + entry.check.timeout + Self.patience
            }
        }.min() ?? .distantFuture
    }

    mutating func advance(to now: Instant) -> [Action] {
        for (target, entry) in entries {
            // The checker itself owes an answer, which says nothing about the backend.
            if case .asked(_, let since) = entry.phase, now >= since + entry.check.timeout + Self.patience {
                questions -= 1
                entries[target]?.phase = .due(now)
            }
        }
        let due = entries.compactMap { target, entry -> (target: Target, time: Instant)? in
            if case .due(let time) = entry.phase, now >= time { (target, time) } else { nil }
        }
        // Those that have waited longest come first.
        return due.sorted { $0.time < $1.time }.prefix(max(0, Self.maximumQuestions - questions)).compactMap {
            target, _ in
            guard let entry = entries[target] else { return nil }
            lastNumber += 1
            questions += 1
            entries[target]?.phase = .asked(number: lastNumber, since: now)
            return .check(CheckQuestion(number: lastNumber, address: target.address, check: entry.check))
        }
    }

    /// A check has ended. An answer that nobody waits for is ignored.
    mutating func answered(_ answer: CheckAnswer, now: Instant) -> [Action] {
        let found = entries.first { _, entry in
            if case .asked(answer.number, _) = entry.phase { true } else { false }
        }
        guard let (target, entry) = found, case .asked(_, let since) = entry.phase else { return [] }
        questions -= 1
        entries[target]?.phase = .due(max(now, since + entry.check.interval))
        entries[target]?.isImpossible = false
        switch answer.outcome {
        case .passed: return passed(target, entry, now: now)
        case .failed(let reason): return failed(target, entry, Self.printable(reason), now: now)
        // It says nothing about the backend.
        case .impossible(let reason):
            entries[target]?.isImpossible = true
            return entry.isImpossible ? [] : [.logImpossible(target, reason: Self.printable(reason))]
        }
    }

    private mutating func passed(_ target: Target, _ entry: Entry, now: Instant) -> [Action] {
        let counted = Action.count(service: target.service, hasPassed: true)
        guard case .down = entry.state else {
            entries[target]?.state = .up
            entries[target]?.contradictions = 0
            return [counted]
        }
        let successes = entry.contradictions + 1
        entries[target]?.contradictions = successes
        guard successes >= entry.check.rise else { return [counted] }
        entries[target]?.state = .up
        entries[target]?.contradictions = 0
        return [counted, .publish(target, isDown: false), .logUp(target, downtime: now - entry.downSince)]
    }

    private mutating func failed(_ target: Target, _ entry: Entry, _ reason: String, now: Instant) -> [Action] {
        let counted = Action.count(service: target.service, hasPassed: false)
        if case .down = entry.state {
            entries[target]?.state = .down(reason: reason)
            entries[target]?.contradictions = 0
            return [counted]
        }
        let failures = entry.contradictions + 1
        entries[target]?.contradictions = failures
        guard failures >= entry.check.fall else { return [counted] }
        entries[target]?.state = .down(reason: reason)
        entries[target]?.contradictions = 0
        entries[target]?.downSince = now
        return [counted, .publish(target, isDown: true), .logDown(target, reason: reason, failures: failures)]
    }

    /// The checker has ended, and nobody answers what it was asked.
    mutating func checkerEnded(now: Instant) {
        for (target, entry) in entries {
            guard case .asked = entry.phase else { continue }
            questions -= 1
            entries[target]?.phase = .due(now)
        }
    }

    /// The checker's words, which a defect of it may have made.
    private static func printable(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(200) { Printable.append(scalar, to: &result) }
        return result
    }
}
