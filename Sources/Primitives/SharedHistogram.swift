/// How often something has taken how long, in memory that other processes read: a view of ``wordCount`` words.
///
/// One thread of one process writes. The words are the number of durations up to each bound and above the one before it,
/// the number above the last bound, and the sum of all durations in nanoseconds.
public struct SharedHistogram {
    private let words: UnsafeMutableRawPointer

    /// The upper bounds of the buckets, in nanoseconds, in ascending order: 100 µs to 60 s.
    public static let bounds: [UInt64] = [
        100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
        250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 30_000_000_000,
        60_000_000_000,
    ]
    /// ``bounds``' first one, as a constant of the compiler's: nearly all turns of a loop are shorter.
    private static var firstBound: UInt64 { 100_000 }
    /// The words of a histogram: a bucket for each bound, one above the last, and the sum.
    public static var wordCount: Int { 20 }

    /// - Parameter words: ``wordCount`` words of 8 bytes, 8-byte aligned, which outlive this value.
    public init(_ words: UnsafeMutableRawPointer) { self.words = words }

    /// Counts something that has taken so long.
    @inline(__always)
    public func observe(nanoseconds: UInt64) {
        guard nanoseconds <= Self.firstBound else { return observeLong(nanoseconds) }
        SharedWord.add(1, to: words)
        SharedWord.add(nanoseconds, to: words + 8 * (Self.wordCount - 1))
    }

    @inline(never)
    private func observeLong(_ nanoseconds: UInt64) {
        let bucket = Self.bounds.firstIndex { nanoseconds <= $0 } ?? Self.bounds.count
        SharedWord.add(1, to: words + 8 * bucket)
        SharedWord.add(nanoseconds, to: words + 8 * (Self.wordCount - 1))
    }
}
