import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct HeapTrimmingTests {
    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    /// Opens connections up to `count`.
    private func trimming(peak count: Int) -> HeapTrimming {
        var trimming = HeapTrimming()
        for number in 1...count { trimming.connectionOpened(number) }
        return trimming
    }

    @Test func `memory is given back once, a while after half of many connections have ended`() {
        var trimming = trimming(peak: 1_000)
        for count in stride(from: 999, to: 500, by: -1) {
            #expect(trimming.connectionClosed(count, now: Self.start) == nil)
        }
        #expect(trimming.connectionClosed(500, now: Self.start) == Self.start + HeapTrimming.pause)
        for count in stride(from: 499, through: 0, by: -1) {
            #expect(trimming.connectionClosed(count, now: Self.start) == nil, "it is scheduled")
        }
        #expect(trimming.isDue(0) == true)
        #expect(trimming.isDue(0) == false, "the next burst has its own peak")
        #expect(trimming.connectionClosed(0, now: Self.start) == nil)
    }

    @Test func `connections that are replaced by others keep the memory`() {
        var trimming = trimming(peak: 1_000)
        for _ in 0..<5_000 {
            #expect(trimming.connectionClosed(999, now: Self.start) == nil)
            trimming.connectionOpened(1_000)
        }
        // A burst that comes back before the pause is over keeps it too.
        #expect(trimming.connectionClosed(400, now: Self.start) != nil)
        trimming.connectionOpened(900)
        #expect(trimming.isDue(900) == false)
        #expect(trimming.connectionClosed(400, now: Self.start) != nil)
        #expect(trimming.isDue(400) == true)
    }

    @Test func `memory is given back after many connections of which few were open at once`() {
        var trimming = HeapTrimming()
        for _ in 1..<HeapTrimming.leastClosed {
            trimming.connectionOpened(1)
            #expect(trimming.connectionClosed(0, now: Self.start) == nil)
        }
        trimming.connectionOpened(1)
        #expect(trimming.connectionClosed(0, now: Self.start) == Self.start + HeapTrimming.pause)
        #expect(trimming.isDue(0) == true)
    }

    @Test func `few connections are not worth it`() {
        var trimming = trimming(peak: HeapTrimming.leastClosed - 1)
        #expect(trimming.connectionClosed(0, now: Self.start) == nil)
        #expect(trimming.isDue(0) == false)
    }
}
