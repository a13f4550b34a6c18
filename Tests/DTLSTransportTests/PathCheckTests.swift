import LinuxSystem
import Primitives
import Testing

@testable import DTLSTransport

/// Where the peer of a connection is, without sockets and without a clock.
@Suite struct PathCheckTests {
    private static func flow(_ port: UInt16) -> FlowKey {
        FlowKey(peer: .anyAddress(.ipv4, port: port), local: .anyAddress(.ipv4, port: 4_433))
    }
    private let home = flow(1)
    private let away = flow(2)
    private let third = flow(3)

    /// A check, and the time and cookies that it is given.
    private struct Driver {
        var check = PathCheck()
        var now = Instant(nanoseconds: 1_000_000_000)
        var cookies: UInt64 = 0
        let checks: Bool

        mutating func received(
            _ count: Int, from flow: FlowKey, present: FlowKey, isNewest: Bool = true
        ) -> [PathCheck.Action] {
            var next = cookies
            defer { cookies = next }
            return check.received(
                count, from: flow, present: present, isNewest: isNewest, checks: checks, now: now,
                cookie: {
                    next += 1
                    return next
                })
        }

        mutating func waitForDeadline(present: FlowKey) -> [PathCheck.Action] {
            guard check.deadline < .distantFuture else { return [] }
            now = check.deadline
            var next = cookies
            defer { cookies = next }
            return check.handleTimeout(
                present: present, now: now,
                cookie: {
                    next += 1
                    return next
                })
        }
    }

    @Test func `a newer record from another address moves a peer at once that has agreed on no check`() {
        var driver = Driver(checks: false)
        let late = driver.received(100, from: away, present: home, isNewest: false)
        #expect(late == [] && driver.check.isSettled)
        let actions = driver.received(100, from: away, present: home)
        #expect(actions == [.wantSocket(away)] && driver.check.hasCandidate)
        // What is sent meanwhile goes to the new address within the limit, and to the old one beyond it.
        let routes = [driver.check.route(300), driver.check.route(1)]
        #expect(routes == [.candidate(away), .socket])
        let rest = driver.check.moved(to: away, from: home)
        #expect(rest == [] && !driver.check.hasCandidate && !driver.check.isSettled)
    }

    @Test func `an address that is not proven gets three times what has come from it, and not a byte more`() {
        var driver = Driver(checks: false)
        _ = driver.received(100, from: away, present: home)
        _ = driver.check.moved(to: away, from: home)
        let routes = [driver.check.route(200), driver.check.route(101), driver.check.route(100), driver.check.route(1)]
        #expect(routes == [.socket, .nowhere, .socket, .nowhere])
        // A delayed record brings room, and proves nothing.
        _ = driver.received(10, from: away, present: away, isNewest: false)
        let more = [driver.check.route(31), driver.check.route(30)]
        #expect(more == [.nowhere, .socket] && !driver.check.isSettled)
        // A newer record is the answer to what was sent.
        _ = driver.received(10, from: away, present: away)
        #expect(driver.check.isSettled)
        let proven = driver.check.route(1_000_000)
        #expect(proven == .socket)
    }

    @Test func `a newer record proves no address to which nothing was sent`() {
        var driver = Driver(checks: false)
        _ = driver.received(100, from: away, present: home)
        _ = driver.check.moved(to: away, from: home)
        _ = driver.received(100, from: away, present: away)
        #expect(!driver.check.isSettled)
        let routes = [driver.check.route(600), driver.check.route(1)]
        #expect(routes == [.socket, .nowhere])
    }

    @Test func `a path that is to be checked is challenged before a socket is asked for`() {
        var driver = Driver(checks: true)
        let actions = driver.received(100, from: away, present: home)
        #expect(actions == [.challenge(1, away)])
        let mayChallenge = driver.check.take(60, to: away)
        let routes = [driver.check.route(240), driver.check.route(1)]
        #expect(mayChallenge && routes == [.candidate(away), .socket])
        // Neither another cookie nor another address is an answer.
        let forged = driver.check.receivedResponse(2, from: away, present: home)
        let elsewhere = driver.check.receivedResponse(1, from: third, present: home)
        #expect(forged == [] && elsewhere == [])
        let answer = driver.check.receivedResponse(1, from: away, present: home)
        #expect(answer == [.wantSocket(away)])
        let again = driver.check.receivedResponse(1, from: away, present: home)
        #expect(again == [])
        let unlimited = driver.check.route(1_000_000)
        #expect(unlimited == .candidate(away))
        _ = driver.check.moved(to: away, from: home)
        #expect(driver.check.isSettled)
    }

    @Test func `a challenge is repeated three times with another cookie, and then the address stays`() {
        var driver = Driver(checks: true)
        _ = driver.received(100, from: away, present: home)
        let start = driver.now
        let repeats = (0..<3).map { _ in driver.waitForDeadline(present: home) }
        #expect(repeats == [[.challenge(2, away)], [.challenge(3, away)], [.challenge(4, away)]])
        #expect(driver.now - start == .seconds(3))
        let last = driver.waitForDeadline(present: home)
        #expect(last == [.giveUp(away)] && driver.check.isSettled)
        #expect(driver.check.deadline == .distantFuture)
        let late = driver.check.receivedResponse(4, from: away, present: home)
        #expect(late == [] && driver.check.isSettled)
    }

    @Test func `an answer to an earlier challenge is as good as one to the last`() {
        var driver = Driver(checks: true)
        _ = driver.received(100, from: away, present: home)
        _ = driver.waitForDeadline(present: home)
        _ = driver.waitForDeadline(present: home)
        let answer = driver.check.receivedResponse(1, from: away, present: home)
        #expect(answer == [.wantSocket(away)])
    }

    @Test func `challenges count for what may be sent to an address`() {
        var driver = Driver(checks: true)
        _ = driver.received(50, from: away, present: home)
        let taken = (0..<3).map { _ in driver.check.take(70, to: away) }
        #expect(taken == [true, true, false])
    }

    @Test func `a newer record over the present path ends the check of another one`() {
        var driver = Driver(checks: true)
        _ = driver.received(100, from: away, present: home)
        _ = driver.received(100, from: home, present: home, isNewest: false)
        #expect(driver.check.hasCandidate)
        _ = driver.received(100, from: home, present: home)
        #expect(driver.check.isSettled)
        let late = driver.check.receivedResponse(1, from: away, present: home)
        #expect(late == [])
    }

    @Test func `a newer record from a third path replaces the candidate`() {
        var driver = Driver(checks: true)
        _ = driver.received(100, from: away, present: home)
        let delayed = driver.received(100, from: third, present: home, isNewest: false)
        #expect(delayed == [])
        let actions = driver.received(10, from: third, present: home)
        #expect(actions == [.challenge(2, third)])
        let old = driver.check.receivedResponse(1, from: away, present: home)
        #expect(old == [])
        let routes = [driver.check.route(30), driver.check.route(1)]
        #expect(routes == [.candidate(third), .socket])
    }

    @Test func `one socket is asked for at a time, however often the address changes`() {
        var driver = Driver(checks: false)
        let first = driver.received(100, from: away, present: home)
        let others = (3..<100).flatMap { driver.received(100, from: Self.flow($0), present: home) }
        #expect(first == [.wantSocket(away)] && others == [])
        let next = driver.check.moved(to: away, from: home)
        #expect(next == [.wantSocket(Self.flow(99))])
        // Nothing more is owed to the address that the peer has left again.
        let routes = [driver.check.route(300), driver.check.route(1)]
        #expect(routes == [.candidate(Self.flow(99)), .nowhere])
        let rest = driver.check.moved(to: Self.flow(99), from: away)
        #expect(rest == [] && !driver.check.hasCandidate)
    }

    @Test func `old and new address may alternate`() {
        var driver = Driver(checks: false)
        _ = driver.received(100, from: away, present: home)
        // Back already, while the socket for the new address is made.
        _ = driver.received(100, from: home, present: home)
        let route = driver.check.route(1_000)
        #expect(route == .socket)
        let actions = driver.check.moved(to: away, from: home)
        #expect(actions == [.wantSocket(home)])
        // It needs no proof where it was proven to be a moment ago.
        let unlimited = driver.check.route(1_000_000)
        #expect(unlimited == .candidate(home))
        _ = driver.check.moved(to: home, from: away)
        #expect(driver.check.isSettled)

        var checked = Driver(checks: true)
        for _ in 0..<10 {
            let there = checked.received(100, from: away, present: home)
            let answer = checked.check.receivedResponse(checked.cookies, from: away, present: home)
            _ = checked.check.moved(to: away, from: home)
            #expect(there == [.challenge(checked.cookies, away)] && answer == [.wantSocket(away)])
            let back = checked.received(100, from: home, present: away)
            let backAnswer = checked.check.receivedResponse(checked.cookies, from: home, present: away)
            _ = checked.check.moved(to: home, from: away)
            #expect(back == [.challenge(checked.cookies, home)] && backAnswer == [.wantSocket(home)])
            #expect(checked.check.isSettled)
        }
    }

    @Test func `where there is no socket, the address stays, and the next newer record begins again`() {
        var driver = Driver(checks: false)
        _ = driver.received(100, from: away, present: home)
        let actions = driver.check.moveFailed()
        #expect(actions == [] && driver.check.isSettled)
        let again = driver.received(100, from: away, present: home)
        #expect(again == [.wantSocket(away)])
        // Another one is wanted by now.
        _ = driver.received(100, from: third, present: home)
        let next = driver.check.moveFailed()
        #expect(next == [.wantSocket(third)])
    }

    @Test func `a socket at an address that is not proven is limited until the challenge is answered there`() {
        var driver = Driver(check: .unproven(), checks: true)
        let nothing = driver.check.route(1)
        #expect(nothing == .nowhere)
        let actions = driver.received(100, from: away, present: away)
        #expect(actions == [.challenge(1, away)])
        let routes = [driver.check.take(60, to: away) ? PathCheck.Route.socket : .nowhere, driver.check.route(241)]
        #expect(routes == [.socket, .nowhere])
        // Newer records prove nothing to who has agreed on challenges.
        let more = driver.received(1, from: away, present: away)
        #expect(more == [] && !driver.check.isSettled)
        for _ in 0..<3 { _ = driver.waitForDeadline(present: away) }
        let last = driver.waitForDeadline(present: away)
        #expect(last == [.giveUp(away)] && !driver.check.isSettled)
        let again = driver.received(100, from: away, present: away)
        #expect(again == [.challenge(5, away)])
        _ = driver.check.receivedResponse(5, from: away, present: away)
        #expect(driver.check.isSettled)
    }

    @Test func `what may be sent to an address that is not proven is known to whoever goes on with the connection`() {
        var driver = Driver(checks: false)
        #expect(driver.check.unprovenAllowance == nil)
        _ = driver.received(100, from: away, present: home)
        #expect(driver.check.unprovenAllowance == nil, "the present address is proven")
        _ = driver.check.moved(to: away, from: home)
        _ = driver.check.route(120)
        #expect(driver.check.unprovenAllowance == 180)
        driver.check = .unproven(allowance: 180)
        let routes = [driver.check.route(181), driver.check.route(180), driver.check.route(1)]
        #expect(routes == [.nowhere, .socket, .nowhere])
        _ = driver.received(10, from: away, present: away)
        #expect(driver.check.isSettled && driver.check.unprovenAllowance == nil)
    }
}
