import LinuxSystem
import Primitives

/// The slots of one worker's connections, in memory that the main process keeps and the worker maps: a header, then
/// ``capacity`` slots, then as many overflow cells, then the last flights of handshakes (``FlightRing``). What was never
/// written takes no memory.
package final class SlotFile {
    /// The version of the layout of header, slots and record states. A process that finds another one cannot go on with
    /// the connections.
    package static let layoutVersion: UInt32 = 4
    /// The most slots of a file, which ``ConnectionNumber`` has bits for.
    package static let maximumCapacity = 1 << 24
    private static let headerByteCount = 4_096
    /// "dtlsdslt"
    private static let magic: UInt64 = 0x746c_7364_736c_7464

    private enum Offset {
        static let magic = 0
        static let version = 8
        static let capacity = 12
        static let used = 16
        static let current = 24
        static let workersFlights = 64
        static let mainFlights = 96
    }

    /// Who keeps last flights: the worker those of its handshakes, and the main process those of connections that come
    /// from other tables.
    package enum FlightKeeper: UInt32 {
        case worker = 0
        case main = 1

        /// Bytes of its flights at most: of some 40,000 handshakes, in which a ticket is 250 bytes of 350. With more in a
        /// minute, the oldest are not kept.
        fileprivate var byteCount: Int { self == .worker ? 16 << 20 : 4 << 20 }
    }

    package let capacity: Int
    private let memory: SharedMemory
    private let base: UnsafeMutableRawPointer

    /// Makes a file with `capacity` free slots.
    package init(capacity: Int, name: String) throws(SystemError) {
        memory = try SharedMemory(byteCount: Self.byteCount(capacity), name: name)
        guard let base = memory.bytes.baseAddress else { throw SystemError("mmap", "memfd", errno: 22) }
        self.base = base
        self.capacity = capacity
        base.storeBytes(of: Self.magic, toByteOffset: Offset.magic, as: UInt64.self)
        base.storeBytes(of: Self.layoutVersion, toByteOffset: Offset.version, as: UInt32.self)
        base.storeBytes(of: UInt32(truncatingIfNeeded: capacity), toByteOffset: Offset.capacity, as: UInt32.self)
    }

    /// Maps a file that another process has made, perhaps one of another version of this program.
    package init(_ file: consuming FileDescriptor) throws {
        memory = try SharedMemory(file)
        guard let base = memory.bytes.baseAddress, memory.bytes.count >= Self.headerByteCount,
            base.load(fromByteOffset: Offset.magic, as: UInt64.self) == Self.magic
        else { throw UnusableSlotFile.foreign }
        let version = base.load(fromByteOffset: Offset.version, as: UInt32.self)
        guard version == Self.layoutVersion else { throw UnusableSlotFile.version(version) }
        let capacity = Int(base.load(fromByteOffset: Offset.capacity, as: UInt32.self))
        guard capacity <= Self.maximumCapacity, memory.bytes.count == Self.byteCount(capacity) else {
            throw UnusableSlotFile.foreign
        }
        self.base = base
        self.capacity = capacity
    }

    /// All of the memory, for tests of what becomes of a process that finds anything there.
    package var bytes: UnsafeMutableRawBufferPointer { memory.bytes }

    private static func byteCount(_ capacity: Int) -> Int {
        headerByteCount + capacity * (ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount)
            + FlightKeeper.worker.byteCount + FlightKeeper.main.byteCount
    }

    // MARK: Last flights

    private func flights(of keeper: FlightKeeper) -> FlightRing {
        let start =
            base + Self.headerByteCount + capacity * (ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount)
        return switch keeper {
        case .worker:
            FlightRing(header: base + Offset.workersFlights, memory: start, byteCount: keeper.byteCount)
        case .main:
            FlightRing(
                header: base + Offset.mainFlights, memory: start + FlightKeeper.worker.byteCount,
                byteCount: keeper.byteCount)
        }
    }

    private static let keeperShift: UInt32 = 23

    /// Keeps the last flight of a handshake for the process that goes on with the connection.
    /// - Parameters:
    ///   - owner: ``ConnectionSlot/flightOwner(started:random:)``.
    ///   - keeper: the process that calls this.
    /// - Returns: for ``ConnectionSlot/flight``.
    func keepFlight(
        _ flight: [UInt8], of owner: UInt64, until expiry: Instant, now: Instant, by keeper: FlightKeeper
    ) -> UInt32 {
        guard let place = flights(of: keeper).keep(flight, of: owner, until: expiry, now: now) else { return 0 }
        return keeper.rawValue << Self.keeperShift | UInt32(truncatingIfNeeded: place / FlightRing.alignment + 1)
    }

    /// The last flight of the handshake of an established connection, and until when its peer may ask for it; `nil` where
    /// there is none (any more).
    func flight(of slot: ConnectionSlot) -> (bytes: [UInt8], expiry: Instant)? {
        let word = slot.flight
        // After the first message, the peer asks for it no more.
        guard word != 0, slot.counters.messagesIn == 0, let keeper = FlightKeeper(rawValue: word >> Self.keeperShift)
        else { return nil }
        let place = (Int(word & (1 << Self.keeperShift - 1)) - 1) * FlightRing.alignment
        return flights(of: keeper).flight(at: place, of: slot.flightOwner)
    }

    /// Takes an established connection over from a slot of another file, as the main process does: see
    /// ``ConnectionSlot/takeOver(from:)``.
    package func takeOver(_ connection: ConnectionSlot, of other: SlotFile, into index: Int) {
        let flight = other.flight(of: connection)
        let slot = self[index]
        slot.takeOver(from: connection)
        // Until this is stored, it names a place of the other file, where nothing of this owner is.
        slot.flight =
            flight.map {
                keepFlight($0.bytes, of: slot.flightOwner, until: $0.expiry, now: .now(), by: .main)
            } ?? 0
    }

    // MARK: Slots

    package var descriptor: FileDescriptor { _read { yield memory.descriptor } }

    /// `index` is in `0..<capacity`.
    package subscript(index: Int) -> ConnectionSlot {
        precondition((0..<capacity).contains(index), "an index from outside is checked by the code that reads it")
        return ConnectionSlot(
            base + Self.headerByteCount + index * ConnectionSlot.byteCount,
            overflow: base + Self.headerByteCount + capacity * ConnectionSlot.byteCount
                + index * ConnectionSlot.overflowByteCount)
    }

    /// The slots from the first on that have ever been taken, which the main process notes: the others are free.
    package var used: Int {
        get { Int(min(SharedWord.load(base + Offset.used), UInt64(capacity))) }
        set { SharedWord.store(UInt64(newValue), base + Offset.used) }
    }

    /// The index of the slot whose connection the worker works on; `nil` while it works on none. The main process reads
    /// it once the worker has died.
    package var current: Int? {
        get {
            let value = SharedWord.load(base + Offset.current)
            return value == 0 || value > UInt64(capacity) ? nil : Int(value) - 1
        }
        set { SharedWord.store(newValue.map { UInt64($0) + 1 } ?? 0, base + Offset.current) }
    }

    /// The word that ``current`` is in: the index plus one, or 0.
    var currentWork: UnsafeMutableRawPointer { base + Offset.current }

    /// Keeps the overflow cells that this process uses out of swap devices: the worker, which alone writes to them. Nearly
    /// all of them are never written, and get no memory by this.
    /// - Returns: false where RLIMIT_MEMLOCK is less than all of them would take.
    package func lockOverflow() -> Bool {
        let start = Self.headerByteCount + capacity * ConnectionSlot.byteCount
        return memory.lockOnUse(start..<(start + capacity * ConnectionSlot.overflowByteCount))
    }

    /// Keeps the first `count` slots out of swap devices, as far as RLIMIT_MEMLOCK allows. It gives them memory.
    /// - Parameter count: at most ``capacity``.
    /// - Returns: false where the limit is reached.
    package func lock(_ count: Int) -> Bool { memory.lock(Self.headerByteCount + count * ConnectionSlot.byteCount) }
}

/// A memory file does not hold connections that this program can go on with.
package enum UnusableSlotFile: Error, CustomStringConvertible {
    case foreign
    case version(UInt32)

    package var description: String {
        switch self {
        case .foreign: "it does not hold connections of dtlsd"
        case .version(let version):
            "it was written by another version of dtlsd, with layout \(version) where this one knows"
                + " \(SlotFile.layoutVersion)"
        }
    }
}
