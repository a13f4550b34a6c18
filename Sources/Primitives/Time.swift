/// A point in time of the clock that deadlines go by: CLOCK_MONOTONIC, which nobody sets.
///
/// It is 8 bytes, so that a heap of deadlines or a table of rates stays small. Arithmetic saturates: a deadline that is
/// too far away to be held is ``distantFuture``.
public struct Instant: InstantProtocol, Hashable, Sendable {
    public typealias Duration = Swift.Duration

    /// Nanoseconds since the clock's start, which is the machine's.
    public let nanoseconds: UInt64

    @inline(__always)
    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// Before everything that happens: the clock's start.
    public static let distantPast = Instant(nanoseconds: 0)
    /// After everything that happens: the deadline of what has none.
    public static let distantFuture = Instant(nanoseconds: .max)

    public func advanced(by duration: Duration) -> Instant {
        let distance = duration.nanoseconds
        if distance >= 0 {
            let (sum, overflow) = nanoseconds.addingReportingOverflow(UInt64(distance))
            return overflow ? .distantFuture : Instant(nanoseconds: sum)
        }
        let (difference, overflow) = nanoseconds.subtractingReportingOverflow(distance.magnitude)
        return overflow ? .distantPast : Instant(nanoseconds: difference)
    }

    public func duration(to other: Instant) -> Duration {
        let distance =
            other.nanoseconds >= nanoseconds
            ? Int64(clamping: other.nanoseconds - nanoseconds) : -Int64(clamping: nanoseconds - other.nanoseconds)
        return .nanoseconds(distance)
    }

    @inline(__always)
    public static func < (one: Instant, other: Instant) -> Bool { one.nanoseconds < other.nanoseconds }

    public static func + (instant: Instant, duration: Duration) -> Instant { instant.advanced(by: duration) }
    public static func - (instant: Instant, duration: Duration) -> Instant { instant.advanced(by: .zero - duration) }
    public static func - (end: Instant, start: Instant) -> Duration { start.duration(to: end) }
}

/// A point in time by the calendar, in whole seconds: what certificates, OCSP responses and cookies go by.
public struct UnixTime: Hashable, Comparable, Codable, Sendable {
    /// Seconds since 1970, UTC, without leap seconds.
    public let seconds: Int64

    public init(seconds: Int64) { self.seconds = seconds }

    /// Seconds until `other`; negative when it has passed.
    public func duration(to other: UnixTime) -> Duration {
        .seconds(other.seconds.subtractingReportingOverflow(seconds).partialValue)
    }

    public static func < (one: UnixTime, other: UnixTime) -> Bool { one.seconds < other.seconds }
}

/// A point in time by the calendar, in milliseconds, as a minute, which the keys of cookies go by, and how much of it has
/// passed.
public struct Minute: Hashable, Sendable {
    /// Minutes since 1970, UTC.
    public let number: UInt64
    /// Milliseconds since its beginning, less than 60,000.
    public let milliseconds: UInt16

    public init(number: UInt64, milliseconds: UInt16 = 0) {
        self.number = number
        self.milliseconds = min(milliseconds, 59_999)
    }

    /// The minute that a time in milliseconds since 1970 lies in; the first one for times before that.
    public init(milliseconds: Int64) {
        let (number, rest) = UInt64(max(0, milliseconds)).quotientAndRemainder(dividingBy: 60_000)
        self.init(number: number, milliseconds: UInt16(truncatingIfNeeded: rest))
    }
}

/// A point in time since the machine was started, its sleep included (CLOCK_BOOTTIME), in whole seconds. It is the same
/// in every process, so it can be kept beside what outlives a process.
public struct BootTime: Hashable, Comparable, Sendable {
    public let seconds: UInt64

    public init(seconds: UInt64) { self.seconds = seconds }

    /// The time from `start` to this point; zero when `start` is later.
    public func duration(since start: BootTime) -> Duration {
        .seconds(seconds > start.seconds ? seconds - start.seconds : 0)
    }

    public static func < (one: BootTime, other: BootTime) -> Bool { one.seconds < other.seconds }
}

extension Duration {
    /// Whole nanoseconds, rounded towards zero; what does not fit in 64 bits (292 years) is the nearest that does.
    public var nanoseconds: Int64 { Int64(clamping: attoseconds / 1_000_000_000) }

    /// Whole milliseconds, rounded towards zero.
    public var milliseconds: Int { Int(clamping: attoseconds / 1_000_000_000_000_000) }

    /// Whole seconds, rounded towards zero.
    public var seconds: Int { Int(clamping: attoseconds / 1_000_000_000_000_000_000) }
}
