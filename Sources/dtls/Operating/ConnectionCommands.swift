import ArgumentParser
import ControlProtocol

extension ConnectionState: ExpressibleByArgument {}
extension ConnectionsQuery.Sort: ExpressibleByArgument {}

/// Which connections a command means.
struct FilterOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Those of [service.NAME].", valueName: "name"))
    var service: String?
    @Option(help: ArgumentHelp("Those of [client.NAME], where dtlsd is the client.", valueName: "name"))
    var client: String?
    @Option(
        help: ArgumentHelp(
            "Those of peers in a network, at an address, or at an address and port: 192.0.2.0/24, 2001:db8::7, 192.0.2.7:4711.",
            valueName: "network"))
    var prefix: String?
    @Option(
        help: ArgumentHelp(
            "Those of a peer: the common name, subject or fingerprint of its certificate, or the identity of its pre-shared key.",
            valueName: "identity"))
    var identity: String?
    @Option(help: "Those in a state.")
    var state: ConnectionState?

    var filter: ConnectionFilter {
        ConnectionFilter(service: service, client: client, prefix: prefix, identity: identity, state: state)
    }
}

struct ConnectionsCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "connections",
        abstract: "List connections.",
        discussion: """
            Without other options it lists the 50 oldest. With several conditions, all must hold. With --json each page of \
            the daemon is one line, which has the cursor of the next one.
            """)

    @OptionGroup(title: "Conditions") var filter: FilterOptions
    @Option(
        help: ArgumentHelp(
            "The connection whose peer puts this connection ID (RFC 9146) into its records.", valueName: "hex"))
    var connectionID: String?
    @Option(help: "The oldest, those that are idle for the longest time, or those with the most traffic first.")
    var sort = ConnectionsQuery.Sort.age
    @Flag(
        name: .shortAndLong,
        help: "The other way round: the newest, the most recently active, or the least traffic first.")
    var reverse = false
    @Option(help: ArgumentHelp("The most connections to list.", valueName: "number"))
    var limit = ConnectionsQuery.defaultLimit
    @Flag(help: "List all, however many there are.")
    var all = false
    @Option(help: ArgumentHelp("Begin where an earlier list has ended.", valueName: "cursor"))
    var cursor: String?
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func validate() throws {
        guard limit > 0 else { throw ValidationError("--limit is at least 1.") }
    }

    func operate(_ console: Console) throws(ToolFailure) {
        let connection = try control.connect()
        var query = ConnectionsQuery()
        query.filter = filter.filter
        query.connectionID = connectionID
        query.sort = sort
        query.order = reverse ? .ascending : .descending
        query.cursor = cursor
        var left = all ? Int.max : limit
        var found: [ConnectionSummary] = []
        var page: ConnectionsResult
        repeat {
            query.limit = min(left, ConnectionsQuery.maximumLimit)
            let reply = try connection.ask(.connections(query))
            page = try reply.decoded()
            if output.json { try console.write(reply.json + "\n") } else { found += page.connections }
            left -= page.connections.count
            query.cursor = page.nextCursor
        } while left > 0 && page.nextCursor != nil && !page.connections.isEmpty
        if output.json { return }

        if !found.isEmpty { try console.print(ConnectionReport.table(found).lines(width: console.width)) }
        if found.isEmpty {
            console.note(
                filter.filter.isEmpty && connectionID == nil && cursor == nil
                    ? "There are no connections." : "None of \(Quantity.things(page.total, "connection")) matches.")
        } else if let next = page.nextCursor {
            console.note(
                "\(Quantity.count(found.count)) of \(Quantity.things(page.matched, "connection")); --cursor \(next) for"
                    + " what follows, or --all.")
        }
    }
}

struct ConnectionCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "connection", abstract: "Show all that is known of one connection.")

    @Argument(
        help: ArgumentHelp("The connection, as lists and the log name it: 16 hexadecimal digits.", valueName: "id"))
    var connection: String
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.connection(connection))
        if output.json { return try console.write(reply.json + "\n") }
        let result: ConnectionResult = try reply.decoded()
        try console.print(ConnectionReport.lines(result))
    }
}

struct CloseCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "close",
        abstract: "Close one connection, or all that match, with close_notify.",
        discussion: """
            With several conditions, all must hold. On a terminal it asks first where more than one connection matches. \
            Clients may connect again at once: to keep one out, deny its network in the configuration.
            """)

    @Argument(
        help: ArgumentHelp("The connection, as lists and the log name it: 16 hexadecimal digits.", valueName: "id"))
    var connection: String?
    @OptionGroup(title: "Conditions") var filter: FilterOptions
    @Flag(help: "Close all connections.")
    var all = false
    @Flag(name: .shortAndLong, help: "Do not ask.")
    var yes = false
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func validate() throws {
        let ways = [connection != nil, !filter.filter.isEmpty, all].filter { $0 }.count
        guard ways == 1 else {
            throw ValidationError("Name either one connection, or conditions, or --all.")
        }
    }

    private var selection: CloseSelection {
        if let connection { return .connection(connection) }
        return all ? .all : .matching(filter.filter)
    }

    func operate(_ console: Console) throws(ToolFailure) {
        let daemon = try control.connect()
        if connection == nil, !yes, console.isInteractive {
            var query = ConnectionsQuery()
            query.filter = filter.filter
            query.limit = 1
            let page: ConnectionsResult = try daemon.ask(.connections(query)).decoded()
            if page.matched > 1, !console.confirm("Close \(Quantity.things(page.matched, "connection"))?") {
                throw ToolFailure(.failed, "No connection was closed.")
            }
        }
        let reply = try daemon.ask(.close(selection))
        if output.json { return try console.write(reply.json + "\n") }
        let result: CloseResult = try reply.decoded()
        try console.print(
            StyledLine(
                result.count == 0
                    ? "No connection matches."
                    : "\(Quantity.things(result.count, "connection is", "connections are")) being closed."))
    }
}

/// What is printed of connections.
enum ConnectionReport {
    static func table(_ connections: [ConnectionSummary]) -> TextTable {
        var table = TextTable([
            .text("CONNECTION"), .text("OF", isFlexible: true), .text("PEER"), .text("STATE"),
            .number("WORKER", short: "W"),
            .number("AGE"),
            .number("IDLE"), .number("RECEIVED", short: "RECV"), .number("SENT"), .text("IDENTITY", isFlexible: true),
        ])
        for connection in connections {
            table.add([
                .init(connection.connection, .strong), .init(connection.service ?? connection.client),
                .init(connection.peer), .init(connection.state.rawValue), .init(connection.worker.map { "\($0)" }),
                .init(Quantity.duration(seconds: connection.ageSeconds)),
                .init(Quantity.duration(seconds: connection.idleSeconds)),
                .init(Quantity.bytes(connection.receivedBytes)), .init(Quantity.bytes(connection.sentBytes)),
                .init(connection.identity ?? ""),
            ])
        }
        return table
    }

    static func lines(_ connection: ConnectionResult) -> [StyledLine] {
        var lines: [StyledLine] = []
        func add(_ label: String, _ value: String?) {
            guard let value else { return }
            var line = StyledLine(label + String(repeating: " ", count: max(1, 18 - label.count)), .dim)
            line.append(value)
            lines.append(line)
        }
        func yesOrNo(_ value: Bool?) -> String? { value.map { $0 ? "yes" : "no" } }
        let summary = connection.summary
        add("Connection", summary.connection)
        add("Service", summary.service)
        add("Client", summary.client)
        add("Peer", summary.peer + (connection.hasLeftAddress == true ? ", which it has left" : ""))
        add("Local address", summary.local)
        add("State", summary.state.rawValue)
        add("Worker", summary.worker.map { "\($0)" } ?? "none at the moment")
        add("Worker deaths", connection.workerDeaths > 0 ? "\(connection.workerDeaths)" : nil)
        add("Began", "\(connection.startedAt), \(Quantity.duration(seconds: summary.ageSeconds)) ago")
        add("Idle", Quantity.duration(seconds: summary.idleSeconds))
        add(
            "Handshake",
            connection.handshakeSeconds.map {
                Quantity.latency(seconds: $0) + (connection.isResumed == true ? ", resumed" : ", full")
            })
        add("Protocol", [summary.version, summary.cipher].compactMap { $0 }.joined(separator: ", ").nilIfEmpty)
        add("Server name", connection.serverName)
        add("ALPN", connection.applicationProtocol)
        add("Identity", summary.identity)
        add("Label", summary.label)
        add("Subject", connection.certificate?.subject)
        add("Fingerprint", connection.certificate?.fingerprint)
        add(
            "Public key",
            connection.publicKey.map { key in
                [key.name, key.fingerprint.map { "sha256:\($0)" }].compactMap(\.self).joined(separator: ", ")
            })
        add("PSK identity", connection.pskIdentity)
        add("Connection ID", connection.ownConnectionID)
        add("Peer's ID", connection.peerConnectionID)
        add("Routability check", yesOrNo(connection.checksReturnRoutability))
        add("Movable", yesOrNo(connection.isMovable))
        add(summary.client == nil ? "Backend" : "Server", connection.backend)
        add("Rule", connection.rule)
        add(summary.client == nil ? "Backend sees" : "Server sees", connection.backendLocal)
        add(
            "Received",
            "\(Quantity.things(summary.receivedMessages, "message")), \(Quantity.bytes(summary.receivedBytes))")
        add("Sent", "\(Quantity.things(summary.sentMessages, "message")), \(Quantity.bytes(summary.sentBytes))")
        add("Not sent", connection.unsentMessages > 0 ? Quantity.things(connection.unsentMessages, "message") : nil)
        add(
            "Too large", connection.tooLargeMessages > 0 ? Quantity.things(connection.tooLargeMessages, "message") : nil
        )
        let records = [
            connection.epoch.map { "epoch \($0)" }, connection.sentRecords.map { "\(Quantity.count($0)) sent" },
            connection.highestReceivedRecord.map { "highest received \(Quantity.count($0))" },
        ]
        add("Records", records.compactMap { $0 }.joined(separator: ", ").nilIfEmpty)
        return lines
    }
}

extension String {
    fileprivate var nilIfEmpty: String? { isEmpty ? nil : self }
}
