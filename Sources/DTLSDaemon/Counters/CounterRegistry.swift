import DTLSTransport
import LinuxSystem

/// The counters of all processes, as the main process keeps them: its own, and a ``CounterFile`` for each table of
/// connections, over the deaths of the workers that write it.
final class CounterRegistry {
    /// What this process counts itself.
    let main: CounterFile
    /// By the numbers of the tables.
    private var files: [Int: CounterFile] = [:]
    /// The services and clients that were ever configured, by ``SlotTarget``.
    private var tables: [UInt64: ListeningTable] = [:]

    init() throws(SystemError) { main = try CounterFile(name: "dtlsd-counters") }

    /// The services and clients of a configuration that is active from now on.
    func activate(_ configuration: Configuration) {
        for table in configuration.listeningTables { tables[table.slotTarget] = table }
    }

    /// The file of a table, which is made when it is first asked for.
    func file(ofTable number: Int) throws(SystemError) -> CounterFile {
        if let file = files[number] { return file }
        let file = try CounterFile(name: "dtlsd-counters-\(number)")
        files[number] = file
        return file
    }

    /// Counts what the main process logs and that is counted, too.
    func count(_ event: LogEvent) {
        switch event {
        case .reloaded: main.process.add(to: .reloads, 0)
        case .reloadFailed: main.process.add(to: .reloads, 1)
        default: break
        }
    }

    /// Where this process counts for a service or client.
    /// - Parameter target: its ``SlotTarget``.
    func counters(of target: UInt64) -> TargetCounters { main.counters(of: target) }

    /// Sums of some families over all services, clients and processes.
    func totals(_ counters: [TargetCounter]) -> CounterValues<TargetCounter> {
        ([main] + files.values).reduce(into: CounterValues()) { $0.add($1.totals(counters)) }
    }

    /// What all processes have counted for each service or client, by its ``SlotTarget``.
    var targets: [UInt64: CounterValues<TargetCounter>] {
        ([main] + files.values).reduce(into: [:]) { result, file in
            result.merge(file.targets) { one, other in
                var sum = one
                sum.add(other)
                return sum
            }
        }
    }

    /// What this process knows beside the files.
    struct Sources {
        /// What listeners have counted for each service or client, by its ``SlotTarget``.
        var endpoints: [UInt64: Endpoint.Counters] = [:]
        var listeners: [Listener] = []
        var workers: [(number: Int, processID: Int32, table: Int)] = []
        var totals = WorkerPool.Totals()
        var occupancy = ConnectionTable.Occupancy()
        var recordsWithConnectionIDs = SocketRestorer.Counters()

        struct Listener {
            let address: SocketAddress
            let slotTarget: UInt64
            let counters: Endpoint.Counters
            let queueDrops: UInt64
        }
    }

    /// All that the daemon has counted.
    func snapshot(_ sources: Sources) -> CounterSnapshot {
        var snapshot = CounterSnapshot()
        let counted = targets
        for (target, table) in tables {
            let values = values(of: target, counted[target] ?? CounterValues(), sources)
            switch table.kind {
            case .service:
                snapshot.services[table.name] = values.named()
                snapshot.backends[table.name] = .init(out: values[.backendsOut], up: values[.backendsUp])
            case .client:
                snapshot.clients[table.name] = values.named()
                if values[.backendsOut] != 0 { snapshot.serversOut.insert(table.name) }
            }
        }
        snapshot.listeners = sources.listeners.compactMap { listener in
            guard let table = tables[listener.slotTarget] else { return nil }
            return CounterSnapshot.Listener(
                address: listener.address, name: table.name, isService: table.kind == .service,
                values: CounterValues(listener.counters, queueDrops: listener.queueDrops).named())
        }
        snapshot.workers = sources.workers.map { worker in
            var values: CounterSnapshot.Values = [:]
            if let file = files[worker.table] {
                values = file.process.values.named { !$0.isOfMainProcess }
                let sums = file.targets.values.reduce(into: CounterValues<TargetCounter>()) { $0.add($1) }
                values.merge(sums.named { $0.isOfWorkers }) { $1 }
            }
            return CounterSnapshot.Worker(
                number: worker.number, processID: worker.processID, table: worker.table, values: values)
        }
        snapshot.main = mainValues(sources).named { $0 != .openSSLConnections }
        return snapshot
    }

    private func values(
        of target: UInt64, _ counted: CounterValues<TargetCounter>, _ sources: Sources
    ) -> CounterValues<TargetCounter> {
        var values = counted
        if let endpoint = sources.endpoints[target] { values.add(endpoint) }
        values[.datagramsDropped, DropReason.forgedLimit.rawValue] &+=
            sources.recordsWithConnectionIDs.limitedByTarget[target] ?? 0
        for state in ConnectionState.allCases {
            values[.connections, state.rawValue] = UInt64(max(0, sources.occupancy[target, state]))
        }
        return values
    }

    private func mainValues(_ sources: Sources) -> CounterValues<ProcessCounter> {
        var values = main.process.values
        values[.workersStarted] = sources.totals.started
        values[.workersDied] = sources.totals.died
        values[.connectionsLost] = sources.totals.connectionsLost
        values[.recordsOfOtherMachines] = sources.recordsWithConnectionIDs.ofOtherMachines
        return values
    }
}

extension CounterValues<TargetCounter> {
    /// Adds what a listener has counted.
    fileprivate mutating func add(_ endpoint: Endpoint.Counters) {
        self[.clientHellos] &+= endpoint.hellos
        self[.cookiesSent] &+= endpoint.hellosAnswered &- endpoint.unsent
        for refusal in Refusal.allCases { self[.refusals, refusal.rawValue] &+= endpoint.refused[refusal] }
        let dropped: [(DropReason, UInt64)] = [
            (.malformedHello, endpoint.malformed), (.repeatedHello, endpoint.repeated),
            (.wrongCookie, endpoint.wrongCookies), (.noConnection, endpoint.ofNoConnection),
            (.unrelated, endpoint.unrelated), (.unsent, endpoint.unsent),
        ]
        for (reason, count) in dropped { self[.datagramsDropped, reason.rawValue] &+= count }
    }
}

extension CounterValues<ListenerCounter> {
    fileprivate init(_ endpoint: Endpoint.Counters, queueDrops: UInt64) {
        self.init()
        self[.datagramsReceived] = endpoint.datagrams
        self[.bytesReceived] = endpoint.bytes
        self[.clientHellos] = endpoint.hellos
        self[.cookiesSent] = endpoint.hellosAnswered &- endpoint.unsent
        self[.admitted] = endpoint.admitted
        self[.refusals] = endpoint.refused.total
        self[.dropped] =
            endpoint.malformed &+ endpoint.repeated &+ endpoint.wrongCookies &+ endpoint.ofNoConnection
            &+ endpoint.unrelated
        self[.queueDrops] = queueDrops
    }
}

extension CounterRegistry.Sources {
    init(_ listeners: ListenerSet, _ workers: WorkerSupervisor, _ dispatcher: ConnectionDispatcher) {
        endpoints = listeners.countersByTarget
        self.listeners = listeners.all.map { listener, slotTarget in
            Listener(
                address: listener.address, slotTarget: slotTarget, counters: listener.counters,
                queueDrops: listener.queueDrops)
        }
        self.workers = workers.pool.workers.map { ($0.number, $0.pid, $0.table) }
        totals = workers.pool.totals
        occupancy = workers.connections.occupancy
        recordsWithConnectionIDs = dispatcher.recordsWithConnectionIDs
    }
}
