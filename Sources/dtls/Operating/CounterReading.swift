import ControlProtocol

extension CounterValues {
    /// A counter, or the sum over all values of its label; `nil` where the daemon does not have it.
    func total(_ name: String) -> UInt64? {
        switch self[name] {
        case .number(let number): number
        case .measure(let measure): UInt64(exactly: measure.rounded())
        case .labelled(let numbers): numbers.values.reduce(0, &+)
        case .histogram(let histogram): histogram.counts.reduce(0, &+)
        case nil: nil
        }
    }

    /// The numbers of a counter by the value of its label.
    func labelled(_ name: String) -> [String: UInt64] {
        if case .labelled(let numbers) = self[name] { numbers } else { [:] }
    }

    func histogram(_ name: String) -> CounterHistogram? {
        if case .histogram(let histogram) = self[name] { histogram } else { nil }
    }

    /// Handshakes that have succeeded.
    var handshakes: UInt64? {
        self["handshakes_total"].map { _ in
            let results = labelled("handshakes_total")
            return (results["full"] ?? 0) &+ (results["resumed"] ?? 0)
        }
    }

    /// Handshakes that something is wrong with, by their results: not those that a client has given up, or that were
    /// ended here.
    var failedHandshakes: [String: UInt64] {
        labelled("handshakes_total").filter {
            !["full", "resumed", "cancelled", "abandoned", "closed_here"].contains($0.key)
        }
    }
}

extension CounterHistogram {
    /// What was counted since `earlier`; `nil` where that is not one of the same histogram.
    func since(_ earlier: CounterHistogram) -> CounterHistogram? {
        guard earlier.boundsSeconds == boundsSeconds, earlier.counts.count == counts.count,
            zip(earlier.counts, counts).allSatisfy({ $0 <= $1 })
        else { return nil }
        return CounterHistogram(
            boundsSeconds: boundsSeconds, counts: zip(earlier.counts, counts).map { $1 - $0 },
            sumSeconds: sumSeconds - earlier.sumSeconds)
    }

    /// The bound of the bucket in which the quantile lies.
    enum Quantile: Equatable {
        case atMost(seconds: Double)
        /// It is in the bucket that has no upper bound.
        case above(seconds: Double)
    }

    /// - Parameter share: 0 to 1.
    /// - Returns: `nil` where nothing was counted.
    func quantile(_ share: Double) -> Quantile? {
        let total = counts.reduce(0, &+)
        guard total > 0, counts.count == boundsSeconds.count + 1 else { return nil }
        var left = share * Double(total)
        for (count, bound) in zip(counts, boundsSeconds) {
            left -= Double(count)
            if left <= 0 { return .atMost(seconds: bound) }
        }
        return boundsSeconds.last.map { .above(seconds: $0) }
    }

    /// A quantile for people: `≤1 ms`.
    func quantileText(_ share: Double) -> String? {
        switch quantile(share) {
        case .atMost(let seconds): "≤\(Quantity.latency(seconds: seconds))"
        case .above(let seconds): ">\(Quantity.latency(seconds: seconds))"
        case nil: nil
        }
    }
}
