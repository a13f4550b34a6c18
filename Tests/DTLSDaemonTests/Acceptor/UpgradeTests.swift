import Testing

@testable import DTLSDaemon

/// An upgrade in the main process that is replaced: each event in each step.
@Suite struct UpgradeTests {
    private let steps: [Upgrade.Step] = [.preparing, .settling, .emptying, .recovering, .handedOver]
    private let stop = StopRequest(reason: "signal 15", keepingConnections: false)

    /// Handles an event in every step.
    private func check(
        _ event: Upgrade.Event, _ expected: [(step: Upgrade.Step, to: Upgrade.Step, outcome: Upgrade.Outcome)],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(expected.map(\.step) == steps, sourceLocation: sourceLocation)
        for (step, next, outcome) in expected {
            var upgrade = Upgrade(step: step)
            #expect(upgrade.handle(event) == outcome, "in \(step)", sourceLocation: sourceLocation)
            #expect(upgrade.step == next, "in \(step)", sourceLocation: sourceLocation)
        }
    }

    @Test func `a successor that is prepared gets the connections once no worker has them`() {
        check(
            .prepared,
            [
                (.preparing, .settling, .goesOn([.setDeadline(Upgrade.settlingTime), .pauseListeners])),
                (.settling, .settling, .goesOn([])),
                (.emptying, .emptying, .goesOn([])),
                (.recovering, .recovering, .goesOn([])),
                (.handedOver, .handedOver, .goesOn([])),
            ])
        check(
            .handshakesEnded,
            [
                (.preparing, .preparing, .goesOn([])),
                (.settling, .emptying, .goesOn([.setDeadline(Upgrade.emptyingTime), .empty])),
                (.emptying, .emptying, .goesOn([])),
                (.recovering, .recovering, .goesOn([])),
                (.handedOver, .handedOver, .goesOn([])),
            ])
        check(
            .workersEnded,
            [
                (.preparing, .preparing, .goesOn([])),
                (.settling, .settling, .goesOn([])),
                (.emptying, .handedOver, .goesOn([.setDeadline(Upgrade.takeOverTime), .handOver])),
                (
                    .recovering, .recovering,
                    .failed([.takeBack], reason: "the new process has ended")
                ),
                (.handedOver, .handedOver, .goesOn([])),
            ])
    }

    @Test func `the process retires when its successor serves, and not before`() {
        let broken = "the new process did not keep to the protocol"
        check(
            .successorServes,
            [
                (.preparing, .preparing, .failed([.killSuccessor], reason: broken)),
                (.settling, .settling, .failed([.killSuccessor, .resumeListeners], reason: broken)),
                (.emptying, .recovering, .goesOn([.killSuccessor])),
                (.recovering, .recovering, .goesOn([])),
                (.handedOver, .handedOver, .succeeded([.retire(reload: false, nil)])),
            ])
    }

    @Test func `a successor that ends leaves the process serving whatever it had been given`() {
        let reason = "the new process has ended before it served"
        check(
            .successorEnded,
            [
                (.preparing, .preparing, .failed([.killSuccessor], reason: reason)),
                (.settling, .settling, .failed([.killSuccessor, .resumeListeners], reason: reason)),
                (.emptying, .recovering, .goesOn([.killSuccessor])),
                (.recovering, .recovering, .goesOn([])),
                // Its workers are dead before the connections are served here again.
                (.handedOver, .handedOver, .failed([.killSuccessor, .takeBack], reason: reason)),
            ])
    }

    @Test func `the reason of a successor that has ended is kept until the workers have`() {
        var upgrade = Upgrade(step: .emptying)
        _ = upgrade.handle(.refused(reason: "no memory"))
        _ = upgrade.handle(.successorEnded)
        #expect(upgrade.handle(.workersEnded) == .failed([.takeBack], reason: "no memory"))
    }

    @Test func `no step lasts for ever`() {
        check(
            .timedOut,
            [
                (
                    .preparing, .preparing,
                    .failed([.killSuccessor], reason: "the new process was not prepared after 90 s")
                ),
                // A handshake that stalls does not prolong the silence of connections.
                (.settling, .emptying, .goesOn([.setDeadline(Upgrade.emptyingTimeWithHandshakes), .empty])),
                (.emptying, .emptying, .goesOn([.killWorkers])),
                (.recovering, .recovering, .goesOn([.killWorkers])),
                (
                    .handedOver, .handedOver,
                    .failed([.killSuccessor, .takeBack], reason: "the new process did not serve after 10 s")
                ),
            ])
    }

    @Test func `a program that cannot be started changes nothing`() {
        var upgrade = Upgrade()
        #expect(
            upgrade.handle(.startFailed(reason: "ENOENT"))
                == .failed([], reason: "the program cannot be started: ENOENT"))
    }

    @Test func `a request to stop ends the successor while the process serves, and is passed on later`() {
        check(
            .stopRequested(stop),
            [
                (.preparing, .preparing, .failed([.killSuccessor], reason: "the daemon stops")),
                (
                    .settling, .settling,
                    .failed([.killSuccessor, .resumeListeners], reason: "the daemon stops")
                ),
                (.emptying, .emptying, .goesOn([])),
                (.recovering, .recovering, .goesOn([])),
                (.handedOver, .handedOver, .goesOn([])),
            ])
        for step in steps {
            var upgrade = Upgrade(step: step)
            _ = upgrade.handle(.stopRequested(stop))
            #expect(upgrade.stopRequest == stop, "in \(step)")
        }
        var upgrade = Upgrade(step: .emptying)
        _ = upgrade.handle(.stopRequested(stop))
        #expect(upgrade.handle(.stopRequested(stop)) == .goesOn([.killWorkers]))
        _ = upgrade.handle(.workersEnded)
        _ = upgrade.handle(.reloadRequested)
        #expect(upgrade.handle(.successorServes) == .succeeded([.retire(reload: true, stop)]))
    }
}

@Suite struct SuccessorMessageTests {
    @Test func `messages between the old and the new main process survive the channel`() throws {
        let sent: [MessageToSuccessor] = [
            .offer(protocolVersion: 1, layoutVersion: 7), .descriptor(name: "dtlsd-connections-3"), .prepare, .takeOver,
            .becomeMain(isReloadRequested: true), .becomeMain(isReloadRequested: false),
        ]
        for message in sent {
            #expect(try message.bytes.withUnsafeBytes { try MessageToSuccessor(decoding: $0) } == message)
        }
        let answers: [MessageFromSuccessor] = [.prepared, .refused(reason: "d.toml:1: ünknown"), .serving]
        for message in answers {
            #expect(try message.bytes.withUnsafeBytes { try MessageFromSuccessor(decoding: $0) } == message)
        }
    }

    @Test func `a message that is cut, or of no kind, is malformed`() {
        let bytes = MessageToSuccessor.offer(protocolVersion: 1, layoutVersion: 7).bytes
        for count in 0..<bytes.count {
            #expect(throws: (any Error).self) {
                try bytes.prefix(count).withUnsafeBytes { _ = try MessageToSuccessor(decoding: $0) }
            }
        }
        #expect(throws: (any Error).self) { try [99].withUnsafeBytes { _ = try MessageFromSuccessor(decoding: $0) } }
    }

    /// The main process of another version reads these bytes.
    @Test func `the offer keeps its form in all versions`() {
        #expect(
            MessageToSuccessor.offer(protocolVersion: 2, layoutVersion: 3).bytes == [1, 2, 0, 0, 0, 3, 0, 0, 0])
        #expect(MessageFromSuccessor.refused(reason: "no").bytes == [2, 2, 0, 0, 0, 110, 111])
    }

    @Test func `a reason fits a message however long it is`() {
        let message = MessageFromSuccessor.refused(reason: String(repeating: "x", count: 500_000))
        #expect(message.bytes.count < 5_000)
    }
}
