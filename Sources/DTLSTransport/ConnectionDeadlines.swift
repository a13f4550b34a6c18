import DTLSEngine
import LinuxSystem
import Primitives

/// What a connection has to do at its time.
extension Connection {
    /// Arms the timer for the earliest of this connection's deadlines.
    @inline(__always)
    func rearm() {
        datapath.loop.timers.arm(self, at: deadline)
    }

    private var deadline: Instant {
        switch phase {
        case .handshaking:
            return deadline(of: engine, started: started)
        case .established:
            let quiet = holdsBuffers ? max(lastReceived, lastSentQuietly) + Self.quietTime : Instant.distantFuture
            let idle = limits.idleTimeout > .zero ? lastReceived + limits.idleTimeout : Instant.distantFuture
            let renegotiation = engine.timeout.map { datapath.loop.now + $0 } ?? .distantFuture
            guard let successor else { return min(quiet, idle, renegotiation) }
            return min(quiet, idle, renegotiation, deadline(of: successor.engine, started: successor.started))
        case .ending, .gone:
            return .distantFuture
        }
    }

    /// A handshake's next deadline: its retransmission, or its end.
    private func deadline(of engine: Engine, started: Instant) -> Instant {
        let end = started + limits.handshakeTimeout
        guard let retransmission = engine.timeout else { return end }
        return min(end, datapath.loop.now + retransmission)
    }

    /// Sends a renegotiation's flight again, if there is one and its time has come.
    func lookAfterRenegotiation() {
        guard engine.timeout != nil else { return rearm() }
        whileReading {
            do throws(EngineError) { try engine.handleTimeout() } catch { end(.failed(error)) }
        }
    }
}
