import Logging
import Primitives

/// Limits how often events of each kind are logged, by a token bucket for each kind, so that an unauthenticated peer
/// cannot fill the journal. An event that is held back costs no allocation, and is counted. The count is logged with
/// the next event of the same kind, or by ``flush(now:to:)`` if none follows.
struct LogLimiter {
    private struct Bucket {
        var tokens = TokenBucket()
        var heldBack: UInt64 = 0
    }

    private let rate: Rate
    private var buckets: [Bucket]
    private var kindsHeldBack = 0

    /// - Parameters:
    ///   - burst: how many events of one kind may be logged at once; 1 to 1,000,000.
    ///   - rate: how many events of one kind are logged in each second after that; 1 to 1,000,000.
    init(burst: Int = 10, perSecond rate: Int = 1) {
        self.rate = Rate(perSecond: min(max(rate, 1), 1_000_000), burst: min(max(burst, 1), 1_000_000))
        buckets = Array(repeating: Bucket(), count: LogEvent.allCases.count)
    }

    /// Whether ``flush(now:to:)`` has, or will have, something to report.
    var isHoldingBack: Bool { kindsHeldBack > 0 }

    /// Logs an event, or holds it back. `message` and `metadata` are evaluated only when the event is logged.
    mutating func log(
        _ event: LogEvent, to logger: Logger, now: Instant, _ message: @autoclosure () -> String,
        _ metadata: @autoclosure () -> Logger.Metadata = [:]
    ) {
        // An event below the log level neither costs a token nor counts as held back.
        guard logger.logLevel <= event.level else { return }
        guard take(event, now: now) else {
            if buckets[event.rawValue].heldBack == 0 { kindsHeldBack += 1 }
            buckets[event.rawValue].heldBack += 1
            return
        }
        let count = clearHeldBack(event)
        guard count > 0 else { return logger.log(event, message(), metadata()) }
        var fields = metadata()
        fields["HELD_BACK"] = "\(count)"
        logger.log(event, "\(message()) (\(count) more held back)", fields)
    }

    /// Reports the events that have been held back, for each kind that may be logged again. Call it regularly, for
    /// example once a second, while ``isHoldingBack`` is true.
    mutating func flush(now: Instant, to logger: Logger) {
        guard isHoldingBack else { return }
        for event in LogEvent.allCases where buckets[event.rawValue].heldBack > 0 && take(event, now: now) {
            report(event, to: logger)
        }
    }

    /// Reports all events that have been held back, by one entry for each kind, when the process ends.
    mutating func finish(to logger: Logger) {
        for event in LogEvent.allCases where buckets[event.rawValue].heldBack > 0 { report(event, to: logger) }
    }

    private mutating func report(_ event: LogEvent, to logger: Logger) {
        let count = clearHeldBack(event)
        logger.log(event, "\(event.summary): \(count) more held back", ["HELD_BACK": "\(count)"])
    }

    private mutating func take(_ event: LogEvent, now: Instant) -> Bool {
        buckets[event.rawValue].tokens.takeIfHeld(of: rate, now: now)
    }

    private mutating func clearHeldBack(_ event: LogEvent) -> UInt64 {
        let count = buckets[event.rawValue].heldBack
        if count > 0 {
            buckets[event.rawValue].heldBack = 0
            kindsHeldBack -= 1
        }
        return count
    }
}
