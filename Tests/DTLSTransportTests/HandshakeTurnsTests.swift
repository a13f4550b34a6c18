import Primitives
import Testing

@testable import DTLSTransport

@Suite struct HandshakeTurnsTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    /// What is done in one turn whose steps take so many microseconds each.
    private func turn(_ turns: inout HandshakeTurns<Int>, step: Int, at start: Instant) -> [Int] {
        var now = start
        turns.begin(now: now)
        var done: [Int] = []
        while let element = turns.take(now: now, isFirst: done.isEmpty) {
            done.append(element)
            now = now + .microseconds(step)
        }
        return done
    }

    @Test func `steps are taken in order until the budget is used up`() {
        var turns = HandshakeTurns<Int>()
        for number in 0..<5 { turns.add(number) }
        #expect(turn(&turns, step: 200, at: start) == [0, 1, 2])
        turns.add(5)
        #expect(!turns.isEmpty)
        #expect(turn(&turns, step: 200, at: start + .seconds(1)) == [3, 4, 5])
        #expect(turns.isEmpty)
        #expect(turn(&turns, step: 200, at: start) == [])
    }

    @Test func `one step is taken in each turn however long it takes`() {
        var turns = HandshakeTurns<Int>()
        for number in 0..<3 { turns.add(number) }
        for number in 0..<3 { #expect(turn(&turns, step: 5_000, at: start) == [number]) }
    }

    @Test func `what is added while steps are taken comes after them`() {
        var turns = HandshakeTurns<Int>()
        turns.add(1)
        turns.begin(now: start)
        #expect(turns.take(now: start, isFirst: true) == 1)
        turns.add(2)
        #expect(turns.take(now: start + .milliseconds(1), isFirst: false) == nil)
        #expect(turn(&turns, step: 1, at: start) == [2])
    }

    @Test func `what is taken out has no turn, and the others keep theirs`() {
        var turns = HandshakeTurns<Int>()
        for number in 0..<5 { turns.add(number) }
        turns.begin(now: start)
        #expect(turns.take(now: start, isFirst: true) == 0)
        turns.remove { $0 == 1 || $0 == 3 }
        #expect(turn(&turns, step: 1, at: start) == [2, 4])
        turns.remove { _ in true }
        #expect(turns.isEmpty)
    }
}
