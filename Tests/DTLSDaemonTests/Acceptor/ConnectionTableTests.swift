import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// What the main process keeps of connections, with slots in real memory files and without workers.
@Suite struct ConnectionTableTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)
    private let service = SlotTarget.service("a")
    private let connections = ConnectionTable()

    private func flow(_ number: Int) throws -> FlowKey {
        FlowKey(
            peer: try #require(SocketAddress(host: "192.0.2.\(number >> 16)", port: UInt16(number & 0xffff))),
            local: try #require(SocketAddress(host: "192.0.2.100", port: 4_433)))
    }

    private func begin(_ number: Int, in table: Int = 0, now: Instant? = nil) throws -> ConnectionNumber {
        try #require(connections.begin(try flow(number), target: service, in: table, now: now ?? start))
    }

    /// What a worker writes when the handshake is done.
    private func establish(_ connection: ConnectionNumber, isMovable: Bool = true) throws {
        let slot = try #require(connections.slot(of: connection))
        let prepared = slot.prepare(
            random: UnsafeRawBufferPointer(start: nil, count: 0), details: [1, 2, 3], handshakeDuration: .zero)
        prepared.records.storeBytes(of: connection.rawValue, as: UInt64.self)
        slot.establish(prepared, isMovable: isMovable)
    }

    @Test func `a connection is found by its flow only while it has no socket`() throws {
        _ = try connections.makeTable(preferring: 0)
        let connection = try begin(1)
        #expect(connections.hasSocket(connection))
        #expect(connections.connectionWithoutSocket(of: try flow(1)) == nil)
        #expect(!connections.lacksSocket(connection))
        try establish(connection)
        for _ in 0..<2 { connections.establish(connection) }
        #expect(connections.admission.handshakes == 0)
        for _ in 0..<2 { connections.noteWithoutSocket(connection) }
        #expect(connections.connectionWithoutSocket(of: try flow(1)) == connection)
        #expect(connections.lacksSocket(connection) && connections.countWithoutSockets == 1)
        for _ in 0..<2 { connections.noteSocket(connection) }
        #expect(connections.connectionWithoutSocket(of: try flow(1)) == nil)
        #expect(connections.countWithoutSockets == 0)
        connections.noteWithoutSocket(connection)
        connections.end(connection)
        #expect(connections.connectionWithoutSocket(of: try flow(1)) == nil)
        #expect(connections.count == 0 && connections.admission.connections == 0)
    }

    @Test func `the number of a connection that has ended names nothing, though its slot is taken again`() throws {
        _ = try connections.makeTable(preferring: 0)
        let first = try begin(1)
        connections.end(first)
        let second = try begin(2)
        #expect(first.slot == second.slot && first != second)
        #expect(!connections.contains(first) && connections.contains(second))
        connections.end(first)
        connections.establish(first)
        connections.noteWithoutSocket(first)
        #expect(connections.contains(second) && connections.hasSocket(second))
        #expect(connections.admission.connections == 1 && connections.admission.handshakes == 1)
        // A number that no table of this process has made.
        for wrong in [
            ConnectionNumber(rawValue: .max), ConnectionNumber(worker: 0, slot: 7, generation: 1),
            ConnectionNumber(worker: 9, slot: 0, generation: 1),
        ] {
            #expect(!connections.contains(wrong) && !connections.hasSocket(wrong))
            connections.end(wrong)
            connections.noteSocket(wrong)
            #expect(connections.move(wrong, to: 0) == nil)
        }
        #expect(connections.count == 1)
    }

    @Test func `the death of a worker keeps what is established, whether or not it was reported`() throws {
        let table = try connections.makeTable(preferring: 0)
        let all = try (0..<6).map { try begin($0) }
        for connection in all[..<3] { try establish(connection) }
        connections.establish(all[0])
        connections.noteWithoutSocket(all[0])
        try establish(all[3], isMovable: false)
        try establish(all[4])
        connections.slot(of: all[4])?.end()
        let survival = connections.reviewAll(0, now: start)
        #expect(survival.kept == 3 && survival.bound == 1 && survival.handshaking == 1 && survival.poison == nil)
        #expect(survival.lost == 2)
        for (number, connection) in all.enumerated() {
            let flow = try flow(number)
            #expect(connections.connectionWithoutSocket(of: flow) == (number < 3 ? connection : nil))
        }
        #expect(table.count == 3 && table.countWithSockets == 0)
        #expect(connections.admission.connections == 3 && connections.admission.handshakes == 0)
        // A death in the midst of taking over changes nothing.
        #expect(connections.reviewAll(0, now: start).kept == 3)
    }

    @Test func `a connection on which a worker dies twice within a minute ends`() throws {
        let table = try connections.makeTable(preferring: 0)
        let poison = try begin(1)
        let other = try begin(2)
        for connection in [poison, other] { try establish(connection) }
        func die(on connection: ConnectionNumber?, after seconds: Int) -> SlotReview.Survival {
            table.file.current = connection?.slot
            return connections.reviewAll(0, now: start + .seconds(seconds))
        }
        #expect(die(on: poison, after: 0).poison == nil)
        #expect(die(on: nil, after: 1).poison == nil)
        #expect(die(on: other, after: 2).poison == nil)
        #expect(die(on: poison, after: 60).poison == nil, "a minute has passed")
        #expect(table.file.current == nil)
        let survival = die(on: poison, after: 119)
        let first = try flow(1)
        #expect(survival.poison?.flow == first && survival.poison?.target == service)
        #expect(survival.kept == 1 && survival.lost == 1)
        #expect(!connections.contains(poison) && connections.contains(other))
        // The worker has been at a slot that nobody has.
        table.file.current = 4_711
        #expect(connections.reviewAll(0, now: start).poison == nil)
    }

    @Test func `a connection that moves is found where it has gone, with all that it was`() throws {
        _ = try connections.makeTable(preferring: 0)
        _ = try connections.makeTable(preferring: 1)
        let connection = try begin(1)
        try establish(connection)
        #expect(connections.move(connection, to: 1) == nil, "its socket is in a worker")
        connections.noteWithoutSocket(connection)
        #expect(connections.move(connection, to: 0) == nil && connections.move(connection, to: 7) == nil)
        let moved = try #require(connections.move(connection, to: 1))
        #expect(moved.worker == 1 && !connections.contains(connection) && connections.contains(moved))
        #expect(connections.connectionWithoutSocket(of: try self.flow(1)) == moved)
        let slot = try #require(connections.slot(of: moved))
        let flow = try flow(1)
        #expect(slot.phase == .established && slot.target == service && slot.flow == flow)
        #expect([UInt8](slot.details) == [1, 2, 3])
        #expect(slot.records.load(as: UInt64.self) == connection.rawValue)
        #expect(connections.count == 1 && connections.admission.connections == 1)
        connections.end(moved)
        #expect(connections.count == 0 && connections.admission.connections == 0)
    }

    /// The client has begun another connection before this process knew that the first one was kept.
    @Test func `of two connections of a flow, the newer one gets the socket`() throws {
        _ = try connections.makeTable(preferring: 0)
        let old = try begin(1)
        let new = try begin(1, now: start + .seconds(1))
        for connection in [old, new] { try establish(connection) }
        for order in [[old, new], [new, old]] {
            for connection in order { connections.noteWithoutSocket(connection) }
            #expect(connections.connectionWithoutSocket(of: try flow(1)) == new)
            #expect(!connections.lacksSocket(old) && connections.lacksSocket(new))
            for connection in order { connections.noteSocket(connection) }
        }
        connections.noteWithoutSocket(new)
        connections.end(old)
        #expect(connections.connectionWithoutSocket(of: try flow(1)) == new)
    }

    // MARK: New addresses

    @Test func `a connection that was rebound is found by its new flow alone, and counts for its new peer`() throws {
        _ = try connections.makeTable(preferring: 0)
        let connection = try begin(1)
        #expect(connections.connection(of: try flow(1)) == connection)
        try establish(connection)
        connections.establish(connection)
        let far = try flow(9 << 16 | 5)
        #expect(connections.rebind(connection, to: far) == nil)
        #expect(connections.hasSocket(connection) && connections.slot(of: connection)?.flow == far)
        #expect(connections.connection(of: try flow(1)) == nil)
        #expect(connections.connection(of: far) == connection)
        connections.noteWithoutSocket(connection)
        #expect(connections.connectionWithoutSocket(of: far) == connection && connections.lacksSocket(connection))
        var peers: [SocketAddress] = []
        let collect: (SocketAddress, UInt64) -> Void = { peer, _ in peers.append(peer) }
        connections.forEach(collect)
        #expect(peers == [far.peer] && connections.admission.connections == 1)
        connections.end(connection)
        #expect(connections.connection(of: far) == nil && connections.admission.connections == 0)
    }

    @Test(arguments: [false, true])
    func `a flow is taken from the connection whose client has left it, which comes back elsewhere`(
        _ hasSocket: Bool
    ) throws {
        _ = try connections.makeTable(preferring: 0)
        let (left, mover) = (try begin(1), try begin(2))
        for connection in [left, mover] {
            try establish(connection)
            connections.establish(connection)
        }
        if !hasSocket { connections.noteWithoutSocket(left) }
        #expect(connections.rebind(mover, to: try flow(1)) == left)
        #expect(connections.connection(of: try flow(1)) == mover)
        #expect(connections.slot(of: left)?.flow == nil)
        connections.noteWithoutSocket(left)
        #expect(!connections.lacksSocket(left), "its address is another client's")
        #expect(connections.connection(of: try flow(1)) == mover)
        // The two have changed places.
        #expect(connections.rebind(left, to: try flow(2)) == nil)
        #expect(connections.connection(of: try flow(2)) == left)
        #expect(connections.hasSocket(left))
        for connection in [left, mover] { connections.end(connection) }
        #expect(connections.count == 0 && connections.admission.connections == 0)
        for place in 1...2 { #expect(connections.connection(of: try flow(place)) == nil) }
    }

    /// A connection whose client puts a connection ID into its records.
    private func beginNamed(
        _ number: Int, in table: Int, _ authority: ConnectionIDAuthority
    ) throws -> (number: ConnectionNumber, id: ConnectionID) {
        let connection = try begin(number, in: table)
        let id = try #require(authority.makeConnectionID(for: connection, length: 17))
        #expect(find(id, in: connections) == connection, "while it is in its handshake")
        try #require(connections.slot(of: connection)).establish(with: id)
        connections.establish(connection)
        return (connection, id)
    }

    private func find(_ id: ConnectionID, in connections: ConnectionTable) -> ConnectionNumber? {
        guard case .connection(let name) = connections.connectionIDs?.read(id) else { return nil }
        return connections.connection(with: id, named: name)
    }

    @Test func `a connection ID finds its connection wherever that has moved`() throws {
        let authority = try ConnectionIDAuthority.ofTests()
        connections.connectionIDs = authority
        for table in 0..<3 { _ = try connections.makeTable(preferring: table) }
        let (first, id) = try beginNamed(1, in: 0, authority)
        #expect(find(id, in: connections) == first)
        connections.noteWithoutSocket(first)
        var present = first
        for table in [1, 2, 1] {
            present = try #require(connections.move(present, to: table))
            #expect(find(id, in: connections) == present && connections.countOfMoved == 1)
        }
        // Back in the first table, it has another slot, or is another connection of that slot.
        present = try #require(connections.move(present, to: 0))
        #expect(present != first && find(id, in: connections) == present)
        connections.end(present)
        #expect(find(id, in: connections) == nil && connections.countOfMoved == 0)
    }

    @Test func `a connection without a connection ID is not remembered when it moves`() throws {
        for table in 0..<2 { _ = try connections.makeTable(preferring: table) }
        let connection = try begin(1)
        try #require(connections.slot(of: connection)).establish(with: nil)
        connections.noteWithoutSocket(connection)
        #expect(connections.move(connection, to: 1) != nil && connections.countOfMoved == 0)
    }

    @Test func `a connection has only the connection ID that is in its slot`() throws {
        let authority = try ConnectionIDAuthority.ofTests()
        connections.connectionIDs = authority
        _ = try connections.makeTable(preferring: 0)
        let (connection, id) = try beginNamed(1, in: 0, authority)
        // Another one with the same number: made by the same key, and by nobody for this connection.
        let other = try #require(authority.makeConnectionID(for: connection, length: 17))
        #expect(other != id && find(other, in: connections) == nil && find(id, in: connections) == connection)
        // It was not agreed on.
        let plain = try begin(2)
        let unused = try #require(authority.makeConnectionID(for: plain, length: 17))
        try #require(connections.slot(of: plain)).establish(with: nil)
        #expect(find(unused, in: connections) == nil)
        try #require(connections.slot(of: connection)).end()
        #expect(find(id, in: connections) == nil)
    }

    @Test(arguments: [false, true])
    func `the next process knows connections that have moved by their connection IDs`(
        _ isConfiguredBefore: Bool
    ) throws {
        let authority = try ConnectionIDAuthority.ofTests()
        connections.connectionIDs = authority
        for table in 0..<2 { _ = try connections.makeTable(preferring: table) }
        var ids: [ConnectionID: ConnectionNumber] = [:]
        for number in 0..<6 {
            let (connection, id) = try beginNamed(number, in: 0, authority)
            connections.noteWithoutSocket(connection)
            ids[id] = number.isMultiple(of: 2) ? try #require(connections.move(connection, to: 1)) : connection
        }
        let later = ConnectionTable()
        if isConfiguredBefore { later.connectionIDs = authority }
        for number in connections.numbers {
            let table = try #require(connections[number])
            later.adopt(try SlotFile(table.file.descriptor.duplicate()), number: number)
        }
        // The configuration with the keys comes after the connections when the daemon starts.
        if !isConfiguredBefore {
            #expect(later.countOfMoved == 0)
            later.connectionIDs = authority
        }
        #expect(later.countOfMoved == 3)
        for (id, connection) in ids { #expect(find(id, in: later) == connection) }
        for connection in ids.values { later.end(connection) }
        #expect(later.countOfMoved == 0)
    }

    @Test func `of two connections that a dead process has left with one flow, the one heard last has it`() throws {
        let table = try connections.makeTable(preferring: 0)
        let (one, other) = (try begin(1), try begin(2))
        for connection in [one, other] { try establish(connection) }
        try #require(connections.slot(of: one)).lastReceived = start + .seconds(9)
        try #require(connections.slot(of: other)).move(to: try flow(1))
        let later = ConnectionTable()
        later.adopt(try SlotFile(table.file.descriptor.duplicate()), number: 0)
        #expect(later.connection(of: try flow(1)) == one)
        #expect(later.lacksSocket(one) && !later.lacksSocket(other))
        #expect(later.count == 2)
    }

    /// The main process has died between two stores of a flow. A connection with a connection ID needs none to be found.
    @Test(arguments: [true, false])
    func `a connection whose flow was being written when the main process died goes on if it has an ID`(
        _ isNamed: Bool
    ) throws {
        let authority = try ConnectionIDAuthority.ofTests()
        connections.connectionIDs = authority
        let table = try connections.makeTable(preferring: 0)
        let (connection, id) = try beginNamed(1, in: 0, authority)
        let slot = try #require(connections.slot(of: connection))
        if !isNamed { slot.establish(with: nil) }
        connections.noteWithoutSocket(connection)
        let (there, elsewhere) = (try flow(3), try flow(9))
        var moments = 0
        slot.move(to: there) {
            moments += 1
            #expect(slot.lastFlow == nil || moments == 2)
            guard moments == 1, let descriptor = try? table.file.descriptor.duplicate(),
                let file = try? SlotFile(descriptor)
            else { return }
            let later = ConnectionTable()
            later.connectionIDs = authority
            later.adopt(file, number: 0)
            #expect(later.contains(connection) == isNamed && later.count == (isNamed ? 1 : 0))
            #expect(later.admission.connections == later.count)
            guard isNamed else { return }
            #expect(slot.flow == nil && !later.lacksSocket(connection))
            #expect(find(id, in: later) == connection)
            later.rebind(connection, to: elsewhere)
            #expect(later.connection(of: elsewhere) == connection && slot.unprovenAllowance == 0)
            later.end(connection)
            #expect(later.admission.connections == 0)
        }
        #expect(moments == 2)
    }

    @Test func `the connections of a file that another process has left are found and counted`() throws {
        let table = try connections.makeTable(preferring: 3)
        let all = try (0..<4).map { try begin($0, in: 3) }
        for connection in all.dropFirst() { try establish(connection) }
        connections.end(all[1])
        let later = ConnectionTable()
        later.adopt(try SlotFile(table.file.descriptor.duplicate()), number: 3)
        #expect(later.numbers == [3] && later.count == 2 && later.countWithoutSockets == 2)
        #expect(later.admission.connections == 2 && later.admission.handshakes == 0)
        for (number, connection) in all.enumerated() {
            let flow = try flow(number)
            #expect(later.connectionWithoutSocket(of: flow) == (number < 2 ? nil : connection))
        }
        // A slot that was freed is taken under another number.
        let next = try #require(later.begin(try flow(9), target: service, in: 3, now: start))
        #expect(!all.contains(next) && next.slot < 2)
    }

    /// Random lives in three tables, with deaths, moves and adoptions: each connection that was established and has not
    /// ended is in one place, and the limits count all of them.
    @Test func `an established connection is always in exactly one place`() throws {
        for seed in 1...20 {
            var random = SeededGenerator(seed: UInt64(seed))
            var connections = ConnectionTable()
            for number in 0..<3 { _ = try connections.makeTable(preferring: number) }
            // By the number of its flow.
            // The place is the number of the flow that it has now; `nil` where another one has that.
            var alive: [Int: (number: ConnectionNumber, isEstablished: Bool, hasSocket: Bool, place: Int?)] = [:]
            var next = 0
            var now = start
            for _ in 0..<600 {
                now = now + .milliseconds(10)
                let chosen = alive.randomElement(using: &random)
                switch Int.random(in: 0..<22, using: &random) {
                case 0..<7:
                    next += 1
                    let table = Int.random(in: 0..<3, using: &random)
                    let number = try #require(connections.begin(try flow(next), target: service, in: table, now: now))
                    alive[next] = (number, false, true, next)
                case 7..<11:
                    guard let chosen, !chosen.value.isEstablished, let slot = connections.slot(of: chosen.value.number)
                    else { continue }
                    slot.establish(
                        slot.prepare(
                            random: UnsafeRawBufferPointer(start: nil, count: 0), details: [UInt8(chosen.key & 0xff)],
                            handshakeDuration: .zero), isMovable: true)
                    if Bool.random(using: &random) { connections.establish(chosen.value.number) }
                    alive[chosen.key]?.isEstablished = true
                case 11..<14:
                    guard let chosen, chosen.value.isEstablished else { continue }
                    if chosen.value.hasSocket {
                        connections.noteWithoutSocket(chosen.value.number)
                    } else {
                        connections.noteSocket(chosen.value.number)
                    }
                    alive[chosen.key]?.hasSocket.toggle()
                case 14..<16:
                    guard let chosen else { continue }
                    connections.end(chosen.value.number)
                    alive[chosen.key] = nil
                case 16..<18:
                    guard let chosen else { continue }
                    let number = chosen.value.number
                    let destination = (number.worker + 1) % 3
                    let moved = connections.move(number, to: destination)
                    #expect((moved != nil) == (chosen.value.isEstablished && !chosen.value.hasSocket))
                    if let moved { alive[chosen.key]?.number = moved }
                case 20..<22:
                    // The client comes from elsewhere, or from where another one was.
                    guard let chosen, chosen.value.isEstablished else { continue }
                    next += 1
                    let other = alive.randomElement(using: &random)?.value.place
                    let place = Bool.random(using: &random) ? next : other ?? next
                    connections.rebind(chosen.value.number, to: try flow(place))
                    for key in alive.keys where alive[key]?.place == place { alive[key]?.place = nil }
                    alive[chosen.key]?.place = place
                    alive[chosen.key]?.hasSocket = true
                case 18:
                    let table = Int.random(in: 0..<3, using: &random)
                    _ = connections.reviewAll(table, now: now)
                    for (flow, connection) in alive where connection.number.worker == table {
                        if connection.isEstablished { alive[flow]?.hasSocket = false } else { alive[flow] = nil }
                    }
                default:
                    // The main process dies, and its successor gets the files.
                    let successor = ConnectionTable()
                    for number in connections.numbers {
                        guard let table = connections[number] else { continue }
                        successor.adopt(try SlotFile(table.file.descriptor.duplicate()), number: number)
                    }
                    connections = successor
                    alive = alive.filter { $0.value.isEstablished }
                    for flow in alive.keys { alive[flow]?.hasSocket = false }
                }
                #expect(connections.count == alive.count)
                #expect(connections.admission.connections == alive.count)
                #expect(connections.countWithoutSockets == alive.values.count { !$0.hasSocket })
            }
            for (number, connection) in alive {
                #expect(connections.contains(connection.number))
                #expect(connections.hasSocket(connection.number) == connection.hasSocket)
                let slot = try #require(connections.slot(of: connection.number))
                #expect(connection.hasSocket || connections.lacksSocket(connection.number) == (connection.place != nil))
                guard let place = connection.place else {
                    #expect(slot.flow == nil)
                    continue
                }
                let flow = try flow(place)
                #expect(connections.connection(of: flow) == connection.number)
                #expect(
                    connections.connectionWithoutSocket(of: flow) == (connection.hasSocket ? nil : connection.number))
                guard connection.isEstablished else { continue }
                #expect(slot.flow == flow && [UInt8](slot.details) == [UInt8(number & 0xff)])
            }
            for connection in alive.values { connections.end(connection.number) }
            #expect(connections.count == 0 && connections.admission.connections == 0)
            #expect(connections.admission.handshakes == 0)
        }
    }
}
