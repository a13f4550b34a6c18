import DTLSTransport
import Primitives

/// What would begin connections, and waits since all workers are busy: more clients have come at once than can be taken, as
/// after a power cut. Were they refused, each would come back a second later, by its timer, at the same time as others, and
/// the workers would have nothing to do meanwhile.
///
/// Their addresses are proven, so what is kept of them is bounded by who really comes, and by ``maximumByteCount``.
struct WaitingHellos {
    struct Hello: Equatable {
        var flow: FlowKey
        var datagram: [UInt8]
        /// When it has come, or its client has last repeated it.
        var heard: Instant
    }

    /// How long a client waits for an answer until it repeats its hello a second time, by the timers of RFC 6347, section
    /// 4.2.4.1. One that has not done so has given up.
    static let patience = Duration.seconds(2)
    /// Of what is kept: hellos of 10,000 clients and more.
    static let maximumByteCount = 4 * 1_024 * 1_024
    /// What each takes besides its bytes.
    static let overhead = 200

    /// Those before `first` have had their turn.
    private var hellos: [Hello] = []
    private var first = 0
    /// The place of each in `hellos`, plus `taken`.
    private var places: [FlowKey: Int] = [:]
    /// How many have been removed from the beginning of `hellos`.
    private var taken = 0
    private var byteCount = 0

    var isEmpty: Bool { first == hellos.count }

    /// Puts a hello behind all others; or where its client has one already, in that one's place.
    /// - Returns: false where there is no room.
    mutating func add(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, now: Instant) -> Bool {
        if let place = places[flow] {
            byteCount += datagram.count - hellos[place - taken].datagram.count
            hellos[place - taken].datagram = [UInt8](datagram)
            hellos[place - taken].heard = now
            return true
        }
        guard byteCount + datagram.count + Self.overhead <= Self.maximumByteCount else { return false }
        places[flow] = taken + hellos.count
        hellos.append(Hello(flow: flow, datagram: [UInt8](datagram), heard: now))
        byteCount += datagram.count + Self.overhead
        return true
    }

    /// Removes the one that has waited longest.
    mutating func next() -> Hello? {
        guard !isEmpty else { return nil }
        let hello = hellos[first]
        places[hello.flow] = nil
        byteCount -= hello.datagram.count + Self.overhead
        hellos[first].datagram = []
        first += 1
        // Moving what is left costs less than what was taken.
        if first * 2 >= hellos.count {
            hellos.removeFirst(first)
            taken += first
            first = 0
        }
        return hello
    }
}
