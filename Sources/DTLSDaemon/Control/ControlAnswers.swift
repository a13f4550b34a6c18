import ControlProtocol
import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// What the answers to queries say.
extension Control {
    private var lifecycle: Lifecycle<ActiveConfiguration> { acceptor.lifecycle }
    private var configuration: Configuration? { lifecycle.active?.configuration }
    private var table: ConnectionTable { acceptor.workers.connections }

    // MARK: Status

    var status: StatusResult {
        let snapshot = acceptor.counterSnapshot
        let tables = configuration?.targets ?? []
        let names = Dictionary(tables.map { ($0.0, $0.1.name) }, uniquingKeysWith: { $1 })
        return StatusResult(
            version: ProgramVersion.current, pid: getpid(), sinceAt: Timestamp.text(startedAt),
            uptimeSeconds: Double(startedAt.duration(to: .now()).milliseconds) / 1_000, openssl: OpenSSLVersion.text,
            phase: lifecycle.phaseName, isReady: lifecycle.serves,
            configuration: ConfigurationStatus(
                file: acceptor.configurationFile, loadedAt: loadedAt.map(Timestamp.text),
                warnings: configuration?.warnings.map { "\($0)" } ?? [], failedAt: failedAt.map(Timestamp.text),
                problems: lifecycle.problems),
            logLevel: logLevel, traces: traceStatus,
            connections: ConnectionCounts(
                open: table.count, handshaking: acceptor.dispatcher.handshakes, parked: table.countWithoutSockets),
            listeners: acceptor.listeners.opened.map { address, target in
                let isService = if case .service = target { true } else { false }
                return ListenerStatus(
                    address: "\(address)", service: isService ? names[target] : nil,
                    client: isService ? nil : names[target],
                    counters: snapshot.listeners.first { $0.address == address }.map { Self.values($0.values) } ?? [:])
            },
            services: configuration?.services.map { service($0, snapshot) } ?? [],
            clients: configuration?.clients.map { client($0, snapshot) } ?? [],
            workers: acceptor.workers.pool.workers.map { worker($0, snapshot) },
            certificates: status(.certificate), revocationLists: status(.revocationList),
            ocspResponses: status(.ocspResponse),
            main: Self.values(snapshot.main))
    }

    private func service(_ service: ServiceConfiguration, _ snapshot: CounterSnapshot) -> TargetStatus {
        let values = snapshot.services[service.name] ?? [:]
        var backends: [BackendStatus] = []
        let handler: String
        switch service.handler {
        case .echo: handler = "echo"
        case .exec: handler = "exec"
        case .log: handler = "log"
        case .forward(let forward):
            handler = "forward"
            backends = forward.numberedBackends.enumerated().map { number, item in
                let check = checkState(of: item.backend, of: service.name)
                let state = Self.state(of: number, snapshot.backends[service.name])
                return BackendStatus(
                    address: item.backend.name, rule: item.rule, state: Self.state(state, check),
                    resolved: item.backend.host.map { resolved($0.name) },
                    checkFailure: check.flatMap { if case .down(let reason) = $0 { reason } else { nil } })
            }
        }
        return TargetStatus(
            name: service.name, handler: handler, listen: addresses(service.listen, .service, service.name),
            connections: counts(values), counters: Self.values(values), backends: backends)
    }

    private func client(_ client: ClientConfiguration, _ snapshot: CounterSnapshot) -> TargetStatus {
        let values = snapshot.clients[client.name] ?? [:]
        var hasReached = false
        if case .number(let opened)? = values["connections_opened_total"] { hasReached = opened > 0 }
        return TargetStatus(
            name: client.name, handler: "client", listen: addresses(client.listen, .client, client.name),
            connections: counts(values), counters: Self.values(values),
            backends: [
                BackendStatus(
                    address: "\(client.server)",
                    state: snapshot.serversOut.contains(client.name) ? "down" : hasReached ? "up" : "unknown",
                    resolved: client.host.map(resolved))
            ])
    }

    /// The addresses of a host name.
    private func resolved(_ host: String) -> [String] { acceptor.names.table.addresses(of: host).map(\.host) }

    /// The addresses that a table listens on, those of sockets that the service manager has passed in included.
    private func addresses(
        _ configured: [SocketAddress], _ kind: ListeningTable.Kind, _ name: String
    ) -> [String] {
        let targets = configuration?.targets ?? []
        let open = acceptor.listeners.opened.filter { _, target in
            targets.contains { $0.0 == target && $0.1.kind == kind && $0.1.name == name }
        }
        return (open.isEmpty ? configured : open.map(\.address)).map { "\($0)" }
    }

    /// How many connections there are, by the counters of all processes.
    private func counts(_ values: CounterSnapshot.Values) -> ConnectionCounts {
        guard case .labelled(let numbers)? = values["connections"] else {
            return ConnectionCounts(open: 0, handshaking: 0, parked: 0)
        }
        return ConnectionCounts(
            open: Int(clamping: numbers.values.reduce(0, &+)), handshaking: Int(clamping: numbers["handshaking"] ?? 0),
            parked: Int(clamping: numbers["parked"] ?? 0))
    }

    /// What the checks of a backend have found out; of a host name, about all its addresses together. `nil` where none is
    /// checked.
    private func checkState(of backend: Backend, of service: String) -> CheckTable.State? {
        let states = backend.addresses(acceptor.names.table).compactMap { address in
            acceptor.checker.table.state(of: CheckTable.Target(service: service, address: address))
        }
        return states.first { $0 == .up } ?? states.first { $0 == .untested } ?? states.first
    }

    /// What workers and checks say together.
    private static func state(_ state: String, _ check: CheckTable.State?) -> String {
        switch check {
        case .down?: "down"
        case .up?: state == "down" ? state : "up"
        case .untested?, nil: state
        }
    }

    /// What workers have found out about a backend; there are bits for 64 of them.
    private static func state(of number: Int, _ states: CounterSnapshot.BackendStates?) -> String {
        guard let states, number < UInt64.bitWidth else { return "unknown" }
        if states.out >> UInt64(number) & 1 == 1 { return "down" }
        return states.up >> UInt64(number) & 1 == 1 ? "up" : "unknown"
    }

    /// What expires of the active configuration.
    private func status(_ content: ExpiringCredential.Content) -> [CertificateStatus] {
        acceptor.expiries.credentials.filter { $0.content == content }.map { credential in
            CertificateStatus(
                service: credential.kind == .service ? credential.owner : nil,
                client: credential.kind == .client ? credential.owner : nil, name: credential.host,
                subject: credential.subject, notAfterAt: Timestamp.text(credential.notAfter),
                daysLeft: credential.daysLeft(at: .now()))
        }
    }

    private func worker(_ worker: WorkerPool.Worker, _ snapshot: CounterSnapshot) -> WorkerStatus {
        let slots = table[worker.table]
        let values = snapshot.workers.first { $0.processID == worker.pid }?.values ?? [:]
        func number(_ name: String) -> UInt64? {
            if case .number(let number)? = values[name] { number } else { nil }
        }
        let age = max(0, (acceptor.loop.now - worker.startedAt).seconds)
        return WorkerStatus(
            number: worker.number, pid: worker.pid,
            sinceAt: Timestamp.text(UnixTime(seconds: UnixTime.now().seconds - Int64(age))),
            state: worker.state.rawValue, connections: slots?.count ?? 0, sockets: slots?.countWithSockets ?? 0,
            memoryBytes: number("resident_memory_bytes"), openFiles: number("open_fds").map { Int(clamping: $0) },
            openFilesLimit: number("max_fds").map { Int(clamping: $0) }, counters: Self.values(values))
    }

    // MARK: Counters

    var counters: CountersResult {
        let snapshot = acceptor.counterSnapshot
        return CountersResult(
            sinceAt: Timestamp.text(startedAt), services: snapshot.services.mapValues(Self.values),
            clients: snapshot.clients.mapValues(Self.values),
            listeners: snapshot.listeners.map {
                ListenerCounters(
                    address: "\($0.address)", service: $0.isService ? $0.name : nil,
                    client: $0.isService ? nil : $0.name, counters: Self.values($0.values))
            },
            workers: snapshot.workers.map { WorkerCounters(number: $0.number, counters: Self.values($0.values)) },
            main: Self.values(snapshot.main),
            descriptions: Dictionary(
                CounterSnapshot.families.map { ($0.name, Self.description(of: $0)) }, uniquingKeysWith: { $1 }))
    }

    private static func values(_ values: CounterSnapshot.Values) -> [String: CounterValue] {
        values.mapValues { value in
            switch value {
            case .number(let number): .number(number)
            case .labelled(let numbers): .labelled(numbers)
            case .histogram(let histogram):
                .histogram(
                    CounterHistogram(
                        boundsSeconds: CounterSnapshot.Histogram.boundsSeconds, counts: histogram.counts,
                        sumSeconds: histogram.sumSeconds))
            }
        }
    }

    private static func description(of family: CounterFamily) -> CounterDescription {
        let kind: CounterDescription.Kind =
            switch family.kind {
            case .counter: .counter
            case .gauge: .gauge
            case .histogram: .histogram
            }
        return CounterDescription(kind: kind, help: family.help + ".", unit: family.unit, label: family.label)
    }

    // MARK: Connections

    /// A connection as lists have it; `nil` where it has ended meanwhile.
    func summary(_ connection: ConnectionNumber) -> ConnectionSummary? {
        guard table.contains(connection), let slots = table[connection.worker], let flow = slots[connection].lastFlow
        else { return nil }
        let slot = slots[connection]
        let state = ConnectionWalk.state(of: connection, in: slots)
        let session = slot.phase == .established || slot.phase == .bound ? slot.session : nil
        let counters = slot.counters
        let now = acceptor.loop.now
        let name = name(of: slot.target)
        let isService = SlotTarget.isService(slot.target)
        return ConnectionSummary(
            connection: connection.text, service: isService ? name : nil, client: isService ? nil : name,
            peer: "\(flow.peer)", local: "\(flow.local)", state: state,
            worker: acceptor.workers.pool.number(ofTable: connection.worker),
            ageSeconds: Self.seconds(since: slot.started, now),
            idleSeconds: Self.seconds(since: slot.lastReceived, now),
            receivedBytes: counters.bytesIn, sentBytes: counters.bytesOut, receivedMessages: counters.messagesIn,
            sentMessages: counters.messagesOut, identity: session?.peerName?.name, label: session?.label,
            version: session?.version, cipher: session?.cipher)
    }

    /// The rule that a connection's backend is of; `nil` where it is of none, or of one that is gone.
    private func rule(_ slot: ConnectionSlot) -> String? {
        guard SlotTarget.isService(slot.target), slot.farGroup != 0,
            let service = configuration?.services.first(where: { SlotTarget.service($0.name) == slot.target }),
            case .forward(let forward) = service.handler
        else { return nil }
        return forward.rules.first { ForwardRule.mark($0.name) == slot.farGroup }?.name
    }

    private static func seconds(since start: Instant, _ now: Instant) -> Double {
        Double(max(0, (now - start).milliseconds)) / 1_000
    }

    private func name(of target: UInt64) -> String? {
        configuration?.listeningTables.first { $0.slotTarget == target }?.name
    }

    /// All that is known of a connection; `nil` where it has ended meanwhile.
    func details(of connection: ConnectionNumber) -> ConnectionResult? {
        guard let summary = summary(connection), let slot = table.slot(of: connection) else { return nil }
        let startedAt = UnixTime(seconds: UnixTime.now().seconds - Int64(summary.ageSeconds))
        var result = ConnectionResult(summary: summary, startedAt: Timestamp.text(startedAt))
        let counters = slot.counters
        result.unsentMessages = counters.unsent
        result.tooLargeMessages = counters.tooLarge
        result.workerDeaths = slot.deaths
        switch slot.farSide {
        case .none: break
        case .udp(let address, let local):
            result.backend = "\(address)"
            result.backendLocal = "\(local)"
        case .unix: result.backend = "unix"
        }
        result.rule = rule(slot)
        guard slot.phase == .established || slot.phase == .bound else { return result }
        result.handshakeSeconds = Double(slot.handshakeDuration.nanoseconds) / 1e9
        result.isMovable = slot.phase == .established
        if let session = slot.session {
            result.isResumed = session.isResumed
            result.serverName = session.serverName
            result.applicationProtocol = session.applicationProtocol
            result.pskIdentity = session.peerName?.presharedKeyIdentity
            if let name = session.peerName, let keyName = name.publicKeyName {
                result.publicKey = PeerPublicKey(name: keyName, fingerprint: name.fingerprint)
            } else if let name = session.peerName, name.fingerprint != nil {
                result.certificate = PeerCertificate(
                    commonName: name.commonName, subject: name.subject, fingerprint: name.fingerprint)
            }
        }
        guard slot.phase == .established else { return result }
        result.hasLeftAddress = slot.flow == nil
        let records = RecordState.Summary(of: slot.records)
        if let ids = records.connectionIDs {
            result.ownConnectionID = ids.own.isEmpty ? nil : "\(ids.own)"
            result.peerConnectionID = ids.peer.isEmpty ? nil : "\(ids.peer)"
        }
        result.checksReturnRoutability = records.checksReturnRoutability
        result.epoch = records.epoch
        result.sentRecords = records.sent
        result.highestReceivedRecord = records.highestReceived
        return result
    }
}

extension ConnectionNumber {
    /// As lists and logs name it: 16 hexadecimal digits.
    var text: String {
        let digits = String(rawValue, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

extension Lifecycle {
    /// The phase in a word, as the control protocol has it.
    var phaseName: String {
        switch phase {
        case .loading: "loading"
        case .starting: "starting"
        case .serving: "serving"
        case .reading, .distributing: "reloading"
        case .upgrading: "upgrading"
        case .stopping: "stopping"
        }
    }

    /// Whether clients are served.
    var serves: Bool {
        switch phase {
        case .serving, .reading, .distributing, .upgrading: true
        case .loading, .starting, .stopping: false
        }
    }
}
