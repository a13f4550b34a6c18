import DTLSTransport

/// How far the main process is with the slots of a table whose worker has died, and what it has found in them. The
/// ``ConnectionTable`` goes through them some at a time: a million of them take 0.2 s where all were parked, and 2 s where all
/// were in their handshakes.
struct SlotReview {
    /// The slots from the first to this one have been looked at.
    var next = 0
    var survival = Survival()

    /// What has become of the connections of a worker that has died.
    struct Survival: Equatable {
        /// Connections that the next worker goes on with.
        var kept = 0
        /// Connections that were in their handshake.
        var handshaking = 0
        /// Connections whose records were OpenSSL's.
        var bound = 0
        /// The connection that has ended because two workers have died within a minute while they worked on it.
        var poison: (flow: FlowKey, target: UInt64)?

        var lost: Int { handshaking + bound + (poison == nil ? 0 : 1) }

        static func == (one: Survival, other: Survival) -> Bool {
            one.kept == other.kept && one.handshaking == other.handshaking && one.bound == other.bound
                && one.poison?.flow == other.poison?.flow
        }
    }

    /// What is done in one turn of the loop: a millisecond or two. Its unit is a look at a slot that stays as it is.
    static let effortPerTurn = 8_192
    /// A connection that has lost its socket is counted elsewhere.
    static let effortOfChange = 2
    /// A connection that has ended is taken out of the limits and the flows, and its slot is wiped.
    static let effortOfEnd = 8
}
