import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging

/// A service of the active configuration, made ready in a worker. Connections keep the one that they began with.
final class ServiceRuntime {
    let configuration: ServiceConfiguration
    let context: ServerContext
    let limits: Connection.Limits
    /// What becomes of the handler of a connection that gives its socket up.
    let parking: Parking
    private let handler: Handlers
    /// Who is asked whether a client may come in; `nil`: nobody.
    private let authorizer: Authorizer?
    /// Its ``SlotTarget``.
    let target: UInt64
    /// The sessions of clients without tickets; `nil` where they cannot resume theirs.
    private let sessions: SessionCache?
    /// Where its connections count.
    private(set) var counters = TargetCounters.ignored

    /// See ``parking``.
    enum Parking {
        /// A new one is as good: it keeps nothing.
        case handlerEnds
        /// It has a way by which something for the client may come.
        case handlerStays
        /// No connection gives its socket up before it ends: its handler has a program, which would not outlive that in
        /// another process.
        case never

        init(_ configuration: HandlerConfiguration) {
            switch configuration {
            case .echo, .log: self = .handlerEnds
            case .forward(let forward): self = forward.parks ? .handlerEnds : .handlerStays
            case .exec: self = .never
            }
        }
    }

    /// What the handlers of the service's connections are made of.
    private enum Handlers {
        case echo
        /// What the worker knows of the backends, and what the service asks of them.
        case forward(ForwardService, ForwardConfiguration)
        case exec(ExecConfiguration)
        case log(LogConfiguration)
    }

    init(
        _ configuration: ServiceConfiguration, ticketKeys: TicketKeyRing, sessions: SessionTable?,
        heldKeys: HeldKeys, _ resources: HandlerResources
    ) throws(CredentialsError) {
        self.configuration = configuration
        target = SlotTarget.service(configuration.name)
        parking = Parking(configuration.handler)
        handler =
            switch configuration.handler {
            case .echo: .echo
            case .forward(let forward):
                .forward(
                    resources.sharedState(ForwardServices.self).service(named: configuration.name)
                        ?? ForwardService(forward, hosts: resources.hosts), forward)
            case .exec(let exec): .exec(exec)
            case .log(let log): .log(log)
            }
        authorizer = configuration.authorize.map { Authorizer($0, of: configuration.name, resources) }
        self.sessions = sessions.map { SessionCache($0) }
        context = try ServerContext(
            configuration.tls, tickets: ticketKeys, sessions: self.sessions, heldKeys: heldKeys,
            sessionIDContext: configuration.name)
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: configuration.idleTimeout,
            parkAfter: parking == .never ? .zero : configuration.parkAfter,
            retransmission: configuration.retransmission, mtu: configuration.mtu,
            recordBound: configuration.recordMTU)
    }

    /// The configuration is active from now on: connections from before it that go to a backend follow it.
    func activate(_ resources: HandlerResources) {
        guard case .forward(let service, let forward) = handler else { return }
        resources.sharedState(ForwardServices.self).activate(service, as: configuration.name, forward)
    }

    /// Has connections from now on count there.
    func count(in counters: TargetCounters) {
        self.counters = counters
        sessions?.onEvent = { counters.count($0) }
        if case .forward(let service, _) = handler { service.count(in: counters) }
    }

    var asksAuthorizer: Bool { authorizer != nil }

    /// Asks whether a client may come in.
    /// - Parameter completion: is called once, at once or later.
    func authorize(
        _ question: AuthorizationQuestion, of peer: SocketAddress, at local: SocketAddress,
        _ completion: @escaping (AuthorizationAnswer) -> Void
    ) {
        guard let authorizer else { return completion(.refused(reason: "there is no authorizer any more")) }
        authorizer.ask(question, of: peer, at: local) { [self] answer, result in
            counters.count(result)
            completion(answer)
        }
    }

    /// Why the handler could not serve a new client after its handshake; `nil` where nothing is known against it.
    func refusal(of peer: SocketAddress, _ resources: HandlerResources) -> Refusal? {
        switch handler {
        case .forward(let service, _): ForwardHandler.refusal(of: peer, by: self, service, resources)
        case .echo, .exec, .log: nil
        }
    }

    /// The handler of a connection whose handshake is done.
    func makeHandler(for client: ServedClient, _ resources: HandlerResources) -> any Handler {
        switch handler {
        case .echo: EchoHandler.shared
        case .forward(let service, let forward):
            switch service.destination(of: client.session, client.slot) {
            case .backends(let backends):
                ForwardHandler(service, backends, parks: forward.parks, of: self, for: client, resources)
            case .refused(let refusal, let reason):
                RefusingHandler(refusal, reason, of: self, resources)
            }
        case .exec(let exec): ExecHandler(exec, of: self, for: client, resources)
        case .log(let log): DatagramLogHandler(log, of: self, for: client, resources)
        }
    }
}
