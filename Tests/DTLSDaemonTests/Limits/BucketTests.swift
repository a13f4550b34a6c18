import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// Token buckets and their tables, with a clock of the tests' own.
@Suite struct TokenBucketTests {
    private static let second: UInt64 = 1_000_000_000
    private static let start: UInt64 = 1_000 * second

    /// How many things the bucket lets through that come every `interval` nanoseconds for `duration`.
    private func admitted(_ rate: Rate, every interval: UInt64, for duration: UInt64) -> Int {
        var bucket = TokenBucket()
        var count = 0
        for now in stride(from: Self.start, to: Self.start + duration, by: Int(interval)) {
            guard bucket.holds(rate, now: at(now)) else { continue }
            bucket.take(of: rate, now: at(now))
            count += 1
        }
        return count
    }

    @Test func `what a second allows may come at once`() {
        let rate = Rate(perSecond: 7)
        var bucket = TokenBucket()
        for _ in 0..<7 {
            #expect(bucket.holds(rate, now: at(Self.start)))
            bucket.take(of: rate, now: at(Self.start))
        }
        #expect(!bucket.holds(rate, now: at(Self.start)))
        #expect(!bucket.holds(rate, now: at(Self.start + Self.second / 8)))
        #expect(bucket.holds(rate, now: at(Self.start + Self.second / 7 + 1)))
    }

    /// In the long run no more than the rate, and no less, whatever tries: the burst, and then one each interval.
    @Test(arguments: [1, 3, 100, 2_500])
    func `a bucket lets through its rate in the long run`(_ perSecond: Int) {
        let seconds = 20
        let count = admitted(Rate(perSecond: perSecond), every: 100_000, for: UInt64(seconds) * Self.second)
        #expect((perSecond * seconds...perSecond * (seconds + 1)).contains(count))
    }

    @Test func `a rate may be less than one per second`() {
        // One in ten seconds: at 0, 10, ... 90.
        #expect(admitted(Rate(perThousandSeconds: 100), every: Self.second, for: 100 * Self.second) == 10)
    }

    @Test func `an item larger than the bucket overdraws it`() {
        let rate = Rate(perSecond: 1_000)
        var bucket = TokenBucket()
        #expect(bucket.holdsAnything(rate, now: at(Self.start)))
        bucket.take(16_384, of: rate, now: at(Self.start))
        #expect(!bucket.holdsAnything(rate, now: at(Self.start + 15 * Self.second)))
        #expect(bucket.holdsAnything(rate, now: at(Self.start + 16 * Self.second)))
    }

    @Test func `a time in the far future does not overflow`() {
        var bucket = TokenBucket()
        let rate = Rate(perThousandSeconds: .max)
        let slow = Rate(perThousandSeconds: .min)
        for now: UInt64 in [.max, 0, .max - 1] {
            _ = bucket.holds(rate, now: at(now))
            bucket.take(.max, of: slow, now: at(now))
            _ = bucket.holdsAnything(slow, now: at(now))
        }
        #expect(bucket.fullAt == .distantFuture)
    }

    private func network(_ number: UInt32) throws -> NetworkPrefix {
        var bytes = number.bigEndian
        let address = withUnsafeBytes(of: &bytes) { SocketAddress(family: .ipv4, addressBytes: $0, port: 1) }
        return NetworkPrefix(of: try #require(address), lengths: .init())
    }

    @Test func `each network has a bucket of its own`() throws {
        var table = PrefixRates()
        let rate = Rate(perSecond: 2)
        for number in 0..<1_000 as Range<UInt32> {
            let network = try network(number)
            for _ in 0..<2 {
                #expect(table.holds(network, rate, now: at(Self.start)))
                table.take(network, rate, now: at(Self.start))
            }
            #expect(!table.holds(network, rate, now: at(Self.start)))
        }
        for number in 0..<1_000 as Range<UInt32> {
            #expect(!table.holds(try network(number), rate, now: at(Self.start)))
            #expect(table.holds(try network(number), rate, now: at(Self.start + Self.second)))
        }
    }

    /// A million addresses neither make the table grow nor keep anyone out that has done nothing; and those that it
    /// still remembers are as many as it has room for.
    @Test func `a flood from a million networks neither grows the table nor refuses anybody`() throws {
        var table = PrefixRates()
        let rate = Rate(perSecond: 1)
        let capacity = table.capacity
        for number in 0..<1_000_000 as Range<UInt32> {
            let network = try network(number)
            #expect(table.holds(network, rate, now: at(Self.start)), "a network that is new is let in")
            table.take(network, rate, now: at(Self.start))
            #expect(!table.holds(network, rate, now: at(Self.start)), "and at once remembered")
        }
        #expect(table.capacity == capacity)
        #expect(capacity == PrefixRates.defaultCapacity)
        #expect(table.occupied(now: at(Self.start)) <= capacity)
        #expect(table.occupied(now: at(Self.start)) > capacity * 9 / 10)
    }

    /// As long as there is room for those that come within a second, nobody is forgotten.
    @Test func `full buckets make room for other networks`() throws {
        var table = PrefixRates(capacity: 4_096)
        let rate = Rate(perSecond: 1)
        var now = Self.start
        for round in 0..<500 as Range<UInt32> {
            // Each round brings others; those of the last round have full buckets by then. With a hundred at a time,
            // nine fall into one of the 512 sets once in millions of runs.
            let networks = try (0..<100).map { try network(round * 100 + $0) }
            for network in networks { table.take(network, rate, now: at(now)) }
            #expect(networks.allSatisfy { !table.holds($0, rate, now: at(now)) })
            now += Self.second
        }
        #expect(table.capacity == 4_096)
    }

    @Test func `traffic over a limit is dropped with the name of the limit`() throws {
        let limiter = try #require(
            TrafficLimiter(
                TrafficLimits(
                    largestDatagram: 1_000, datagramsPerSecond: Rate(perSecond: 3),
                    bytesPerSecond: Rate(perSecond: 1_500)))
        )
        #expect(limiter.excess(1_001, now: at(Self.start)) == .largestDatagram)
        #expect(limiter.excess(1_000, now: at(Self.start)) == nil)
        #expect(limiter.excess(1_000, now: at(Self.start)) == nil, "it overdraws")
        #expect(limiter.excess(1, now: at(Self.start)) == .bytesPerSecond)
        #expect(limiter.excess(0, now: at(Self.start + Self.second / 2)) == nil)
        #expect(limiter.excess(0, now: at(Self.start + Self.second / 2)) == nil)
        #expect(limiter.excess(0, now: at(Self.start + Self.second / 2)) == .datagramsPerSecond)
        #expect(limiter.dropped == 3)
        limiter.restart()
        #expect(limiter.dropped == 0)
        #expect(TrafficLimiter(TrafficLimits()) == nil)
    }

    @Test func `the stricter of two traffic limits applies`() {
        let service = TrafficLimits(largestDatagram: 100, datagramsPerSecond: nil, bytesPerSecond: Rate(perSecond: 9))
        let all = TrafficLimits(largestDatagram: 200, datagramsPerSecond: Rate(perSecond: 5), bytesPerSecond: nil)
        let both = TrafficLimits(
            largestDatagram: 100, datagramsPerSecond: Rate(perSecond: 5), bytesPerSecond: Rate(perSecond: 9))
        #expect(service.within(all) == both)
        #expect(all.within(service) == both)
    }
}
