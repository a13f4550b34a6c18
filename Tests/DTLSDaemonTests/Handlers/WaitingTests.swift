import DTLSEngine
import Testing

@testable import DTLSDaemon

@Suite struct HandlersWaitingTests {
    private let longest = [UInt8](repeating: 7, count: Engine.maximumMessageSize)

    @Test func `one connection has at most what leaves in one go`() {
        let budget = PendingBudget()
        let keeper = Keeper(budget)
        let kept = (0..<200).count { _ in keeper.append(longest) }
        #expect(kept * longest.count == 256 * 1_024)
        #expect(budget.used == 256 * 1_024)
        let outbox = Outbox()
        keeper.waiting.copy(to: outbox)
        #expect(outbox.count == kept)
        #expect(outbox.dropped == 0)
    }

    @Test func `small messages are bounded by their number`() {
        let budget = PendingBudget()
        let keeper = Keeper(budget)
        #expect((0..<200).count { _ in keeper.append([1]) } == 64)
    }

    /// One connection's room is its own only as far as the worker has any.
    @Test func `all connections together are bounded`() {
        let budget = PendingBudget()
        let handlers = (0..<100).map { _ in Keeper(budget) }
        for handler in handlers {
            for _ in 0..<16 { _ = handler.append(longest) }
        }
        #expect(budget.used == 16 * 1_024 * 1_024)
        #expect(handlers[99].count == 0)
        handlers[0].waiting.removeFirst(1)
        #expect(handlers[99].append(longest))
        #expect(!handlers[98].append(longest))
    }

    @Test func `what goes gives its room back`() {
        let budget = PendingBudget()
        do {
            let keeper = Keeper(budget)
            for size in 1...10 { _ = keeper.append([UInt8](repeating: 0, count: size)) }
            keeper.waiting.removeFirst(3)
            #expect(budget.used == 55 - 1 - 2 - 3)
            #expect(keeper.count == 7)
            // More than there are: a batch can end with messages that were never among these.
            keeper.waiting.removeFirst(100)
            #expect(budget.used == 0)
            _ = keeper.append([1, 2])
        }
        #expect(budget.used == 0)
    }

    @Test func `what a batch has no room for is counted`() {
        let outbox = Outbox()
        for number in 0..<70 {
            _ = withUnsafeBytes(of: UInt8(number)) { outbox.append($0) }
        }
        let keeper = Keeper(PendingBudget())
        #expect(keeper.waiting.append(outbox, from: 3) == 3)
        var kept: [UInt8] = []
        keeper.waiting.readAll { kept += $0 }
        #expect(kept == Array(3..<67))
        #expect(keeper.waiting.append(outbox, from: 60) == 10)
    }

    private final class Keeper {
        var waiting: PendingQueue
        init(_ budget: PendingBudget) { waiting = PendingQueue(budget) }
        var count: Int { waiting.count }
        func append(_ message: [UInt8]) -> Bool { message.withUnsafeBytes { waiting.append($0) } }
    }
}
