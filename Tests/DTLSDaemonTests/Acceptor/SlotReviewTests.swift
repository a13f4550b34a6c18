import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

extension ConnectionTable {
    /// The death of a worker, with a review of all of its connections at once.
    func reviewAll(_ number: Int, now: Instant) -> SlotReview.Survival {
        workerDied(number, now: now)
        return review(number, effort: .max) ?? SlotReview.Survival()
    }
}

/// What the main process does with the connections of a worker that has died, some slots at a time: without processes,
/// sockets or a clock.
@Suite struct SlotReviewTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)
    private let service = SlotTarget.service("a")
    private let connections = ConnectionTable()

    init() throws { _ = try connections.makeTable(preferring: 0) }

    private func flow(_ number: Int) throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress(host: "192.0.2.\(number >> 16)", port: UInt16(number & 0xffff))),
            local: try #require(SocketAddress(host: "192.0.2.100", port: 4_433)))
    }

    /// What can be in a slot when a worker dies.
    private enum Kind: CaseIterable { case handshaking, parked, open, unreported, bound, ended }

    private func begin(_ kind: Kind, _ number: Int) throws -> ConnectionNumber {
        let connection = try #require(connections.begin(try flow(number), target: service, in: 0, now: start))
        let slot = try #require(connections.slot(of: connection))
        if kind == .handshaking { return connection }
        let prepared = slot.prepare(
            random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero)
        slot.establish(prepared, isMovable: kind != .bound)
        if kind != .unreported { connections.establish(connection) }
        if kind == .parked { connections.noteWithoutSocket(connection) }
        if kind == .ended { slot.end() }
        return connection
    }

    private func survives(_ kind: Kind) -> Bool { [.parked, .open, .unreported].contains(kind) }

    private func begin(_ count: Int) throws -> [(kind: Kind, number: ConnectionNumber)] {
        try (0..<count).map { index in
            let kind = Kind.allCases[index % Kind.allCases.count]
            return (kind, try begin(kind, index))
        }
    }

    private func checkAll(_ all: [(kind: Kind, number: ConnectionNumber)]) throws {
        for (index, (kind, connection)) in all.enumerated() {
            #expect(connections.contains(connection) == survives(kind), "\(index)")
            #expect(
                connections.connectionWithoutSocket(of: try flow(index)) == (survives(kind) ? connection : nil),
                "\(index)")
        }
        let left = all.count { survives($0.kind) }
        #expect(connections.count == left && connections.countWithoutSockets == left)
        #expect(connections.admission.connections == left && connections.admission.handshakes == 0)
        #expect(connections.tableUnderReview == nil)
    }

    @Test func `a review in small steps finds what one at once would, and no step does much`() throws {
        let all = try begin(60)
        connections.workerDied(0, now: start)
        var survival: SlotReview.Survival?
        var steps = 0
        while survival == nil, steps < 1_000 {
            let former = connections.count
            survival = connections.review(0, effort: 10)
            // One more than the effort allows at most, since the last slot may take more than is left.
            #expect(former - connections.count <= 2)
            steps += 1
        }
        #expect(survival == SlotReview.Survival(kept: 30, handshaking: 10, bound: 10))
        #expect(steps > 20)
        try checkAll(all)
    }

    @Test func `a connection that something comes for is looked at before its turn`() throws {
        let all = try begin(12)
        connections.workerDied(0, now: start)
        #expect(connections.review(0, effort: 1) == nil)
        // Its worker had its socket, and that is gone.
        #expect(all[8].kind == .open)
        #expect(connections.connectionWithoutSocket(of: try flow(8)) == all[8].number)
        #expect(connections.lacksSocket(all[8].number))
        // Its client begins again: nothing is left of the handshake, in the limits neither.
        #expect(all[6].kind == .handshaking && connections.admission.handshakes == 3)
        #expect(connections.connection(of: try flow(6)) == nil)
        #expect(!connections.contains(all[6].number))
        #expect(connections.admission.handshakes == 2)
        #expect(connections.isUnderReview(0))
        // Each of them counts once.
        #expect(connections.review(0, effort: .max) == SlotReview.Survival(kept: 6, handshaking: 2, bound: 2))
        try checkAll(all)
    }

    @Test func `connections that end while the review goes on change nothing for the others`() throws {
        var all = try begin(12)
        connections.workerDied(0, now: start)
        #expect(connections.review(0, effort: 9) == nil)
        // One that was looked at, and one that was not.
        connections.end(all[1].number)
        connections.end(all[10].number)
        #expect(connections.review(0, effort: .max) == SlotReview.Survival(kept: 5, handshaking: 2, bound: 1))
        for index in [1, 10] { all[index].kind = .ended }
        try checkAll(all)
    }

    @Test func `the death of the next worker before the review is over charges nobody and changes nothing`() throws {
        let all = try begin(12)
        let table = try #require(connections[0])
        table.file.current = all[8].number.slot
        connections.workerDied(0, now: start)
        #expect(connections.slot(of: all[8].number)?.deaths == 1)
        #expect(connections.review(0, effort: 9) == nil)
        connections.workerDied(0, now: start + .seconds(1))
        #expect(connections.slot(of: all[8].number)?.deaths == 1)
        #expect(connections.review(0, effort: .max) == SlotReview.Survival(kept: 6, handshaking: 2, bound: 2))
        try checkAll(all)
    }

    @Test func `the next main process finds all connections though this one has died in the midst of a review`() throws
    {
        let all = try begin(60)
        connections.workerDied(0, now: start)
        #expect(connections.review(0, effort: 40) == nil)
        let later = ConnectionTable()
        later.adopt(try SlotFile(try #require(connections[0]).file.descriptor.duplicate()), number: 0)
        for (index, (kind, connection)) in all.enumerated() {
            #expect(later.connectionWithoutSocket(of: try flow(index)) == (survives(kind) ? connection : nil))
        }
        #expect(later.count == 30 && later.admission.connections == 30)
        // Once they are another process', nothing here touches them any more.
        _ = connections.forgetAll()
        #expect(connections.tableUnderReview == nil && connections.review(0, effort: .max) == SlotReview.Survival())
        #expect(later.count == 30)
    }

    @Test func `the first connection of a table is found from where the last search ended`() throws {
        let all = try (0..<10).map { try begin(.parked, $0) }
        let table = try #require(connections[0])
        for connection in all[..<8] { connections.end(connection) }
        var effort = 5
        #expect(table.firstConnection(effort: &effort) == nil && effort == 0)
        effort = 5
        #expect(table.firstConnection(effort: &effort) == all[8] && effort == 2)
        #expect(table.firstConnection(effort: &effort) == all[8] && effort == 2)
        // A slot before it is taken again.
        let new = try begin(.parked, 11)
        #expect(new.slot < 8 && table.firstConnection(effort: &effort) == new && effort == 2)
    }
}
