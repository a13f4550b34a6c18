import Primitives
import Testing

@testable import DTLSDaemon

/// Which session a client offers, without connections or a clock.
@Suite struct OfferedSessionTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)
    private var offered = OfferedSession<String>()

    @Test mutating func `the newest session is offered for a day after the server has shown who it is`() {
        offered.keep("a", isResumed: false, now: start)
        offered.keep("b", isResumed: true, now: start + .seconds(80_000))
        #expect(offered.session(now: start + .seconds(86_399)) == "b")
        #expect(offered.session(now: start + .seconds(86_400)) == nil)
    }

    @Test mutating func `a session that a handshake timed out with is not offered again`() {
        offered.keep("a", isResumed: false, now: start)
        offered.dropTimedOut(now: start)
        #expect(offered.session(now: start) == nil)
        offered.keep("b", isResumed: false, now: start)
        #expect(offered.session(now: start) == "b")
    }

    @Test mutating func `after the second one in a row none is offered for an hour`() {
        for session in ["a", "b"] {
            offered.keep(session, isResumed: false, now: start)
            offered.dropTimedOut(now: start)
            // Of other connections with the same session.
            offered.dropTimedOut(now: start)
        }
        offered.keep("c", isResumed: false, now: start)
        #expect(offered.session(now: start + .seconds(3_599)) == nil)
        #expect(offered.session(now: start + .seconds(3_600)) == "c")
    }

    @Test mutating func `a resumption in between begins the count again`() {
        offered.keep("a", isResumed: false, now: start)
        offered.dropTimedOut(now: start)
        offered.keep("b", isResumed: false, now: start)
        offered.keep("c", isResumed: true, now: start)
        offered.dropTimedOut(now: start)
        offered.keep("d", isResumed: false, now: start)
        #expect(offered.session(now: start) == "d")
    }

    @Test mutating func `a refused session is dropped`() {
        offered.keep("a", isResumed: false, now: start)
        offered.drop()
        #expect(offered.session(now: start) == nil)
    }
}
