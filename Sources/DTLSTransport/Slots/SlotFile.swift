import LinuxSystem
import Primitives

/// The slots of one worker's connections, in memory that the main process keeps and the worker maps: a header, then
/// ``capacity`` slots, then as many overflow cells. What was never written takes no memory.
package final class SlotFile {
    /// The version of the layout of header, slots and record states. A process that finds another one cannot go on with
    /// the connections.
    package static let layoutVersion: UInt32 = 2
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

    private static func byteCount(_ capacity: Int) -> Int {
        headerByteCount + capacity * (ConnectionSlot.byteCount + ConnectionSlot.overflowByteCount)
    }

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

    /// Keeps the first `count` slots out of swap devices, as far as RLIMIT_MEMLOCK allows. It gives them memory. Their
    /// overflow cells are not locked, since nearly all of them are never written.
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
