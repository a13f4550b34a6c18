import Primitives

/// One flight of a client's handshake (RFC 6347, section 4.2.4), and what has become of it: how long a server takes to
/// answer, and what the network has lost.
public struct HandshakeFlight: Sendable, Equatable {
    /// What the client has said in it.
    public enum Kind: Sendable {
        /// A ClientHello without a cookie.
        case hello
        /// A ClientHello with the cookie that the server has asked for (HelloVerifyRequest).
        case helloWithCookie
        /// The messages from the client's certificate or key exchange to its Finished.
        case keyExchange
    }

    public let kind: Kind
    /// When it was sent for the first time, by the clock of the caller's instants.
    public let sent: Instant
    /// When its answer was complete; `nil` where none was.
    public internal(set) var answered: Instant?
    /// How often it was sent again.
    public internal(set) var retransmissions = 0
}

/// The flights of a handshake, in order.
struct HandshakeFlights {
    private(set) var all: [HandshakeFlight] = []
    /// A server can ask for another cookie without end.
    private static let limit = 16

    /// OpenSSL has gone on with the handshake.
    /// - Parameter kind: what it has written; `nil` where the handshake is done.
    mutating func goOn(writing kind: HandshakeFlight.Kind?, now: Instant) {
        if let last = all.indices.last, all[last].answered == nil { all[last].answered = now }
        if let kind, all.count < Self.limit { all.append(HandshakeFlight(kind: kind, sent: now)) }
    }

    mutating func retransmit() {
        if let last = all.indices.last { all[last].retransmissions += 1 }
    }

    /// Whether the first hello has been written.
    var hasBegun: Bool { !all.isEmpty }
}
