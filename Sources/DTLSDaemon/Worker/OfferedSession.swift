import Primitives

/// Which session the next connection of a client offers to its server. It does no I/O.
struct OfferedSession<Session> {
    /// The newest session that the server has given.
    private var session: Session?
    /// When the certificate, or the key, that the session stands for was last shown.
    private var provenAt = Instant.distantPast
    /// Sessions in a row that handshakes have timed out with; each was given by a handshake without one.
    private var timedOut = 0
    /// None is offered before.
    private var pauseEnd = Instant.distantPast

    /// A day, as RFC 5246, appendix F.1.4, recommends: after it the server has to authenticate again.
    static var longestSession: Duration { .seconds(86_400) }
    /// How long none is offered, where the second session in a row has been in vain: the path or the server may not take
    /// the larger hello at all, and each try costs a whole handshake_timeout. One may have been an outage.
    static var pause: Duration { .seconds(3_600) }

    /// The session to be resumed; `nil` for a full handshake.
    func session(now: Instant) -> Session? {
        now >= pauseEnd && now - provenAt < Self.longestSession ? session : nil
    }

    /// A connection has been established, and the server has given a session.
    mutating func keep(_ session: Session, isResumed: Bool, now: Instant) {
        self.session = session
        if isResumed { timedOut = 0 } else { provenAt = now }
    }

    /// The server has refused a handshake.
    mutating func drop() { session = nil }

    /// A handshake with a session has timed out.
    mutating func dropTimedOut(now: Instant) {
        // Other connections that had offered the same one tell nothing new.
        guard session != nil else { return }
        session = nil
        timedOut += 1
        if timedOut >= 2 { pauseEnd = now + Self.pause }
    }
}
