import Primitives

/// A timer that runs a closure, once for each time it is armed.
public final class CallbackTimer: TimerTarget {
    private let action: (Instant) -> Void

    /// - Parameter action: is given the loop's time.
    public init(_ action: @escaping (Instant) -> Void) {
        self.action = action
        super.init()
    }

    public override func timerFired(now: Instant) { action(now) }
}
