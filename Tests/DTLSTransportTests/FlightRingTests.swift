import Primitives
import Testing

@testable import DTLSTransport

@Suite struct FlightRingTests {
    /// A ring in memory of a test.
    private final class Memory {
        let bytes: UnsafeMutableRawBufferPointer
        let ring: FlightRing

        init(_ byteCount: Int) {
            bytes = .allocate(byteCount: FlightRing.headerByteCount + byteCount, alignment: 32)
            bytes.initializeMemory(as: UInt8.self, repeating: 0)
            guard let start = bytes.baseAddress else { preconditionFailure("memory that was allocated has an address") }
            ring = FlightRing(
                header: start, memory: start + FlightRing.headerByteCount, byteCount: byteCount)
        }

        deinit { bytes.deallocate() }

        /// Bytes from the start of the ring to the last one that was ever written.
        var touched: Int {
            (bytes.lastIndex { $0 != 0 } ?? FlightRing.headerByteCount - 1) + 1 - FlightRing.headerByteCount
        }
    }

    private static let start = Instant(nanoseconds: 1_000_000_000_000)
    private static func flight(_ number: Int, count: Int = 300) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number &+ 1) }
    }

    @Test func `a flight is found by its owner, and by nobody else`() throws {
        let memory = Memory(64 * 1_024)
        var places: [Int] = []
        for number in 0..<20 {
            places.append(
                try #require(
                    memory.ring.keep(
                        Self.flight(number, count: number * 37), of: UInt64(number), until: Self.start + .seconds(65),
                        now: Self.start)))
        }
        for number in 0..<20 {
            let found = try #require(memory.ring.flight(at: places[number], of: UInt64(number)))
            #expect(found.bytes == Self.flight(number, count: number * 37))
            #expect(found.expiry == Self.start + .seconds(65))
            #expect(memory.ring.flight(at: places[number], of: UInt64(number + 1)) == nil)
        }
        for place in [-32, 1, 64 * 1_024, 64 * 1_024 - 8, .max / 64 * 32] {
            #expect(memory.ring.flight(at: place, of: 1) == nil)
        }
        #expect(memory.ring.keep(Self.flight(0, count: 16 * 1_024), of: 1, until: Self.start, now: Self.start) == nil)
    }

    /// So that a daemon with few handshakes takes next to no memory, however long it runs.
    @Test func `memory is used again once nobody wants what is in it`() throws {
        let memory = Memory(1 << 20)
        var now = Self.start
        // One a second: 65 are wanted at a time.
        for number in 0..<5_000 {
            let place = memory.ring.keep(
                Self.flight(number), of: UInt64(number), until: now + .seconds(65), now: now)
            #expect(place != nil)
            now = now + .seconds(1)
        }
        #expect(memory.touched <= 64 * 1_024, "\(memory.touched)")
    }

    @Test(arguments: [UInt64(1), 2, 3, 4, 5])
    func `all flights that are wanted are kept as long as there is memory`(_ seed: UInt64) throws {
        let memory = Memory(1 << 20)
        var random = seed
        func next(_ limit: Int) -> Int {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(random >> 33) % limit
        }
        var now = Self.start
        var wanted: [(number: Int, place: Int, count: Int, expiry: Instant)] = []
        for number in 0..<6_000 {
            // Bursts and pauses; 65 s hold 500 flights at most, of 900 bytes at most.
            now = now + .milliseconds(next(100) == 0 ? next(20_000) : 130)
            wanted.removeAll { $0.expiry <= now }
            let (count, expiry) = (next(900), now + .seconds(65))
            let place = try #require(
                memory.ring.keep(Self.flight(number, count: count), of: UInt64(number), until: expiry, now: now))
            wanted.append((number, place, count, expiry))
            for flight in [wanted[0], wanted[next(wanted.count)]] {
                let found = memory.ring.flight(at: flight.place, of: UInt64(flight.number))
                #expect(found?.bytes == Self.flight(flight.number, count: flight.count), "\(number): \(flight.number)")
            }
        }
        #expect(memory.touched < 1 << 20)
    }

    @Test func `in a crowd the oldest is overwritten, and is none any more`() throws {
        let memory = Memory(64 * 1_024)
        var places: [Int] = []
        for number in 0..<1_000 {
            places.append(
                try #require(
                    memory.ring.keep(
                        Self.flight(number), of: UInt64(number), until: Self.start + .seconds(65), now: Self.start)))
        }
        let found = (0..<1_000).filter { memory.ring.flight(at: places[$0], of: UInt64($0)) != nil }
        // 352 bytes each.
        #expect(found.count > 64 * 1_024 / 352 / 2 && found.count <= 64 * 1_024 / 352)
        #expect(found == Array((1_000 - found.count)..<1_000))
    }

    /// Whatever is in the memory, nothing outside of it is touched, and no flight is found.
    @Test func `a damaged ring is harmless`() {
        for seed in 0..<20 {
            let memory = Memory(64 * 1_024)
            var random = UInt64(seed)
            for index in memory.bytes.indices {
                random = random &* 6_364_136_223_846_793_005 &+ 1
                memory.bytes[index] = UInt8(truncatingIfNeeded: random >> 40)
            }
            for place in stride(from: 0, to: 64 * 1_024, by: 32) {
                #expect(memory.ring.flight(at: place, of: UInt64(seed)) == nil)
            }
            for number in 0..<300 {
                let place = memory.ring.keep(Self.flight(number), of: 7, until: Self.start, now: Self.start)
                #expect(place.flatMap { memory.ring.flight(at: $0, of: 7) }?.bytes == Self.flight(number))
            }
        }
    }
}
