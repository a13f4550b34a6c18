import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A client of the configuration in force, made ready in a worker. A connection keeps the one that it began with; a
/// sender's next connection takes the one that is in force then.
final class ClientRuntime {
    let configuration: ClientConfiguration
    let context: ClientContext
    let limits: Connection.Limits
    /// The newest that the server has given to any of this worker's connections.
    private var session: ResumableSession?
    /// When the certificate, or the key, that the session stands for was last shown.
    private var sessionProvenAt = Instant.distantPast

    /// A day, as RFC 5246, appendix F.1.4, has it: then the server has to prove itself again.
    private static let longestSession = Duration.seconds(86_400)

    init(_ configuration: ClientConfiguration) throws(CredentialsError) {
        self.configuration = configuration
        context = try ClientContext(configuration.tls)
        // The tunnel looks after the idle time, which its local side counts for too.
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: .zero, mtu: configuration.mtu)
    }

    /// What the next connection resumes.
    func session(now: Instant) -> ResumableSession? {
        now - sessionProvenAt < Self.longestSession ? session : nil
    }

    /// Takes the session of a connection that has just been established.
    func keepSession(of engine: Engine, now: Instant) {
        guard let session = engine.resumableSession else { return }
        self.session = session
        if !engine.isResumed { sessionProvenAt = now }
    }

    func dropSession() { session = nil }

    /// The local sender's socket, and the one to the server.
    var descriptorsPerTunnel: Int { 2 }
}
