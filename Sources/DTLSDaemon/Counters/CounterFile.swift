import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// The counters of one process, in memory that another one reads: a header, the block of the process, and a block for each
/// service or client that it has counted for.
///
/// The main process makes a file for each table of connections and keeps it when the worker dies, so no count is lost: the
/// next worker of the table goes on with the same file. The worker alone writes, by ordinary additions. What was never
/// written takes no memory.
final class CounterFile {
    /// The version of the header's layout. What follows it is known by a fingerprint of all families.
    static let layoutVersion: UInt32 = 1
    /// The services and clients that have blocks of their own. Those above count in one block, which is nobody's.
    static let targetCapacity = 1_024
    /// "dtlsdcnt"
    private static let magic: UInt64 = 0x746e_6364_736c_7464
    private static let headerByteCount = 64
    private static let fingerprint =
        ProcessCounter.layout.fingerprint &* 31 &+ TargetCounter.layout.fingerprint
    /// A target's block begins with the word of its ``SlotTarget``.
    private static let targetByteCount = 8 * (1 + TargetCounter.layout.wordCount)
    private static let byteCount =
        headerByteCount + 8 * ProcessCounter.layout.wordCount + (targetCapacity + 1) * targetByteCount

    private enum Offset {
        static let magic = 0
        static let version = 8
        static let fingerprint = 16
        /// How many blocks of targets are in use.
        static let used = 24
    }

    private let memory: SharedMemory
    private let base: UnsafeMutableRawPointer

    /// Makes a file in which nothing was counted.
    init(name: String) throws(SystemError) {
        memory = try SharedMemory(byteCount: Self.byteCount, name: name)
        guard let base = memory.bytes.baseAddress else { throw SystemError("mmap", "memfd", errno: 22) }
        self.base = base
        base.storeBytes(of: Self.magic, toByteOffset: Offset.magic, as: UInt64.self)
        base.storeBytes(of: Self.layoutVersion, toByteOffset: Offset.version, as: UInt32.self)
        base.storeBytes(of: Self.fingerprint, toByteOffset: Offset.fingerprint, as: UInt64.self)
    }

    /// Maps a file that another process has made, perhaps one of another version of this program.
    init(_ file: consuming FileDescriptor) throws(UnusableCounterFile) {
        do throws(SystemError) { memory = try SharedMemory(file) } catch { throw .system(error) }
        guard let base = memory.bytes.baseAddress, memory.bytes.count >= Self.headerByteCount,
            base.load(fromByteOffset: Offset.magic, as: UInt64.self) == Self.magic
        else { throw .foreign }
        let version = base.load(fromByteOffset: Offset.version, as: UInt32.self)
        guard version == Self.layoutVersion else { throw .version(version) }
        guard base.load(fromByteOffset: Offset.fingerprint, as: UInt64.self) == Self.fingerprint else {
            throw .otherCounters
        }
        guard memory.bytes.count == Self.byteCount else {
            throw .size(memory.bytes.count, expected: Self.byteCount)
        }
        self.base = base
    }

    var descriptor: FileDescriptor { _read { yield memory.descriptor } }

    var process: CounterBlock<ProcessCounter> { CounterBlock(base + Self.headerByteCount) }

    // MARK: Targets

    private var used: Int {
        get { Int(min(SharedWord.load(base + Offset.used), UInt64(Self.targetCapacity))) }
        set { SharedWord.store(UInt64(newValue), base + Offset.used) }
    }

    private func place(_ index: Int) -> UnsafeMutableRawPointer {
        base + Self.headerByteCount + 8 * ProcessCounter.layout.wordCount + index * Self.targetByteCount
    }

    private func find(_ target: UInt64) -> Int? {
        (0..<used).first { SharedWord.load(place($0)) == target }
    }

    /// Where a service or client counts. Only the process that writes the file may call this.
    /// - Parameter target: its ``SlotTarget``.
    func counters(of target: UInt64) -> TargetCounters {
        let used = used
        guard let index = find(target) else {
            guard used < Self.targetCapacity else { return TargetCounters(place(Self.targetCapacity) + 8) }
            SharedWord.store(target, place(used))
            self.used = used + 1
            return TargetCounters(place(used) + 8)
        }
        return TargetCounters(place(index) + 8)
    }

    /// What was counted for each service or client, by its ``SlotTarget``.
    var targets: [UInt64: CounterValues<TargetCounter>] {
        var result: [UInt64: CounterValues<TargetCounter>] = [:]
        for index in 0..<used {
            let values = CounterBlock<TargetCounter>(place(index) + 8).values
            result[SharedWord.load(place(index)), default: CounterValues()].add(values)
        }
        return result
    }

    /// The sums of some families over all services and clients.
    func totals(_ counters: [TargetCounter]) -> CounterValues<TargetCounter> {
        var result = CounterValues<TargetCounter>()
        for index in 0..<used {
            let block = CounterBlock<TargetCounter>(place(index) + 8)
            for counter in counters { block.add(counter, to: &result) }
        }
        return result
    }

    /// Sets all gauges to 0: a process begins to write the file, and those of the one before it say nothing.
    func resetGauges() {
        process.resetGauges()
        for index in 0..<used { CounterBlock<TargetCounter>(place(index) + 8).resetGauges() }
    }
}

/// Where one service or client counts in one process.
struct TargetCounters {
    let block: CounterBlock<TargetCounter>
    /// Where its connections count. They are the first words of the block.
    let traffic: TrafficCounters

    /// - Parameter words: a block of ``TargetCounter``, which outlives this value.
    init(_ words: UnsafeMutableRawPointer) {
        block = CounterBlock(words)
        traffic = TrafficCounters(words)
    }

    /// Where a service counts in a process that has no file yet: never freed.
    static nonisolated(unsafe) let ignored: TargetCounters = {
        let count = 8 * TargetCounter.layout.wordCount
        let words = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 8)
        words.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        return TargetCounters(words)
    }()

    func count(_ refusal: Refusal) { block.add(to: .refusals, refusal.rawValue) }
    func count(_ result: HandshakeResult) { block.add(to: .handshakes, result.rawValue) }
    func count(_ reason: CloseReason) { block.add(to: .connectionsClosed, reason.rawValue) }
    func count(_ result: AuthorizationResult) { block.add(to: .authorizations, result.rawValue) }
    func count(_ move: ConnectionMove) { block.add(to: .connectionsMoved, move.rawValue) }
    func countDropped(_ reason: DropReason, _ number: Int = 1) {
        block.add(number, to: .datagramsDropped, reason.rawValue)
    }

    /// Counts what has become of a session of a client without tickets.
    func count(_ event: SessionCache.Event) {
        switch event {
        case .hit: block.add(to: .sessionLookups, SessionLookup.hit.rawValue)
        case .miss: block.add(to: .sessionLookups, SessionLookup.miss.rawValue)
        case .inserted(let insertion):
            block.add(to: .sessionInsertions, SessionInsertion(insertion).rawValue)
            if case .stored(let replaced) = insertion, replaced > 0 { block.add(replaced, to: .sessionsReplaced) }
        }
    }

    /// Counts a handshake that has succeeded, first or later, and the connection that it has begun.
    func countEstablished(_ session: SessionDetails, after duration: Duration) {
        count(session.isResumed ? HandshakeResult.resumed : .full)
        block.add(to: .connectionsOpened)
        block.add(to: .ciphers, HandshakeLabels.cipher(session.cipher))
        // A resumed session has the keys of the handshake that it is of.
        if !session.isResumed { block.add(to: .groups, HandshakeLabels.group(session.group)) }
        block.histogram(.handshakeSeconds).observe(nanoseconds: UInt64(clamping: duration.nanoseconds))
    }

    /// Counts the alerts that a connection has sent and received. Flights are counted by the connection.
    func count(_ notes: EngineNotes) {
        for alert in notes.sentAlerts { block.add(to: .alertsSent, HandshakeLabels.alert(alert)) }
        for alert in notes.receivedAlerts { block.add(to: .alertsReceived, HandshakeLabels.alert(alert)) }
    }
}

/// A memory file does not hold counters that this program can go on with.
enum UnusableCounterFile: Error, Equatable, CustomStringConvertible {
    case foreign
    case version(UInt32)
    case otherCounters
    case size(Int, expected: Int)
    case system(SystemError)

    var description: String {
        switch self {
        case .foreign: "it does not hold counters of dtlsd"
        case .version(let version):
            "it was written by another version of dtlsd, with layout \(version) where this one knows"
                + " \(CounterFile.layoutVersion)"
        case .otherCounters: "it was written by another version of dtlsd, which has other counters"
        case .size(let size, let expected):
            "it has \(size) bytes where \(expected) are expected: it was cut short, or more was written to it"
        case .system(let error): "\(error)"
        }
    }
}
