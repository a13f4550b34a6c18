import ControlProtocol
import Primitives

/// What a daemon has answered when it was asked for everything.
struct DaemonAnswer {
    var status: StatusResult
    var counters: CountersResult
    /// From the question to the end of the answer.
    var duration: Duration
}

extension MetricsDocument {
    /// The metrics of a daemon.
    /// - Parameter answer: `nil` where the daemon does not answer.
    init(_ answer: DaemonAnswer?) {
        add(
            .gauge, "up", "Whether dtlsd has answered over its control socket when the exporter was asked.",
            [], answer == nil ? 0 : 1)
        guard let answer else { return }
        add(
            .gauge, "exporter_answer_duration_seconds", "Time that dtlsd has taken to answer the exporter.",
            unit: "seconds", measure: Double(answer.duration.nanoseconds) / 1e9)
        addDaemon(answer.status)
        addCounters(answer.counters)
        for service in answer.status.services { addBackends(of: service, label: "service") }
        for client in answer.status.clients { addBackends(of: client, label: "client") }
        for worker in answer.status.workers { addState(of: worker) }
        addCertificates(answer.status.certificates)
    }

    private mutating func addDaemon(_ status: StatusResult) {
        // The convention for what is no number: a gauge that is always 1, whose labels say it.
        add(
            .gauge, "build_info", "The versions of dtlsd and of the OpenSSL that it uses.",
            [("version", status.version), ("openssl", status.openssl)], 1)
        add(.gauge, "ready", "Whether clients are served.", [], status.isReady ? 1 : 0)
        addTime("start_time_seconds", "When the main process was started, in seconds since 1970.", [], status.sinceAt)
        if let loadedAt = status.configuration.loadedAt {
            addTime(
                "configuration_loaded_timestamp_seconds",
                "When the active configuration was activated, in seconds since 1970.", [], loadedAt)
        }
        add(
            .gauge, "last_reload_successful",
            "Whether the last reload or upgrade has succeeded; 1 where there was none.",
            [], status.configuration.failedAt == nil ? 1 : 0)
        add(
            .gauge, "configuration_warnings", "Warnings about the active configuration; dtls status has their text.",
            [], UInt64(status.configuration.warnings.count))
    }

    private mutating func addCounters(_ counters: CountersResult) {
        for (name, values) in counters.services.sorted(by: { $0.key < $1.key }) {
            addAll(values, [("service", name)], counters.descriptions)
        }
        for (name, values) in counters.clients.sorted(by: { $0.key < $1.key }) {
            addAll(values, [("client", name)], counters.descriptions)
        }
        for listener in counters.listeners {
            var labels: Labels = [("address", listener.address)]
            if let service = listener.service { labels.append(("service", service)) }
            if let client = listener.client { labels.append(("client", client)) }
            addAll(listener.counters, labels, counters.descriptions)
        }
        addAll(counters.main, [("process", "main")], counters.descriptions)
        // What a worker has counted for its services is in their counters already, and a sum over all series of one name
        // must not count it twice.
        let ofTargets = Set((counters.services.values + Array(counters.clients.values)).flatMap(\.keys))
        for worker in counters.workers {
            let own = worker.counters.filter { !ofTargets.contains($0.key) }
            addAll(own, [("process", "worker \(worker.number)")], counters.descriptions)
            for (name, value) in worker.counters.sorted(by: { $0.key < $1.key })
            where ofTargets.contains(name) && Self.isOfEachWorker(name, value) {
                addCounter(
                    "worker_" + name, value, [("worker", "\(worker.number)")], counters.descriptions[name],
                    help: "Of each worker: ")
            }
        }
    }

    /// Tables of ciphers, alerts and reasons are there for each service. For each worker, too, they would be some hundred
    /// series more, which tell nothing about a worker.
    private static func isOfEachWorker(_ name: String, _ value: CounterValue) -> Bool {
        switch value {
        case .number, .measure, .histogram: true
        case .labelled: name == "handshakes_total" || name == "connections"
        }
    }

    private mutating func addAll(
        _ values: CounterValues, _ labels: Labels, _ descriptions: [String: CounterDescription]
    ) {
        for (name, value) in values.sorted(by: { $0.key < $1.key }) {
            addCounter(name, value, labels, descriptions[name])
        }
    }

    private mutating func addCounter(
        _ name: String, _ value: CounterValue, _ labels: Labels, _ description: CounterDescription?,
        help prefix: String = ""
    ) {
        let help = prefix + (description?.help ?? "A counter of dtlsd.")
        // A daemon always describes its counters; the name says nearly as much.
        let kind =
            description.flatMap { Kind(rawValue: $0.kind.rawValue) } ?? (name.hasSuffix("_total") ? .counter : .gauge)
        switch value {
        case .number(let number): add(kind, name, help, unit: description?.unit, labels, number)
        case .measure(let measure): add(kind, name, help, unit: description?.unit, labels, measure: measure)
        case .labelled(let numbers):
            for (key, number) in numbers.sorted(by: { $0.key < $1.key }) {
                add(
                    kind, name, help, unit: description?.unit, labels + [(description?.label ?? "label", key)], number)
            }
        case .histogram(let histogram):
            add(
                histogram: name, help, unit: description?.unit, labels, bounds: histogram.boundsSeconds,
                counts: histogram.counts, sum: histogram.sumSeconds)
        }
    }

    private mutating func addBackends(of target: TargetStatus, label: String) {
        for backend in target.backends {
            let rule: Labels = backend.rule.map { [("rule", $0)] } ?? []
            for state in ["up", "down", "unknown"] {
                add(
                    .gauge, "backend_state",
                    "1 for the state of the backend: down where it refuses datagrams to a worker or its health checks fail, unknown where nobody has tried it.",
                    [(label, target.name)] + rule + [("backend", backend.address), ("state", state)],
                    backend.state == state ? 1 : 0)
            }
        }
    }

    private mutating func addState(of worker: WorkerStatus) {
        let labels: Labels = [("worker", "\(worker.number)")]
        add(.gauge, "worker_serving", "Whether the worker serves clients.", labels, worker.state == "serving" ? 1 : 0)
        add(
            .gauge, "worker_sockets", "Connections of the worker that have a socket.", labels,
            UInt64(clamping: worker.sockets))
        addTime(
            "worker_start_time_seconds", "When the worker's process was started, in seconds since 1970.", labels,
            worker.sinceAt)
    }

    /// One series for each certificate that is configured in one place; where it has two, RSA and ECDSA side by side, the
    /// one that expires first.
    private mutating func addCertificates(_ certificates: [CertificateStatus]) {
        for certificate in certificates.sorted(by: { $0.daysLeft < $1.daysLeft }) {
            var labels: Labels = []
            if let service = certificate.service { labels.append(("service", service)) }
            if let client = certificate.client { labels.append(("client", client)) }
            labels.append(("name", certificate.name ?? ""))
            addTime(
                "certificate_expiry_timestamp_seconds",
                "When the certificate expires, in seconds since 1970; of several for one name, the first that does.",
                labels, certificate.notAfterAt)
        }
    }

    private mutating func addTime(_ name: String, _ help: String, _ labels: Labels, _ text: String) {
        guard let time = Timestamp.time(text) else { return }
        add(.gauge, name, help, unit: "seconds", labels, measure: Double(time.seconds))
    }
}
