import Primitives
import Testing

@Suite struct TimeTests {
    private let start = Instant(nanoseconds: 1_000)

    @Test func `a duration is added and found again`() {
        let later = start + .milliseconds(1_500)
        #expect(later.nanoseconds == 1_500_001_000)
        #expect(later - start == .milliseconds(1_500))
        #expect(start - later == .milliseconds(-1_500))
        #expect(later - .milliseconds(1_500) == start)
        #expect(start < later && .distantPast < start && later < .distantFuture)
    }

    @Test(arguments: [Duration.seconds(Int64.max), .seconds(600 * 365 * 86_400), .nanoseconds(Int64.max)])
    func `what is too far away is the distant future or past`(_ far: Duration) {
        #expect(Instant(nanoseconds: .max - 5) + far == .distantFuture)
        #expect(start - far == .distantPast)
        #expect(Instant.distantFuture + far == .distantFuture)
        #expect(Instant.distantPast - far == .distantPast)
    }

    @Test func `the distance of the ends does not overflow`() {
        #expect(Instant.distantFuture - .distantPast == .nanoseconds(Int64.max))
        #expect(Instant.distantPast - .distantFuture == .nanoseconds(-Int64.max))
        #expect(UnixTime(seconds: .min).duration(to: UnixTime(seconds: .max)) != .zero)
    }

    @Test func `durations are whole units rounded towards zero`() {
        let duration = Duration.nanoseconds(1_999_999_999)
        #expect(duration.nanoseconds == 1_999_999_999 && duration.milliseconds == 1_999 && duration.seconds == 1)
        #expect((Duration.zero - duration).milliseconds == -1_999)
        #expect(Duration.seconds(Int64.max).nanoseconds == .max)
    }

    @Test func `a minute begins every sixty seconds of 1970 and after`() {
        #expect(Minute(milliseconds: 119_999) == Minute(number: 1, milliseconds: 59_999))
        #expect(Minute(milliseconds: 120_000) == Minute(number: 2, milliseconds: 0))
        #expect(Minute(milliseconds: -1) == Minute(number: 0))
        #expect(Minute(milliseconds: .max).number == UInt64(Int64.max) / 60_000)
    }

    @Test func `a boot time that is later gives no duration`() {
        #expect(BootTime(seconds: 10).duration(since: BootTime(seconds: 4)) == .seconds(6))
        #expect(BootTime(seconds: 4).duration(since: BootTime(seconds: 10)) == .zero)
    }
}

@Suite struct BackoffTests {
    @Test func `pauses double up to the longest and begin again after a success`() {
        var backoff = Backoff(from: .milliseconds(100), to: .seconds(1))
        let pauses = (0..<6).map { _ in backoff.next().milliseconds }
        #expect(pauses == [100, 200, 400, 800, 1_000, 1_000])
        #expect(backoff.last == .seconds(1))
        backoff.reset()
        #expect(backoff.last == .zero)
        let first = backoff.next()
        #expect(first == .milliseconds(100))
    }
}

@Suite struct TokenBucketTests {
    @Test func `a burst comes at once and then one event in each interval`() {
        var bucket = TokenBucket()
        let rate = Rate(perSecond: 2, burst: 3)
        let now = Instant(nanoseconds: 5_000_000_000)
        func take(_ count: Int, after wait: Duration) -> [Bool] {
            (0..<count).map { _ in bucket.takeIfHeld(of: rate, now: now + wait) }
        }
        #expect(take(4, after: .zero) == [true, true, true, false])
        #expect(take(1, after: .milliseconds(499)) == [false])
        #expect(take(2, after: .milliseconds(500)) == [true, false])
        // After any length of silence there is one burst and no more.
        #expect(take(4, after: .seconds(1_000_000)) == [true, true, true, false])
    }

    @Test(arguments: [Int.min, 0, 1, 1_000, Int.max])
    func `no rate and no burst overflow`(_ number: Int) {
        for rate in [Rate(perThousandSeconds: number), Rate(perThousandSeconds: number, burst: number)] {
            var bucket = TokenBucket()
            _ = bucket.takeIfHeld(of: rate, now: .distantFuture)
            bucket.take(.max, of: rate, now: .distantFuture)
            #expect(bucket.fullAt == .distantFuture)
        }
    }
}
