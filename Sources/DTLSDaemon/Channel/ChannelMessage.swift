import DTLSEngine
import DTLSTransport
import LinuxSystem

/// What the acceptor says to a worker. Decoded datagrams are valid as long as the message's bytes.
enum MessageToWorker {
    /// A new configuration; its snapshot comes along as a sealed memfd.
    case configure(generation: UInt32)
    /// A client with a good cookie; its connected socket comes along.
    case connection(Handover)
    /// A datagram of a client that was handed over moments ago, found on the listener.
    case late(id: UInt64, datagram: UnsafeRawBufferPointer)
    /// Close all connections and end.
    case stop
    /// Answer with a report.
    case ping
    /// What session tickets are sealed with from now on; the first seals, all open.
    case ticketKeys([TicketKey])
    /// The file that connections' secrets are appended to comes along, for the next configuration.
    case keyLog

    /// One client's way into a worker.
    struct Handover {
        /// Unique among all connections of this daemon.
        let id: UInt64
        /// Which configuration `service` counts in: a worker that could not take that one must not mistake it for
        /// another.
        let generation: UInt32
        /// Which service of that configuration.
        let service: UInt16
        let key: FlowKey
        /// The ClientHello, then what was read after it.
        let datagrams: [UnsafeRawBufferPointer]
    }

    private enum Kind: UInt8 {
        case configure = 1
        case connection = 2
        case late = 3
        case stop = 4
        case ping = 5
        case ticketKeys = 6
        case keyLog = 7
    }

    static func encode(configure generation: UInt32) -> [UInt8] {
        encodeMessage(Kind.configure) { $0.integer(generation) }
    }

    static func encode(
        connection id: UInt64, generation: UInt32, service: UInt16, key: FlowKey, datagrams: [[UInt8]]
    ) -> [UInt8] {
        encodeMessage(Kind.connection) {
            $0.integer(id)
            $0.integer(generation)
            $0.integer(service)
            $0.address(key.peer)
            $0.address(key.local)
            $0.list(datagrams) { $0.data($1) }
        }
    }

    static func encode(late id: UInt64, datagram: UnsafeRawBufferPointer) -> [UInt8] {
        encodeMessage(Kind.late) {
            $0.integer(id)
            $0.data(datagram)
        }
    }

    static func encode(ticketKeys: [TicketKey]) -> [UInt8] {
        encodeMessage(Kind.ticketKeys) { $0.list(ticketKeys) { $0.data($1.bytes) } }
    }

    static var keyLogBytes: [UInt8] { encodeMessage(Kind.keyLog) { _ in } }
    static var stopBytes: [UInt8] { encodeMessage(Kind.stop) { _ in } }
    static var pingBytes: [UInt8] { encodeMessage(Kind.ping) { _ in } }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .configure: self = .configure(generation: try reader.integer())
        case .connection:
            self = .connection(
                Handover(
                    id: try reader.integer(), generation: try reader.integer(), service: try reader.integer(),
                    key: FlowKey(peer: try reader.address(), local: try reader.address()),
                    datagrams: try reader.list { reader throws(MalformedBytes) in try reader.data() }))
        case .late: self = .late(id: try reader.integer(), datagram: try reader.data())
        case .stop: self = .stop
        case .ping: self = .ping
        case .ticketKeys:
            self = .ticketKeys(try reader.list { reader throws(MalformedBytes) in try reader.ticketKey() })
        case .keyLog: self = .keyLog
        }
    }
}

/// What a worker says to the acceptor.
enum MessageFromWorker {
    /// The configuration is in force. `capacity`: how many connections this worker's descriptors allow.
    case ready(generation: UInt32, capacity: UInt32)
    /// The configuration cannot be used here, and the one before is still in force.
    case rejected(generation: UInt32, reason: String)
    /// What came along with the configuration did not arrive, for want of descriptors. The one before is still in
    /// force.
    case missed(generation: UInt32)
    case report(Report)
    /// A datagram that belongs to a listener.
    case foreign(key: FlowKey, datagram: UnsafeRawBufferPointer)

    /// What has happened since the last report.
    struct Report: Equatable {
        /// Connections whose handshake is done, the first one of each connection, by their numbers.
        var established: [UInt64] = []
        /// Connections that were handed over and are gone.
        var closed: [UInt64] = []
        /// Handshakes done, those of clients that have begun anew among them.
        var handshakes: UInt32 = 0
        var resumed: UInt32 = 0
        var failed: UInt32 = 0
        /// Clients' datagrams beyond the limits of their connection.
        var dropped = Tally<TrafficExcess>()
        /// Newcomers that were handed over and turned away; they are in `closed`, too.
        var refused = Tally<Refusal>()

        var isEmpty: Bool { self == Report() }

        /// Connections of each list that one message takes: well below ``UnixChannel/maximumMessageSize``.
        private static let maximumConnections = 4_096

        /// Takes out what fits one message; the rest stays for the next.
        mutating func takePart() -> Report {
            var part = self
            part.established = Array(established.prefix(Self.maximumConnections))
            part.closed = Array(closed.prefix(Self.maximumConnections))
            let rest = (established.dropFirst(Self.maximumConnections), closed.dropFirst(Self.maximumConnections))
            self = Report()
            established = Array(rest.0)
            closed = Array(rest.1)
            return part
        }
    }

    private enum Kind: UInt8 {
        case ready = 1
        case rejected = 2
        case report = 3
        case foreign = 4
        case missed = 5
    }

    static func encode(ready generation: UInt32, capacity: UInt32) -> [UInt8] {
        encodeMessage(Kind.ready) {
            $0.integer(generation)
            $0.integer(capacity)
        }
    }

    static func encode(rejected generation: UInt32, reason: String) -> [UInt8] {
        encodeMessage(Kind.rejected) {
            $0.integer(generation)
            $0.string(reason)
        }
    }

    static func encode(missed generation: UInt32) -> [UInt8] {
        encodeMessage(Kind.missed) { $0.integer(generation) }
    }

    static func encode(_ report: Report) -> [UInt8] {
        encodeMessage(Kind.report) {
            $0.list(report.established) { $0.integer($1) }
            $0.list(report.closed) { $0.integer($1) }
            for number in [report.handshakes, report.resumed, report.failed] { $0.integer(number) }
            for kind in TrafficExcess.allCases { $0.integer(report.dropped[kind]) }
            for kind in Refusal.allCases { $0.integer(report.refused[kind]) }
        }
    }

    static func encode(foreign datagram: UnsafeRawBufferPointer, key: FlowKey) -> [UInt8] {
        encodeMessage(Kind.foreign) {
            $0.address(key.peer)
            $0.address(key.local)
            $0.data(datagram)
        }
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .ready: self = .ready(generation: try reader.integer(), capacity: try reader.integer())
        case .rejected: self = .rejected(generation: try reader.integer(), reason: try reader.string())
        case .missed: self = .missed(generation: try reader.integer())
        case .report:
            var report = Report(
                established: try reader.list { (reader) throws(MalformedBytes) in try reader.integer() },
                closed: try reader.list { (reader) throws(MalformedBytes) in try reader.integer() },
                handshakes: try reader.integer(), resumed: try reader.integer(), failed: try reader.integer())
            for kind in TrafficExcess.allCases { report.dropped.count(kind, try reader.integer()) }
            for kind in Refusal.allCases { report.refused.count(kind, try reader.integer()) }
            self = .report(report)
        case .foreign:
            self = .foreign(
                key: FlowKey(peer: try reader.address(), local: try reader.address()),
                datagram: try reader.data())
        }
    }
}

/// A message of either direction: its kind, then its values.
private func encodeMessage<Kind: RawRepresentable<UInt8>>(_ kind: Kind, _ write: (inout ByteWriter) -> Void) -> [UInt8]
{
    var writer = ByteWriter()
    writer.integer(kind.rawValue)
    write(&writer)
    return writer.bytes
}
