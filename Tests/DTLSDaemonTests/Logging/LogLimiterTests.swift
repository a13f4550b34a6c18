import Logging
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

@Suite struct LogLimiterTests {
    private let second: UInt64 = 1_000_000_000

    @Test func `a burst is logged and the rest is counted`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        var limiter = LogLimiter(burst: 3)
        var evaluated = 0
        func text() -> String {
            evaluated += 1
            return "refused"
        }
        for _ in 0..<10 { limiter.log(.connectionRefused, to: logger, now: at(5), text(), ["PEER": .string(text())]) }
        #expect(evaluated == 6)
        #expect(limiter.isHoldingBack)
        let entries = try journal.entries()
        #expect(entries.count == 3)
        #expect(entries.allSatisfy { $0["MESSAGE"] == "refused" && $0["HELD_BACK"] == nil })
        // Another kind has a bucket of its own.
        limiter.log(.handshakeFailed, to: logger, now: at(5), "failed")
        #expect(try journal.entries().map { $0["MESSAGE"] } == ["failed"])
    }

    @Test func `the next entry says how many were held back`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        var limiter = LogLimiter(burst: 1, perSecond: 1)
        for _ in 0..<5 { limiter.log(.handshakeFailed, to: logger, now: at(100), "failed") }
        _ = try journal.entries()
        limiter.log(.handshakeFailed, to: logger, now: at(99 + second), "failed")
        #expect(try journal.entries().isEmpty)
        limiter.log(.handshakeFailed, to: logger, now: at(100 + second), "failed", ["PEER": "p"])
        let entry = try #require(try journal.entries().first)
        #expect(entry["MESSAGE"] == "failed (5 more held back)")
        #expect(entry["HELD_BACK"] == "5")
        #expect(entry["PEER"] == "p")
        #expect(entry["MESSAGE_ID"] == LogEvent.handshakeFailed.messageID)
        #expect(!limiter.isHoldingBack)
    }

    @Test func `a bucket never holds more than the burst`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        var limiter = LogLimiter(burst: 2)
        for _ in 0..<5 { limiter.log(.backendRefused, to: logger, now: at(1_000 * second), "refused") }
        #expect(try journal.entries().count == 2)
        // However long nothing was logged, the burst is all that comes at once.
        for _ in 0..<5 { limiter.log(.backendRefused, to: logger, now: at(2_000_000 * second), "refused") }
        #expect(try journal.entries().count == 2)
        limiter.log(.backendRefused, to: logger, now: .distantFuture, "refused")
        #expect(try journal.entries().count == 1)
    }

    @Test func `flush reports what was held back when no event follows`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        var limiter = LogLimiter(burst: 1)
        for _ in 0..<4 { limiter.log(.backendRefused, to: logger, now: at(0), "refused") }
        limiter.flush(now: at(0), to: logger)
        #expect(try journal.entries().count == 1)
        #expect(limiter.isHoldingBack)
        limiter.flush(now: at(second), to: logger)
        let entries = try journal.entries()
        #expect(entries.map { $0["MESSAGE"] } == ["backend refused: 3 more held back"])
        #expect(entries.map { $0["HELD_BACK"] } == ["3"])
        #expect(!limiter.isHoldingBack)
        limiter.flush(now: at(9 * second), to: logger)
        #expect(try journal.entries().isEmpty)
    }

    @Test func `finish reports everything that was held back, whatever the rate`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        var limiter = LogLimiter(burst: 1)
        limiter.finish(to: logger)
        for _ in 0..<4 { limiter.log(.connectionClosed, to: logger, now: at(0), "closed") }
        for _ in 0..<3 { limiter.log(.handshakeFailed, to: logger, now: at(0), "failed") }
        _ = try journal.entries()
        limiter.finish(to: logger)
        #expect(try journal.entries().map { $0["HELD_BACK"] } == ["3", "2"])
        #expect(!limiter.isHoldingBack)
        limiter.finish(to: logger)
        #expect(try journal.entries().isEmpty)
    }

    @Test func `events below the log level are not counted as held back`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger(level: .error)
        var limiter = LogLimiter(burst: 1)
        for _ in 0..<4 { limiter.log(.handshakeFailed, to: logger, now: at(0), "failed") }
        #expect(!limiter.isHoldingBack)
        #expect(try journal.entries().isEmpty)
    }
}
