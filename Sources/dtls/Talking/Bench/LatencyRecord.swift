import Histogram
import Primitives

/// Latencies of a measurement: all of them in a histogram of three significant digits, and slice by slice over time.
struct LatencyRecord {
    /// What has happened in a part of the time.
    struct Slice: Codable, Equatable {
        /// When it begins, after the start.
        var startSeconds: Double
        var count: UInt64
        var p50Seconds: Double
        var p99Seconds: Double
        var maxSeconds: Double
    }

    /// Nanoseconds. 100 seconds are more than any handshake or echo is waited for.
    private static let most: UInt64 = 100_000_000_000

    private(set) var whole = Histogram<UInt64>(highestTrackableValue: most, numberOfSignificantValueDigits: .three)
    private var present = Histogram<UInt64>(highestTrackableValue: most, numberOfSignificantValueDigits: .three)
    private(set) var slices: [Slice] = []
    private let started: Instant
    private let sliceLength: Duration
    private var sliceEnd: Instant

    init(started: Instant, sliceLength: Duration) {
        self.started = started
        self.sliceLength = sliceLength
        sliceEnd = started + sliceLength
    }

    @inline(__always)
    mutating func record(_ latency: Duration) {
        present.record(min(UInt64(clamping: latency.nanoseconds), Self.most))
    }

    /// Ends slices whose time is over. To be called more often than a slice is long.
    mutating func advance(to now: Instant) {
        guard now >= sliceEnd else { return }
        endSlice()
        while sliceEnd <= now { sliceEnd = sliceEnd + sliceLength }
    }

    mutating func endSlice() {
        let start = (sliceEnd - sliceLength - started).inSeconds
        slices.append(
            Slice(
                startSeconds: start, count: present.totalCount, p50Seconds: Self.seconds(present, 50),
                p99Seconds: Self.seconds(present, 99), maxSeconds: Self.seconds(present, 100)))
        whole.add(present)
        present.reset()
    }

    private static func seconds(_ histogram: Histogram<UInt64>, _ percentile: Double) -> Double {
        histogram.totalCount == 0 ? 0 : Double(histogram.valueAtPercentile(percentile)) / 1e9
    }

    /// The latency that a share of all does not exceed, in seconds.
    func percentile(_ percentile: Double) -> Double { Self.seconds(whole, percentile) }

    var meanSeconds: Double { whole.totalCount == 0 ? 0 : whole.mean / 1e9 }
    var count: UInt64 { whole.totalCount }

    /// The distribution as pairs of percentile and latency, denser towards 100, as HDR histograms are plotted.
    var distribution: [(percentile: Double, seconds: Double)] {
        guard count > 0 else { return [] }
        return whole.percentiles(ticksPerHalfDistance: 5).map { ($0.percentile, Double($0.value) / 1e9) }
    }
}
