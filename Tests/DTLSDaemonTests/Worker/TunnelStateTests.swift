import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

@Suite struct TunnelCourseTests {
    private let second: UInt64 = 1_000_000_000

    /// A course whose first connection is being made.
    private func connecting() -> TunnelState {
        var course = TunnelState()
        #expect(course.datagramCame() == .keepAndConnect)
        return course
    }

    @Test func `the first datagram connects and the next ones wait`() {
        var course = connecting()
        #expect(course.datagramCame() == .keep)
        course.opened()
        #expect(course.state == .established)
        #expect(course.datagramCame() == .send)
    }

    @Test func `pauses double up to half a minute`() {
        var course = connecting()
        var now = at(0)
        var pauses: [Int] = []
        for _ in 0..<9 {
            guard case .pause(let length) = course.connectionEnded(wasUseful: false, now: now, chance: 0.5) else {
                Issue.record("no pause after a failure")
                return
            }
            pauses.append(length.milliseconds)
            #expect(course.datagramCame() == .keep)
            // Too early, it goes on.
            #expect(course.timePassed(now: now + length - .nanoseconds(1), hasKept: true) == .pause(.nanoseconds(1)))
            now = now + length
            #expect(course.timePassed(now: now, hasKept: true) == .connect)
        }
        #expect(pauses == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000])
    }

    @Test(arguments: [(-1.0, 400), (0.0, 400), (0.25, 450), (1.0, 600), (7.0, 600)])
    func `chance shortens or lengthens a pause by a fifth`(_ chance: Double, _ milliseconds: Int) {
        var course = connecting()
        #expect(
            course.connectionEnded(wasUseful: false, now: at(0), chance: chance) == .pause(.milliseconds(milliseconds)))
    }

    /// Without anything to send there is no connection; the next datagram makes one at once, the growth stays.
    @Test func `a pause with nothing to send ends in rest`() {
        var course = connecting()
        #expect(course.connectionEnded(wasUseful: false, now: at(0), chance: 0.5) == .pause(.milliseconds(500)))
        #expect(course.timePassed(now: at(second), hasKept: false) == .nothing)
        #expect(course.state == .resting)
        #expect(course.datagramCame() == .keepAndConnect)
        #expect(course.connectionEnded(wasUseful: false, now: at(second), chance: 0.5) == .pause(.seconds(1)))
    }

    @Test func `a useful connection is followed by rest and short pauses`() {
        var course = connecting()
        _ = course.connectionEnded(wasUseful: false, now: at(0), chance: 0.5)
        _ = course.timePassed(now: at(second), hasKept: true)
        course.opened()
        #expect(course.connectionEnded(wasUseful: true, now: at(second), chance: 0.5) == .nothing)
        #expect(course.state == .resting)
        #expect(course.datagramCame() == .keepAndConnect)
        #expect(course.connectionEnded(wasUseful: false, now: at(second), chance: 0.5) == .pause(.milliseconds(500)))
    }

    /// A server that lets clients in only to throw them out again is not asked in a loop.
    @Test func `a connection of no use is followed by a pause`() {
        var course = connecting()
        course.opened()
        #expect(course.connectionEnded(wasUseful: false, now: at(0), chance: 0.5) == .pause(.milliseconds(500)))
        #expect(course.datagramCame() == .keep)
    }

    @Test func `nothing happens once it is closed`() {
        var course = connecting()
        let wasOpen = course.close()
        let wasStillOpen = course.close()
        #expect(wasOpen && !wasStillOpen)
        course.opened()
        #expect(course.datagramCame() == .drop)
        #expect(course.connectionEnded(wasUseful: false, now: at(0), chance: 0.5) == .nothing)
        #expect(course.timePassed(now: at(.max), hasKept: true) == .nothing)
        #expect(course.state == .closed)
    }
}
