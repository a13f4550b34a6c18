import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

@Suite struct BackendHealthTests {
    private final class Tester {}

    /// The rule as an object: #expect cannot call what changes a value.
    private final class Health {
        private var rule = BackendHealth()
        var isServing: Bool { rule.isServing }
        func refused(now: Instant) -> Bool { rule.noteRefusal(now: now) }
        func checked(isDown: Bool) { rule.noteCheck(isDown: isDown) }
        func answered() -> UInt64? { rule.noteAnswer() }
        func accepts(_ connection: ObjectIdentifier, now: Instant) -> Bool { rule.accepts(connection, now: now) }
        func begin(by connection: ObjectIdentifier, now: Instant) -> UInt64? { rule.begin(by: connection, now: now) }
    }

    private let tester = Tester()
    private var id: ObjectIdentifier { ObjectIdentifier(tester) }
    private static let second: UInt64 = 1_000_000_000

    /// Fails every trial, and returns how long the backend was left alone before each, in seconds.
    private func pauses(_ health: Health, from start: Instant, count: Int) -> [UInt64] {
        var now = start
        return (0..<count).map { _ in
            let beginning = now
            while !health.accepts(id, now: now) { now = now + .milliseconds(500) }
            _ = health.begin(by: id, now: now)
            #expect(!health.refused(now: now))
            return UInt64((now - beginning).seconds)
        }
    }

    @Test func `the pause doubles up to half a minute`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        #expect(pauses(health, from: at(0), count: 8) == [1, 2, 4, 8, 16, 30, 30, 30])
    }

    /// To connect is the trial of a Unix socket that is gone, or of an address without a route: it fails before
    /// anything is sent.
    @Test func `a trial that fails before it begins doubles the pause too`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        #expect(health.accepts(id, now: at(Self.second)))
        #expect(!health.refused(now: at(Self.second)))
        #expect(!health.accepts(id, now: at(3 * Self.second - 1)))
        #expect(health.accepts(id, now: at(3 * Self.second)))
        #expect(!health.refused(now: at(3 * Self.second)))
        #expect(!health.accepts(id, now: at(7 * Self.second - 1)))
    }

    @Test func `an answer ends the outage and the pauses begin small again`() {
        let health = Health()
        #expect(health.answered() == nil)
        #expect(health.refused(now: at(0)))
        _ = pauses(health, from: at(0), count: 3)
        #expect(health.answered() == 4)
        #expect(health.isServing)
        #expect(health.answered() == nil)
        #expect(health.refused(now: at(100 * Self.second)))
        #expect(pauses(health, from: at(100 * Self.second), count: 2) == [1, 2])
    }

    /// What many connections have sent before the first refusal comes back together: that is one outage, and one pause.
    @Test func `further refusals of an outage change nothing`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        for _ in 0..<100 { #expect(!health.refused(now: at(Self.second / 2))) }
        #expect(health.accepts(id, now: at(Self.second)))
        #expect(health.answered() == 101)
    }

    /// A backend that never answers is trusted when a trial has brought no refusal; if that was wrong, the pauses go on
    /// where they were.
    @Test func `a trial without a refusal ends the outage`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        _ = pauses(health, from: at(0), count: 2)
        let begin = at(10 * Self.second)
        #expect(health.begin(by: id, now: begin) == nil)
        let other = Tester()
        #expect(!health.accepts(ObjectIdentifier(other), now: begin + BackendHealth.trialTime - .nanoseconds(1)))
        let end = begin + BackendHealth.trialTime
        #expect(health.accepts(ObjectIdentifier(other), now: end))
        #expect(health.begin(by: ObjectIdentifier(other), now: end) == 3)
        #expect(health.isServing)
        #expect(health.refused(now: end + .seconds(1)))
        #expect(pauses(health, from: end + .seconds(1), count: 2) == [8, 16])
    }

    @Test func `after a long time in service the pauses begin small again`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        _ = pauses(health, from: at(0), count: 4)
        let begin = at(100 * Self.second)
        _ = health.begin(by: id, now: begin)
        _ = health.begin(by: id, now: begin + BackendHealth.trialTime)
        #expect(health.isServing)
        let later = begin + BackendHealth.trialTime + BackendHealth.pauses.longest + .nanoseconds(1)
        #expect(health.refused(now: later))
        #expect(pauses(health, from: later, count: 2) == [1, 2])
    }

    // MARK: Health checks

    @Test func `a backend that checks call down gets nothing until they pass`() {
        let health = Health()
        health.checked(isDown: true)
        #expect(!health.isServing && !health.accepts(id, now: at(0)))
        // What it still answers changes nothing.
        #expect(health.answered() == nil && !health.isServing)
        #expect(!health.accepts(id, now: at(1_000 * Self.second)))
        health.checked(isDown: false)
        #expect(health.isServing && health.accepts(id, now: at(0)))
    }

    @Test func `a check that passes ends an outage, and the same word again does not`() {
        let health = Health()
        #expect(health.refused(now: at(0)))
        health.checked(isDown: false)
        #expect(!health.isServing, "nothing has changed by it")
        health.checked(isDown: true)
        health.checked(isDown: false)
        #expect(health.isServing && health.answered() == nil)
        #expect(health.refused(now: at(Self.second)), "another outage")
    }
}
