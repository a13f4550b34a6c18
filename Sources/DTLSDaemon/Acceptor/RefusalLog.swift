import DTLSTransport
import Logging

/// The log of newcomers that are refused. Each reason has a limiter of its own, so that a flood of one kind does not
/// hide the others.
struct RefusalLog {
    /// By the reasons' raw values.
    private var limiters: [LogLimiter]
    private let loggers: [Logger]

    init(now: UInt64) {
        loggers = Refusal.allCases.map { refusal in
            var logger = Logger(label: "dtlsd")
            logger[metadataKey: "REASON"] = "\(refusal.key)"
            return logger
        }
        limiters = loggers.map { _ in LogLimiter(burst: 10, perSecond: 1, now: now) }
    }

    mutating func log(
        _ refusal: Refusal, as event: LogEvent = .newcomerRefused, now: UInt64, _ message: @autoclosure () -> String,
        _ fields: @autoclosure () -> Logger.Metadata
    ) {
        limiters[refusal.rawValue].log(event, to: loggers[refusal.rawValue], now: now, message(), fields())
    }

    /// Reports what is held back, where its time has come.
    mutating func flush(now: UInt64) {
        for index in limiters.indices { limiters[index].flush(now: now, to: loggers[index]) }
    }

    /// Reports all that is still held back.
    mutating func finish() {
        for index in limiters.indices { limiters[index].finish(to: loggers[index]) }
    }
}

extension Tally<Refusal> {
    /// `3 denied, 2 connections_per_prefix`; empty where nothing was refused.
    var text: String { nonZero { $0.key } }
}

extension Tally<TrafficExcess> {
    /// `3 largest_datagram, 2 bytes_per_second`; empty where nothing was dropped.
    var text: String { nonZero { $0.key } }
}

extension Tally {
    fileprivate func nonZero(_ key: (Kind) -> String) -> String {
        Kind.allCases.filter { self[$0] > 0 }.map { "\(self[$0]) \(key($0))" }.joined(separator: ", ")
    }
}
