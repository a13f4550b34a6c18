import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging

/// Why the listeners of a configuration cannot be opened; those that were open stay as they were.
struct ListenerErrors: Error, CustomStringConvertible {
    enum Cause { case configuration, system }

    let cause: Cause
    /// A line each, with the key: `service.echo.listen: …`.
    let problems: [String]

    var description: String { problems.joined(separator: "; ") }
}

/// All listeners, and which service or client each belongs to.
final class ListenerSet {
    /// What a listener is kept by across a reload.
    fileprivate struct Identity: Hashable {
        let kind: ListeningTable.Kind
        let address: SocketAddress
        let options: String
    }

    private struct Wanted {
        let identity: Identity
        /// As TOML has it.
        let table: String
        let service: UInt16
        let options: SocketOptions
    }

    /// A socket from the service manager; it is kept for the daemon's life, whether a service uses it or not.
    private final class Passed {
        let name: String
        let address: SocketAddress
        let descriptor: FileDescriptor
        init(_ socket: consuming ServiceManager.PassedSocket) {
            name = socket.name
            address = socket.address
            descriptor = socket.descriptor
        }
    }

    private var open: [Identity: any DatagramListener] = [:]
    /// Numbers in the configuration's `listeningTables`.
    private var services: [ObjectIdentifier: UInt16] = [:]
    private var passed: [Passed] = []
    private let buffers = ListenerBuffers()
    /// What all listeners make and check cookies with.
    var cookies: CookieAuthority {
        didSet { for listener in open.values { (listener as? DTLSListener)?.cookies = cookies } }
    }
    private let loop: EventLoop
    private unowned let delegate: any DTLSListenerDelegate & PlainListenerDelegate
    /// Whether the listeners are read: from then on this daemon's own connections hold the ports.
    private var hasOpened = false

    init(cookies: CookieAuthority, loop: EventLoop, delegate: any DTLSListenerDelegate & PlainListenerDelegate) {
        self.cookies = cookies
        self.loop = loop
        self.delegate = delegate
    }

    /// Takes a socket that the service manager has passed in.
    func take(_ socket: consuming ServiceManager.PassedSocket) { passed.append(Passed(socket)) }

    var count: Int { open.count }

    var addresses: [SocketAddress] { open.keys.map(\.address).sorted { "\($0)" < "\($1)" } }

    /// The number of a listener's service or client among the configuration's `listeningTables`.
    func service(of listener: any DatagramListener) -> UInt16? { services[ObjectIdentifier(listener)] }

    /// Who listens for datagrams that were sent to `local`: on that very address, or on the wildcard.
    func listener(for local: SocketAddress) -> (any DatagramListener)? {
        let wildcard = SocketAddress.anyAddress(local.family, port: local.port)
        var fallback: (any DatagramListener)?
        for (identity, listener) in open {
            if identity.address == local { return listener }
            if identity.address == wildcard { fallback = listener }
        }
        return fallback
    }

    var counters: DTLSListener.Counters {
        open.values.reduce(into: retired) { $0.add($1.counters) }
    }

    /// What listeners counted that are closed by now.
    private var retired = DTLSListener.Counters()

    // MARK: Changes

    /// A configuration's listeners, bound and not yet in force.
    struct Plan {
        fileprivate let kept: [(Identity, any DatagramListener, UInt16)]
        fileprivate let opened: [(Identity, any DatagramListener, UInt16)]
        /// By service.
        fileprivate let access: [[AccessList]]
    }

    /// Binds what a configuration asks for and is not open. Nothing is in force before `commit`; when this throws, all
    /// is as before.
    func prepare(_ configuration: Configuration) throws(ListenerErrors) -> Plan {
        let all = try wanted(by: configuration)
        let missing = all.filter { open[$0.identity] == nil }
        if !hasOpened { _ = try forAll(missing, probe) }
        let opened = try forAll(missing) { wanted throws(SystemError) in
            (wanted.identity, try makeListener(wanted), wanted.service)
        }
        let kept = all.compactMap { wanted in open[wanted.identity].map { (wanted.identity, $0, wanted.service) } }
        let access = configuration.services.map { [configuration.limits, $0.limits].compactMap(\.access) }
        return Plan(kept: kept, opened: opened, access: access)
    }

    /// - Throws: what failed for any of them, after all were tried.
    private func forAll<Result>(
        _ list: [Wanted], _ work: (Wanted) throws(SystemError) -> Result
    ) throws(ListenerErrors) -> [Result] {
        var results: [Result] = []
        var problems: [String] = []
        for wanted in list {
            do throws(SystemError) { results.append(try work(wanted)) } catch {
                problems.append("\(wanted.table).listen: \(error)\(Self.hint(error))")
            }
        }
        guard problems.isEmpty else { throw ListenerErrors(cause: .system, problems: problems) }
        return results
    }

    private static func hint(_ error: SystemError) -> String {
        switch error.errno {
        case EADDRINUSE: " (does another dtlsd, or another program, use it?)"
        case EADDRNOTAVAIL: " (no interface of this machine has the address)"
        case EACCES: " (ports below 1024 take the capability CAP_NET_BIND_SERVICE)"
        default: ""
        }
    }

    /// Puts the plan in force: closes what it has no more, and reads what is new, once ``openAll()`` has been called.
    func commit(_ plan: Plan) throws(SystemError) {
        let wanted = Set(plan.kept.map { $0.0 })
        for (identity, listener) in open where !wanted.contains(identity) {
            retired.add(listener.counters)
            listener.close()
        }
        let openedPorts = Set(plan.opened.map { $0.1.address.port })
        for (_, listener, _) in plan.kept where openedPorts.contains(listener.address.port) {
            (listener as? DTLSListener)?.closeShields()
        }
        open = [:]
        services = [:]
        for (identity, listener, service) in plan.kept + plan.opened {
            open[identity] = listener
            services[ObjectIdentifier(listener)] = service
            (listener as? DTLSListener)?.access = plan.access[Int(service)]
        }
        for (_, listener, _) in plan.opened {
            // It was made before the configuration's secret was in force.
            (listener as? DTLSListener)?.cookies = cookies
            if hasOpened { try listener.open() }
        }
    }

    /// Begins to read, with workers that are ready for the first client.
    func openAll() throws(SystemError) {
        hasOpened = true
        for listener in open.values { try listener.open() }
    }

    func closeAll() {
        for listener in open.values {
            retired.add(listener.counters)
            listener.close()
        }
        open = [:]
        services = [:]
    }

    /// Every address of every service and client, and the sockets that were passed in under one's name.
    private func wanted(by configuration: Configuration) throws(ListenerErrors) -> [Wanted] {
        var list: [Wanted] = []
        var problems: [String] = []
        for (index, table) in configuration.listeningTables.enumerated() {
            var addresses = table.listen
            for socket in passed where socket.name == table.name && !addresses.contains(socket.address) {
                addresses.append(socket.address)
            }
            if addresses.isEmpty {
                problems.append(
                    "\(table.path).listen: no address to listen on, and no socket named \"\(table.name)\" was passed in"
                )
            }
            for address in addresses {
                let identity = Identity(kind: table.kind, address: address, options: "\(table.socket)")
                list.append(
                    Wanted(
                        identity: identity, table: table.path, service: UInt16(clamping: index), options: table.socket))
            }
        }
        for socket in passed {
            switch list.count(where: { $0.identity.address == socket.address }) {
            case 0:
                problems.append(
                    "the socket \"\(socket.name)\" on \(socket.address) was passed in, and no service has this name or"
                        + " this address")
            case 1: break
            default:
                problems.append(
                    "the socket \"\(socket.name)\" on \(socket.address) was passed in, and more than one service listens"
                        + " there")
            }
        }
        guard problems.isEmpty else { throw ListenerErrors(cause: .configuration, problems: problems) }
        return list
    }

    private func makeListener(_ wanted: Wanted) throws(SystemError) -> any DatagramListener {
        let address = wanted.identity.address
        if let socket = passed.first(where: { $0.address == address }) { return try makeListener(from: socket, wanted) }
        let socket = try UDPSocket.listen(on: address, options: wanted.options)
        return makeListener(wanted.identity.kind, socket, address, wanted.options, isOwnedByAnother: false)
    }

    private func makeListener(
        _ kind: ListeningTable.Kind, _ socket: consuming FileDescriptor, _ address: SocketAddress,
        _ options: SocketOptions, isOwnedByAnother: Bool
    ) -> any DatagramListener {
        switch kind {
        case .service:
            DTLSListener(
                socket: socket, address: address, options: options, cookies: cookies, buffers: buffers, loop: loop,
                delegate: delegate, isOwnedByAnother: isOwnedByAnother, mayHaveShields: true)
        case .client:
            PlainListener(
                socket: socket, address: address, options: options, buffers: buffers, loop: loop, delegate: delegate,
                isOwnedByAnother: isOwnedByAnother)
        }
    }

    /// Finds out, before anything is bound for good, whether others hold the ports: with SO_REUSEPORT alone, two
    /// instances of one user would share them in silence. Later it cannot be found out, since this daemon's own
    /// connections hold them too.
    private func probe(_ wanted: Wanted) throws(SystemError) {
        guard !passed.contains(where: { $0.address == wanted.identity.address }) else { return }
        try UDPSocket.probe(wanted.identity.address, wanted.options)
    }

    private func makeListener(
        from passed: Passed, _ wanted: Wanted
    ) throws(SystemError) -> any DatagramListener {
        let socket = try passed.descriptor.duplicate()
        // IPV6_V6ONLY cannot change after bind: the unit has chosen (BindIPv6Only=).
        var own = wanted.options
        own.ipv6Only = try UDPSocket.isIPv6Only(socket, passed.address.family)
        try UDPSocket.apply(own, toBound: socket, passed.address.family)
        try UDPSocket.shareAddress(of: socket)
        try UDPSocket.reportDestinations(of: socket, passed.address.family)
        let isOwn = try UDPSocket.isOwn(socket)
        return makeListener(wanted.identity.kind, socket, passed.address, own, isOwnedByAnother: !isOwn)
    }
}

extension DTLSListener.Counters {
    fileprivate mutating func add(_ other: DTLSListener.Counters) {
        hellosAnswered &+= other.hellosAnswered
        admitted &+= other.admitted
        refused.add(other.refused)
        malformed &+= other.malformed
        strays &+= other.strays
        unsent &+= other.unsent
    }
}
