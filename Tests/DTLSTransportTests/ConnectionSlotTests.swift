import LinuxSystem
import Primitives
import Testing

@testable import DTLSTransport

/// What is in slots, as another process reads it: through a second mapping of the same memory file.
@Suite struct ConnectionSlotTests {
    private let file: SlotFile
    private let reader: SlotFile
    private let flow: FlowKey
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    init() throws {
        file = try SlotFile(capacity: 100, name: "test")
        reader = try SlotFile(file.descriptor.duplicate())
        flow = FlowKey(
            peer: try #require(SocketAddress("[2001:db8::7]:5684")), local: try #require(SocketAddress("[::1]:684")))
    }

    private func establish(_ slot: ConnectionSlot, details count: Int, key: UInt64, isMovable: Bool = true) {
        let random = [UInt8](repeating: UInt8(truncatingIfNeeded: key), count: 16)
        let details = [UInt8](repeating: UInt8(truncatingIfNeeded: key), count: count)
        let prepared = random.withUnsafeBytes {
            slot.prepare(random: $0, details: details, handshakeDuration: .milliseconds(3))
        }
        prepared.records.storeBytes(of: key, as: UInt64.self)
        slot.establish(prepared, isMovable: isMovable)
    }

    private func expect(_ slot: ConnectionSlot, details count: Int, key: UInt64) {
        #expect(slot.records.load(as: UInt64.self) == key)
        let byte = UInt8(truncatingIfNeeded: key)
        #expect([UInt8](slot.details) == [UInt8](repeating: byte, count: count))
        #expect([UInt8](slot.random) == [UInt8](repeating: byte, count: 16))
        #expect(slot.handshakeDuration == .milliseconds(3))
    }

    /// The bytes of a slot and its overflow cell but the word with the phase.
    private func bytes(_ index: Int) throws -> [UInt8] {
        let memory = try SharedMemory(file.descriptor.duplicate())
        let slot = 4_096 + index * ConnectionSlot.byteCount
        let overflow = 4_096 + 100 * ConnectionSlot.byteCount + index * ConnectionSlot.overflowByteCount
        return Array(memory.bytes[(slot + 8)..<(slot + ConnectionSlot.byteCount)])
            + Array(memory.bytes[overflow..<(overflow + ConnectionSlot.overflowByteCount)])
    }

    @Test func `a connection that its client has left has no flow until it has another one`() throws {
        let slot = file[3]
        slot.take(flow, target: 77, now: start)
        slot.leaveFlow()
        #expect(reader[3].flow == nil && reader[3].lastFlow == flow)
        slot.leaveFlow()
        #expect(reader[3].flow == nil && reader[3].lastFlow == flow)
        let others = [
            FlowKey(
                peer: try #require(SocketAddress("192.0.2.9:40000")),
                local: try #require(SocketAddress("192.0.2.1:684"))),
            FlowKey(peer: try #require(SocketAddress("[fe80::1%7]:1")), local: flow.local), flow,
        ]
        for other in others {
            slot.move(to: other)
            #expect(reader[3].flow == other && reader[3].lastFlow == other)
        }
        file[4].takeOver(from: slot)
        #expect(reader[4].flow == flow)
        file[4].free()
        #expect(reader[4].lastFlow == nil)
        file[4].take(flow, target: 1, now: start)
        #expect(reader[4].flow == flow)
    }

    @Test func `a new address is not proven until the worker says so, wherever the connection is`() throws {
        let slot = file[3]
        slot.take(flow, target: 77, now: start)
        #expect(reader[3].unprovenAllowance == nil)
        slot.move(to: flow)
        #expect(reader[3].unprovenAllowance == 0)
        slot.deaths = 7
        for allowance in [0, 1, 1_000, Int(UInt32.max) - 1] {
            slot.unprovenAllowance = allowance
            #expect(reader[3].unprovenAllowance == allowance && reader[3].deaths == 7)
        }
        slot.unprovenAllowance = .max
        #expect(reader[3].unprovenAllowance == Int(UInt32.max) - 1)
        slot.unprovenAllowance = -1
        #expect(reader[3].unprovenAllowance == 0)
        file[4].takeOver(from: slot)
        #expect(reader[4].unprovenAllowance == 0)
        file[4].unprovenAllowance = nil
        #expect(reader[4].unprovenAllowance == nil)
        slot.free()
        slot.take(flow, target: 77, now: start)
        #expect(reader[3].unprovenAllowance == nil)
    }

    @Test func `a flow is read whole while it is written`() async throws {
        let slot = file[5]
        let flows = try (0..<2).map { number in
            FlowKey(
                peer: try #require(SocketAddress("[\(number)::\(number)]:\(number + 1)")),
                local: try #require(SocketAddress("[\(number)::\(number)]:\(number + 1)")))
        }
        slot.take(flows[0], target: 1, now: start)
        let reading = reader
        let seen = await withTaskGroup(of: Set<FlowKey>.self) { group in
            nonisolated(unsafe) let there = reading[5]
            nonisolated(unsafe) let here = slot
            group.addTask {
                for round in 0..<200_000 { here.move(to: flows[round % 2]) }
                return []
            }
            group.addTask {
                var seen: Set<FlowKey> = []
                // There is none while the writer is stopped in the midst of a change.
                for _ in 0..<200_000 {
                    if let flow = there.flow { seen.insert(flow) }
                }
                return seen
            }
            return await group.reduce(into: Set<FlowKey>()) { $0.formUnion($1) }
        }
        #expect(!seen.isEmpty && seen.isSubset(of: flows), "\(seen)")
        #expect(reading[5].flow == flows[1])
    }

    @Test func `a connection is read by another process as it was written`() throws {
        file.used = 3
        file.current = 2
        let slot = file[2]
        #expect(slot.phase == .free && reader[2].phase == .free)
        slot.take(flow, target: 77, now: start)
        let other = reader[2]
        #expect(other.phase == .handshaking && other.flow == flow && other.target == 77 && other.generation == 1)
        #expect(other.started == start && other.lastReceived == start)
        establish(slot, details: 90, key: 5)
        #expect(other.phase == .established)
        expect(other, details: 90, key: 5)
        slot.lastReceived = start + .seconds(3)
        var counters = Connection.Counters()
        counters.messagesIn = 1
        counters.bytesIn = 2
        counters.messagesOut = 3
        counters.bytesOut = 4
        counters.unsent = 5
        counters.tooLarge = 6
        slot.counters = counters
        #expect(other.lastReceived == start + .seconds(3))
        #expect(other.counters.messagesIn == 1 && other.counters.bytesIn == 2 && other.counters.messagesOut == 3)
        #expect(other.counters.bytesOut == 4 && other.counters.unsent == 5 && other.counters.tooLarge == 6)
        #expect(reader.used == 3 && reader.current == 2)
        file.current = nil
        #expect(reader.current == nil)
    }

    @Test func `the far side is an address with the one that it is reached from, or a path`() throws {
        let slot = file[0]
        slot.take(flow, target: 1, now: start)
        #expect(reader[0].farSide == .none)
        slot.farSide = .udp(flow.peer, local: flow.local)
        #expect(reader[0].farSide == .udp(flow.peer, local: flow.local))
        slot.farSide = .unix(ConnectionSlot.hash(of: "/run/a.sock"))
        #expect(reader[0].farSide == .unix(ConnectionSlot.hash(of: "/run/a.sock")))
        slot.farSide = .none
        #expect(reader[0].farSide == .none)
    }

    /// Details of each length that fits the slot, and that does not; the former association has one of the places.
    @Test(arguments: [0, 95, 96, 97, ConnectionSlot.maximumDetails], [0, 96, 97, ConnectionSlot.maximumDetails])
    func `an association is written beside the one that it replaces, which is whole until then`(
        _ first: Int, _ second: Int
    ) throws {
        let slot = file[4]
        slot.take(flow, target: 1, now: start)
        establish(slot, details: first, key: 10)
        for round in 0..<4 {
            let counts = round.isMultiple(of: 2) ? (first, second) : (second, first)
            let key = UInt64(10 + round)
            let prepared = slot.prepare(
                random: UnsafeRawBufferPointer(start: nil, count: 0),
                details: [UInt8](repeating: 0xff, count: counts.1), handshakeDuration: .zero)
            prepared.records.storeBytes(of: UInt64.max, as: UInt64.self)
            expect(reader[4], details: counts.0, key: key)
            // The handshake has failed: nothing has happened. Then another one succeeds.
            establish(slot, details: counts.1, key: key + 1)
            expect(reader[4], details: counts.1, key: key + 1)
        }
    }

    @Test func `the keys of an association are wiped when it is replaced, when it ends and when the slot is freed`()
        throws
    {
        let key: UInt64 = 0xdead_beef_1234_5678
        let needle = withUnsafeBytes(of: key) { [UInt8]($0) }
        func holdsKey() throws -> Bool { try bytes(6).firstRange(of: needle) != nil }
        let slot = file[6]
        for details in [0, ConnectionSlot.maximumDetails] {
            slot.take(flow, target: 1, now: start)
            establish(slot, details: details, key: key)
            #expect(try holdsKey())
            establish(slot, details: 0, key: 1)
            #expect(try !holdsKey())
            establish(slot, details: details, key: key)
            slot.end()
            #expect(reader[6].phase == .ended && reader[6].flow == flow)
            #expect(try !holdsKey())
            slot.free()
            #expect(reader[6].phase == .free)
            #expect(try bytes(6).allSatisfy { $0 == 0 })
        }
        #expect(slot.generation == 2)
    }

    @Test func `a connection that cannot move is told from one that can`() {
        let slot = file[0]
        slot.take(flow, target: 1, now: start)
        establish(slot, details: 1, key: 1, isMovable: false)
        #expect(reader[0].phase == .bound)
    }

    @Test(arguments: [5, 300]) func `a connection that moves leaves nothing behind`(_ details: Int) throws {
        let other = try SlotFile(capacity: 10, name: "test")
        file[3].take(flow, target: 9, now: start)
        establish(file[3], details: details, key: 42)
        file[3].deaths = 1
        other[7].take(flow, target: 1, now: start)
        other[7].free()
        other[7].takeOver(from: file[3])
        #expect(other[7].phase == .established && other[7].flow == flow && other[7].target == 9)
        #expect(other[7].generation == 2 && other[7].deaths == 1)
        expect(other[7], details: details, key: 42)
        #expect(file[3].phase == .ended)
        file[3].free()
        #expect(try bytes(3).allSatisfy { $0 == 0 })
    }

    @Test func `numbers are told apart by worker, slot and how often the slot was taken`() {
        let number = ConnectionNumber(worker: 65_535, slot: SlotFile.maximumCapacity - 1, generation: 0x1ff_ffff)
        #expect(number.worker == 65_535 && number.slot == SlotFile.maximumCapacity - 1)
        #expect(number.generation == 0xff_ffff)
        #expect(ConnectionNumber(rawValue: number.rawValue) == number)
        #expect(
            Set((0..<8).map { ConnectionNumber(worker: $0 & 1, slot: $0 >> 1 & 1, generation: UInt32($0 >> 2)) }).count
                == 8)
    }

    @Test func `a file that another version has written, or that holds something else, is refused`() throws {
        let memory = try SharedMemory(file.descriptor.duplicate())
        memory.bytes.storeBytes(of: SlotFile.layoutVersion + 1, toByteOffset: 8, as: UInt32.self)
        #expect {
            _ = try SlotFile(file.descriptor.duplicate())
        } throws: { error in
            "\(error)".contains("another version of dtlsd")
        }
        memory.bytes.storeBytes(of: SlotFile.layoutVersion, toByteOffset: 8, as: UInt32.self)
        for capacity: UInt32 in [99, 101, .max] {
            memory.bytes.storeBytes(of: capacity, toByteOffset: 12, as: UInt32.self)
            #expect(throws: UnusableSlotFile.self) { _ = try SlotFile(file.descriptor.duplicate()) }
        }
        #expect(throws: (any Error).self) { _ = try SlotFile(MemoryFile.make([1, 2, 3], name: "test")) }
        #expect(throws: (any Error).self) { _ = try SlotFile(MemoryFile.make([], name: "test")) }
        // What a broken process has written about its slots is not believed.
        memory.bytes.storeBytes(of: 100, toByteOffset: 12, as: UInt32.self)
        memory.bytes.storeBytes(of: UInt64.max, toByteOffset: 16, as: UInt64.self)
        memory.bytes.storeBytes(of: UInt64(101), toByteOffset: 24, as: UInt64.self)
        let broken = try SlotFile(file.descriptor.duplicate())
        #expect(broken.used == 100 && broken.current == nil)
        memory.bytes.storeBytes(of: 0xff, toByteOffset: 4_096, as: UInt8.self)
        #expect(broken[0].phase == .ended && broken[0].flow == nil)
    }
}
