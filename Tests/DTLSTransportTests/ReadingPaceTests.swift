import Primitives
import Testing

@testable import DTLSTransport

@Suite struct ReadingPaceTests {
    private var pace = ReadingPace()
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    /// Reads one datagram each time, so often within a period that begins at `instant`.
    private mutating func read(_ count: Int, from instant: Instant) -> [Duration?] {
        (0..<count).map { pace.pause(after: 1, hellos: 1, now: instant + .microseconds($0 * 10)) }
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
        #expect(pace.pause(after: ReadingPace.many, hellos: ReadingPace.many, now: start) == ReadingPace.pause)
    }

    @Test mutating func `what held for one period holds for the next, and no longer`() {
        _ = pace.pause(after: ReadingPace.many, hellos: ReadingPace.many, now: start)
        #expect(pace.pause(after: 1, hellos: 1, now: start + ReadingPace.period) == ReadingPace.pause)
        #expect(pace.pause(after: 1, hellos: 1, now: start + ReadingPace.period * 2) == nil)
    }

    @Test mutating func `a datagram after a silence is read at once, and so is the next`() {
        _ = pace.pause(after: ReadingPace.many, hellos: ReadingPace.many, now: start)
        let later = start + ReadingPace.period * 3
        #expect(pace.pause(after: 1, hellos: 1, now: later) == nil)
        #expect(pace.pause(after: 1, hellos: 1, now: later + .milliseconds(1)) == nil)
    }

    @Test mutating func `records may wait longer than hellos`() {
        #expect(pace.pause(after: ReadingPace.many, hellos: 0, now: start) == ReadingPace.pauseOfRecords)
    }

    @Test mutating func `where one datagram in eight is a hello, none waits longer than hellos may`() {
        let hellos = ReadingPace.many / ReadingPace.fewHellos
        #expect(pace.pause(after: ReadingPace.many, hellos: hellos, now: start) == ReadingPace.pause)
        let later = start + ReadingPace.period * 5
        #expect(pace.pause(after: ReadingPace.many, hellos: hellos - 1, now: later) == ReadingPace.pauseOfRecords)
    }

    @Test mutating func `what hellos there were is forgotten with their period`() {
        _ = pace.pause(after: ReadingPace.many, hellos: ReadingPace.many, now: start)
        #expect(pace.pause(after: 1, hellos: 0, now: start + ReadingPace.period) == ReadingPace.pauseOfRecords)
    }
}
