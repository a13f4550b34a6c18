/// How often something may happen: so many times in a period, and so many of them at once.
public struct Rate: Equatable, Hashable, Codable, Sendable {
    /// At least 1: once in 1,000 seconds.
    public let perThousandSeconds: Int
    /// How many may come at once, 1 to 1,000,000. `nil`: as many as come in a second, and at least one.
    public let burst: Int?

    /// 1,000 seconds in nanoseconds.
    private static let period: UInt64 = 1_000_000_000_000
    private static let second: UInt64 = 1_000_000_000

    public init(perThousandSeconds: Int, burst: Int? = nil) {
        self.perThousandSeconds = max(1, perThousandSeconds)
        self.burst = burst
    }

    /// - Parameter perSecond: 1 to 1,000,000,000.
    public init(perSecond: Int, burst: Int? = nil) {
        self.init(perThousandSeconds: min(perSecond, 1_000_000_000) * 1_000, burst: burst)
    }

    /// Nanoseconds in which the tokens of `count` events, up to 1,000,000, come back.
    func cost(of count: Int = 1) -> UInt64 {
        UInt64(min(max(0, count), 1_000_000)) * Self.period / UInt64(max(1, perThousandSeconds))
    }

    /// Nanoseconds in which an empty bucket becomes full.
    var capacity: UInt64 { burst.map { cost(of: max(1, $0)) } ?? max(Self.second, cost()) }
}

/// A token bucket that is one number, the time at which it will be full again (the generic cell rate algorithm, ITU-T
/// I.371). The caller passes the time in. A new bucket is full.
public struct TokenBucket: Equatable, Sendable {
    public private(set) var fullAt = Instant.distantPast

    public init() {}

    /// Whether one more event may come.
    public func holds(_ rate: Rate, now: Instant) -> Bool { missing(now) <= rate.capacity - rate.cost() }

    /// Whether anything is left. An event that comes then may overdraw the bucket, and has to be made up for before the
    /// next: for events of many sizes, the largest of which a small bucket would never hold.
    public func holdsAnything(_ rate: Rate, now: Instant) -> Bool { missing(now) < rate.capacity }

    /// Takes the tokens of `count` events, whether the bucket holds them or not.
    public mutating func take(_ count: Int = 1, of rate: Rate, now: Instant) {
        let (sum, overflow) = max(fullAt, now).nanoseconds.addingReportingOverflow(rate.cost(of: count))
        fullAt = Instant(nanoseconds: overflow ? .max : sum)
    }

    /// Takes one event's token if there is one.
    /// - Returns: whether there was.
    public mutating func takeIfHeld(of rate: Rate, now: Instant) -> Bool {
        guard holds(rate, now: now) else { return false }
        take(of: rate, now: now)
        return true
    }

    private func missing(_ now: Instant) -> UInt64 { fullAt > now ? fullAt.nanoseconds - now.nanoseconds : 0 }
}
