import DTLSTransport
import LinuxSystem

/// Decides which newcomers get a connection, by the limits of their service and of all services together.
///
/// It is asked once a cookie is good. A newcomer that is refused is charged nothing anywhere, and hears nothing: its
/// client asks again by itself (RFC 6347, section 4.2.4).
final class Admission {
    private let all = AdmissionScope(service: nil)
    /// By the services' numbers in the configuration in force.
    private var services: [AdmissionScope] = []
    /// Also services that are no longer configured, as long as they have connections: they may come back.
    private var servicesByName: [String: AdmissionScope] = [:]

    /// Connections of all services, and how many of them are in their handshake.
    var connections: Int { all.connections }
    var handshakes: Int { all.handshakes }

    /// Puts a configuration's limits in force, for newcomers. Connections that are there stay, and stay counted.
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

    /// Which limit one more connection of this peer would go beyond, and whose limit it is; `nil` for none.
    func refusal(of peer: SocketAddress, service: UInt16, now: UInt64) -> (Refusal, AdmissionScope)? {
        guard Int(service) < services.count else { return nil }
        let scope = services[Int(service)]
        if let refusal = scope.refusal(of: peer, now: now) { return (refusal, scope) }
        if let refusal = all.refusal(of: peer, now: now) { return (refusal, all) }
        return nil
    }

    /// Takes a newcomer in. Its place is taken as long as somebody holds what this returns.
    func admit(_ peer: SocketAddress, service: UInt16, now: UInt64) -> AdmittedConnection? {
        guard Int(service) < services.count else { return nil }
        return AdmittedConnection(of: peer, service: services[Int(service)], all: all, now: now)
    }
}

/// A connection as the limits see it. It counts until it is let go, so that no way in which a connection or its worker
/// can end leaves it counted.
final class AdmittedConnection {
    let peer: SocketAddress
    let service: AdmissionScope
    private let all: AdmissionScope
    private var isHandshaking = true

    fileprivate init(of peer: SocketAddress, service: AdmissionScope, all: AdmissionScope, now: UInt64) {
        self.peer = peer
        self.service = service
        self.all = all
        service.begin(peer, now: now)
        all.begin(peer, now: now)
    }

    /// Its handshake is done.
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
