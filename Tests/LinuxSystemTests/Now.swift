/// A point in time as the loop has it, in nanoseconds.
typealias Now = UInt64

extension Now {
    func later(byMilliseconds count: Int) -> Now { self + UInt64(count) * 1_000_000 }
}
