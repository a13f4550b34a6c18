import DTLSEngine
import Primitives

/// The table `[tickets]`: the keys that encrypt the session tickets of all services.
struct TicketConfiguration: Codable, Equatable, Sendable {
    /// The keys of `key_file`, the first of which encrypts; empty: the daemon generates its own.
    var keys: [TicketKey] = []
    /// The time after which the daemon generates the next key.
    var rotation = Duration.seconds(43_200)
    /// How long a session can be resumed.
    var lifetime = SessionSettings().lifetime
}

extension ByteReader {
    mutating func ticketKey() throws(MalformedBytes) -> TicketKey {
        guard let key = TicketKey(try array()) else { throw MalformedBytes() }
        return key
    }
}
