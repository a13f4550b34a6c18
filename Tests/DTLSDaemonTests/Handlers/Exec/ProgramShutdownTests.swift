import Glibc
import Primitives
import Testing

@testable import DTLSDaemon

/// How a program of handler "exec" is made to end, by a clock that the tests set.
@Suite struct ProgramShutdownTests {
    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    private func time(_ seconds: Double) -> Instant { Self.start + .seconds(seconds) }

    @Test func `a program runs as long as its connection`() {
        var shutdown = ProgramShutdown()
        #expect(shutdown.due == .distantFuture)
        #expect(shutdown.timePassed(now: time(1_000_000)) == nil)
        #expect(shutdown.stage == .running)
    }

    @Test func `a program that does not end gets SIGTERM after two seconds and SIGKILL after five more`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        #expect(shutdown.due == time(2))
        #expect(shutdown.timePassed(now: time(1.9)) == nil)
        #expect(shutdown.timePassed(now: time(2)) == SIGTERM)
        #expect(shutdown.due == time(7))
        #expect(shutdown.timePassed(now: time(6.9)) == nil)
        #expect(shutdown.timePassed(now: time(7)) == SIGKILL)
        #expect(shutdown.due == .distantFuture && shutdown.stage == .killed)
        #expect(shutdown.timePassed(now: time(100)) == nil)
    }

    @Test func `the end of the input counts once`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        shutdown.inputEnded(now: time(1))
        #expect(shutdown.due == time(2))
    }

    @Test func `a stopping worker hastens programs so that they have ended in time`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        shutdown.workerStops(by: time(3), now: time(0))
        #expect(shutdown.due == time(1))
        #expect(shutdown.timePassed(now: time(1)) == SIGTERM)
        #expect(shutdown.due == time(3))
        #expect(shutdown.timePassed(now: time(3)) == SIGKILL)
    }

    @Test func `a stopping worker with much time gives a program no more than it has anyway`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        shutdown.workerStops(by: time(60), now: time(1))
        #expect(shutdown.due == time(2))
        #expect(shutdown.timePassed(now: time(2)) == SIGTERM)
        #expect(shutdown.due == time(7))
    }

    @Test func `a program that has SIGTERM already is killed at the worker's deadline`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        #expect(shutdown.timePassed(now: time(2)) == SIGTERM)
        shutdown.workerStops(by: time(4), now: time(3))
        #expect(shutdown.due == time(4))
        #expect(shutdown.timePassed(now: time(4)) == SIGKILL)
    }

    @Test func `a deadline that has passed kills without delay`() {
        var shutdown = ProgramShutdown()
        shutdown.inputEnded(now: time(0))
        shutdown.workerStops(by: time(1), now: time(1.5))
        #expect(shutdown.timePassed(now: time(1.5)) == SIGTERM)
        #expect(shutdown.timePassed(now: time(1.5)) == SIGKILL)
    }
}
