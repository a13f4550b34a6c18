import LinuxSystem
import Primitives

/// Which shares of what comes to a listening socket are let into its queue, so that a flood takes neither all of the
/// process' time nor the places of others.
///
/// To answer a hello takes the kernel some microseconds, and a network brings more hellos than that. Without a gate the queue
/// is full then: what is in it waits for tens of milliseconds, and what finds it full is lost, whatever it is, so that real
/// clients lose hellos with valid cookies, too. The gate has the kernel drop a part of the hellos of which there are most,
/// before the queue; the other kinds lose nothing, and the queue stays short. A client whose first hello is dropped sends it
/// again after a second, with another number, which makes it one of another kind (``DatagramKind/repeatedHello``).
///
/// What is no hello is let in, however much of it there is: a record of a parked client, or of one with another address, is not
/// sent again where it is lost, and one of nobody takes no more than a microsecond.
///
/// A state machine without I/O and without a clock.
struct FloodGate {
    /// The gate decides once in such a period.
    static let period = Duration.milliseconds(20)
    /// Fewer hellos in a period, 5,000 a second, are no flood.
    static let flood = 100
    /// Nor are they where one of so many brings a client in: then it is these that take the time. A fleet that comes back has
    /// its place in the queue.
    static let datagramsOfClient = 16
    /// The part of a period that may go into reading a socket. What takes the processor away meanwhile is in it.
    static let most = 0.65
    /// What the gate tries to come to.
    static let goal = 0.6
    /// Below it, the gate opens wider.
    static let least = 0.5
    private static let smallestShare = 1.0 / 1_024
    private static let almostAll = 0.95

    private(set) var shares = DatagramKind.Shares.all
    private var counts = DatagramKind.Counts()
    private var admitted = 0
    private var reading = Duration.zero
    private var wasReadEmpty = false
    private var periodStart = Instant.distantPast

    /// Whether something is kept out, so that ``endPeriod(now:)`` must be called although nothing comes.
    var isNarrow: Bool { shares != .all }

    /// The socket has been read.
    /// - Parameters:
    ///   - admitted: how many clients have come in with these datagrams.
    ///   - isEmpty: whether all that was in the queue has been read.
    /// - Returns: the shares, where they have changed.
    mutating func noteRead(
        _ newCounts: DatagramKind.Counts, admitted newlyAdmitted: Int, isEmpty: Bool, from start: Instant,
        to end: Instant
    ) -> DatagramKind.Shares? {
        // After a silence a period begins, and there is no judging by what was before.
        if start >= periodStart + Self.period * 2 { begin(at: start) }
        counts &+= newCounts
        admitted += newlyAdmitted
        reading += end - start
        wasReadEmpty = wasReadEmpty || isEmpty
        return endPeriod(now: end)
    }

    /// Decides, if the period is over.
    /// - Returns: the shares, where they have changed.
    mutating func endPeriod(now: Instant) -> DatagramKind.Shares? {
        let passed = now - periodStart
        guard passed >= Self.period else { return nil }
        defer { begin(at: now) }
        let load = Double(reading.nanoseconds) / Double(passed.nanoseconds)
        let before = shares
        if isFlood(within: passed), load > Self.most || !wasReadEmpty {
            let kind = mostFrequentKind
            shares[kind] = max(Self.smallestShare, shares[kind] * (load > Self.most ? Self.goal / load : Self.goal))
        } else if load < Self.least, let kind = narrowestKind {
            let share = shares[kind] * min(2, Self.goal / max(load, 0.01))
            shares[kind] = share > Self.almostAll ? 1 : share
        }
        guard shares != before else { return nil }
        return shares
    }

    private func isFlood(within passed: Duration) -> Bool {
        Int64(counts.hellos) * Self.period.nanoseconds >= Int64(Self.flood) * passed.nanoseconds
            && admitted * Self.datagramsOfClient < counts.hellos
    }

    private mutating func begin(at now: Instant) {
        periodStart = now
        admitted = 0
        counts = DatagramKind.Counts()
        reading = .zero
        wasReadEmpty = false
    }

    /// The kinds of which a part can be kept out.
    private static let hellos = [DatagramKind.firstHello, .repeatedHello, .helloWithCookie]

    private var mostFrequentKind: DatagramKind {
        Self.hellos.max { counts[$0] < counts[$1] } ?? .firstHello
    }

    private var narrowestKind: DatagramKind? {
        Self.hellos.filter { shares[$0] < 1 }.min { shares[$0] < shares[$1] }
    }
}

/// A ``FloodGate`` in front of a socket's queue: has the kernel drop what it keeps out.
///
/// The socket is its owner's, who tells it what has been read. Where the kernel does not take the program, the gate stays
/// open: what there is no room for is dropped then, whatever it is, as without a gate.
final class FloodFilter: TimerTarget {
    private var gate = FloodGate()
    private let loop: EventLoop
    private let install: (DatagramFilter?) -> Bool
    /// Whether the kernel takes such programs.
    private var isPossible = true

    /// - Parameters:
    ///   - install: has the kernel run a program for the socket, `nil`: none. It must not keep the owner alive.
    /// - Returns: whether the kernel does so.
    init(loop: EventLoop, install: @escaping (DatagramFilter?) -> Bool) {
        self.loop = loop
        self.install = install
    }

    /// The socket has been read.
    /// - Parameters:
    ///   - admitted: how many clients have come in with these datagrams.
    ///   - isEmpty: whether all that was in its queue has been read.
    func noteRead(_ counts: DatagramKind.Counts, admitted: Int, isEmpty: Bool, from start: Instant) {
        apply(gate.noteRead(counts, admitted: admitted, isEmpty: isEmpty, from: start, to: Instant.now()))
    }

    override func timerFired(now: Instant) { apply(gate.endPeriod(now: now)) }

    /// Has the kernel keep everything again. To be called before the socket is closed, or left to another process.
    func remove() {
        loop.timers.disarm(self)
        if gate.isNarrow { _ = install(nil) }
        gate = FloodGate()
    }

    /// Goes on with another socket, which has no program yet.
    func socketWasReplaced() {
        if gate.isNarrow { isPossible = install(DatagramKind.filter(letting: gate.shares)) }
    }

    private func apply(_ shares: DatagramKind.Shares?) {
        guard isPossible else { return }
        if let shares { isPossible = install(shares == .all ? nil : DatagramKind.filter(letting: shares)) }
        // Nothing may come any more, and the gate is to open nevertheless.
        if isPossible, gate.isNarrow { loop.timers.arm(self, at: loop.now + FloodGate.period) }
    }
}

extension DatagramFilter {
    /// Attaches a program to a socket, or takes it away; says whether the kernel has done so.
    static func install(_ filter: DatagramFilter?, on socket: borrowing FileDescriptor) -> Bool {
        guard let filter else {
            detach(from: socket)
            return true
        }
        return (try? filter.attach(to: socket)) != nil
    }
}
