import DTLSEngine
import DTLSTransport
import Primitives

/// The keys for session tickets that the daemon draws itself, newest first, and when each was drawn.
struct GeneratedTicketKeys: Equatable {
    struct Key: Equatable {
        var key: TicketKey
        /// By a clock that goes on while the machine sleeps, and that nobody sets.
        var drawnAt: BootTime
    }

    /// More are never kept; the configuration is checked against it.
    static let maximumCount = 64

    private(set) var keys: [Key] = []

    init() {}

    /// Draws a key where there is none or the newest is older than `rotation`, and forgets those whose tickets are all
    /// too old to resume: a key seals until its successor is drawn, and a ticket lives for `lifetime`.
    mutating func advance<Failure>(
        to now: BootTime, _ configuration: TicketConfiguration, draw: () throws(Failure) -> TicketKey
    ) throws(Failure) {
        if keys.first.map({ Self.age($0, now) >= configuration.rotation }) ?? true {
            keys.insert(Key(key: try draw(), drawnAt: now), at: 0)
        }
        let successors = keys
        let needed = keys.indices.prefix { index in
            index == 0 || Self.age(successors[index - 1], now) <= configuration.lifetime
        }
        keys.removeLast(keys.count - min(needed.count, Self.maximumCount))
    }

    /// The time until `advance` would change something; at least a second.
    func wait(at now: BootTime, _ configuration: TicketConfiguration) -> Duration {
        guard let newest = keys.first else { return .seconds(1) }
        var wait = configuration.rotation - Self.age(newest, now)
        if keys.count > 1 {
            wait = min(wait, configuration.lifetime + .seconds(1) - Self.age(keys[keys.count - 2], now))
        }
        return max(.seconds(1), wait)
    }

    /// Zero for one that was drawn later than now.
    private static func age(_ key: Key, _ now: BootTime) -> Duration {
        now.duration(since: key.drawnAt)
    }
}

/// The keys as bytes, for the service manager to keep while the daemon is started again.
extension GeneratedTicketKeys {
    private static let format: UInt32 = 0x6474_6b01

    /// Ends with a sum over the rest: the daemon may have been killed while it wrote.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.integer(Self.format)
        writer.list(keys) { writer, key in
            writer.integer(key.drawnAt.seconds)
            writer.data(key.key.bytes)
        }
        let sum = FNV1a.hash(writer.bytes)
        writer.integer(sum)
        return writer.bytes
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let format: UInt32 = try reader.integer()
        guard format == Self.format else { throw MalformedBytes() }
        keys = try reader.list { (reader) throws(MalformedBytes) in
            let drawnAt = BootTime(seconds: try reader.integer())
            return Key(key: try reader.ticketKey(), drawnAt: drawnAt)
        }
        let sum: UInt64 = try reader.integer()
        guard reader.isAtEnd, sum == FNV1a.hash(bytes.dropLast(MemoryLayout<UInt64>.size)),
            keys.count <= Self.maximumCount
        else { throw MalformedBytes() }
    }
}
