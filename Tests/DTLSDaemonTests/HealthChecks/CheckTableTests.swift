import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// When backends are checked, and what becomes of the answers.
@Suite final class CheckTableTests {
    private var table = CheckTable()
    private var now = Instant(nanoseconds: 1_000_000_000_000)

    private static func target(_ path: String = "/a", of service: String = "s") -> CheckTable.Target {
        CheckTable.Target(service: service, address: .unix(path))
    }

    private static let check = HealthCheck(datagram: [1], interval: .seconds(10), timeout: .seconds(2))

    private func configure(_ paths: String..., check: HealthCheck = check) -> [CheckTable.Action] {
        table.configure(
            Dictionary(uniqueKeysWithValues: paths.map { (Self.target($0), check) }), now: now)
    }

    /// The questions that are due.
    private func questions() -> [CheckQuestion] {
        table.advance(to: now).compactMap { if case .check(let question) = $0 { question } else { nil } }
    }

    /// Waits for the next check, and ends it.
    private func answer(_ outcome: CheckAnswer.Outcome) throws -> [CheckTable.Action] {
        now = max(now, table.deadline)
        let question = try #require(questions().first)
        return table.answered(CheckAnswer(number: question.number, outcome: outcome), now: now)
    }

    private let passed = CheckTable.Action.count(service: "s", hasPassed: true)
    private let failed = CheckTable.Action.count(service: "s", hasPassed: false)

    @Test func `a backend is checked at once and then once in each interval`() {
        #expect(configure("/a").isEmpty && table.state(of: Self.target()) == .untested)
        let first = questions()
        #expect(first == [CheckQuestion(number: 1, address: .unix("/a"), check: Self.check)])
        #expect(questions().isEmpty)
        let start = now
        now = now + .seconds(1)
        #expect(table.answered(CheckAnswer(number: 1, outcome: .passed), now: now) == [passed])
        #expect(table.state(of: Self.target()) == .up)
        // From the start of one check to that of the next.
        #expect(table.deadline == start + .seconds(10))
        now = start + .seconds(10) - .milliseconds(1)
        #expect(questions().isEmpty)
        now = start + .seconds(10)
        #expect(questions().map(\.number) == [2])
    }

    @Test func `a backend is down after as many failures as are wanted, one after the other`() throws {
        _ = configure("/a")
        #expect(try answer(.failed("x")) == [failed] && table.state(of: Self.target()) == .untested)
        #expect(try answer(.failed("x")) == [failed])
        // One that passes begins the count again.
        #expect(try answer(.passed) == [passed])
        #expect(try answer(.failed("x")) == [failed] && table.state(of: Self.target()) == .up)
        #expect(try answer(.failed("y")) == [failed] && table.down.isEmpty)
        #expect(
            try answer(.failed("z")) == [
                failed, .publish(Self.target(), isDown: true), .logDown(Self.target(), reason: "z", failures: 3),
            ])
        #expect(table.state(of: Self.target()) == .down(reason: "z") && table.down == [Self.target()])
        // It is told once, and the reason is that of the last check.
        #expect(try answer(.failed("other")) == [failed])
        #expect(table.state(of: Self.target()) == .down(reason: "other"))
    }

    @Test func `a backend is up again after as many good checks as are wanted, one after the other`() throws {
        _ = configure("/a")
        for _ in 0..<3 { _ = try answer(.failed("x")) }
        let down = now
        #expect(try answer(.passed) == [passed])
        #expect(try answer(.failed("x")) == [failed])
        #expect(try answer(.passed) == [passed] && table.down == [Self.target()])
        let last = try answer(.passed)
        #expect(
            last == [
                passed, .publish(Self.target(), isDown: false), .logUp(Self.target(), downtime: now - down),
            ])
        #expect(table.state(of: Self.target()) == .up && table.down.isEmpty)
    }

    @Test func `one failure and one good check are enough where the configuration says so`() throws {
        var check = Self.check
        (check.fall, check.rise) = (1, 1)
        _ = configure("/a", check: check)
        #expect(try answer(.failed("x")).contains(.publish(Self.target(), isDown: true)))
        #expect(try answer(.passed).contains(.publish(Self.target(), isDown: false)))
    }

    @Test func `a check that this machine has no socket for says nothing about the backend, and is logged once`() throws
    {
        _ = configure("/a")
        let problem = CheckTable.Action.logImpossible(Self.target(), reason: "no socket")
        #expect(try answer(.impossible("no socket")) == [problem])
        for _ in 0..<5 { #expect(try answer(.impossible("no socket")).isEmpty) }
        #expect(table.state(of: Self.target()) == .untested)
        #expect(try answer(.passed) == [passed])
        #expect(try answer(.impossible("no socket")) == [problem])
    }

    // MARK: Reloads

    @Test func `a reload keeps what is known, drops what is gone, and takes up another check at once`() throws {
        _ = configure("/a", "/b")
        for question in questions() {
            _ = table.answered(CheckAnswer(number: question.number, outcome: .passed), now: now)
        }
        #expect(configure("/a", "/c").isEmpty)
        #expect(table.state(of: Self.target("/b")) == nil && table.state(of: Self.target("/a")) == .up)
        // The new one is due, and the other is not.
        #expect(questions().map(\.address) == [.unix("/c")])
        var other = Self.check
        other.datagram = [2]
        #expect(configure("/a", check: other).isEmpty && table.state(of: Self.target("/a")) == .up)
        #expect(questions().map(\.check) == [other])
    }

    @Test func `a backend that is down and not checked any more is given back to the workers`() throws {
        _ = configure("/a")
        for _ in 0..<3 { _ = try answer(.failed("x")) }
        #expect(table.configure([:], now: now) == [.publish(Self.target(), isDown: false)])
        #expect(table.isEmpty && table.deadline == .distantFuture)
    }

    @Test func `an answer to a check that a reload has changed, or that nobody asked for, is ignored`() throws {
        _ = configure("/a")
        let old = try #require(questions().first)
        var other = Self.check
        other.timeout = .seconds(1)
        _ = configure("/a", check: other)
        #expect(table.answered(CheckAnswer(number: old.number, outcome: .failed("x")), now: now).isEmpty)
        #expect(table.answered(CheckAnswer(number: 99, outcome: .passed), now: now).isEmpty)
        #expect(table.state(of: Self.target()) == .untested)
        #expect(questions().count == 1)
    }

    // MARK: The checker

    @Test func `what a checker owed that has ended is asked again, and its end is no failure`() throws {
        _ = configure("/a")
        #expect(questions().count == 1)
        table.checkerEnded(now: now)
        #expect(questions().map(\.number) == [2])
        #expect(table.answered(CheckAnswer(number: 1, outcome: .failed("x")), now: now).isEmpty)
        #expect(table.answered(CheckAnswer(number: 2, outcome: .passed), now: now) == [passed])
    }

    @Test func `a checker that does not answer is asked again after a while`() throws {
        _ = configure("/a")
        _ = questions()
        #expect(table.deadline == now + .seconds(2) + CheckTable.patience)
        now = table.deadline
        #expect(questions().map(\.number) == [2] && table.state(of: Self.target()) == .untested)
    }

    @Test func `there is a bound on the checks at a time, and each backend has its turn`() {
        let count = CheckTable.maximumQuestions + 10
        let targets = (0..<count).map { Self.target("/\($0)") }
        _ = table.configure(Dictionary(uniqueKeysWithValues: targets.map { ($0, Self.check) }), now: now)
        let first = questions()
        #expect(first.count == CheckTable.maximumQuestions && questions().isEmpty)
        now = now + .seconds(1)
        for question in first { _ = table.answered(CheckAnswer(number: question.number, outcome: .passed), now: now) }
        let rest = questions()
        #expect(rest.count == 10 && Set(rest.map(\.address)).isDisjoint(with: first.map(\.address)))
    }

    @Test func `the checker's words are made one short line`() throws {
        var check = Self.check
        check.fall = 1
        _ = configure("/a", check: check)
        _ = try answer(.failed("a\nb\u{1b}" + String(repeating: "x", count: 1_000)))
        guard case .down(let reason)? = table.state(of: Self.target()) else {
            Issue.record("it is not down")
            return
        }
        #expect(!reason.contains("\n") && !reason.contains("\u{1b}") && reason.utf8.count < 300)
    }

    @Test func `questions and answers are decoded as they were encoded`() throws {
        var check = Self.check
        check.expected = try BytePattern("a*b")
        check.sources = [try #require(SocketAddress(host: "192.0.2.1", port: 0))]
        for address in [Backend.Address.unix("/a"), .udp(try #require(SocketAddress("[::1]:7")))] {
            let question = CheckQuestion(number: .max, address: address, check: check)
            #expect(try BinaryCoding.decode(from: BinaryCoding.encode(question)) == question)
        }
        for outcome in [CheckAnswer.Outcome.passed, .failed("ä"), .impossible("")] {
            let answer = CheckAnswer(number: 7, outcome: outcome)
            #expect(try BinaryCoding.decode(from: BinaryCoding.encode(answer)) == answer)
        }
    }
}
