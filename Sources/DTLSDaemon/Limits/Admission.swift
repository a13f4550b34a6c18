import DTLSTransport
import LinuxSystem
import Primitives

/// Decides which new clients get a connection, by the limits of their service and of all services together.
///
/// It is asked once the client's cookie has been verified. A client that is refused costs no limit anything and gets no
/// answer, so it sends its hello again after its retransmission timeout (RFC 6347, section 4.2.4).
final class Admission {
    private let all = AdmissionScope(service: nil)
    /// By the index of the service in the active configuration.
    private var services: [AdmissionScope] = []
    /// Services that are no longer configured stay here as long as they have connections, since a later reload may bring
    /// them back.
    private var servicesByName: [String: AdmissionScope] = [:]

    /// The connections of all services, those in their handshake included.
    var connections: Int { all.connections }
    /// The connections of all services that are in their handshake.
    var handshakes: Int { all.handshakes }

    /// Applies the limits of a configuration to new clients. Present connections stay, and stay counted.
    /// - Parameter present: the connections of all workers.
    func apply(_ configuration: Configuration, present: [AdmittedConnection]) {
        all.apply(configuration.limits, peers: present.lazy.map(\.peer))
        services = configuration.services.map { service in
            let scope = servicesByName[service.name] ?? AdmissionScope(service: service.name)
            scope.apply(service.limits, peers: present.lazy.filter { $0.service === scope }.map(\.peer))
            return scope
        }
        let others = servicesByName.values.filter { scope in
            scope.connections > 0 && !services.contains { $0 === scope }
        }
        servicesByName = Dictionary(
            (services + others).map { ($0.service ?? "", $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// The limit that one more connection of this peer would exceed, and the table that the limit is in; `nil` when it
    /// would exceed none.
    func refusal(of peer: SocketAddress, service: Int, now: Instant) -> (Refusal, AdmissionScope)? {
        guard services.indices.contains(service) else { return nil }
        let scope = services[service]
        if let refusal = scope.refusal(of: peer, now: now) { return (refusal, scope) }
        if let refusal = all.refusal(of: peer, now: now) { return (refusal, all) }
        return nil
    }

    /// Counts a new connection, for as long as the returned object exists.
    /// - Returns: `nil` when there is no such service.
    func admit(_ peer: SocketAddress, service: Int, now: Instant) -> AdmittedConnection? {
        guard services.indices.contains(service) else { return nil }
        return AdmittedConnection(of: peer, service: services[service], all: all, now: now)
    }
}

/// A connection as the limits see it. It is counted until this object is released, so no way in which a connection or
/// its worker can end leaves it counted.
final class AdmittedConnection {
    let peer: SocketAddress
    let service: AdmissionScope
    private let all: AdmissionScope
    private var isHandshaking = true

    fileprivate init(of peer: SocketAddress, service: AdmissionScope, all: AdmissionScope, now: Instant) {
        self.peer = peer
        self.service = service
        self.all = all
        service.begin(peer, now: now)
        all.begin(peer, now: now)
    }

    /// Notes that the handshake has succeeded. Later calls change nothing.
    func establish() {
        guard isHandshaking else { return }
        isHandshaking = false
        service.endHandshake()
        all.endHandshake()
    }

    deinit {
        establish()
        service.end(peer)
        all.end(peer)
    }
}
