import Glibc
import LinuxSystem
import Primitives

/// The last flights of handshakes (RFC 6347, section 4.2.4), for processes that go on with the connections: in memory of a
/// ``SlotFile`` that all its connections share, since a flight is wanted for a minute only, and a cell for each slot would
/// take as much as all else of a connection.
///
/// One process writes. What it writes goes behind what was written last, and at the end of the memory in use it begins
/// again at the start, unless something there is still wanted: then more memory is used, up to `byteCount`, and beyond
/// that the oldest is overwritten. Who reads recognizes a flight by its owner and its checksum, so whatever a process that
/// has died or goes on has left of one is none. A flight holds no secrets: it was sent as it is.
struct FlightRing {
    /// Words that say where the next flight goes, how much memory is in use, and where the flights of the last round are
    /// that have not been overwritten.
    private enum Header {
        static let position = 0
        static let used = 8
        static let nextOld = 16
        static let endOfOld = 24
    }
    static let headerByteCount = 32

    /// What is in front of a flight.
    private enum Entry {
        static let owner = 0
        static let checksum = 8
        static let expiry = 16
        static let count = 24
        static let byteCount = 32
    }

    /// Bytes of a flight and of what is in front of it are a multiple of this, so that the latter fits every gap.
    static let alignment = Entry.byteCount
    private static let initiallyUsed = 16 * 1_024

    private let header: UnsafeMutableRawPointer
    private let memory: UnsafeMutableRawPointer
    private let byteCount: Int

    /// - Parameters:
    ///   - header: ``headerByteCount`` bytes, 8-byte aligned; zero at first.
    ///   - memory: `byteCount` bytes, 8-byte aligned, a multiple of ``alignment``.
    init(header: UnsafeMutableRawPointer, memory: UnsafeMutableRawPointer, byteCount: Int) {
        self.header = header
        self.memory = memory
        self.byteCount = byteCount
    }

    /// A position in the memory, whatever another process has left in the word.
    private func position(_ word: Int) -> Int {
        Int(min(SharedWord.load(header + word), UInt64(byteCount))) / Self.alignment * Self.alignment
    }

    private func setPosition(_ word: Int, _ value: Int) { SharedWord.store(UInt64(value), header + word) }

    /// Keeps a flight.
    /// - Parameters:
    ///   - owner: tells it from those of others.
    ///   - expiry: when nobody wants it any more.
    /// - Returns: where it is; `nil` where it is too large to be kept.
    func keep(_ bytes: [UInt8], of owner: UInt64, until expiry: Instant, now: Instant) -> Int? {
        let size = (Entry.byteCount + bytes.count + Self.alignment - 1) / Self.alignment * Self.alignment
        guard size <= byteCount / 4 else { return nil }
        let start = makeRoom(size, now: now)
        let entry = memory + start
        // Until all of it is there, it is nobody's.
        entry.storeBytes(of: 0, toByteOffset: Entry.checksum, as: UInt64.self)
        SharedWord.fence()
        entry.storeBytes(of: owner, toByteOffset: Entry.owner, as: UInt64.self)
        entry.storeBytes(of: expiry.nanoseconds, toByteOffset: Entry.expiry, as: UInt64.self)
        entry.storeBytes(of: UInt64(bytes.count), toByteOffset: Entry.count, as: UInt64.self)
        UnsafeMutableRawBufferPointer(start: entry + Entry.byteCount, count: bytes.count).copyBytes(from: bytes)
        SharedWord.store(Self.checksum(bytes, owner, expiry), entry + Entry.checksum)
        setPosition(Header.position, start + size)
        return start
    }

    /// - Returns: where so many bytes may be written.
    private func makeRoom(_ size: Int, now: Instant) -> Int {
        var used = max(position(Header.used), min(Self.initiallyUsed, byteCount))
        var start = position(Header.position)
        if start + size > used, position(Header.endOfOld) > 0 || start > 0 {
            setPosition(Header.endOfOld, start)
            setPosition(Header.nextOld, 0)
            start = 0
        }
        if isWanted(upTo: start + size, now: now), used < byteCount {
            // The flights of this round and of the last one stay where they are, and the next ones go behind them.
            fill(start..<max(start, position(Header.nextOld)))
            let end = max(start, position(Header.endOfOld))
            fill(end..<max(end, used))
            start = used
            setPosition(Header.endOfOld, 0)
            setPosition(Header.nextOld, 0)
            used = min(used * 2, byteCount)
        }
        while used < min(start + size, byteCount) { used = min(used * 2, byteCount) }
        if start + size > used { start = 0 }
        setPosition(Header.used, used)
        return start
    }

    /// Writes what is passed over where flights are read in a row.
    private func fill(_ gap: Range<Int>) {
        if gap.count < Entry.byteCount { return }
        let entry = memory + gap.lowerBound
        for word in [Entry.owner, Entry.checksum, Entry.expiry] {
            entry.storeBytes(of: 0, toByteOffset: word, as: UInt64.self)
        }
        entry.storeBytes(of: UInt64(gap.count - Entry.byteCount), toByteOffset: Entry.count, as: UInt64.self)
    }

    /// Whether a flight of the last round is still wanted that what is written up to `end` would overwrite. Those that are
    /// not are passed over.
    private func isWanted(upTo end: Int, now: Instant) -> Bool {
        let endOfOld = position(Header.endOfOld)
        var next = position(Header.nextOld)
        defer { setPosition(Header.nextOld, next) }
        while next < min(end, endOfOld) {
            let expiry = (memory + next).load(fromByteOffset: Entry.expiry, as: UInt64.self)
            if expiry > now.nanoseconds { return true }
            let count = (memory + next).load(fromByteOffset: Entry.count, as: UInt64.self)
            let size = Entry.byteCount + Int(min(count, UInt64(byteCount)))
            next = min(next + (size + Self.alignment - 1) / Self.alignment * Self.alignment, byteCount)
            if next + Entry.byteCount > byteCount { return false }
        }
        return false
    }

    /// The flight at a position, which another process may write to meanwhile.
    /// - Returns: `nil` where there is none of this owner.
    func flight(at position: Int, of owner: UInt64) -> (bytes: [UInt8], expiry: Instant)? {
        guard position >= 0, position.isMultiple(of: Self.alignment), position + Entry.byteCount <= byteCount else {
            return nil
        }
        let entry = memory + position
        let checksum = SharedWord.load(entry + Entry.checksum)
        let count = entry.load(fromByteOffset: Entry.count, as: UInt64.self)
        guard entry.load(fromByteOffset: Entry.owner, as: UInt64.self) == owner,
            count <= UInt64(byteCount - position - Entry.byteCount)
        else { return nil }
        let bytes = [UInt8](UnsafeRawBufferPointer(start: entry + Entry.byteCount, count: Int(count)))
        let expiry = Instant(nanoseconds: entry.load(fromByteOffset: Entry.expiry, as: UInt64.self))
        guard checksum == Self.checksum(bytes, owner, expiry) else { return nil }
        return (bytes, expiry)
    }

    /// It is never 0.
    private static func checksum(_ bytes: [UInt8], _ owner: UInt64, _ expiry: Instant) -> UInt64 {
        (FNV1a.hash(bytes) ^ owner &+ expiry.nanoseconds) | 1
    }
}
