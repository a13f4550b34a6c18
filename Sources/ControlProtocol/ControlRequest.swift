/// What a client wants to have its answer known by: a string or a number, which the answer gives back.
package enum RequestID: Codable, Equatable, Sendable {
    case number(Int64)
    case text(String)

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(Int64.self) {
            self = .number(number)
        } else if let text = try? container.decode(String.self) {
            self = .text(text)
        } else {
            throw InvalidRequest("the id is neither a string nor a whole number")
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .number(let number): try container.encode(number)
        case .text(let text): try container.encode(text)
        }
    }
}

/// One line from a client: `{"version":1,"id":7,"command":"status"}`.
package struct ControlRequest: Codable, Equatable, Sendable {
    package var id: RequestID?
    package var command: ControlCommand

    package init(_ command: ControlCommand, id: RequestID? = nil) {
        self.command = command
        self.id = id
    }

    private enum Key: String, CodingKey { case version, id, command }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        id = try container.decodeIfPresent(RequestID.self, forKey: .id)
        command = try ControlCommand(from: decoder)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(ControlProtocol.version, forKey: .version)
        try container.encodeIfPresent(id, forKey: .id)
        try command.encode(to: encoder)
    }
}

/// A command with its arguments, which stand beside it in the request's object.
package enum ControlCommand: Equatable, Sendable {
    /// What there is and how it is: ``StatusResult``.
    case status
    /// All counters: ``CountersResult``.
    case counters
    /// A page of connections: ``ConnectionsResult``.
    case connections(ConnectionsQuery)
    /// One connection in full: ``ConnectionResult``. The number is the one of lists and logs, 16 hexadecimal digits.
    case connection(String)
    /// Ends connections, with close_notify: ``CloseResult``.
    case close(CloseSelection)
    /// Reads the configuration again; answered when all workers serve it, or it was refused: ``ReloadResult``.
    case reload
    /// Replaces one worker by a new process, or each of them, which take the connections over: ``DrainResult``, when that
    /// has begun.
    case drain(worker: Int?)
    /// Starts the program at its path again, which takes everything over; answered when it has, or has failed:
    /// ``UpgradeResult``.
    case upgrade
    /// Changes the level of the log for a time: ``LogLevelResult``.
    case logLevel(LogLevelChange)
    /// Logs all that passes between one client, or a network, and the daemon, for a time: ``TraceResult``.
    case trace(TraceChange)

    package enum Name: String, CaseIterable, Sendable {
        case status, counters, connections, connection, close, reload, drain, upgrade
        case logLevel = "log_level"
        case trace
    }

    package var name: Name {
        switch self {
        case .status: .status
        case .counters: .counters
        case .connections: .connections
        case .connection: .connection
        case .close: .close
        case .reload: .reload
        case .drain: .drain
        case .upgrade: .upgrade
        case .logLevel: .logLevel
        case .trace: .trace
        }
    }
}

/// Which connections are meant. All conditions that are given must hold.
package struct ConnectionFilter: Codable, Equatable, Sendable {
    /// The name of a `[service.NAME]`.
    package var service: String?
    /// The name of a `[client.NAME]`.
    package var client: String?
    /// The peers of this address or network: "192.0.2.7", "192.0.2.0/24", "2001:db8::/32"; with a port
    /// ("192.0.2.7:4711"), one peer.
    package var prefix: String?
    /// The common name, subject or fingerprint of the peer's certificate, or the identity of its pre-shared key; exactly
    /// as it is.
    package var identity: String?
    package var state: ConnectionState?

    package init(
        service: String? = nil, client: String? = nil, prefix: String? = nil, identity: String? = nil,
        state: ConnectionState? = nil
    ) {
        self.service = service
        self.client = client
        self.prefix = prefix
        self.identity = identity
        self.state = state
    }

    package var isEmpty: Bool { self == ConnectionFilter() }
}

/// How far a connection has got.
package enum ConnectionState: String, Codable, CaseIterable, Sendable {
    case handshake
    /// The handshake is done, and a worker has a socket of the connection.
    case established
    /// The handshake is done, and there is no socket until the peer or the backend sends something.
    case parked
}

/// Another name, for modules that have another type of that one.
package typealias ListedState = ConnectionState

/// The arguments of ``ControlCommand/connections(_:)``.
package struct ConnectionsQuery: Equatable, Sendable {
    package enum Sort: String, Codable, CaseIterable, Sendable {
        /// By the start of the handshake.
        case age
        /// By the time since the last record of the peer.
        case idle
        /// By the bytes of messages in both directions.
        case traffic
    }

    package enum Order: String, Codable, CaseIterable, Sendable {
        /// The youngest, the most recently active, the least traffic first.
        case ascending
        /// The oldest, the longest idle, the most traffic first.
        case descending
    }

    package static let defaultLimit = 50
    package static let maximumLimit = 1_000

    package var filter = ConnectionFilter()
    /// The connection ID (RFC 9146) that the peer puts into its records, in hexadecimal digits.
    package var connectionID: String?
    package var sort = Sort.age
    package var order = Order.descending
    /// The longest page: 1 to ``maximumLimit``.
    package var limit = defaultLimit
    /// Where the page begins: ``ConnectionsResult/nextCursor`` of the one before.
    package var cursor: String?

    package init() {}
}

/// The arguments of ``ControlCommand/close(_:)``.
package enum CloseSelection: Equatable, Sendable {
    /// One connection, by its number.
    case connection(String)
    /// All that the filter finds, which is not empty.
    case matching(ConnectionFilter)
    /// Every connection there is.
    case all
}

/// The arguments of ``ControlCommand/logLevel(_:)``.
package struct LogLevelChange: Equatable, Sendable {
    package enum Level: String, Codable, CaseIterable, Sendable {
        case debug, info, notice, warning, error
    }

    package static let defaultSeconds = 600.0
    /// The longest time, for a trace too: a day.
    package static let maximumSeconds = 86_400.0

    package var level: Level
    /// How long it holds: 1 to ``maximumSeconds``; 0: until the configuration's level is to hold again, at once.
    package var seconds: Double

    package init(level: Level, seconds: Double = defaultSeconds) {
        self.level = level
        self.seconds = seconds
    }
}

/// The arguments of ``ControlCommand/trace(_:)``.
package enum TraceChange: Equatable, Sendable {
    package static let defaultSeconds = 300.0

    /// - Parameter address: "192.0.2.7", "192.0.2.7:4711", "192.0.2.0/24", "[2001:db8::1]:4711".
    case begin(address: String, seconds: Double)
    /// Ends all traces.
    case end
}

// MARK: Coding

extension ControlCommand: Codable {
    /// The keys of all arguments.
    private enum Key: String, CodingKey {
        case command
        case connection, service, client, prefix, identity, state, all
        case connectionID = "connection_id"
        case sort, order, limit, cursor
        case worker, level, seconds, address, off
    }

    /// Any key at all, so that one that is not known is noticed: a misspelled condition must not close everything.
    private struct AnyKey: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    private static let filterKeys: [Key] = [.service, .client, .prefix, .identity, .state]

    private static func keys(of name: Name) -> [Key] {
        switch name {
        case .status, .counters, .reload, .upgrade: []
        case .connections: filterKeys + [.connectionID, .sort, .order, .limit, .cursor]
        case .connection: [.connection]
        case .close: filterKeys + [.connection, .all]
        case .drain: [.worker]
        case .logLevel: [.level, .seconds]
        case .trace: [.address, .seconds, .off]
        }
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: Key.self)
        let text = try container.decode(String.self, forKey: .command)
        guard let name = Name(rawValue: text) else {
            throw InvalidRequest("there is no command \(ControlProtocol.quoted(text))")
        }
        let known = ["version", "id", "command"] + Self.keys(of: name).map(\.rawValue)
        for key in try decoder.container(keyedBy: AnyKey.self).allKeys where !known.contains(key.stringValue) {
            throw InvalidRequest("\(name.rawValue) has no argument \(ControlProtocol.quoted(key.stringValue))")
        }
        let invalid = InvalidRequest.init
        func choice<Value: CaseIterable & RawRepresentable<String>>(_ key: Key, _: Value.Type) throws -> Value? {
            guard let text = try container.decodeIfPresent(String.self, forKey: key) else { return nil }
            if let value = Value(rawValue: text) { return value }
            let expected = Value.allCases.map { "'\($0.rawValue)'" }.joined(separator: ", ")
            throw invalid("'\(key.rawValue)' is \(ControlProtocol.quoted(text)), expected one of \(expected)")
        }
        func filter() throws -> ConnectionFilter {
            ConnectionFilter(
                service: try container.decodeIfPresent(String.self, forKey: .service),
                client: try container.decodeIfPresent(String.self, forKey: .client),
                prefix: try container.decodeIfPresent(String.self, forKey: .prefix),
                identity: try container.decodeIfPresent(String.self, forKey: .identity),
                state: try choice(.state, ConnectionState.self))
        }
        func seconds(default standard: Double, from least: Double) throws -> Double {
            let seconds = try container.decodeIfPresent(Double.self, forKey: .seconds) ?? standard
            guard seconds >= least, seconds <= LogLevelChange.maximumSeconds else {
                throw invalid("'seconds' is not between \(Int(least)) and \(Int(LogLevelChange.maximumSeconds))")
            }
            return seconds
        }
        switch name {
        case .status: self = .status
        case .counters: self = .counters
        case .reload: self = .reload
        case .upgrade: self = .upgrade
        case .connections:
            var query = ConnectionsQuery()
            query.filter = try filter()
            query.connectionID = try container.decodeIfPresent(String.self, forKey: .connectionID)
            query.sort = try choice(.sort, ConnectionsQuery.Sort.self) ?? query.sort
            query.order = try choice(.order, ConnectionsQuery.Order.self) ?? query.order
            query.limit = try container.decodeIfPresent(Int.self, forKey: .limit) ?? query.limit
            query.cursor = try container.decodeIfPresent(String.self, forKey: .cursor)
            guard (1...ConnectionsQuery.maximumLimit).contains(query.limit) else {
                throw invalid("'limit' is not between 1 and \(ConnectionsQuery.maximumLimit)")
            }
            self = .connections(query)
        case .connection: self = .connection(try container.decode(String.self, forKey: .connection))
        case .close:
            let connection = try container.decodeIfPresent(String.self, forKey: .connection)
            let isAll = try container.decodeIfPresent(Bool.self, forKey: .all) ?? false
            let filter = try filter()
            switch (connection, filter.isEmpty, isAll) {
            case (let connection?, true, false): self = .close(.connection(connection))
            case (nil, false, false): self = .close(.matching(filter))
            case (nil, true, true): self = .close(.all)
            default:
                throw invalid(
                    "close wants one of these: 'connection', or conditions (service, client, prefix, identity, state), or"
                        + " 'all'")
            }
        case .drain: self = .drain(worker: try container.decodeIfPresent(Int.self, forKey: .worker))
        case .logLevel:
            guard let level = try choice(.level, LogLevelChange.Level.self) else { throw invalid("'level' is missing") }
            self = .logLevel(
                LogLevelChange(level: level, seconds: try seconds(default: LogLevelChange.defaultSeconds, from: 0)))
        case .trace:
            let address = try container.decodeIfPresent(String.self, forKey: .address)
            switch (address, try container.decodeIfPresent(Bool.self, forKey: .off) ?? false) {
            case (let address?, false):
                self = .trace(
                    .begin(address: address, seconds: try seconds(default: TraceChange.defaultSeconds, from: 1)))
            case (nil, true): self = .trace(.end)
            default: throw invalid("trace wants either 'address' or 'off'")
            }
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(name.rawValue, forKey: .command)
        func encode(_ filter: ConnectionFilter) throws {
            try container.encodeIfPresent(filter.service, forKey: .service)
            try container.encodeIfPresent(filter.client, forKey: .client)
            try container.encodeIfPresent(filter.prefix, forKey: .prefix)
            try container.encodeIfPresent(filter.identity, forKey: .identity)
            try container.encodeIfPresent(filter.state, forKey: .state)
        }
        switch self {
        case .status, .counters, .reload, .upgrade: break
        case .connections(let query):
            try encode(query.filter)
            try container.encodeIfPresent(query.connectionID, forKey: .connectionID)
            try container.encode(query.sort, forKey: .sort)
            try container.encode(query.order, forKey: .order)
            try container.encode(query.limit, forKey: .limit)
            try container.encodeIfPresent(query.cursor, forKey: .cursor)
        case .connection(let connection): try container.encode(connection, forKey: .connection)
        case .close(.connection(let connection)): try container.encode(connection, forKey: .connection)
        case .close(.matching(let filter)): try encode(filter)
        case .close(.all): try container.encode(true, forKey: .all)
        case .drain(let worker): try container.encodeIfPresent(worker, forKey: .worker)
        case .logLevel(let change):
            try container.encode(change.level, forKey: .level)
            try container.encode(change.seconds, forKey: .seconds)
        case .trace(.begin(let address, let seconds)):
            try container.encode(address, forKey: .address)
            try container.encode(seconds, forKey: .seconds)
        case .trace(.end): try container.encode(true, forKey: .off)
        }
    }
}
