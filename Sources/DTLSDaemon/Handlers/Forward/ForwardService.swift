import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// Where the connections of one service go, in one worker: the backends of each rule, and those for the others. All
/// connections of the service share it, those from before a reload included.
///
/// A connection stays with the rule that was the one for it when its handshake was done, as long as the configuration has
/// a rule of that name, whatever becomes of its conditions. Otherwise a rule is chosen for it again, with its next message.
final class ForwardService {
    let settings: ForwardSettings
    private var rules: [(rule: ForwardRule, backends: ForwardBackends?)] = []
    /// For connections that no rule is for; `nil`: they are refused.
    private var others: ForwardBackends?

    /// Where a connection goes.
    enum Destination {
        case backends(ForwardBackends)
        /// The client may not come in. The words are for the log.
        case refused(Refusal, String)
    }

    init(_ configuration: ForwardConfiguration, hosts: HostTable = HostTable()) {
        settings = ForwardSettings(configuration, hosts: hosts)
        replaceBackends(configuration)
    }

    /// A reload has activated another configuration of the service.
    func configure(_ configuration: ForwardConfiguration) {
        settings.configure(configuration)
        replaceBackends(configuration)
        noteStates()
    }

    private func replaceBackends(_ configuration: ForwardConfiguration) {
        let before = all
        var number = 0
        func backends(_ wanted: NonEmpty<Backend>?, of rule: String?) -> ForwardBackends? {
            guard let wanted else { return nil }
            defer { number += wanted.elements.count }
            guard let kept = before.first(where: { $0.rule == rule }) else {
                return ForwardBackends(wanted, from: number, of: rule, settings)
            }
            kept.configure(wanted, from: number)
            return kept
        }
        others = backends(configuration.backends, of: nil)
        rules = configuration.rules.map { ($0, backends($0.backends, of: $0.name)) }
        let present = all
        for former in before where !present.contains(where: { $0 === former }) { former.retire() }
    }

    private var all: [ForwardBackends] { (others.map { [$0] } ?? []) + rules.compactMap(\.backends) }

    /// Where a connection goes.
    /// - Parameter slot: where another process, or this one before a reload, has noted where it went.
    func destination(of session: SessionDetails, _ slot: ConnectionSlot?) -> Destination {
        if let mark = slot?.farGroup, mark != 0, let kept = all.first(where: { $0.mark == mark }) {
            return .backends(kept)
        }
        guard let (rule, backends) = rules.first(where: { $0.rule.holds(of: session) }) else {
            return others.map { .backends($0) }
                ?? .refused(.noRule, "no rule of its service is for the client, and there is no backend for others")
        }
        return backends.map { .backends($0) } ?? .refused(.rule, "by the rule \(rule.name) of its service")
    }

    /// Whether there is a backend that can be sent to, whether it takes datagrams or not. Which of them a client is for is
    /// not known before its handshake.
    var areResolved: Bool { all.contains(where: \.areResolved) }

    /// Why a new client would get no socket to its backend, whichever that is; `nil` where it may get one.
    func shortage(for peer: SocketAddress, now: Instant) -> ForwardBackends.Shortage? {
        guard settings.sources.isShort else { return nil }
        var found: ForwardBackends.Shortage?
        for backends in all {
            guard let shortage = backends.shortage(for: peer, now: now) else { return nil }
            found = shortage
        }
        return found
    }

    /// The addresses of a host name are other ones.
    func addressesChanged(of host: String) {
        for backends in all { backends.addressesChanged(of: host) }
    }

    /// The checks of a backend fail, or pass again.
    func note(_ address: Backend.Address, isDown: Bool) {
        settings.note(address, isDown: isDown)
        for backends in all { backends.followChecks() }
    }

    /// Counts errors and outages there from now on.
    func count(in counters: TargetCounters) {
        settings.count(in: counters)
        noteStates()
    }

    private func noteStates() {
        // Of backends that are not there any more, too.
        for number in 0..<UInt64.bitWidth {
            settings.counters.block.setMember(number, of: .backendsOut, false)
            settings.counters.block.setMember(number, of: .backendsUp, false)
        }
        for backends in all { backends.noteStates() }
    }
}

extension ForwardRule {
    fileprivate func holds(of session: SessionDetails) -> Bool {
        conditions.elements.allSatisfy { $0.holds(of: session) }
    }

    /// Names a rule in a slot, in a number other than 0: the same in all processes and versions. No two rules of a service
    /// have the same.
    /// - Parameter name: `nil`: no rule is for the connection.
    static func mark(_ name: String?) -> UInt16 {
        guard let name else { return 1 }
        let hash = FNV1a.hash(name.utf8)
        return UInt16(truncatingIfNeeded: hash ^ hash >> 16 ^ hash >> 32 ^ hash >> 48) | 2
    }
}

extension ForwardBackends {
    /// Names them in a slot.
    var mark: UInt16 { ForwardRule.mark(rule) }
}

/// What one worker knows of the backends of all services. Those of a service are the same object in all configurations, so
/// a reload reaches the connections from before it. They are kept for as long as a configuration or a connection uses them.
final class ForwardServices: HandlerSharedState {
    private struct Reference { weak var service: ForwardService? }

    private var services: [String: Reference] = [:]
    /// The backends of each service whose checks fail.
    private var down: [String: Set<Backend.Address>] = [:]

    init(loop: EventLoop, logs: WorkerLogs) {}

    /// The addresses of a host name are other ones.
    func addressesChanged(of host: String) {
        for reference in services.values { reference.service?.addressesChanged(of: host) }
    }

    /// The checks of a service's backend fail, or pass again.
    func note(_ address: Backend.Address, ofService name: String, isDown: Bool) {
        if isDown { down[name, default: []].insert(address) } else { down[name]?.remove(address) }
        if down[name]?.isEmpty == true { down[name] = nil }
        services[name]?.service?.note(address, isDown: isDown)
    }

    /// What connections of a service use, of whatever configuration.
    func service(named name: String) -> ForwardService? { services[name]?.service }

    /// Makes this the one of a service, in its active configuration.
    func activate(_ service: ForwardService, as name: String, _ configuration: ForwardConfiguration) {
        if services[name]?.service === service {
            service.configure(configuration)
        } else {
            services[name] = Reference(service: service)
        }
        for address in down[name] ?? [] { service.note(address, isDown: true) }
        services = services.filter { $0.value.service != nil }
    }
}
