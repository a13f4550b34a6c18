import DTLSEngine
import DTLSTransport
import Logging

/// A service of the configuration in force, made ready in a worker. Connections keep the one that they began with.
final class ServiceRuntime {
    let configuration: ServiceConfiguration
    let context: ServerContext
    let limits: Connection.Limits
    /// The backends and what this worker knows of their health; shared by the service's connections.
    let backends: ForwardBackends

    init(_ configuration: ServiceConfiguration, ticketKeys: TicketKeyRing) throws(CredentialsError) {
        self.configuration = configuration
        backends = ForwardBackends(configuration.handler.backends)
        context = try ServerContext(configuration.tls, tickets: ticketKeys, sessionIDContext: configuration.name)
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: configuration.idleTimeout,
            mtu: configuration.mtu)
    }

    /// Descriptors that one connection needs.
    var descriptorsPerConnection: Int {
        switch configuration.handler {
        case .echo, .log: 1
        case .forward: 2
        case .exec: 3
        }
    }

    /// The handler of a connection whose handshake is done.
    func makeHandler(for connection: Connection, _ resources: HandlerResources) -> any Handler {
        switch configuration.handler {
        case .echo: EchoHandler()
        case .forward(let forward): ForwardHandler(forward, of: self, for: connection, resources)
        case .exec(let exec): ExecHandler(exec, of: self, resources)
        case .log(let log): DatagramLogHandler(log, of: self, for: connection, resources)
        }
    }
}
