import LinuxSystem
import Logging
import Primitives

/// What an operator is told of checked backends. Backends can cause it any number of times, so it is limited.
final class CheckLog {
    private let logger: Logger
    private let loop: EventLoop
    private var limiter = LogLimiter(burst: 20, perSecond: 1)

    init(_ logger: Logger, loop: EventLoop) {
        self.logger = logger
        self.loop = loop
    }

    func log(_ action: CheckTable.Action) {
        switch action {
        case .check, .publish, .count: break
        case .logDown(let target, let reason, let failures):
            log(
                .backendDown, target,
                "the backend \(target.address) is down: \(counted(failures, "check")) failed one after the other, the last"
                    + " one with: \(reason)", ["REASON": "\(reason)"])
        case .logUp(let target, let downtime):
            log(
                .backendUp, target, "the backend \(target.address) is up again, after \(downtime.seconds) s",
                ["DOWNTIME_SEC": "\(downtime.seconds)"])
        case .logImpossible(let target, let reason):
            log(
                .internalError, target,
                "the backend \(target.address) cannot be checked, and counts as before: \(reason)", [:])
        }
    }

    /// The process that checks backends has ended, or cannot be started.
    func logEnd(because reason: String, pause: Duration) {
        limiter.log(
            .internalError, to: logger, now: loop.now,
            "backends are not checked: \(reason). They count as they did, and the checker is started again in"
                + " \(pause.seconds) s")
    }

    /// Reports what was held back. Call it regularly.
    func flush() { limiter.flush(now: loop.now, to: logger) }

    private func log(
        _ event: LogEvent, _ target: CheckTable.Target, _ message: @autoclosure () -> String, _ more: Logger.Metadata
    ) {
        limiter.log(
            event, to: logger, now: loop.now, message(),
            more.merging(["SERVICE": "\(target.service)", "BACKEND": "\(target.address)"]) { $1 })
    }
}
