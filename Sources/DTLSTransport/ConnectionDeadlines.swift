import DTLSEngine
import LinuxSystem

/// What a connection has to do at its time.
extension Connection {
    /// Arms the timer for the earliest of this connection's deadlines.
    @inline(__always)
    func rearm() {
        datapath.loop.timers.arm(self, at: deadline)
    }

    private var deadline: UInt64 {
        switch phase {
        case .handshaking:
            return deadline(of: engine, started: started)
        case .established:
            let quiet = holdsBuffers ? max(lastReceived, lastSentQuietly) &+ Self.quietTime : UInt64.max
            let idle = limits.idleTimeout > 0 ? lastReceived &+ .milliseconds(limits.idleTimeout) : UInt64.max
            let renegotiation = engine.timeout.map { datapath.loop.now &+ .microseconds($0) } ?? .max
            guard let successor else { return min(quiet, idle, renegotiation) }
            return min(quiet, idle, renegotiation, deadline(of: successor.engine, started: successor.started))
        case .ending, .gone:
            return .max
        }
    }

    /// A handshake's next deadline: its retransmission, or its end.
    private func deadline(of engine: Engine, started: UInt64) -> UInt64 {
        let end = started &+ .milliseconds(limits.handshakeTimeout)
        guard let retransmission = engine.timeout else { return end }
        return min(end, datapath.loop.now &+ .microseconds(retransmission))
    }

    /// Sends a renegotiation's flight again, if there is one and its time has come.
    func lookAfterRenegotiation() {
        guard engine.timeout != nil else { return rearm() }
        whileReading {
            do throws(EngineError) { try engine.handleTimeout() } catch { end(.failed(error)) }
        }
    }
}
