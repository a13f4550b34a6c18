import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A client of the active configuration, made ready in a worker. A connection keeps the one that it began with; the
/// next connection of the same sender takes the one that is active then.
final class ClientRuntime {
    let configuration: ClientConfiguration
    let context: ClientContext
    let limits: Connection.Limits
    /// The newest session that the server has given to any of this worker's connections.
    private var session: ResumableSession?
    /// When the certificate, or the key, that the session stands for was last shown.
    private var sessionProvenAt = Instant.distantPast

    /// A day, as RFC 5246, appendix F.1.4, recommends: after it the server has to authenticate again.
    private static let longestSession = Duration.seconds(86_400)

    /// What tunnels of this client go by.
    var timeouts: TunnelState.Timeouts {
        TunnelState.Timeouts(answer: configuration.answerTimeout, idle: configuration.idleTimeout)
    }

    init(_ configuration: ClientConfiguration) throws(CredentialsError) {
        self.configuration = configuration
        context = try ClientContext(configuration.tls)
        // The tunnel has the idle timeout, since datagrams of its local side count for it too.
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: .zero, mtu: configuration.mtu)
    }

    /// The session that the next connection resumes; `nil` for a full handshake.
    func session(now: Instant) -> ResumableSession? {
        now - sessionProvenAt < Self.longestSession ? session : nil
    }

    /// Keeps the session of a connection that has just been established.
    func keepSession(of established: Session, now: Instant) {
        guard let session = established.resumableSession else { return }
        self.session = session
        if !established.isResumed { sessionProvenAt = now }
    }

    func dropSession() { session = nil }
}
