import DTLSEngine
import DTLSTransport
import Primitives

/// The keys for session tickets that the daemon has generated, the newest one first, and when it generated each.
struct GeneratedTicketKeys: Equatable {
    struct Key: Equatable {
        var key: TicketKey
        /// The clock goes on while the machine sleeps, and cannot be set.
        var generatedAt: BootTime
    }

    /// The most keys that are kept. The configuration is checked against it.
    static let maximumCount = 64

    private(set) var keys: [Key] = []

    init() {}

    /// Generates a key if there is none or the newest one is older than `rotation`, and removes the keys whose tickets
    /// have all expired: a key seals until its successor is generated, and a ticket lives for `lifetime`.
    mutating func advance<Failure>(
        to now: BootTime, _ configuration: TicketConfiguration, generate: () throws(Failure) -> TicketKey
    ) throws(Failure) {
        if keys.first.map({ Self.age($0, now) >= configuration.rotation }) ?? true {
            keys.insert(Key(key: try generate(), generatedAt: now), at: 0)
        }
        let successors = keys
        let needed = keys.indices.prefix { index in
            index == 0 || Self.age(successors[index - 1], now) <= configuration.lifetime
        }
        keys.removeLast(keys.count - min(needed.count, Self.maximumCount))
    }

    /// The time until ``advance(to:_:generate:)`` would change something; at least a second.
    func wait(at now: BootTime, _ configuration: TicketConfiguration) -> Duration {
        guard let newest = keys.first else { return .seconds(1) }
        var wait = configuration.rotation - Self.age(newest, now)
        if keys.count > 1 {
            wait = min(wait, configuration.lifetime + .seconds(1) - Self.age(keys[keys.count - 2], now))
        }
        return max(.seconds(1), wait)
    }

    /// The age of a key; zero if it was generated later than now.
    private static func age(_ key: Key, _ now: BootTime) -> Duration {
        now.duration(since: key.generatedAt)
    }
}

/// The keys as bytes, which the service manager keeps while the daemon is started again.
extension GeneratedTicketKeys {
    private static let format: UInt32 = 0x6474_6b01

    /// Encodes the keys. The bytes end with a checksum, since the daemon may be killed while it writes them.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.integer(Self.format)
        writer.list(keys) { writer, key in
            writer.integer(key.generatedAt.seconds)
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
            let generatedAt = BootTime(seconds: try reader.integer())
            return Key(key: try reader.ticketKey(), generatedAt: generatedAt)
        }
        let sum: UInt64 = try reader.integer()
        guard reader.isAtEnd, sum == FNV1a.hash(bytes.dropLast(MemoryLayout<UInt64>.size)),
            keys.count <= Self.maximumCount
        else { throw MalformedBytes() }
    }
}
