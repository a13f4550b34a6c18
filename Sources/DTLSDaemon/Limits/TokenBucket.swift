/// How much of something there may be in a second, whole or not.
struct Rate: Codable, Equatable, Sendable {
    /// At least 1: one thing in 1,000 seconds.
    let perThousandSeconds: Int

    /// 1,000 seconds in nanoseconds.
    private static let period: UInt64 = 1_000_000_000_000
    private static let second: UInt64 = 1_000_000_000

    init(perThousandSeconds: Int) { self.perThousandSeconds = max(1, perThousandSeconds) }

    /// - Parameter perSecond: 1 to 1,000,000,000.
    init(perSecond: Int) { self.init(perThousandSeconds: min(perSecond, 1_000_000_000) * 1_000) }

    /// Nanoseconds in which `count` things, up to 1,000,000, are made up for.
    func cost(of count: Int = 1) -> UInt64 {
        UInt64(min(max(0, count), 1_000_000)) * Self.period / UInt64(perThousandSeconds)
    }

    /// What a full bucket holds, in nanoseconds: what comes in a second may come at once, and one thing always may.
    var capacity: UInt64 { max(Self.second, cost()) }
}

/// A token bucket as one number: the time at which it will be full again. Times are monotonic nanoseconds, passed in by
/// the caller; a new bucket is full.
struct TokenBucket: Equatable, Sendable {
    private(set) var fullAt: UInt64 = 0

    /// Whether one thing more may come.
    func holds(_ rate: Rate, now: UInt64) -> Bool { missing(now) <= rate.capacity - rate.cost() }

    /// Whether anything is left: what comes then may overdraw the bucket, and is made up for before the next. For
    /// things of many sizes, the largest of which a small bucket would never hold.
    func holdsAnything(_ rate: Rate, now: UInt64) -> Bool { missing(now) < rate.capacity }

    mutating func take(_ count: Int = 1, of rate: Rate, now: UInt64) {
        let (sum, overflow) = max(fullAt, now).addingReportingOverflow(rate.cost(of: count))
        fullAt = overflow ? .max : sum
    }

    private func missing(_ now: UInt64) -> UInt64 { fullAt > now ? fullAt - now : 0 }
}
