import LinuxSystem
import Primitives
import TestSupport
import Testing

@Suite struct TimersTests {
    private final class Target: TimerTarget {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    /// What ``Timers`` does, in the plainest way: a list that is searched from end to end.
    private struct Model {
        private var deadlines: [Int: Instant] = [:]

        var earliest: Instant? { deadlines.values.min() }

        mutating func arm(_ number: Int, at deadline: Instant) {
            deadlines[number] = min(deadline, deadlines[number] ?? deadline)
        }

        mutating func disarm(_ number: Int) { deadlines[number] = nil }

        /// The numbers of the targets that are due, and no longer armed.
        mutating func popExpired(now: Instant) -> [Instant: Set<Int>] {
            var due: [Instant: Set<Int>] = [:]
            for (number, deadline) in deadlines where deadline <= now { due[deadline, default: []].insert(number) }
            for number in due.values.joined() { deadlines[number] = nil }
            return due
        }
    }

    private func time(_ milliseconds: Int) -> Instant { .distantPast + .milliseconds(milliseconds) }

    /// Many operations in random order, on few targets and few deadlines, so that equal deadlines, targets that are
    /// armed again, and heaps of every small size occur often.
    @Test(arguments: [1, 2, 3, 8, 50])
    func `timers fire as a plain list says, whatever the order of operations`(_ targetCount: Int) throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = SeededGenerator(seed: seed)
        var timers = Timers()
        var model = Model()
        let targets = (0..<targetCount).map { Target($0) }
        var now = 0
        for step in 0..<5_000 {
            let target = try #require(targets.randomElement(using: &random))
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<6:
                // Of the past, too.
                let deadline = time(max(0, now + Int.random(in: -5...40, using: &random)))
                timers.arm(target, at: deadline)
                model.arm(target.number, at: deadline)
            case 6..<8:
                timers.disarm(target)
                model.disarm(target.number)
            default:
                now += Int.random(in: 0...10, using: &random)
                var expected = model.popExpired(now: time(now))
                while let due = timers.popExpired(now: time(now)) {
                    // Targets of one deadline come in any order.
                    let earliest = try #require(expected.keys.min(), "seed \(seed), step \(step): fired too early")
                    let number = try #require(due as? Target).number
                    #expect(expected[earliest]?.remove(number) != nil, "seed \(seed), step \(step)")
                    if expected[earliest]?.isEmpty == true { expected[earliest] = nil }
                }
                #expect(expected.isEmpty, "seed \(seed), step \(step): not fired")
            }
            #expect(timers.earliest == model.earliest, "seed \(seed), step \(step)")
        }
    }

    @Test func `a target that is armed for later keeps its earlier deadline`() {
        var timers = Timers()
        let target = Target(0)
        timers.arm(target, at: time(10))
        timers.arm(target, at: time(20))
        #expect(timers.earliest == time(10))
        #expect(timers.popExpired(now: time(10)) === target)
        #expect(timers.earliest == nil, "it has one deadline at a time")
    }

    @Test func `a deadline that is moved ahead counts at once`() {
        var timers = Timers()
        let (first, second) = (Target(1), Target(2))
        timers.arm(first, at: time(10))
        timers.arm(second, at: time(20))
        timers.arm(second, at: time(5))
        #expect(timers.popExpired(now: time(5)) === second)
        #expect(timers.popExpired(now: time(5)) == nil)
        #expect(timers.earliest == time(10))
    }

    @Test func `a target that is disarmed is let go`() {
        var timers = Timers()
        weak var released: Target?
        do {
            let target = Target(0)
            released = target
            timers.arm(target, at: time(10))
        }
        #expect(released != nil, "the heap keeps what is armed")
        if let target = released { timers.disarm(target) }
        #expect(released == nil)
        #expect(timers.earliest == nil)
    }

    @Test func `a target whose deadline has passed is let go, and so are all when the heap is freed`() {
        weak var expired: Target?
        weak var armed: Target?
        do {
            var timers = Timers()
            do {
                let (first, second) = (Target(1), Target(2))
                (expired, armed) = (first, second)
                timers.arm(first, at: time(10))
                timers.arm(second, at: time(20))
            }
            #expect(timers.popExpired(now: time(10)) != nil)
            #expect(expired == nil)
            #expect(armed != nil, "the heap keeps what is armed")
        }
        #expect(armed == nil)
    }

    @Test func `disarming what is not armed changes nothing`() {
        var timers = Timers()
        let (armed, other) = (Target(1), Target(2))
        timers.arm(armed, at: time(10))
        timers.disarm(other)
        #expect(timers.popExpired(now: time(10)) === armed)
        timers.disarm(armed)
        #expect(timers.popExpired(now: time(100)) == nil)
    }
}
