import DTLSEngine
import DTLSTransport
import Primitives

/// `[tickets]`: what session tickets are sealed with, for all services.
struct TicketConfiguration: Codable, Equatable, Sendable {
    /// The keys of `key_file`, the first of which seals; none: the daemon draws its own.
    var keys: [TicketKey] = []
    /// Seconds between two keys that the daemon draws.
    var rotation = Duration.seconds(43_200)
    /// Seconds that a session can be resumed for.
    var lifetime = SessionSettings().lifetime
}

/// The keys of `[tickets]`.
enum TicketsKey: String, CaseIterable {
    case keyFile = "key_file"
    case rotation, lifetime
}

/// Reads `[tickets]`.
enum TicketsReader {
    private static let expected = "the path of a file of \(TicketKey.length) random bytes, or an array of them"
    private static let rotations = 1...2_592_000
    private static let lifetimes =
        SessionSettings.lifetimes.lowerBound.seconds...SessionSettings.lifetimes.upperBound.seconds
    private static let maximumKeys = 16

    static func read(_ main: TableReader<MainKey>) -> TicketConfiguration {
        var tickets = TicketConfiguration()
        guard let table = main.table(.tickets, TicketsKey.self) else { return tickets }
        tickets.keys = keys(table)
        if let rotation = table.integer(.rotation, rotations, "an integer of seconds") {
            tickets.rotation = .seconds(rotation)
        }
        if let lifetime = table.integer(.lifetime, lifetimes, "an integer of seconds") {
            tickets.lifetime = .seconds(lifetime)
        }
        if table.has(.keyFile) {
            if table.has(.rotation) {
                table.warn(.rotation, "no effect beside key_file, whose files say which keys there are")
            }
            return tickets
        }
        // A key is kept as long as its tickets live, and each new connection may have to look through all.
        if tickets.lifetime.seconds / tickets.rotation.seconds > GeneratedTicketKeys.maximumCount - 2 {
            table.report(
                table.has(.rotation) ? .rotation : .lifetime,
                "a lifetime of \(tickets.lifetime.seconds) s is too long for a new key every \(tickets.rotation.seconds) s; expected"
                    + " \(GeneratedTicketKeys.maximumCount - 2) times the rotation at most")
        }
        return tickets
    }

    private static func keys(_ table: TableReader<TicketsKey>) -> [TicketKey] {
        var keys: [TicketKey] = []
        let files = table.strings(.keyFile, expected)
        if files.count > maximumKeys {
            table.report(.keyFile, "expected \(expected), at most \(maximumKeys), found \(files.count)")
        }
        for (element, name) in files {
            let contents = table.contents(.keyFile, element: element, named: name, expected, secrecy: .owner)
            guard let bytes = contents else { continue }
            let quoted = ReadContext.quoted(name)
            guard let key = TicketKey(bytes) else {
                table.report(
                    .keyFile, element: element, "\(quoted) has \(bytes.count) bytes; expected \(TicketKey.length)")
                continue
            }
            // The first 16 bytes are the key's name.
            if keys.contains(where: { $0.name == key.name }) {
                table.report(
                    .keyFile, element: element, "\(quoted) begins like a file before it; expected other random bytes")
            }
            keys.append(key)
        }
        return keys
    }
}

extension ServiceConfiguration {
    /// The service with what `[tickets]` says of all.
    func withSessions(of tickets: TicketConfiguration) -> ServiceConfiguration {
        var service = self
        service.tls.sessions.lifetime = tickets.lifetime
        return service
    }
}

extension ByteReader {
    mutating func ticketKey() throws(MalformedBytes) -> TicketKey {
        guard let key = TicketKey(try array()) else { throw MalformedBytes() }
        return key
    }
}
