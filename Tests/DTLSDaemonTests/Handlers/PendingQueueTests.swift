import DTLSEngine
import Testing

@testable import DTLSDaemon

/// Messages that wait for room, within the bounds of a connection and of a worker.
@Suite struct PendingQueueTests {
    private let longest = [UInt8](repeating: 7, count: Engine.maximumMessageSize)

    @Test func `one connection's messages fit one batch`() {
        let budget = PendingBudget()
        let keeper = Keeper(budget)
        let kept = (0..<200).count { _ in keeper.append(longest) }
        #expect(kept * longest.count == 256 * 1_024)
        #expect(budget.used == 256 * 1_024)
        let batch = BatchMemory().makeBatch()
        keeper.queue.copy(to: batch)
        let copied = batch.count
        #expect(copied == kept)
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
        handlers[0].queue.removeFirst(1)
        #expect(handlers[99].append(longest))
        #expect(!handlers[98].append(longest))
    }

    @Test func `messages that leave give their room back`() {
        let budget = PendingBudget()
        do {
            let keeper = Keeper(budget)
            for size in 1...10 { _ = keeper.append([UInt8](repeating: 0, count: size)) }
            keeper.queue.removeFirst(3)
            #expect(budget.used == 55 - 1 - 2 - 3)
            #expect(keeper.count == 7)
            // More than there are: a batch can end with messages that were never among these.
            keeper.queue.removeFirst(100)
            #expect(budget.used == 0)
            _ = keeper.append([1, 2])
        }
        #expect(budget.used == 0)
    }

    @Test func `messages of a batch that find no room are counted`() {
        let batch = BatchMemory().makeBatch()
        for number in 0..<70 {
            _ = withUnsafeBytes(of: UInt8(number)) { batch.append($0) }
        }
        let keeper = Keeper(PendingBudget())
        let dropped = keeper.queue.append(batch, from: 3)
        #expect(dropped == 3)
        var kept: [UInt8] = []
        keeper.queue.readAll { kept += $0 }
        #expect(kept == Array(3..<67))
        let droppedLater = keeper.queue.append(batch, from: 60)
        #expect(droppedLater == 10)
    }

    private final class Keeper {
        var queue: PendingQueue
        init(_ budget: PendingBudget) { queue = PendingQueue(budget) }
        var count: Int { queue.count }
        func append(_ message: [UInt8]) -> Bool { message.withUnsafeBytes { queue.append($0) } }
    }
}
