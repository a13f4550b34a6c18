/// What can be armed in a loop's ``Timers``: it has one deadline at a time.
open class TimerTarget {
    /// The deadline in monotonic nanoseconds for which an entry is in the heap; `UInt64.max`: none.
    fileprivate(set) var armedDeadline = UInt64.max

    public init() {}

    /// The deadline has passed. Arm again for the next one.
    open func timerFired(now: UInt64) {}
}

/// Deadlines in a binary heap. Moving one later costs nothing until the earlier entry comes up, which is what idle
/// timeouts do with every datagram.
public struct Timers {
    private struct Entry {
        let deadline: UInt64
        let target: TimerTarget
    }

    private var heap: [Entry] = []

    public init() {}

    /// When the loop has to wake up at the latest; `nil` when nothing is armed.
    public var earliest: UInt64? { heap.first?.deadline }

    /// Makes `target.timerFired` come at `deadline`, or earlier where it is armed for an earlier one: it is up to the
    /// target to look at the time, and arm again.
    @inline(__always)
    public mutating func arm(_ target: TimerTarget, at deadline: UInt64) {
        guard deadline < target.armedDeadline else { return }
        target.armedDeadline = deadline
        push(Entry(deadline: deadline, target: target))
    }

    /// Nothing comes for `target` any more, unless it is armed again. Its entries stay in the heap until their time.
    public mutating func disarm(_ target: TimerTarget) { target.armedDeadline = .max }

    /// The next target whose deadline has passed; call until `nil`.
    public mutating func popExpired(now: UInt64) -> TimerTarget? {
        while let first = heap.first, first.deadline <= now {
            removeFirst()
            // An entry that was overtaken by an earlier one, or disarmed.
            guard first.target.armedDeadline == first.deadline else { continue }
            first.target.armedDeadline = .max
            return first.target
        }
        return nil
    }

    private mutating func push(_ entry: Entry) {
        heap.append(entry)
        var index = heap.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            guard heap[index].deadline < heap[parent].deadline else { return }
            heap.swapAt(index, parent)
            index = parent
        }
    }

    private mutating func removeFirst() {
        let last = heap.removeLast()
        guard !heap.isEmpty else { return }
        heap[0] = last
        var index = 0
        while true {
            var smallest = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && heap[child].deadline < heap[smallest].deadline {
                smallest = child
            }
            guard smallest != index else { return }
            heap.swapAt(index, smallest)
            index = smallest
        }
    }
}
