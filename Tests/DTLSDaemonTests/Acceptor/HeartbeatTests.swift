import Testing

@testable import DTLSDaemon

@Suite struct AcceptorHeartbeatTests {
    @Test func `six unanswered pings are too many`() {
        var heartbeat = Heartbeat()
        #expect((0..<7).map { _ in heartbeat.asks() } == [false, false, false, false, false, false, true])
    }

    /// What cannot be ended by a signal at once is not reported again with every ping.
    @Test func `it is said once`() {
        var heartbeat = Heartbeat()
        #expect((0..<100).count { _ in heartbeat.asks() } == 1)
    }

    @Test func `whatever is heard begins the count anew`() {
        var heartbeat = Heartbeat()
        for _ in 0..<10 {
            #expect(!(0..<6).contains { _ in heartbeat.asks() })
            heartbeat.hears()
        }
        #expect((0..<7).map { _ in heartbeat.asks() }.last == true)
    }
}
