import ControlProtocol
import Primitives

/// The picture of a ``TopModel``: a function of the model, the size of the terminal and the time.
struct TopScreen {
    private let model: TopModel
    private let size: TerminalSize
    private let now: Instant

    private static let footerRows = 1
    /// What the lists of connections have at least, if there are as many.
    private static let leastConnections = 4
    private static let troubleRows = 6

    init(_ model: TopModel, size: TerminalSize, at now: Instant) {
        self.model = model
        self.size = size
        self.now = now
    }

    /// As many lines as the terminal has rows, none of which is wider than it.
    var lines: [StyledLine] {
        guard size.columns >= 20, size.rows >= 5 else {
            return filled([StyledLine("The terminal is too small.").cut(to: size.columns)])
        }
        let header = header.map { $0.cut(to: size.columns) }
        let document = document.dropFirst(min(max(model.scroll, 0), mostScroll)).prefix(documentRows)
        return filled(header + document, below: [footer.cut(to: size.columns)])
    }

    /// The most lines that the document may be scrolled by.
    var mostScroll: Int { max(0, document.count - documentRows) }

    private var documentRows: Int { size.rows - header.count - Self.footerRows }

    private func filled(_ above: [StyledLine], below: [StyledLine] = []) -> [StyledLine] {
        let missing = max(0, size.rows - above.count - below.count)
        return Array((above + Array(repeating: .empty, count: missing) + below).prefix(size.rows))
    }

    // MARK: Header and footer

    private var header: [StyledLine] {
        var lines: [StyledLine] = []
        if let status = model.status {
            var first = StyledLine("dtlsd \(status.version)", .strong)
            first.append(" ")
            first.append(status.phase, status.isReady ? .good : .bad)
            first.append(", up \(Quantity.duration(seconds: status.uptimeSeconds)), process \(status.pid)")
            if model.isPaused { first.append("  PAUSED", .warning) }
            lines.append(first)
            let counts = status.connections
            lines.append(
                StyledLine(
                    "\(Quantity.things(counts.open, "connection")), \(Quantity.count(counts.handshaking)) handshaking,"
                        + " \(Quantity.count(counts.parked)) parked; \(Quantity.things(status.workers.count, "worker"))"
                ))
        } else {
            lines = ["dtls top", ""]
        }
        switch model.link {
        case .waiting: lines.append(StyledLine("Waiting for dtlsd.", .dim))
        case .lost(let since, let reason):
            let seconds = Double((now - since).nanoseconds) / 1e9
            var line = StyledLine("dtlsd does not answer", .bad)
            line.append(" (for \(TimeSpan(seconds: seconds.rounded()))); trying again. \(reason)")
            lines.append(line)
        case .answering:
            if let failedAt = model.status?.configuration.failedAt {
                lines.append(StyledLine("The last reload has failed at \(failedAt); 'dtls status' says why.", .warning))
            }
        }
        return lines + [.empty]
    }

    private var footer: StyledLine {
        if case .filter(let text) = model.mode {
            return StyledLine("Service or client (empty: all): ", .strong) + StyledLine("\(text)_")
        }
        if let notice = model.notice { return StyledLine(notice, .warning) }
        var line = StyledLine.empty
        for (key, meaning) in [
            ("q", "quit"), ("s", "sort: \(model.sort.rawValue)"), ("f", "filter: \(model.target?.name ?? "all")"),
            ("p", model.isPaused ? "go on" : "pause"), ("?", "help"),
        ] {
            if !line.spans.isEmpty { line.append("   ") }
            line.append(key, .strong)
            line.append(" \(meaning)")
        }
        if mostScroll > 0 { line.append("   ↑↓ \(min(max(model.scroll, 0), mostScroll))/\(mostScroll)", .dim) }
        return line
    }

    // MARK: Document

    private static let help: [StyledLine] = [
        "q            quit",
        "s            sort by the next of: traffic, connections, handshakes, refused, name",
        "f            show one service or client alone: type its name, or its beginning",
        "Esc          show all again",
        "p            pause, and go on",
        "space        ask dtlsd now",
        "↑ ↓ j k      scroll by a line; PgUp and PgDn by ten; Home and End",
        "Ctrl-L       draw the screen again",
        "",
        "Rates are per second, between the last two answers of dtlsd. RECEIVED and SENT are",
        "the bytes of messages. LOOP 99% is what a turn of the worker's event loop has taken",
        "at most, but for one turn in a hundred: what comes meanwhile waits. On a narrow",
        "terminal HS is short for handshakes, REFU for refused, and IN and OUT count messages.",
        "",
        "Any key leads back.",
    ]

    private var document: [StyledLine] {
        if model.mode == .help { return Self.help.map { $0.cut(to: size.columns) } }
        guard model.status != nil else { return [] }
        var lines = targets.lines(width: size.columns) + [.empty] + workers.lines(width: size.columns)
        let troubles = model.troubles
        if !troubles.isEmpty {
            lines += [.empty] + table(troubles.prefix(Self.troubleRows)).lines(width: size.columns)
        }
        // Two thirds of what is left are for the busiest connections, without the headings and empty lines.
        let left = size.rows - header.count - Self.footerRows - lines.count - 4
        let newestRows = max(Self.leastConnections, left / 3)
        let busiestRows = max(Self.leastConnections, left - newestRows)
        lines += [.empty] + busiest(busiestRows).lines(width: size.columns)
        lines += [.empty] + newest(newestRows).lines(width: size.columns)
        return lines
    }

    private func rate(_ rate: Double?) -> TextTable.Cell { .init(rate.map(Quantity.rate)) }
    private func byteRate(_ rate: Double?) -> TextTable.Cell { .init(rate.map { Quantity.bytes($0) }) }

    /// A rate of what should not be there.
    private func alarm(_ rate: Double?) -> TextTable.Cell {
        .init(rate.map(Quantity.rate), rate ?? 0 > 0 ? .warning : .plain)
    }

    private var targets: TextTable {
        var table = TextTable([
            .text("SERVICE", isFlexible: true), .number("OPEN"), .number("HANDSHAKING", short: "HS"),
            .number("PARKED", short: "PARK"), .number("HANDSHAKES/s", short: "HS/s"),
            .number("FAILED/s", short: "FAIL/s"), .number("REFUSED/s", short: "REFU/s"),
            .number("MSG IN/s", short: "IN/s"), .number("MSG OUT/s", short: "OUT/s"),
            .number("RECEIVED/s", short: "RECV/s"), .number("SENT/s"),
        ])
        for target in model.targetRates {
            let rates = target.rates
            table.add([
                .init(target.name, .strong), .init(Quantity.count(target.connections.open)),
                .init(Quantity.count(target.connections.handshaking)),
                .init(Quantity.count(target.connections.parked)), rate(rates.handshakes), alarm(rates.failures),
                alarm(rates.refusals), rate(rates.messagesReceived), rate(rates.messagesSent),
                byteRate(rates.bytesReceived), byteRate(rates.bytesSent),
            ])
        }
        return table
    }

    private var workers: TextTable {
        var table = TextTable([
            .number("WORKER", short: "W"), .number("PID"), .text("STATE"), .number("OPEN"),
            .number("SOCKETS", short: "SOCK"), .number("HANDSHAKES/s", short: "HS/s"),
            .number("MSG IN/s", short: "IN/s"), .number("MSG OUT/s", short: "OUT/s"),
            .number("LOOP 99%", short: "LOOP"), .number("MEMORY", short: "MEM"), .number("FILES"),
        ])
        for row in model.workerRates {
            let worker = row.worker
            table.add([
                .init("\(worker.number)", .strong), .init("\(worker.pid)"),
                .init(worker.state, worker.state == "serving" ? .plain : .warning),
                .init(Quantity.count(worker.connections)), .init(Quantity.count(worker.sockets)),
                rate(row.rates.handshakes), rate(row.rates.messagesReceived), rate(row.rates.messagesSent),
                .init(row.loopTurn), .init(worker.memoryBytes.map(Quantity.bytes)), files(worker),
            ])
        }
        return table
    }

    /// In a warning's colour where nine tenths are in use.
    private func files(_ worker: WorkerStatus) -> TextTable.Cell {
        guard let open = worker.openFiles else { return .init(nil) }
        guard let limit = worker.openFilesLimit, limit > 0 else { return .init(Quantity.count(open)) }
        return .init(
            "\(Quantity.count(open))/\(Quantity.count(limit))", open > limit / 10 * 9 ? .warning : .plain)
    }

    private func table(_ troubles: ArraySlice<Trouble>) -> TextTable {
        var table = TextTable([
            .text("REFUSED, FAILED, DROPPED"), .text("OF", isFlexible: true), .number("PER SECOND"), .number("IN ALL"),
        ])
        for trouble in troubles {
            table.add([
                .init("\(trouble.kind): \(trouble.reason)"), .init(trouble.name), alarm(trouble.rate),
                .init(Quantity.count(trouble.total)),
            ])
        }
        return table
    }

    private func busiest(_ rows: Int) -> TextTable {
        var table = TextTable([
            .text("BUSIEST"), .text("SERVICE", isFlexible: true), .text("PEER"), .number("RECEIVED/s", short: "RECV/s"),
            .number("SENT/s"), .number("AGE"), .text("IDENTITY", isFlexible: true),
        ])
        for busy in model.busiest.prefix(rows) {
            let connection = busy.connection
            table.add([
                .init(connection.connection), .init(connection.service ?? connection.client), .init(connection.peer),
                byteRate(busy.receivedRate), byteRate(busy.sentRate),
                .init(Quantity.duration(seconds: connection.ageSeconds)), .init(connection.identity ?? ""),
            ])
        }
        return table
    }

    private func newest(_ rows: Int) -> TextTable {
        var table = TextTable([
            .text("NEWEST"), .text("SERVICE", isFlexible: true), .text("PEER"), .text("STATE"), .number("AGE"),
            .number("IDLE"), .text("IDENTITY", isFlexible: true),
        ])
        for connection in model.newest.prefix(rows) {
            table.add([
                .init(connection.connection), .init(connection.service ?? connection.client), .init(connection.peer),
                .init(connection.state.rawValue), .init(Quantity.duration(seconds: connection.ageSeconds)),
                .init(Quantity.duration(seconds: connection.idleSeconds)), .init(connection.identity ?? ""),
            ])
        }
        return table
    }

    // MARK: Without a terminal

    /// The whole document as text, for `--once`.
    /// - Parameter width: columns of the terminal; `nil` where nothing may be cut.
    static func snapshot(of model: TopModel, width: Int?, at now: Instant) -> [StyledLine] {
        let screen = TopScreen(model, size: TerminalSize(columns: width ?? 10_000, rows: 60), at: now)
        return screen.header + screen.document
    }
}
