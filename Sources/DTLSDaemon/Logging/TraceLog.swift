import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// Logs what a ``ClientTrace`` tells, whatever the level of the log is: somebody has asked for it.
final class TraceLog: TimerTarget {
    private let logger: Logger
    private let loop: EventLoop
    /// A client that floods is seen well enough by a part of what it sends.
    private var limiter = LogLimiter(burst: 1_000, perSecond: 200)

    /// - Parameter worker: the number of the worker that logs; `nil` for the main process.
    init(loop: EventLoop, worker: Int? = nil) {
        var logger = Logger(label: "dtlsd")
        if let worker { logger[metadataKey: "WORKER"] = "\(worker)" }
        logger.logLevel = .debug
        self.logger = logger
        self.loop = loop
        super.init()
    }

    /// A trace of these peers; `nil` where there are none.
    func trace(_ patterns: [AddressPattern]) -> ClientTrace? {
        if patterns.isEmpty { return nil }
        return ClientTrace(patterns) { [self] peer, text in
            limiter.log(.traced, to: logger, now: loop.now, "trace of \(peer): \(text)", ["PEER": "\(peer)"])
            if limiter.isHoldingBack { loop.timers.arm(self, at: loop.now + .seconds(1)) }
        }
    }

    override func timerFired(now: Instant) {
        limiter.flush(now: now, to: logger)
        if limiter.isHoldingBack { loop.timers.arm(self, at: now + .seconds(1)) }
    }
}
