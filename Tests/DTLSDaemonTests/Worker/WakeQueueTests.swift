import DTLSTransport
import LinuxSystem
import Testing

@testable import DTLSDaemon

@Suite struct WakeQueueTests {
    private func id(_ slot: Int) -> ConnectionNumber { ConnectionNumber(worker: 1, slot: slot, generation: 1) }

    private func wake(_ queue: inout WakeQueue, _ id: ConnectionNumber, _ datagram: [UInt8]) -> Bool {
        datagram.withUnsafeBytes { queue.wake(id, with: $0, from: Self.flow(1)) }
    }

    private static func flow(_ port: UInt16) -> FlowKey {
        FlowKey(peer: .anyAddress(.ipv4, port: port), local: .anyAddress(.ipv4, port: 4_433))
    }

    private func move(
        _ queue: inout WakeQueue, _ id: ConnectionNumber, _ datagram: [UInt8], _ port: UInt16, number: UInt64
    ) -> Bool {
        let sighting = WakeQueue.Sighting(flow: Self.flow(port), number: number)
        return datagram.withUnsafeBytes { queue.move(id, with: $0, to: sighting) }
    }

    @Test func `a connection is asked for once, and gets its datagrams in order`() {
        var queue = WakeQueue()
        let news = [wake(&queue, id(1), [1]), wake(&queue, id(1), [2]), queue.wake(id(1))]
        #expect(news == [true, false, false])
        let unasked = [queue.takeUnasked(10), queue.takeUnasked(10)]
        #expect(unasked == [[id(1)], []])
        let kept = queue.remove(id(1)).datagrams.map(\.bytes)
        #expect(kept == [[1], [2]] && queue.isEmpty)
        let isNews = wake(&queue, id(1), [3])
        #expect(isNews)
    }

    @Test func `all that wake in one turn are asked for in parts that fit a message`() {
        var queue = WakeQueue()
        for slot in 0..<5 { queue.wake(id(slot)) }
        // One has ended meanwhile.
        queue.remove(id(2))
        let parts = [queue.takeUnasked(3), queue.takeUnasked(3)]
        #expect(parts == [[id(0), id(1), id(3)], [id(4)]])
    }

    @Test func `what is kept has a bound for each connection and for all`() {
        var queue = WakeQueue()
        for value in UInt8(0)..<50 { _ = wake(&queue, id(1), [value]) }
        #expect(queue.isFull(id(1)) && !queue.isFull(id(2)))
        _ = queue.takeUnasked(10)
        let own = queue.remove(id(1)).datagrams.count
        #expect(own == WakeQueue.datagramsPerConnection)

        for slot in 0..<1_000 { for value in UInt8(0)..<8 { _ = wake(&queue, id(slot), [value]) } }
        // Those without room wake up all the same.
        let woken = queue.takeUnasked(2_000).count
        #expect(woken == 1_000)
        var kept = 0
        for slot in 0..<1_000 { kept += queue.remove(id(slot)).datagrams.count }
        #expect(kept == WakeQueue.maximumDatagrams && queue.isEmpty)

        let large = [UInt8](repeating: 0, count: 1 << 20)
        for slot in 0..<20 { _ = wake(&queue, id(slot), large) }
        var largeOnes = 0
        for slot in 0..<20 { largeOnes += queue.remove(id(slot)).datagrams.count }
        #expect(largeOnes == WakeQueue.maximumBytes >> 20)
    }

    @Test func `a socket at another address is asked for once for each address, and never for an older record's`() {
        var queue = WakeQueue()
        let asks = [
            move(&queue, id(1), [1], 2, number: 10), move(&queue, id(1), [2], 2, number: 11),
            move(&queue, id(1), [3], 3, number: 12), move(&queue, id(1), [4], 2, number: 5),
        ]
        #expect(asks == [true, false, true, false])
        // It is not asked for at the address in the slot, too.
        let unasked = queue.takeUnasked(10)
        #expect(unasked == [])
        let waiting = queue.remove(id(1))
        #expect(waiting.isMove && waiting.sighting == WakeQueue.Sighting(flow: Self.flow(3), number: 12))
        #expect(waiting.datagrams.map(\.flow) == [2, 2, 3, 2].map { Self.flow($0) })
        #expect(queue.isEmpty)
    }

    @Test func `a connection that cannot be woken up at its address is asked for where it was seen`() {
        var queue = WakeQueue()
        let sightings = [(UInt16(2), UInt64(10)), (3, 12), (4, 11)]
        for (port, number) in sightings {
            let sighting = WakeQueue.Sighting(flow: Self.flow(port), number: number)
            _ = [UInt8(port)].withUnsafeBytes { queue.wake(id(1), with: $0, from: sighting.flow, sighting: sighting) }
        }
        let unasked = queue.takeUnasked(10)
        let instead = [queue.moveInstead(id(1)), queue.moveInstead(id(1))]
        #expect(unasked == [id(1)] && instead == [Self.flow(3), nil])
        let waiting = queue.remove(id(1))
        #expect(waiting.isMove && waiting.datagrams.count == 3)

        // One that was seen nowhere else gets no socket.
        _ = wake(&queue, id(2), [1])
        let nothing = queue.moveInstead(id(2))
        #expect(nothing == nil)
    }

    @Test func `a connection that is woken up is asked for at another address as soon as it is seen there`() {
        var queue = WakeQueue()
        _ = wake(&queue, id(1), [1])
        let asks = move(&queue, id(1), [2], 2, number: 10)
        let unasked = queue.takeUnasked(10)
        #expect(asks && unasked == [])
    }

    @Test func `a walk visits every slot once, in steps, and begins again`() {
        var walk = SlotWalk()
        // Slots may be taken meanwhile.
        let steps = [10, 10, 11, 11, 11].map { walk.step(4, of: $0) }
        #expect(steps == [0..<4, 4..<8, 8..<11, nil, 0..<4])
        var empty = SlotWalk()
        let none = empty.step(4, of: 0)
        #expect(none == nil)
    }
}
