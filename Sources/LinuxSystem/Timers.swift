import Primitives

/// An object that can be armed in a loop's ``Timers``. It has one deadline at a time.
open class TimerTarget {
    /// The index of this target in the heap; -1 while it is not armed. Every connection has one, so it is small.
    private var smallHeapIndex: Int32 = -1
    fileprivate var heapIndex: Int {
        get { Int(smallHeapIndex) }
        set { smallHeapIndex = Int32(truncatingIfNeeded: newValue) }
    }

    public init() {}

    /// Called when the deadline has passed. Arm the target again for its next deadline.
    open func timerFired(now: Instant) {}
}

/// Deadlines in a binary heap that knows the index of each target, so that a target can be removed completely.
///
/// Moving a deadline later costs nothing until the earlier one passes; idle timeouts do so with every datagram. The
/// heap retains its targets.
public struct Timers: ~Copyable {
    /// A deadline and its target, which is retained once, when the entry is made: the heap moves its entries often, and
    /// need not count references for that.
    private struct Entry {
        var deadline: Instant
        private let target: Unmanaged<TimerTarget>

        init(retaining target: TimerTarget, until deadline: Instant) {
            self.deadline = deadline
            self.target = .passRetained(target)
        }

        /// The target, retained by the caller. The entry is not used any more.
        consuming func take() -> TimerTarget { target.takeRetainedValue() }

        var index: Int {
            get { target._withUnsafeGuaranteedRef { $0.heapIndex } }
            nonmutating set { target._withUnsafeGuaranteedRef { $0.heapIndex = newValue } }
        }
    }

    private var heap: [Entry] = []

    public init() {}

    deinit {
        for entry in heap { entry.take().heapIndex = -1 }
    }

    /// The latest time at which the loop has to wake up; `nil` when nothing is armed.
    public var earliest: Instant? { heap.first?.deadline }

    /// Arms `target` for `deadline`. If it is armed for an earlier deadline already, `timerFired` is called then: the
    /// target has to check the time, and arm itself again.
    @inline(__always)
    public mutating func arm(_ target: TimerTarget, at deadline: Instant) {
        if target.heapIndex >= 0 {
            guard deadline < heap[target.heapIndex].deadline else { return }
            heap[target.heapIndex].deadline = deadline
        } else {
            guard deadline < .distantFuture else { return }
            target.heapIndex = heap.count
            heap.append(Entry(retaining: target, until: deadline))
        }
        siftUp(target.heapIndex)
    }

    /// Disarms `target`, whose `timerFired` is not called until it is armed again.
    public mutating func disarm(_ target: TimerTarget) {
        if target.heapIndex >= 0 { _ = remove(at: target.heapIndex) }
    }

    /// Disarms and returns the next target whose deadline has passed; call it until it returns `nil`.
    public mutating func popExpired(now: Instant) -> TimerTarget? {
        guard let first = heap.first, first.deadline <= now else { return nil }
        return remove(at: 0)
    }

    private mutating func remove(at index: Int) -> TimerTarget {
        let removed = heap[index]
        removed.index = -1
        let last = heap.removeLast()
        if index < heap.count {
            place(last, at: index)
            siftUp(index)
            siftDown(last.index)
        }
        return removed.take()
    }

    private mutating func place(_ entry: Entry, at index: Int) {
        heap[index] = entry
        entry.index = index
    }

    private mutating func siftUp(_ start: Int) {
        var index = start
        let entry = heap[index]
        while index > 0 {
            let parent = (index - 1) / 2
            guard entry.deadline < heap[parent].deadline else { break }
            place(heap[parent], at: index)
            index = parent
        }
        place(entry, at: index)
    }

    private mutating func siftDown(_ start: Int) {
        var index = start
        let entry = heap[index]
        while true {
            var child = 2 * index + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1].deadline < heap[child].deadline { child += 1 }
            guard heap[child].deadline < entry.deadline else { break }
            place(heap[child], at: index)
            index = child
        }
        place(entry, at: index)
    }
}

/// A timer that runs a closure once each time it is armed.
public final class CallbackTimer: TimerTarget {
    private let action: (Instant) -> Void

    /// - Parameter action: the closure, which is called with the loop's time.
    public init(_ action: @escaping (Instant) -> Void) {
        self.action = action
        super.init()
    }

    public override func timerFired(now: Instant) { action(now) }
}
