import DTLSEngine
import DTLSKit

/// A client of the configuration in force, made ready in a worker. A connection keeps the one that it began with; a
/// sender's next connection takes the one that is in force then.
final class ClientRuntime {
    let configuration: ClientConfiguration
    let context: ClientContext
    let limits: Connection.Limits
    /// What the next connection resumes: the newest that the server has given to any of this worker's connections.
    var session: ResumableSession?

    init(_ configuration: ClientConfiguration) throws(CredentialsError) {
        self.configuration = configuration
        context = try ClientContext(configuration.tls)
        // The tunnel looks after the idle time, which its local side counts for too.
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: 0, mtu: configuration.mtu)
    }

    /// The local sender's socket, and the one to the server.
    var descriptorsPerTunnel: Int { 2 }
}
