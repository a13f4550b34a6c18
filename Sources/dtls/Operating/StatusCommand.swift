import ArgumentParser
import ControlProtocol

struct StatusCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Show how dtlsd is and what it serves.",
        discussion: """
            The exit status is 0, or 3 if no daemon answers. With --ready it is 4 if the daemon answers but does not serve \
            clients, so that it can be the health check of a container.
            """)

    @Flag(help: "Only say whether clients are served, by one line and by the exit status.")
    var ready = false
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.status)
        let status: StatusResult = try reply.decoded()
        if output.json {
            try console.write(reply.json + "\n")
        } else if !ready {
            try console.print(StatusReport(status).lines(width: console.width))
        } else if status.isReady {
            try console.print("ready")
        }
        if ready, !status.isReady { throw ToolFailure(.notReady, "dtlsd is not ready: it is \(status.phase).") }
    }
}

/// What `dtls status` prints.
struct StatusReport {
    private let status: StatusResult

    init(_ status: StatusResult) { self.status = status }

    /// - Parameter width: columns of the terminal; `nil` where nothing may be cut.
    func lines(width: Int?) -> [StyledLine] {
        var lines = summary.map { line in width.map(line.cut(to:)) ?? line }
        for (title, table) in [
            ("Services", targets(status.services)), ("Clients", targets(status.clients)), ("Backends", backends),
            ("Workers", workers), ("Listeners", listeners), ("Certificates", certificates(status.certificates)),
            ("Revocation lists", certificates(status.revocationLists ?? [], subject: "ISSUER")),
            ("OCSP responses", certificates(status.ocspResponses ?? [])),
        ] where !table.isEmpty {
            lines += [.empty, StyledLine(title, .dim)] + table.lines(width: width)
        }
        return lines
    }

    // MARK: What stands above the tables

    private var summary: [StyledLine] {
        var lines = [head]
        let configuration = status.configuration
        func add(_ label: String, _ text: String, _ style: Style = .plain) {
            var line = StyledLine(label + String(repeating: " ", count: max(1, 16 - label.count)), .dim)
            line.append(text, style)
            lines.append(line)
        }
        add("Process", "\(status.pid), since \(status.sinceAt); \(status.openssl)")
        add(
            "Configuration",
            configuration.file + (configuration.loadedAt.map { ", loaded \($0)" } ?? ", not loaded yet"))
        if let failedAt = configuration.failedAt {
            add("Reload failed", "\(failedAt): the configuration above still holds", .bad)
        }
        for problem in configuration.problems { add("", problem, .bad) }
        for warning in configuration.warnings { add("Warning", warning, .warning) }
        let level = status.logLevel
        add(
            "Log level", level.level + (level.untilAt.map { ", until \($0)" } ?? ""),
            level.untilAt == nil ? .plain : .warning)
        for trace in status.traces { add("Trace", "\(trace.address), until \(trace.untilAt)", .warning) }
        let counts = status.connections
        add(
            "Connections",
            "\(Quantity.count(counts.open)), of which \(Quantity.things(counts.handshaking, "is in a handshake", "are in handshakes"))"
                + " and \(Quantity.things(counts.parked, "is parked", "are parked"))")
        return lines
    }

    private var head: StyledLine {
        var line = StyledLine("dtlsd \(status.version)", .strong)
        line.append(" is ")
        let isAsUsual = status.isReady && status.phase == "serving"
        line.append(
            isAsUsual ? "ready" : status.isReady ? "ready (\(status.phase))" : "not ready: \(status.phase)",
            isAsUsual ? .good : status.isReady ? .warning : .bad)
        line.append(", up \(Quantity.duration(seconds: status.uptimeSeconds))")
        return line
    }

    // MARK: Tables

    private func targets(_ targets: [TargetStatus]) -> TextTable {
        var table = TextTable([
            .text("NAME"), .text("HANDLER"), .text("LISTEN", isFlexible: true), .number("OPEN"),
            .number("HANDSHAKING", short: "HS"), .number("PARKED", short: "PARK"),
            .number("HANDSHAKES", short: "DONE"), .number("FAILED", short: "FAIL"),
            .number("REFUSED", short: "REFU"), .number("DROPPED", short: "DROP"),
            .number("RECEIVED", short: "RECV"), .number("SENT"),
        ])
        for target in targets {
            let counters = target.counters
            table.add([
                .init(target.name, .strong), .init(target.handler), .init(target.listen.joined(separator: " ")),
                .init(Quantity.count(target.connections.open)), .init(Quantity.count(target.connections.handshaking)),
                .init(Quantity.count(target.connections.parked)), .init(counters.handshakes.map(Quantity.count)),
                .init(
                    counters["handshakes_total"].map { _ in
                        Quantity.count(counters.failedHandshakes.values.reduce(0, &+))
                    }),
                .init(counters.total("refusals_total").map(Quantity.count)),
                .init(counters.total("datagrams_dropped_total").map(Quantity.count)),
                .init(counters.total("message_received_bytes_total").map(Quantity.bytes)),
                .init(counters.total("message_sent_bytes_total").map(Quantity.bytes)),
            ])
        }
        return table
    }

    private var backends: TextTable {
        let targets = status.services + status.clients
        let hasNames = targets.contains { $0.backends.contains { $0.resolved != nil } }
        let hasFailures = targets.contains { $0.backends.contains { $0.checkFailure != nil } }
        let hasRules = targets.contains { $0.backends.contains { $0.rule != nil } }
        var table = TextTable(
            [.text("OF")] + (hasRules ? [.text("RULE")] : [])
                + [.text("BACKEND", isFlexible: true), .text("STATE")]
                + (hasNames ? [.text("ADDRESSES", isFlexible: true)] : [])
                + (hasFailures ? [.text("LAST CHECK", isFlexible: true)] : []))
        for target in targets {
            for backend in target.backends {
                let addresses = backend.resolved.map { $0.isEmpty ? "unresolved" : $0.joined(separator: " ") }
                table.add(
                    [.init(target.name, .strong)] + (hasRules ? [.init(backend.rule ?? "")] : [])
                        + [
                            .init(backend.address),
                            .init(backend.state, backend.state == "down" ? .bad : .plain),
                        ] + (hasNames ? [.init(addresses ?? "", backend.resolved == [] ? .bad : .plain)] : [])
                        + (hasFailures ? [.init(backend.checkFailure ?? "")] : []))
            }
        }
        return table
    }

    private var workers: TextTable {
        var table = TextTable([
            .number("WORKER", short: "W"), .number("PID"), .text("STATE"), .text("SINCE"),
            .number("CONNECTIONS", short: "CONN"), .number("SOCKETS", short: "SOCK"),
            .number("MEMORY", short: "MEM"), .number("FILES"), .number("OF"), .number("LOOP 99%", short: "LOOP"),
        ])
        for worker in status.workers {
            table.add([
                .init("\(worker.number)", .strong), .init("\(worker.pid)"),
                .init(worker.state, worker.state == "serving" ? .plain : .warning), .init(worker.sinceAt),
                .init(Quantity.count(worker.connections)), .init(Quantity.count(worker.sockets)),
                .init(worker.memoryBytes.map(Quantity.bytes)), .init(worker.openFiles.map(Quantity.count)),
                .init(worker.openFilesLimit.map(Quantity.count)),
                .init(worker.counters.histogram("loop_turn_duration_seconds")?.quantileText(0.99)),
            ])
        }
        return table
    }

    private var listeners: TextTable {
        var table = TextTable([
            .text("ADDRESS"), .text("OF"), .number("HELLOS"), .number("COOKIES"),
            .number("ADMITTED", short: "ADMIT"), .number("REFUSED", short: "REFU"),
            .number("DROPPED", short: "DROP"), .number("LOST IN QUEUE", short: "LOST"),
        ])
        for listener in status.listeners {
            let counters = listener.counters
            let lost = counters.total("listener_queue_drops_total")
            table.add([
                .init(listener.address), .init(listener.service ?? listener.client, .strong),
                .init(counters.total("listener_client_hellos_total").map(Quantity.count)),
                .init(counters.total("listener_cookies_sent_total").map(Quantity.count)),
                .init(counters.total("listener_connections_total").map(Quantity.count)),
                .init(counters.total("listener_refusals_total").map(Quantity.count)),
                .init(counters.total("listener_datagrams_dropped_total").map(Quantity.count)),
                .init(lost.map(Quantity.count), lost ?? 0 > 0 ? .warning : .plain),
            ])
        }
        return table
    }

    private func certificates(_ certificates: [CertificateStatus], subject: String = "SUBJECT") -> TextTable {
        var table = TextTable([
            .text("OF"), .text("NAME"), .text(subject, isFlexible: true), .text("NOT AFTER"), .number("DAYS LEFT"),
        ])
        for certificate in certificates {
            let days = certificate.daysLeft
            table.add([
                .init(certificate.service ?? certificate.client, .strong), .init(certificate.name ?? ""),
                .init(certificate.subject), .init(certificate.notAfterAt),
                .init(Quantity.count(days), days < 7 ? .bad : days < 30 ? .warning : .plain),
            ])
        }
        return table
    }
}
