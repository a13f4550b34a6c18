import DTLSTransport
import LinuxSystem
import Primitives

/// Decides which new clients get a connection, by the limits of their service and of all services together, and counts
/// the connections that there are. It keeps nothing of a single connection: the caller that begins one tells its end.
///
/// It is asked once the client's cookie has been verified. A client that is refused costs no limit anything and gets no
/// answer, so it sends its hello again after its retransmission timeout (RFC 6347, section 4.2.4).
///
/// Only services have limits: connections of local senders (`[client.NAME]`) are not counted here. Which of both a
/// connection is of, and which service, is known by the ``SlotTarget`` in its slot.
final class Admission {
    private let all = AdmissionScope(service: nil)
    /// By the index of the service in the active configuration.
    private var services: [AdmissionScope] = []
    /// By ``SlotTarget``. Services that are not configured are here for as long as they have connections, since a later
    /// reload may bring them back.
    private var scopes: [UInt64: AdmissionScope] = [:]

    /// The connections of all services, those in their handshake included.
    var connections: Int { all.connections }
    /// The connections of all services that are in their handshake.
    var handshakes: Int { all.handshakes }

    /// Applies the limits of a configuration to new clients. Present connections stay, and stay counted.
    /// - Parameter present: calls its argument with the peer and the target of each connection. It is called where
    ///   connections are to be counted by other prefixes than before.
    func apply(_ configuration: Configuration, present: ((SocketAddress, UInt64) -> Void) -> Void) {
        var recounted: [UInt64: AdmissionScope] = [:]
        services = configuration.services.map { service in
            let target = SlotTarget.service(service.name)
            let scope = scopes[target] ?? AdmissionScope(service: nil)
            scope.service = service.name
            scopes[target] = scope
            if scope.apply(service.limits) { recounted[target] = scope }
            return scope
        }
        let isRecountingAll = all.apply(configuration.limits)
        scopes = scopes.filter { _, scope in scope.connections > 0 || services.contains { $0 === scope } }
        guard isRecountingAll || !recounted.isEmpty else { return }
        present { peer, target in
            guard SlotTarget.isService(target) else { return }
            if isRecountingAll { all.countPrefix(of: peer) }
            recounted[target]?.countPrefix(of: peer)
        }
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

    /// The name of the service of a ``SlotTarget``, where this process has ever been configured to serve it.
    func name(of target: UInt64) -> String? { SlotTarget.isService(target) ? scopes[target]?.service : nil }

    /// Counts a new connection, which is in its handshake.
    /// - Parameter target: its ``SlotTarget``.
    func begin(_ peer: SocketAddress, _ target: UInt64, now: Instant) {
        guard let scope = scope(target) else { return }
        scope.begin(peer, now: now)
        all.begin(peer, now: now)
    }

    /// Counts an established connection that an earlier process of this daemon has served.
    func adopt(_ peer: SocketAddress, _ target: UInt64) {
        guard let scope = scope(target) else { return }
        scope.adopt(peer)
        all.adopt(peer)
    }

    /// The handshake of a connection has succeeded.
    func endHandshake(_ target: UInt64) {
        guard let scope = scope(target) else { return }
        scope.endHandshake()
        all.endHandshake()
    }

    /// A connection is gone that was counted with these values.
    func end(_ peer: SocketAddress, _ target: UInt64) {
        guard let scope = scope(target) else { return }
        scope.end(peer)
        all.end(peer)
    }

    private func scope(_ target: UInt64) -> AdmissionScope? {
        guard SlotTarget.isService(target) else { return nil }
        if let scope = scopes[target] { return scope }
        let scope = AdmissionScope(service: nil)
        scopes[target] = scope
        return scope
    }
}
