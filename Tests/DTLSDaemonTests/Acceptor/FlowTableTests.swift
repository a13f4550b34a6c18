import DTLSTransport
import LinuxSystem
import TestSupport
import Testing

@testable import DTLSDaemon

/// The table of flows, beside a dictionary that says what is right.
@Suite struct FlowTableTests {
    private func flow(_ number: Int) throws -> FlowKey {
        let family = number.isMultiple(of: 2) ? "192.0.2.\(number >> 16 & 0xff)" : "2001:db8::\(number >> 16 & 0xff)"
        return FlowKey(
            peer: try #require(SocketAddress(host: family, port: UInt16(number & 0xffff))),
            local: try #require(SocketAddress(host: family, port: 4_433)))
    }

    @Test func `random lives leave the table as a dictionary would be`() throws {
        for seed in 1...5 {
            var random = SeededGenerator(seed: UInt64(seed))
            var table = FlowTable()
            var places: [FlowKey: FlowTable.Place] = [:]
            var flows: [FlowTable.Place: FlowKey] = [:]
            let all = try (0..<6_000).map(flow)
            // It grows, shrinks, and grows again.
            for (steps, insertions) in [(8_000, 80), (8_000, 15), (5_000, 60)] {
                for _ in 0..<steps {
                    let flow = all[Int.random(in: 0..<all.count, using: &random)]
                    if let place = places[flow] {
                        if Int.random(in: 0..<100, using: &random) >= insertions {
                            if !table.remove(place, flow) { Issue.record("\(place) is not there") }
                            places[flow] = nil
                            flows[place] = nil
                        }
                    } else if Int.random(in: 0..<100, using: &random) < insertions {
                        let place = FlowTable.Place(
                            table: Int.random(in: 0..<FlowTable.maximumTables, using: &random),
                            slot: Int.random(in: 0..<SlotFile.maximumCapacity, using: &random))
                        if flows[place] != nil { continue }
                        table.insert(place, flow)
                        places[flow] = place
                        flows[place] = flow
                    }
                }
                #expect(table.count == places.count)
                let wrong = all.filter { flow in table.place(of: flow) { flows[$0] == flow } != places[flow] }
                #expect(wrong.isEmpty)
            }
            for (flow, place) in places { table.remove(place, flow) }
            #expect(table.count == 0 && table.byteCount == FlowTable().byteCount)
        }
    }

    @Test func `what is not in the table is not removed`() throws {
        var table = FlowTable()
        let place = FlowTable.Place(table: 4_095, slot: SlotFile.maximumCapacity - 1)
        var wasThere = table.remove(place, try flow(1))
        #expect(!wasThere)
        table.insert(place, try flow(1))
        wasThere = table.remove(FlowTable.Place(table: 0, slot: 0), try flow(1))
        #expect(!wasThere)
        #expect(table.place(of: try flow(2)) { $0 == place } == nil)
        #expect(table.place(of: try flow(1)) { $0 == place } == place)
    }

    /// Half of the places are in use at least, until the table shrinks.
    @Test func `a hundred thousand flows take at most 24 bytes each`() throws {
        var table = FlowTable()
        for number in 0..<100_000 { table.insert(FlowTable.Place(table: 1, slot: number), try flow(number)) }
        #expect(table.count == 100_000)
        #expect(table.byteCount <= 2_400_000)
    }
}

extension FlowTable.Place: Hashable {
    public func hash(into hasher: inout Hasher) {
        hasher.combine(table)
        hasher.combine(slot)
    }
}
