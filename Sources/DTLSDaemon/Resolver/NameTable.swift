import DTLSTransport
import LinuxSystem
import Primitives

/// The host names of the configuration and their addresses, and when each name is looked up. It does no I/O and has no
/// clock: each call takes what has happened and returns what is to be done.
///
/// A name is looked up when the time to live of its records is over, or when a worker says that all its addresses
/// refuse datagrams. The addresses of the last answer hold until there are others.
struct NameTable {
    enum Action: Equatable {
        /// The resolver is to be asked for the addresses of this name.
        case lookUp(String)
        /// The addresses of this name are other ones than before, with port 0.
        case publish(String, [SocketAddress])
        /// The name cannot be looked up, for the first time since it could, or at all; there is another try after the
        /// pause.
        case logFailure(String, reason: String, pause: Duration)
        /// The name could not be looked up before, and has these addresses.
        case logSuccess(String, [SocketAddress])
        /// The name has other addresses than before.
        case logChange(String, [SocketAddress])
    }

    private enum Phase {
        case due(Instant)
        case asked(since: Instant)
    }

    private struct Entry {
        var phase: Phase
        /// Those of the last good answer, those first that are preferred; empty before the first.
        var addresses: [SocketAddress] = []
        var backoff = Backoff(from: NameTable.pauses.lowerBound, to: NameTable.pauses.upperBound)
        /// Why the last look-up has failed; `nil` where it has not.
        var failure: String?
        /// Whether there was an answer, good or bad, since the name is in the table.
        var isSettled = false
        var lastAsked = Instant.distantPast
    }

    /// What an answer's time to live is brought into.
    static let timesToLive: ClosedRange<UInt32> = 1...3_600
    /// What counts in place of a time to live of 0. /etc/hosts has none, and some directories of services set it.
    static let timeWithoutTimeToLive: UInt32 = 5
    /// The pause after a look-up that has failed: first, and at most.
    static let pauses = Duration.seconds(1)...Duration.seconds(60)
    /// The shortest time between two look-ups of a name that workers ask for.
    static let earlyPause = Duration.seconds(2)
    /// The most look-ups at a time.
    static let maximumQuestions = 64
    /// How long a look-up may take; c-ares takes 14 s for each search domain where no name server answers.
    static let timeLimit = Duration.seconds(60)

    private var entries: [String: Entry] = [:]
    private var questions = 0

    // MARK: What is known

    var names: Set<String> { Set(entries.keys) }

    /// - Returns: none where the name was never looked up with success.
    func addresses(of host: String) -> [SocketAddress] { entries[host]?.addresses ?? [] }

    /// All names with addresses.
    var known: [String: [SocketAddress]] {
        entries.compactMapValues { $0.addresses.isEmpty ? nil : $0.addresses }
    }

    /// Why the last look-up of a name has failed; `nil` where it has not, or there was none.
    func failure(of host: String) -> String? { entries[host]?.failure }

    /// Whether each of these names has addresses, or an answer that says that it has none.
    func areSettled(_ hosts: some Sequence<String>) -> Bool {
        hosts.allSatisfy { host in entries[host].map { $0.isSettled || !$0.addresses.isEmpty } ?? false }
    }

    // MARK: Names

    /// Puts these names into the table, where they are due at once, and keeps all others.
    mutating func add(_ hosts: some Sequence<String>, now: Instant) {
        for host in hosts where entries[host] == nil { entries[host] = Entry(phase: .due(now)) }
    }

    /// Drops all other names.
    mutating func keepOnly(_ hosts: Set<String>) {
        for (host, entry) in entries where !hosts.contains(host) {
            if case .asked = entry.phase { questions -= 1 }
            entries[host] = nil
        }
    }

    /// Puts names with addresses into the table that another process has found. They hold until there is an answer.
    mutating func restore(_ known: [String: [SocketAddress]], now: Instant) {
        for (host, addresses) in known where entries[host] == nil {
            let usable = Self.usable(addresses)
            if !usable.isEmpty { entries[host] = Entry(phase: .due(now), addresses: usable) }
        }
    }

    // MARK: Events

    /// When ``advance(to:)`` is to be called.
    var deadline: Instant {
        entries.values.map { entry in
            switch entry.phase {
            case .due(let time): questions < Self.maximumQuestions ? time : .distantFuture
            case .asked(let since): since + Self.timeLimit
            }
        }.min() ?? .distantFuture
    }

    mutating func advance(to now: Instant) -> [Action] {
        var actions: [Action] = []
        for (host, entry) in entries {
            if case .asked(let since) = entry.phase, now >= since + Self.timeLimit {
                actions += end(host, .failed("no answer within \(Self.timeLimit.seconds) s"), now: now)
            }
        }
        for (host, entry) in entries.sorted(by: { $0.key < $1.key }) where questions < Self.maximumQuestions {
            guard case .due(let time) = entry.phase, now >= time else { continue }
            entries[host]?.phase = .asked(since: now)
            entries[host]?.lastAsked = now
            questions += 1
            actions.append(.lookUp(host))
        }
        return actions
    }

    /// The resolver has answered. An answer that nobody waits for is ignored.
    mutating func answered(_ answer: LookUpAnswer, now: Instant) -> [Action] {
        guard case .asked? = entries[answer.host]?.phase else { return [] }
        return end(answer.host, answer.outcome, now: now)
    }

    /// All addresses of the name refuse datagrams: it is to be looked up before its time.
    mutating func refused(_ host: String, now: Instant) {
        guard let entry = entries[host], case .due(let time) = entry.phase else { return }
        entries[host]?.phase = .due(min(time, max(now, entry.lastAsked + Self.earlyPause)))
    }

    /// Other name servers are asked from now on.
    mutating func serversChanged(now: Instant) {
        for (host, entry) in entries {
            if case .asked = entry.phase { questions -= 1 }
            entries[host]?.phase = .due(now)
        }
    }

    /// The resolver has ended, and nobody answers what it was asked.
    mutating func resolverEnded(now: Instant) {
        for (host, entry) in entries {
            guard case .asked = entry.phase else { continue }
            questions -= 1
            entries[host]?.phase = .due(now)
        }
    }

    private mutating func end(_ host: String, _ outcome: LookUpAnswer.Outcome, now: Instant) -> [Action] {
        guard var entry = entries[host] else { return [] }
        defer { entries[host] = entry }
        questions -= 1
        entry.isSettled = true
        var reason: String
        if case .found(let found, let timeToLive) = outcome {
            let usable = Self.usable(found)
            if !usable.isEmpty { return succeed(host, &entry, usable, timeToLive, now: now) }
            let list = found.map(\.host).joined(separator: ", ")
            reason = "nothing can be sent to its addresses: \(list)"
        } else if case .failed(let text) = outcome {
            reason = text
        } else {
            return []
        }
        reason = Self.printable(reason)
        let pause = entry.backoff.next()
        entry.phase = .due(now + pause)
        defer { entry.failure = reason }
        return entry.failure == nil ? [.logFailure(host, reason: reason, pause: pause)] : []
    }

    private func succeed(
        _ host: String, _ entry: inout Entry, _ found: [SocketAddress], _ timeToLive: UInt32, now: Instant
    ) -> [Action] {
        let seconds = timeToLive == 0 ? Self.timeWithoutTimeToLive : timeToLive
        entry.backoff.reset()
        entry.phase = .due(
            now + .seconds(Int64(min(max(seconds, Self.timesToLive.lowerBound), Self.timesToLive.upperBound))))
        let before = entry.addresses
        // The order counts for the family that is preferred. Name servers shuffle the rest.
        let hasChanged = Set(before) != Set(found) || before.first?.family != found.first?.family
        if hasChanged { entry.addresses = found }
        var actions: [Action] = hasChanged ? [.publish(host, found)] : []
        if entry.failure != nil {
            actions.append(.logSuccess(host, found))
        } else if !before.isEmpty, hasChanged {
            actions.append(.logChange(host, found))
        }
        entry.failure = nil
        return actions
    }

    /// The resolver's words, which a defect of it may have made.
    private static func printable(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(200) { Printable.append(scalar, to: &result) }
        return result
    }

    private static func usable(_ addresses: [SocketAddress]) -> [SocketAddress] {
        var usable: [SocketAddress] = []
        for address in addresses.prefix(LookUpAnswer.maximumAddresses) {
            let address = address.with(port: 0)
            if address.reasonAgainst(.sending) == nil, !usable.contains(address) { usable.append(address) }
        }
        return usable
    }
}

/// The addresses as bytes, which the next main process begins with.
extension NameTable {
    private static let format: UInt32 = 0x6474_6e01

    /// - Returns: the bytes, with a checksum at their end, since the process may die while it writes them.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.integer(Self.format)
        writer.list(known.sorted { $0.key < $1.key }) { writer, entry in
            writer.string(entry.key)
            writer.list(entry.value) { $0.address($1) }
        }
        writer.integer(FNV1a.hash(writer.bytes))
        return writer.bytes
    }

    /// - Returns: names and addresses that ``encode()`` has written.
    static func decode(_ bytes: UnsafeRawBufferPointer) throws(MalformedBytes) -> [String: [SocketAddress]] {
        var reader = ByteReader(bytes)
        guard try reader.integer(UInt32.self) == Self.format else { throw MalformedBytes() }
        let entries = try reader.list { (reader) throws(MalformedBytes) in
            (
                try reader.string(),
                try reader.list { (reader) throws(MalformedBytes) in try reader.address() }
            )
        }
        let sum: UInt64 = try reader.integer()
        guard reader.isAtEnd, sum == FNV1a.hash(bytes.dropLast(MemoryLayout<UInt64>.size)) else {
            throw MalformedBytes()
        }
        return Dictionary(entries, uniquingKeysWith: { $1 })
    }
}
