import ControlProtocol
import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// Lists of connections, from slots that a test has made up.
@Suite struct ConnectionScanTests {
    private let tables = ConnectionTable()
    private static let start = Instant(nanoseconds: 1_000_000_000_000)

    /// Connections with made-up ages and traffic, in three tables.
    private func makeConnections(_ count: Int) throws -> [ConnectionNumber] {
        for number in 0..<3 { _ = try tables.makeTable(preferring: number) }
        let local = try #require(SocketAddress(host: "192.0.2.100", port: 4_433))
        var generator = SeededGenerator(seed: 7)
        return try (0..<count).map { index in
            let peer = try #require(
                SocketAddress(host: "10.\(index >> 16).\(index >> 8 & 255).\(index & 255)", port: 4_711))
            let connection = try #require(
                tables.begin(
                    FlowKey(peer: peer, local: local),
                    target: index % 2 == 0 ? SlotTarget.service("even") : SlotTarget.service("odd"), in: index % 3,
                    now: Self.start + .milliseconds(Int64.random(in: 0..<50, using: &generator))))
            let slot = try #require(tables.slot(of: connection))
            var counters = slot.counters
            counters.bytesIn = UInt64.random(in: 0..<100, using: &generator)
            slot.counters = counters
            slot.lastReceived = Self.start + .milliseconds(Int64.random(in: 50..<100, using: &generator))
            return connection
        }
    }

    private func page(
        _ query: ConnectionsQuery, _ condition: ConnectionCondition = ConnectionCondition()
    ) throws -> ConnectionPage {
        let start = try query.cursor.map { try #require(ConnectionPage.Place(text: $0)) }
        var page = ConnectionPage(query, after: start)
        var walk = ConnectionWalk()
        while walk.step(
            1_000, through: tables,
            { connection, slot, state in if condition.holds(slot, state) { page.add(connection, slot) } })
        {}
        return page
    }

    private func all(
        _ query: ConnectionsQuery, _ condition: ConnectionCondition = ConnectionCondition()
    ) throws -> [ConnectionNumber] {
        var query = query
        var found: [ConnectionNumber] = []
        repeat {
            let page = try page(query, condition)
            #expect(page.connections.count <= query.limit)
            found += page.connections
            query.cursor = page.nextCursor
        } while query.cursor != nil
        return found
    }

    @Test(arguments: ConnectionsQuery.Sort.allCases, ConnectionsQuery.Order.allCases)
    func `the pages together have every connection once, in order`(
        _ sort: ConnectionsQuery.Sort, _ order: ConnectionsQuery.Order
    ) throws {
        let made = try makeConnections(3_001)
        var query = ConnectionsQuery()
        query.sort = sort
        query.order = order
        query.limit = 1_000
        let found = try all(query)
        #expect(Set(found) == Set(made) && found.count == made.count)
        let now = Self.start + .seconds(1)
        let values = try found.map { connection in
            let slot = try #require(tables.slot(of: connection))
            return switch sort {
            case .age: (now - slot.started).milliseconds
            case .idle: (now - slot.lastReceived).milliseconds
            case .traffic: Int(slot.counters.bytesIn)
            }
        }
        #expect(values == (order == .ascending ? values.sorted() : values.sorted(by: >)))
        #expect(Set(values).count > 10)
    }

    @Test func `a condition holds for those that it names`() throws {
        let made = try makeConnections(600)
        for connection in made.prefix(30) { tables.establish(connection) }
        for connection in made.prefix(10) { tables.noteWithoutSocket(connection) }
        func count(_ change: (inout ConnectionCondition) throws -> Void) rethrows -> Int {
            var condition = ConnectionCondition()
            try change(&condition)
            return (try? all(ConnectionsQuery(), condition).count) ?? -1
        }
        #expect(count { $0.target = SlotTarget.service("odd") } == 300)
        #expect(count { $0.target = SlotTarget.client("odd") } == 0)
        #expect(try count { $0.peers = try AddressPattern(parsing: "10.0.1.0/24") } == 256)
        #expect(try count { $0.peers = try AddressPattern(parsing: "10.0.1.7:4711") } == 1)
        #expect(try count { $0.peers = try AddressPattern(parsing: "10.0.1.7:4712") } == 0)
        #expect(try count { $0.peers = try AddressPattern(parsing: "2001:db8::/32") } == 0)
        #expect(count { $0.state = .handshake } == 570)
        #expect(count { $0.state = .established } == 20)
        #expect(count { $0.state = .parked } == 10)
        #expect(count { $0.identity = "nobody" } == 0)
        #expect(
            count {
                $0.state = .parked
                $0.target = SlotTarget.service("even")
            } == 5)
    }

    @Test func `a connection is found by who its peer is`() throws {
        let made = try makeConnections(9)
        var details = SessionDetails()
        details.peerName = PeerName(
            commonName: "sensor-7", subject: "CN=sensor-7,O=x", fingerprint: "ab", presharedKeyIdentity: nil)
        let slot = try #require(tables.slot(of: made[4]))
        let prepared = slot.prepare(
            random: UnsafeRawBufferPointer(start: nil, count: 0),
            details: details.encoded(inAtMost: ConnectionSlot.maximumDetails), handshakeDuration: .zero)
        slot.establish(prepared, isMovable: true)
        tables.establish(made[4])
        for identity in ["sensor-7", "CN=sensor-7,O=x", "ab"] {
            #expect(try all(ConnectionsQuery(), ConnectionCondition(identity: identity)) == [made[4]])
        }
        #expect(try all(ConnectionsQuery(), ConnectionCondition(identity: "sensor")).isEmpty)
    }

    @Test func `a step looks at no more slots than it is to, and a page keeps no more than it has`() throws {
        let made = try makeConnections(20_000)
        for connection in made where connection.slot % 5 == 0 { tables.end(connection) }
        var walk = ConnectionWalk()
        var seen: [ConnectionNumber] = []
        var steps = 0
        var page = ConnectionPage(ConnectionsQuery(), after: nil)
        while true {
            let before = seen.count
            let goesOn = walk.step(ConnectionWalk.slotsPerStep, through: tables) { connection, slot, _ in
                seen.append(connection)
                page.add(connection, slot)
            }
            steps += 1
            #expect(seen.count - before <= ConnectionWalk.slotsPerStep)
            if !goesOn { break }
        }
        #expect(steps >= 20_000 / ConnectionWalk.slotsPerStep)
        #expect(Set(seen) == Set(made.filter { $0.slot % 5 != 0 }) && page.matched == seen.count)
        #expect(page.connections.count == ConnectionsQuery.defaultLimit)
    }

    @Test func `a walk goes on where connections end and tables come and go between its steps`() throws {
        let made = try makeConnections(900)
        var walk = ConnectionWalk()
        var seen: Set<ConnectionNumber> = []
        #expect(walk.step(100, through: tables) { connection, _, _ in seen.insert(connection) })
        for connection in made where connection.worker == 1 { tables.end(connection) }
        tables.removeTable(1)
        while walk.step(100, through: tables, { connection, _, _ in seen.insert(connection) }) {}
        #expect(seen.isSuperset(of: made.filter { $0.worker != 1 }))
    }

    @Test(arguments: ["", ".", "1", "1.", ".1", "g.1", "1.2.3", "10000000000000000.1"])
    func `what is no cursor is not taken for one`(_ text: String) {
        #expect(ConnectionPage.Place(text: text) == nil)
    }
}
