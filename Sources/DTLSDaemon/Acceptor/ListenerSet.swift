import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging

/// The listeners of a configuration cannot be opened. Those that are open stay as they were.
struct ListenerErrors: Error, CustomStringConvertible {
    enum Cause { case configuration, system }

    let cause: Cause
    /// One line each, which begins with the key: `service.echo.listen: …`.
    let problems: [String]

    var description: String { problems.joined(separator: "; ") }
}

/// All listeners of the daemon, and the service or client that each belongs to.
final class ListenerSet {
    /// What makes two listeners the same one across a reload. A listener whose key changes is closed and opened again.
    fileprivate struct ListenerKey: Hashable {
        let kind: ListeningTable.Kind
        let address: SocketAddress
        let options: SocketOptions

        var storedItem: StoredItem { .listener(on: address, options) }
    }

    /// A listener that a configuration asks for.
    fileprivate struct Wanted {
        let key: ListenerKey
        /// The path of its table in the configuration.
        let table: String
        let target: Target
        /// The ``SlotTarget`` of the table.
        let slotTarget: UInt64
    }

    private var open: [ListenerKey: DatagramListener] = [:]
    /// The service or client that each open listener belongs to.
    private(set) var targets: [ObjectIdentifier: Target] = [:]
    /// The ``SlotTarget`` of the same.
    private var slotTargets: [ObjectIdentifier: UInt64] = [:]
    /// What was counted for each service or client by listeners that are closed, or another's by now.
    private var closedByTarget: [UInt64: Endpoint.Counters] = [:]
    /// The sockets that the service manager has passed in.
    let inherited: [InheritedSocket]
    /// The sockets that an earlier main process has opened itself and passed on, until the first configuration is
    /// active. Datagrams may wait in them.
    private var stored: [StoredItem: InheritedSocket] = [:]
    private let buffers = ListenerBuffers()
    /// Who is told what comes to the listeners.
    var trace: ClientTrace? {
        get { buffers.trace }
        set { buffers.trace = newValue }
    }
    /// Makes and verifies the cookies of all listeners.
    var cookies: CookieAuthority {
        didSet { for listener in open.values { listener.use(cookies) } }
    }
    private let loop: EventLoop
    private unowned let delegate: any DatagramListenerDelegate
    /// Whether the listeners are read. From then on the daemon's own connections hold the ports, too.
    private var hasOpened = false
    /// The user that this process has become, so that it cannot bind ports below 1024 any more; `nil` where it has not.
    var userWithoutLowPorts: String?
    /// The counters of listeners that are closed.
    private var closedCounters = Endpoint.Counters()
    /// ``recordsOfNoConnection`` of listeners that are closed.
    private var closedRecordsOfNoConnection: [SocketAddress: UInt64] = [:]

    /// - Parameters:
    ///   - inherited: the sockets that the service manager has passed in.
    ///   - stored: the sockets that an earlier main process has opened itself and passed on.
    init(
        inherited: [InheritedSocket], stored: [PassedDescriptor] = [], cookies: CookieAuthority, loop: EventLoop,
        delegate: any DatagramListenerDelegate
    ) {
        self.inherited = inherited
        for passed in stored {
            // Where it cannot be used, another one is opened.
            if let item = passed.storedItem,
                let socket = try? InheritedSocket(name: passed.name, passed.descriptor.take())
            {
                self.stored[item] = socket
            }
        }
        self.cookies = cookies
        self.loop = loop
        self.delegate = delegate
    }

    var count: Int { open.count }

    /// The sockets that a configuration needs, those that the service manager has passed in included.
    func count(for configuration: Configuration) -> Int {
        configuration.targets.reduce(inherited.count) { count, target in
            count + target.1.listen.count { inheritedSocket(at: $0) == nil }
        }
    }

    /// The sockets of open listeners that this process or an earlier one has opened, with what they are to be stored as.
    var ownSockets: [StoredItem: Int32] {
        var sockets: [StoredItem: Int32] = [:]
        for (key, listener) in open where inheritedSocket(at: key.address) == nil {
            sockets[key.storedItem] = listener.descriptor
        }
        return sockets
    }

    var addresses: [SocketAddress] { open.keys.map(\.address).sorted { "\($0)" < "\($1)" } }

    /// The addresses of open listeners, in order, and the service or client that each belongs to.
    var opened: [(address: SocketAddress, target: Target)] {
        open.compactMap { key, listener in targets[ObjectIdentifier(listener)].map { (key.address, $0) } }
            .sorted { "\($0.address)" < "\($1.address)" }
    }

    /// Hands a datagram that reached the socket of another connection to the listener that it was sent to, if there is
    /// one: the listener of its very destination, or the one of the wildcard address.
    func reinject(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) {
        listener(of: flow.local)?.reinject(datagram, flow)
    }

    /// The listener that gets the datagrams of a local address.
    func listener(of local: SocketAddress) -> DatagramListener? {
        let wildcard = SocketAddress.anyAddress(local.family, port: local.port)
        let listener = open.first { $0.key.address == local } ?? open.first { $0.key.address == wildcard }
        return listener?.value
    }

    /// Sends datagrams to peers that no socket is connected to, each from the listener of its local address. Where there is
    /// none any more, since a reload has removed it, the datagram leaves from a socket that is there for this alone.
    func send(_ datagrams: [MessageFromWorker.DatagramToSend]) {
        var sender: DatagramListener?
        var orphans: [SocketAddress: [MessageFromWorker.DatagramToSend]] = [:]
        for item in datagrams {
            guard let listener = listener(of: item.flow.local) else {
                orphans[item.flow.local, default: []].append(item)
                continue
            }
            if sender !== listener { sender?.sendPassed() }
            sender = listener
            listener.pass(item.datagram, to: item.flow)
        }
        sender?.sendPassed()
        for (local, items) in orphans {
            // Where the address is gone too, nothing can be sent from it.
            guard let socket = try? UDPSocket.listen(on: local, options: SocketOptions()) else { continue }
            for item in items { buffers.pass(item.datagram, to: item.flow, over: socket) }
            buffers.sendPassed(over: socket)
        }
    }

    /// The counters of all listeners since the start, closed ones included.
    var counters: Endpoint.Counters {
        open.values.reduce(into: closedCounters) { $0.add($1.counters) }
    }

    /// What was counted for each service and client, by its ``SlotTarget``, closed listeners included.
    var countersByTarget: [UInt64: Endpoint.Counters] {
        var result = closedByTarget
        for listener in open.values {
            guard let target = slotTargets[ObjectIdentifier(listener)] else { continue }
            result[target, default: Endpoint.Counters()].add(listener.counters)
        }
        return result
    }

    /// The open listeners, with the ``SlotTarget`` of the service or client that each belongs to.
    var all: [(listener: DatagramListener, slotTarget: UInt64)] {
        open.values.sorted { "\($0.address)" < "\($1.address)" }.compactMap { listener in
            slotTargets[ObjectIdentifier(listener)].map { (listener, $0) }
        }
    }

    /// The addresses to which most records of no connection have come, with their numbers: three at most.
    var recordsOfNoConnection: [(address: SocketAddress, count: UInt64)] {
        var counts = closedRecordsOfNoConnection
        for (key, listener) in open { counts[key.address, default: 0] += listener.counters.ofNoConnection }
        let all = counts.filter { $0.value > 0 }.map { (address: $0.key, count: $0.value) }
        return Array(all.sorted { ($1.count, "\($0.address)") < ($0.count, "\($1.address)") }.prefix(3))
    }

    // MARK: Changes

    /// The listeners of a configuration. New ones are bound, but nothing is read from them yet.
    struct Plan {
        fileprivate let kept: [(Wanted, DatagramListener)]
        fileprivate let opened: [(Wanted, DatagramListener)]
        /// The access lists of each service.
        fileprivate let access: [[AccessList]]
    }

    /// Binds the listeners that a configuration asks for and that are not open. Nothing is active before
    /// ``commit(_:)``. When this throws, everything is as it was.
    func prepare(_ configuration: Configuration) throws(ListenerErrors) -> Plan {
        let all = try wanted(by: configuration)
        let missing = all.filter { open[$0.key] == nil }
        if !hasOpened { _ = try forAll(missing, probe) }
        let opened = try forAll(missing) { wanted throws(SystemError) in
            (wanted, try makeListener(wanted.key))
        }
        let kept = all.compactMap { wanted in open[wanted.key].map { (wanted, $0) } }
        let access = configuration.services.map { [configuration.limits, $0.limits].compactMap(\.access) }
        return Plan(kept: kept, opened: opened, access: access)
    }

    /// Makes the sockets of a plan those of another user, which this process is about to become: SO_REUSEPORT lets the
    /// sockets of connections share a listener's address where both are of one user.
    func give(_ plan: Plan, to user: UInt32) throws(SystemError) {
        for (_, listener) in plan.opened { try UDPSocket.give(listener.descriptor, to: user) }
    }

    /// - Throws: everything that failed, after all of them were tried.
    private func forAll<Result>(
        _ list: [Wanted], _ work: (Wanted) throws(SystemError) -> Result
    ) throws(ListenerErrors) -> [Result] {
        var results: [Result] = []
        var problems: [String] = []
        for wanted in list {
            do throws(SystemError) { results.append(try work(wanted)) } catch {
                problems.append("\(wanted.table).listen: \(error)\(hint(error))")
            }
        }
        guard problems.isEmpty else { throw ListenerErrors(cause: .system, problems: problems) }
        return results
    }

    private func hint(_ error: SystemError) -> String {
        switch error.errno {
        case EADDRINUSE: " (does another dtlsd, or another program, use it?)"
        case EADDRNOTAVAIL:
            " (no interface of this machine has the address; freebind = true in the table socket lets it come later)"
        case EACCES:
            userWithoutLowPorts.map {
                " (dtlsd has become the user \"\($0)\", who may not bind ports below 1024, and has kept no right to, since its"
                    + " configuration had none when it was started; a restart by root lets it)"
            } ?? " (ports below 1024 require the capability CAP_NET_BIND_SERVICE)"
        default: ""
        }
    }

    /// Activates a plan: closes the listeners that are not in it, and reads from the new ones, once ``openAll()`` has
    /// been called.
    func commit(_ plan: Plan) throws(SystemError) {
        let kept = Set(plan.kept.map { $0.0.key })
        for (key, listener) in open where !kept.contains(key) { close(listener) }
        let openedPorts = Set(plan.opened.map { $0.1.address.port })
        for (_, listener) in plan.kept where openedPorts.contains(listener.address.port) {
            listener.closeDecoys()
        }
        for (wanted, listener) in plan.kept { changeTable(of: listener, to: wanted.slotTarget) }
        open = [:]
        targets = [:]
        slotTargets = [:]
        stored = [:]
        for (wanted, listener) in plan.kept + plan.opened {
            open[wanted.key] = listener
            targets[ObjectIdentifier(listener)] = wanted.target
            slotTargets[ObjectIdentifier(listener)] = wanted.slotTarget
            if case .service(let index) = wanted.target { listener.access = plan.access[index] }
        }
        for (_, listener) in plan.opened {
            // It was made before the cookie secret of its configuration became active.
            listener.use(cookies)
            if hasOpened { try listener.open() }
        }
    }

    /// Begins to read from the listeners. To be called when the workers are ready for the first client.
    func openAll() throws(SystemError) {
        hasOpened = true
        for listener in open.values where !listener.isOpen { try listener.open() }
    }

    /// Stops to read from the listeners, until ``openAll()``. Datagrams wait in their sockets.
    func pauseAll() {
        for listener in open.values { listener.pause() }
    }

    func closeAll() {
        for listener in open.values { close(listener) }
        // The service manager keeps these sockets, and hands them to the next process as they are. A process that was
        // killed leaves its options on them.
        for socket in inherited { try? socket.initialOptions.restore(on: socket.descriptor) }
        open = [:]
        targets = [:]
        slotTargets = [:]
    }

    private func close(_ listener: DatagramListener) {
        putCountersAside(of: listener)
        listener.close()
    }

    /// What a listener has counted stays its former service's.
    private func changeTable(of listener: DatagramListener, to slotTarget: UInt64) {
        if slotTargets[ObjectIdentifier(listener)] != slotTarget { putCountersAside(of: listener) }
    }

    private func putCountersAside(of listener: DatagramListener) {
        let counters = listener.takeCounters()
        closedCounters.add(counters)
        closedRecordsOfNoConnection[listener.address, default: 0] += counters.ofNoConnection
        if let target = slotTargets[ObjectIdentifier(listener)] {
            closedByTarget[target, default: Endpoint.Counters()].add(counters)
        }
    }

    /// Every address of every service and client, and the inherited sockets that have the name of one.
    private func wanted(by configuration: Configuration) throws(ListenerErrors) -> [Wanted] {
        var list: [Wanted] = []
        var problems: [String] = []
        for (target, table) in configuration.targets {
            var addresses = table.listen
            for socket in inherited where socket.name == table.name && !addresses.contains(socket.address) {
                addresses.append(socket.address)
            }
            if addresses.isEmpty {
                problems.append(
                    "\(table.path).listen: no address to listen on, and no socket named \"\(table.name)\" was passed in"
                )
            }
            for address in addresses {
                let key = ListenerKey(kind: table.kind, address: address, options: table.socket)
                list.append(Wanted(key: key, table: table.path, target: target, slotTarget: table.slotTarget))
            }
        }
        for socket in inherited {
            switch list.count(where: { $0.key.address == socket.address }) {
            case 0:
                problems.append(
                    "the socket \"\(socket.name)\" on \(socket.address) was passed in, but no service or client has this"
                        + " name or this address")
            case 1: break
            default:
                problems.append(
                    "the socket \"\(socket.name)\" on \(socket.address) was passed in, but more than one service or"
                        + " client listens there")
            }
        }
        guard problems.isEmpty else { throw ListenerErrors(cause: .configuration, problems: problems) }
        return list
    }

    private func inheritedSocket(at address: SocketAddress) -> InheritedSocket? {
        inherited.first { $0.address == address }
    }

    /// Finds out, before anything is bound for good, whether other processes hold the port: with SO_REUSEPORT alone,
    /// two instances of one user would share it without an error. It cannot be found out later, since the daemon's own
    /// connections hold the port then, too.
    private func probe(_ wanted: Wanted) throws(SystemError) {
        let address = wanted.key.address
        guard inheritedSocket(at: address) == nil, !stored.values.contains(where: { $0.address == address }) else {
            return
        }
        try UDPSocket.probe(wanted.key.address, wanted.key.options)
    }

    private func makeListener(_ key: ListenerKey) throws(SystemError) -> DatagramListener {
        if let socket = inheritedSocket(at: key.address) { return try makeListener(from: socket, key) }
        if let kept = stored[key.storedItem], kept.address == key.address {
            let isOwn = try UDPSocket.isOwn(kept.descriptor)
            return makeListener(
                key.kind, try kept.descriptor.duplicate(), key.address, key.options, isOwnedByAnother: !isOwn)
        }
        let socket = try UDPSocket.listen(on: key.address, options: key.options)
        return makeListener(key.kind, socket, key.address, key.options, isOwnedByAnother: false)
    }

    private func makeListener(
        from inherited: InheritedSocket, _ key: ListenerKey
    ) throws(SystemError) -> DatagramListener {
        let socket = try inherited.descriptor.duplicate()
        // IPV6_V6ONLY cannot change after bind(), so BindIPv6Only= of the socket unit has decided.
        var options = key.options
        options.ipv6Only = try UDPSocket.isIPv6Only(socket, inherited.address.family)
        // The last configuration may have set options that this one leaves to the socket unit.
        try inherited.initialOptions.restore(on: socket)
        try UDPSocket.apply(options, toBound: socket, inherited.address.family)
        try UDPSocket.shareAddress(of: socket)
        try UDPSocket.reportDestinations(of: socket, inherited.address.family)
        let isOwn = try UDPSocket.isOwn(socket)
        return makeListener(key.kind, socket, inherited.address, options, isOwnedByAnother: !isOwn)
    }

    private func makeListener(
        _ kind: ListeningTable.Kind, _ socket: consuming FileDescriptor, _ address: SocketAddress,
        _ options: SocketOptions, isOwnedByAnother: Bool
    ) -> DatagramListener {
        DatagramListener(
            socket: socket, address: address, policy: kind == .service ? .cookies(cookies) : .none, options: options,
            buffers: buffers, loop: loop, delegate: delegate, isOwnedByAnother: isOwnedByAnother,
            mayHaveDecoys: kind == .service)
    }
}

extension Configuration {
    /// Every table that listens, with the target of connections that come in there.
    var targets: [(Target, ListeningTable)] {
        let tables = listeningTables
        return services.indices.map { (.service($0), tables[$0]) }
            + clients.indices.map { (.client($0), tables[services.count + $0]) }
    }
}
