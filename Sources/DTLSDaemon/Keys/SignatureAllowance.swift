import Primitives

/// How often a worker may have a private key used, or ask for a pre-shared one: as often as its handshakes explain, as far as the main process knows of
/// them. That one writes both numbers; no worker can.
///
/// - One use for each client, or sender of a tunnel, that the main process has handed over to the worker. What is not used
///   within two to four minutes (a handshake may take two) is lost: handshakes that resume a session need no key.
/// - Handshakes on sockets that the worker has already are not known to the main process: clients that come back from
///   their old port, renegotiations, tunnels that connect again. For these there are as many uses as the worker has
///   connections, and at least ``smallest``, all at once or in ten seconds.
struct SignatureAllowance {
    /// What the main process knows of a worker.
    struct Known: Equatable {
        /// How many clients and senders it has handed over to the worker, since the worker was started.
        var handedOver: UInt64
        /// How many connections the worker has.
        var connections: UInt64
    }

    static let smallest = 100
    private static let period = Duration.seconds(10)
    private static let window = Duration.seconds(120)

    private var counted: UInt64
    /// The uses for clients that were handed over in this window and in the one before it.
    private var recent: UInt64 = 0
    private var earlier: UInt64 = 0
    private var windowEnd: Instant
    private var others = TokenBucket()

    init(_ known: Known, now: Instant) {
        counted = known.handedOver
        windowEnd = now + Self.window
    }

    /// Takes one use.
    /// - Returns: false where there is none left.
    mutating func use(_ known: Known, now: Instant) -> Bool {
        if now >= windowEnd {
            earlier = now >= windowEnd + Self.window ? 0 : recent
            recent = 0
            windowEnd = now + Self.window
        }
        recent &+= known.handedOver &- counted
        counted = known.handedOver
        if earlier > 0 {
            earlier -= 1
            return true
        }
        if recent > 0 {
            recent -= 1
            return true
        }
        let count = min(max(Self.smallest, Int(clamping: known.connections)), 1_000_000)
        return others.takeIfHeld(of: Rate(perThousandSeconds: count * 100, burst: count), now: now)
    }
}
