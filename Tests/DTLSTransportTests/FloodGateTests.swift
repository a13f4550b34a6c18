import LinuxSystem
import Primitives
import Testing

@testable import DTLSTransport

/// What is let into a queue, by what was read from it.
@Suite struct FloodGateTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    /// A main process that takes so long for each datagram, under a load of so many a second of each kind, of which the gate
    /// lets its shares in.
    private struct Load {
        var gate = FloodGate()
        var now: Instant
        var perSecond: [DatagramKind: Double]
        var microsecondsEach = 4.0
        var admittedPerSecond = 0.0
        private(set) var changes = 0

        init(at now: Instant, _ perSecond: [DatagramKind: Double]) {
            self.now = now
            self.perSecond = perSecond
        }

        func share(_ kind: DatagramKind) -> Double { gate.shares[kind] }

        /// Reads each half millisecond, for so many milliseconds.
        mutating func run(milliseconds: Int) {
            for _ in 0..<milliseconds * 2 {
                var counts = DatagramKind.Counts()
                for (kind, rate) in perSecond { counts.count(kind, Int(rate * gate.shares[kind] / 2_000)) }
                let needed = Double(counts.total) * microsecondsEach
                let took = min(500, needed)
                let change = gate.noteRead(
                    counts, admitted: Int(admittedPerSecond / 2_000), isEmpty: needed < 500, from: now,
                    to: now + .microseconds(took))
                if change != nil { changes += 1 }
                now = now + .microseconds(500)
            }
        }
    }

    @Test func `what can be read in time is let in`() {
        var load = Load(at: start, [.firstHello: 140_000, .helloWithCookie: 1_000])
        load.run(milliseconds: 1_000)
        #expect(load.gate.shares == .all && !load.gate.isNarrow && load.changes == 0)
    }

    @Test func `of a flood a part is let in that can be read in time, and all of the rest`() {
        var load = Load(at: start, [.firstHello: 500_000, .repeatedHello: 300, .helloWithCookie: 1_000, .other: 5_000])
        load.run(milliseconds: 300)
        // 0.6 of the time at 4 µs each.
        let share = load.share(.firstHello)
        #expect(share > 0.22 && share < 0.35, "\(share)")
        for kind in [DatagramKind.repeatedHello, .helloWithCookie, .other] { #expect(load.share(kind) == 1) }
        let before = load.changes
        load.run(milliseconds: 1_000)
        #expect(load.changes - before < 10, "it stays where it is")
    }

    @Test func `where the flood is of another kind, first hellos come in`() {
        var load = Load(at: start, [.firstHello: 1_000, .helloWithCookie: 800_000])
        load.run(milliseconds: 300)
        #expect(load.share(.helloWithCookie) < 0.4 && load.share(.firstHello) == 1)
    }

    @Test func `a flood of two kinds narrows both`() {
        var load = Load(at: start, [.firstHello: 400_000, .helloWithCookie: 400_000, .repeatedHello: 1_000])
        load.run(milliseconds: 500)
        #expect(load.share(.firstHello) < 0.5 && load.share(.helloWithCookie) < 0.5 && load.share(.repeatedHello) == 1)
    }

    /// One that is lost is not sent again, and may be a parked client's.
    @Test func `no record is kept out, however many there are`() {
        var load = Load(at: start, [.firstHello: 1_000, .other: 800_000])
        load.run(milliseconds: 300)
        #expect(load.gate.shares == .all)
        load = Load(at: start, [.firstHello: 400_000, .other: 800_000])
        load.run(milliseconds: 300)
        #expect(load.share(.other) == 1 && load.share(.firstHello) < 0.5)
    }

    @Test func `after the flood everything is let in again, although nothing comes`() {
        var load = Load(at: start, [.firstHello: 5_000_000])
        load.run(milliseconds: 500)
        #expect(load.share(.firstHello) < 0.1)
        var now = load.now
        for _ in 0..<10 {
            now = now + FloodGate.period
            _ = load.gate.endPeriod(now: now)
        }
        #expect(load.gate.shares == .all && !load.gate.isNarrow)
    }

    @Test func `a weaker flood is let in as far as there is time`() {
        var load = Load(at: start, [.firstHello: 1_000_000])
        load.run(milliseconds: 500)
        load.perSecond = [.firstHello: 100_000]
        load.run(milliseconds: 500)
        #expect(load.gate.shares == .all)
    }

    @Test func `a fleet that comes back is no flood, whatever time it takes`() {
        var load = Load(at: start, [.firstHello: 20_000, .helloWithCookie: 10_000])
        load.microsecondsEach = 40
        load.admittedPerSecond = 10_000
        load.run(milliseconds: 500)
        #expect(load.gate.shares == .all)
    }

    @Test func `a queue that is never empty is a flood, also where others take the process' time`() {
        var gate = FloodGate()
        var counts = DatagramKind.Counts()
        counts.count(.firstHello, 200)
        var now = start
        var shares: DatagramKind.Shares?
        for _ in 0..<20 {
            shares =
                gate.noteRead(counts, admitted: 0, isEmpty: false, from: now, to: now + .microseconds(500)) ?? shares
            now = now + .milliseconds(2)
        }
        #expect((shares?[.firstHello] ?? 1) < 1)
    }

    @Test func `a long turn after a silence is no flood`() {
        var gate = FloodGate()
        var counts = DatagramKind.Counts()
        counts.count(.firstHello, 50)
        #expect(
            gate.noteRead(counts, admitted: 0, isEmpty: true, from: start, to: start + .milliseconds(30)) == nil)
        #expect(!gate.isNarrow)
    }

    // MARK: In front of a socket

    private func flooded(_ filter: FloodFilter) {
        var counts = DatagramKind.Counts()
        counts.count(.firstHello, 10_000)
        filter.noteRead(counts, admitted: 0, isEmpty: false, from: Instant.now() + .milliseconds(-30))
    }

    @Test func `a gate that is open needs no program, and one that is not opens by itself`() throws {
        let loop = try EventLoop()
        var installed: [DatagramFilter?] = []
        let filter = FloodFilter(loop: loop) {
            installed.append($0)
            return true
        }
        flooded(filter)
        #expect(installed.count == 1 && installed.last != .some(nil))
        let deadline = ContinuousClock.now + .seconds(10)
        while installed.last != .some(nil), ContinuousClock.now < deadline {
            try loop.poll(timeout: .milliseconds(100))
        }
        #expect(installed.last == .some(nil))
        #expect(loop.timers.earliest == nil, "it does not wake the loop any more")
    }

    @Test func `where the kernel takes no program, none is tried again`() throws {
        let loop = try EventLoop()
        var tries = 0
        let filter = FloodFilter(loop: loop) { _ in
            tries += 1
            return false
        }
        for _ in 0..<3 { flooded(filter) }
        #expect(tries == 1)
        #expect(loop.timers.earliest == nil)
    }

    @Test func `the program goes with the gate`() throws {
        let loop = try EventLoop()
        var installed: [DatagramFilter?] = []
        let filter = FloodFilter(loop: loop) {
            installed.append($0)
            return true
        }
        flooded(filter)
        let program = installed.last
        filter.socketWasReplaced()
        #expect(installed.count == 2 && installed.last == program)
        filter.remove()
        #expect(installed.last == .some(nil) && loop.timers.earliest == nil)
        filter.remove()
        filter.socketWasReplaced()
        #expect(installed.count == 3, "another socket needs none")
    }
}
