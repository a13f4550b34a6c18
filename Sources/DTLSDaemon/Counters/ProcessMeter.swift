import LinuxSystem
import Primitives

/// Measures what a process uses, and has its loop measure turns and timers, into a block of counters.
final class ProcessMeter: TimerTarget {
    private let block: CounterBlock<ProcessCounter>
    private let loop: EventLoop
    private let isMainProcess: Bool

    /// What is asked for costs some system calls, and changes slowly.
    private static let interval = Duration.seconds(5)

    /// Begins to measure.
    /// - Parameters:
    ///   - block: its memory outlives the loop.
    ///   - limit: the most descriptors that the process may have open.
    init(_ block: CounterBlock<ProcessCounter>, limit: Int, loop: EventLoop, isMainProcess: Bool) {
        self.block = block
        self.loop = loop
        self.isMainProcess = isMainProcess
        super.init()
        loop.turnTimes = block.histogram(.loopTurnSeconds)
        loop.timerDelays = block.histogram(.loopTimerDelaySeconds)
        block.set(.maximumDescriptors, to: limit)
        timerFired(now: loop.now)
    }

    override func timerFired(now: Instant) {
        block.set(.openDescriptors, to: ProcessResources.openDescriptors)
        block.set(.residentMemory, to: ProcessResources.residentBytes)
        if isMainProcess { block.set(.availableMemory, to: ProcessResources.availableBytes ?? 0) }
        loop.timers.arm(self, at: now + Self.interval)
    }
}
