import Testing

@testable import DTLSDaemon

@Suite struct AcceptorHeartbeatTests {
    @Test func `a worker is stuck when six pings in a row went unanswered`() {
        var heartbeat = Heartbeat()
        #expect((0..<7).map { _ in heartbeat.asks() } == [false, false, false, false, false, false, true])
    }

    /// What cannot be ended by a signal at once is not reported again with every ping.
    @Test func `a stuck worker is reported once`() {
        var heartbeat = Heartbeat()
        #expect((0..<100).count { _ in heartbeat.asks() } == 1)
    }

    @Test func `any message from the worker resets the count of pings`() {
        var heartbeat = Heartbeat()
        for _ in 0..<10 {
            #expect(!(0..<6).contains { _ in heartbeat.asks() })
            heartbeat.hears()
        }
        #expect((0..<7).map { _ in heartbeat.asks() }.last == true)
    }
}
