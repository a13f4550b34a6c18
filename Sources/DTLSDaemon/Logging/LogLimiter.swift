import Logging

/// Bounds how often events of each kind are logged, so that a stranger on the network cannot fill the journal: a
/// bucket of tokens per kind. What is held back costs no allocation, and is counted; the count goes out with the next
/// event of the kind that is let through, or by ``flush(now:to:)`` if none follows.
///
/// Times are nanoseconds of a monotonic clock, passed in by the caller.
struct LogLimiter {
    private struct Bucket {
        /// In units of one nanosecond's refill: an event costs `cost` of them.
        var credit: UInt64
        var filledAt: UInt64
        var heldBack: UInt64
    }

    private let cost: UInt64
    private let capacity: UInt64
    private var buckets: [Bucket]
    private var kindsHeldBack = 0

    /// - Parameters:
    ///   - burst: how many events of one kind may follow one another at once; 1 to 1,000,000.
    ///   - rate: how many of one kind are let through in a second thereafter; 1 to 1,000,000.
    ///   - now: the clock's present value.
    init(burst: Int = 10, perSecond rate: Int = 1, now: UInt64) {
        cost = 1_000_000_000 / UInt64(min(max(rate, 1), 1_000_000))
        capacity = UInt64(min(max(burst, 1), 1_000_000)) * cost
        let full = Bucket(credit: capacity, filledAt: now, heldBack: 0)
        buckets = Array(repeating: full, count: LogEvent.allCases.count)
    }

    /// Whether ``flush(now:to:)`` has, or will have, something to report.
    var isHoldingBack: Bool { kindsHeldBack > 0 }

    /// Logs an event, or holds it back. `message` and `metadata` are only evaluated when it is let through.
    mutating func log(
        _ event: LogEvent, to logger: Logger, now: UInt64, _ message: @autoclosure () -> String,
        _ metadata: @autoclosure () -> Logger.Metadata = [:]
    ) {
        // What would not be logged anyway neither costs a token nor counts as held back.
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

    /// Reports what has been held back, for each kind that may log again. To be called now and then, for example once
    /// a second, while ``isHoldingBack``.
    mutating func flush(now: UInt64, to logger: Logger) {
        guard isHoldingBack else { return }
        for event in LogEvent.allCases where buckets[event.rawValue].heldBack > 0 && take(event, now: now) {
            report(event, to: logger)
        }
    }

    /// Reports all that has been held back, an entry for each kind, at the end of the process.
    mutating func finish(to logger: Logger) {
        for event in LogEvent.allCases where buckets[event.rawValue].heldBack > 0 { report(event, to: logger) }
    }

    private mutating func report(_ event: LogEvent, to logger: Logger) {
        let count = clearHeldBack(event)
        logger.log(event, "\(event.summary): \(count) more held back", ["HELD_BACK": "\(count)"])
    }

    private mutating func take(_ event: LogEvent, now: UInt64) -> Bool {
        let index = event.rawValue
        // A clock that seems to go backwards refills nothing.
        let elapsed = now > buckets[index].filledAt ? now - buckets[index].filledAt : 0
        buckets[index].filledAt = now
        let missing = capacity - buckets[index].credit
        buckets[index].credit += min(elapsed, missing)
        guard buckets[index].credit >= cost else { return false }
        buckets[index].credit -= cost
        return true
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
