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
        let survival = connections.workerDied(0, now: start)
        #expect(survival.kept == 3 && survival.bound == 1 && survival.handshaking == 1 && survival.poison == nil)
        #expect(survival.lost == 2)
        for (number, connection) in all.enumerated() {
            let flow = try flow(number)
            #expect(connections.connectionWithoutSocket(of: flow) == (number < 3 ? connection : nil))
        }
        #expect(table.count == 3 && table.countWithSockets == 0)
        #expect(connections.admission.connections == 3 && connections.admission.handshakes == 0)
        // A death in the midst of taking over changes nothing.
        #expect(connections.workerDied(0, now: start).kept == 3)
    }

    @Test func `a connection on which a worker dies twice within a minute ends`() throws {
        let table = try connections.makeTable(preferring: 0)
        let poison = try begin(1)
        let other = try begin(2)
        for connection in [poison, other] { try establish(connection) }
        func die(on connection: ConnectionNumber?, after seconds: Int) -> ConnectionTable.Survival {
            table.file.current = connection?.slot
            return connections.workerDied(0, now: start + .seconds(seconds))
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
        #expect(connections.workerDied(0, now: start).poison == nil)
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
            var alive: [Int: (number: ConnectionNumber, isEstablished: Bool, hasSocket: Bool)] = [:]
            var next = 0
            var now = start
            for _ in 0..<600 {
                now = now + .milliseconds(10)
                let chosen = alive.randomElement(using: &random)
                switch Int.random(in: 0..<20, using: &random) {
                case 0..<7:
                    next += 1
                    let table = Int.random(in: 0..<3, using: &random)
                    let number = try #require(connections.begin(try flow(next), target: service, in: table, now: now))
                    alive[next] = (number, false, true)
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
                case 18:
                    let table = Int.random(in: 0..<3, using: &random)
                    _ = connections.workerDied(table, now: now)
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
                #expect(
                    connections.connectionWithoutSocket(of: try flow(number))
                        == (connection.hasSocket ? nil : connection.number))
                guard connection.isEstablished else { continue }
                let slot = try #require(connections.slot(of: connection.number))
                let flow = try flow(number)
                #expect(slot.flow == flow && [UInt8](slot.details) == [UInt8(number & 0xff)])
            }
            for connection in alive.values { connections.end(connection.number) }
            #expect(connections.count == 0 && connections.admission.connections == 0)
            #expect(connections.admission.handshakes == 0)
        }
    }
}
