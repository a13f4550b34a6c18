/// A timer that runs a closure, once for each time it is armed.
public final class CallbackTimer: TimerTarget {
    private let action: (UInt64) -> Void

    /// - Parameter action: is given the loop's time.
    public init(_ action: @escaping (UInt64) -> Void) {
        self.action = action
        super.init()
    }

    public override func timerFired(now: UInt64) { action(now) }
}
