import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging

/// A service of the active configuration, made ready in a worker. Connections keep the one that they began with.
final class ServiceRuntime {
    let configuration: ServiceConfiguration
    let context: ServerContext
    let limits: Connection.Limits
    /// The backends and what this worker knows of their health. All connections of the service share them.
    let backends: ForwardBackends

    init(_ configuration: ServiceConfiguration, ticketKeys: TicketKeyRing) throws(CredentialsError) {
        self.configuration = configuration
        backends = ForwardBackends(configuration.handler.backends, sources: configuration.handler.sources)
        context = try ServerContext(configuration.tls, tickets: ticketKeys, sessionIDContext: configuration.name)
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: configuration.idleTimeout,
            mtu: configuration.mtu)
    }

    /// How many descriptors one connection needs.
    var descriptorsPerConnection: Int {
        switch configuration.handler {
        case .echo, .log: 1
        case .forward: 2
        case .exec: 3
        }
    }

    /// Why the handler could not serve a new client after its handshake; `nil` where nothing is known against it.
    func refusal(of peer: SocketAddress, _ resources: HandlerResources) -> Refusal? {
        switch configuration.handler {
        case .forward: ForwardHandler.refusal(of: peer, by: self, resources)
        case .echo, .exec, .log: nil
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
