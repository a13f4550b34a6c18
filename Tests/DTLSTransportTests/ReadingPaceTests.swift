import Primitives
import Testing

@testable import DTLSTransport

@Suite struct ReadingPaceTests {
    private var pace = ReadingPace()
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    /// Reads one datagram each time, so often within a period that begins at `instant`.
    private mutating func read(_ count: Int, from instant: Instant) -> [Duration?] {
        (0..<count).map { pace.pause(after: 1, now: instant + .microseconds($0 * 10)) }
    }

    @Test mutating func `a socket to which few datagrams come is never left alone`() {
        for period in 0..<10 {
            let pauses = read(ReadingPace.many - 1, from: start + ReadingPace.period * period)
            #expect(pauses.allSatisfy { $0 == nil })
        }
    }

    @Test mutating func `from the datagram that makes them many it is left alone`() {
        let pauses = read(ReadingPace.many, from: start)
        #expect(pauses.dropLast().allSatisfy { $0 == nil })
        #expect(pauses.last == .some(ReadingPace.pause))
    }

    @Test mutating func `one batch can be many`() {
        #expect(pace.pause(after: ReadingPace.many, now: start) == ReadingPace.pause)
    }

    @Test mutating func `what held for one period holds for the next, and no longer`() {
        _ = pace.pause(after: ReadingPace.many, now: start)
        #expect(pace.pause(after: 1, now: start + ReadingPace.period) == ReadingPace.pause)
        #expect(pace.pause(after: 1, now: start + ReadingPace.period * 2) == nil)
    }

    @Test mutating func `a datagram after a silence is read at once, and so is the next`() {
        _ = pace.pause(after: ReadingPace.many, now: start)
        let later = start + ReadingPace.period * 3
        #expect(pace.pause(after: 1, now: later) == nil)
        #expect(pace.pause(after: 1, now: later + .milliseconds(1)) == nil)
    }
}
