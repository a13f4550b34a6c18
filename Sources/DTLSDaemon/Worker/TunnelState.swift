import LinuxSystem
import Primitives

/// What becomes of a tunnel's connection to its server, as a state and what is to be done at each of its changes.
///
/// A connection is made when there is something to send. One that fails, or ends before it was of any use, is followed
/// by a pause, in which datagrams wait; pauses double from 0.5 s to 30 s, and begin small again after a good
/// connection.
struct TunnelState {
    enum State: Equatable {
        /// There is no connection, and nothing to send.
        case resting
        case connecting
        case established
        /// No connection is begun before `until`.
        case pausing(until: Instant)
        case closed
    }

    /// What is to be done with a datagram for the server.
    enum Delivery: Equatable {
        case send
        case keep
        /// Keep it, and begin a connection.
        case keepAndConnect
        case drop
    }

    /// What is to be done when a connection has ended, or a pause is over.
    enum Next: Equatable {
        case nothing
        case connect
        /// Come back after this time.
        case pause(Duration)
    }

    private(set) var state = State.resting
    private var backoff = Backoff(from: .milliseconds(500), to: .seconds(30))

    mutating func datagramCame() -> Delivery {
        switch state {
        case .established: return .send
        case .connecting, .pausing: return .keep
        case .closed: return .drop
        case .resting:
            state = .connecting
            return .keepAndConnect
        }
    }

    mutating func opened() {
        if state == .connecting { state = .established }
    }

    /// - Parameters:
    ///   - wasUseful: whether the connection has lived for some time, or the server has sent something over it.
    ///   - chance: 0 to 1, evenly spread: a pause is 20 % shorter to 20 % longer, so that tunnels that fail together do
    ///     not all come back together.
    mutating func connectionEnded(wasUseful: Bool, now: Instant, chance: Double) -> Next {
        guard state == .connecting || state == .established else { return .nothing }
        if wasUseful {
            backoff.reset()
            state = .resting
            return .nothing
        }
        let factor = 0.8 + 0.4 * min(max(chance, 0), 1)
        let length = Duration.nanoseconds(Int64(Double(backoff.next().nanoseconds) * factor))
        state = .pausing(until: now + length)
        return .pause(length)
    }

    /// - Parameter hasKept: whether datagrams wait.
    mutating func timePassed(now: Instant, hasKept: Bool) -> Next {
        guard case .pausing(let end) = state else { return .nothing }
        guard now >= end else { return .pause(end - now) }
        state = hasKept ? .connecting : .resting
        return hasKept ? .connect : .nothing
    }

    /// - Returns: false when it was closed already.
    mutating func close() -> Bool {
        defer { state = .closed }
        return state != .closed
    }
}
