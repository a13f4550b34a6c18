import ControlProtocol
import Testing

@testable import dtls

@Suite struct CounterReadingTests {
    private func histogram(_ counts: [UInt64]) -> CounterHistogram {
        CounterHistogram(boundsSeconds: [0.001, 0.01, 0.1], counts: counts, sumSeconds: 1)
    }

    @Test func `a quantile is the bound of the bucket that it lies in`() {
        #expect(histogram([98, 1, 1, 0]).quantile(0.5) == .atMost(seconds: 0.001))
        #expect(histogram([98, 1, 1, 0]).quantile(0.99) == .atMost(seconds: 0.01))
        #expect(histogram([98, 0, 0, 2]).quantile(0.99) == .above(seconds: 0.1))
        #expect(histogram([98, 0, 0, 2]).quantileText(0.99) == ">100 ms")
        #expect(histogram([0, 0, 0, 0]).quantile(0.99) == nil)
    }

    @Test func `a histogram whose counts do not fit its bounds has no quantile`() {
        #expect(histogram([1, 2]).quantile(0.5) == nil)
        #expect(CounterHistogram(boundsSeconds: [], counts: [], sumSeconds: 0).quantile(0.5) == nil)
    }

    @Test func `what was counted meanwhile is the difference of two histograms of one kind`() {
        #expect(histogram([5, 6, 7, 8]).since(histogram([5, 5, 5, 5]))?.counts == [0, 1, 2, 3])
        #expect(histogram([5, 6, 7, 8]).since(histogram([6, 0, 0, 0])) == nil)
        #expect(
            histogram([5, 6, 7, 8]).since(CounterHistogram(boundsSeconds: [1], counts: [1, 1], sumSeconds: 0)) == nil)
    }

    @Test func `handshakes are those that have succeeded, and failures not those that a client has given up`() {
        let counters = Samples.counters(full: 3, resumed: 4, timedOut: 2)
        #expect(counters.handshakes == 7)
        #expect(counters.failedHandshakes == ["timed_out": 2])
        #expect(counters.total("handshakes_total") == 16)
        #expect(counters.total("unknown") == nil)
        #expect(CounterValues().handshakes == nil)
    }
}
