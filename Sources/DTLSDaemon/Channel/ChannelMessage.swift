import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// The table of the configuration that a connection belongs to, by its index in `Configuration.services` or `.clients`.
enum Target: Hashable, Sendable {
    /// A DTLS client of a `[service.NAME]`.
    case service(Int)
    /// A sender of plain datagrams to a `[client.NAME]`.
    case client(Int)
}

/// A message from the acceptor to a worker. Decoded datagrams are valid as long as the message's bytes.
enum MessageToWorker {
    /// A new configuration. Its snapshot comes along as a sealed memfd.
    case configure(generation: UInt32)
    /// A client whose address is proven. Its connected socket comes along.
    case connection(Handover)
    /// A datagram that reached the listener, of a client that was handed over moments ago.
    case misdelivered(id: UInt64, datagram: UnsafeRawBufferPointer)
    /// Close all connections and end.
    case stop
    /// Answer with a report.
    case ping
    /// The keys of session tickets from now on: the first one seals, all of them open.
    case ticketKeys([TicketKey])
    /// The file that connections' secrets are appended to comes along. It belongs to the next ``configure(generation:)``.
    case keyLog

    /// A connection that a worker takes over.
    struct Handover {
        /// Unique among all connections of this daemon.
        let id: UInt64
        /// The configuration that `target` is an index into. A worker that could not activate this configuration must
        /// not look the index up in another one.
        let generation: UInt32
        let target: Target
        let flow: FlowKey
        /// A service's ``VerifiedHello`` as it is handed over; `nil` for a client's sender.
        let hello: UnsafeRawBufferPointer?
        /// What was read after the hello, or from the sender.
        let datagrams: [UnsafeRawBufferPointer]
    }

    private enum Kind: UInt8 {
        case configure = 1
        case connection = 2
        case misdelivered = 3
        case stop = 4
        case ping = 5
        case ticketKeys = 6
        case keyLog = 7
    }

    static func encode(configure generation: UInt32) -> [UInt8] {
        encodeMessage(Kind.configure) { $0.integer(generation) }
    }

    static func encode(
        connection id: UInt64, generation: UInt32, target: Target, flow: FlowKey, hello: [UInt8]?,
        datagrams: [[UInt8]]
    ) -> [UInt8] {
        encodeMessage(Kind.connection) {
            $0.integer(id)
            $0.integer(generation)
            $0.target(target)
            $0.flow(flow)
            $0.optional(hello) { $0.data($1) }
            $0.list(datagrams) { $0.data($1) }
        }
    }

    static func encode(misdelivered datagram: UnsafeRawBufferPointer, id: UInt64) -> [UInt8] {
        encodeMessage(Kind.misdelivered) {
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
                    id: try reader.integer(), generation: try reader.integer(), target: try reader.target(),
                    flow: try reader.flow(),
                    hello: try reader.optional { reader throws(MalformedBytes) in try reader.data() },
                    datagrams: try reader.list { reader throws(MalformedBytes) in try reader.data() }))
        case .misdelivered: self = .misdelivered(id: try reader.integer(), datagram: try reader.data())
        case .stop: self = .stop
        case .ping: self = .ping
        case .ticketKeys:
            self = .ticketKeys(try reader.list { reader throws(MalformedBytes) in try reader.ticketKey() })
        case .keyLog: self = .keyLog
        }
    }
}

/// A message from a worker to the acceptor. Decoded datagrams are valid as long as the message's bytes.
enum MessageFromWorker {
    /// The worker has activated the configuration. `capacity` is the number of connections that its descriptors allow.
    case ready(generation: UInt32, capacity: UInt32)
    /// The worker cannot use the configuration, and keeps the previous one.
    case rejected(generation: UInt32, reason: String)
    /// The snapshot or the key log did not arrive, because the worker has no descriptors left. It keeps the previous
    /// configuration.
    case setupLost(generation: UInt32)
    case report(Report)
    /// A datagram that reached a connection's socket, and belongs to a listener.
    case misdelivered(flow: FlowKey, datagram: UnsafeRawBufferPointer)

    /// What has happened since the last report.
    struct Report: Equatable {
        /// The connections whose first handshake has succeeded.
        var established: [UInt64] = []
        /// The connections that were handed over and are gone.
        var closed: [UInt64] = []
        /// Handshakes that have succeeded, re-handshakes (RFC 6347, section 4.2.8) included.
        var handshakes: UInt32 = 0
        var resumed: UInt32 = 0
        var failed: UInt32 = 0
        /// Datagrams of clients that were dropped because they exceeded the limits of their connection.
        var dropped = Tally<TrafficExcess>()
        /// Connections that were handed over and that the worker has refused. They are in `closed`, too.
        var refused = Tally<Refusal>()

        var isEmpty: Bool { self == Report() }

        /// The most connections of each list in one message, which then stays well below
        /// ``UnixChannel/maximumMessageSize``.
        private static let maximumConnections = 4_096

        /// Removes and returns what fits one message; the rest stays for the next.
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
        case misdelivered = 4
        case setupLost = 5
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

    static func encode(setupLost generation: UInt32) -> [UInt8] {
        encodeMessage(Kind.setupLost) { $0.integer(generation) }
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

    static func encode(misdelivered datagram: UnsafeRawBufferPointer, flow: FlowKey) -> [UInt8] {
        encodeMessage(Kind.misdelivered) {
            $0.flow(flow)
            $0.data(datagram)
        }
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .ready: self = .ready(generation: try reader.integer(), capacity: try reader.integer())
        case .rejected: self = .rejected(generation: try reader.integer(), reason: try reader.string())
        case .setupLost: self = .setupLost(generation: try reader.integer())
        case .report:
            var report = Report(
                established: try reader.list { (reader) throws(MalformedBytes) in try reader.integer() },
                closed: try reader.list { (reader) throws(MalformedBytes) in try reader.integer() },
                handshakes: try reader.integer(), resumed: try reader.integer(), failed: try reader.integer())
            for kind in TrafficExcess.allCases { report.dropped.count(kind, try reader.integer()) }
            for kind in Refusal.allCases { report.refused.count(kind, try reader.integer()) }
            self = .report(report)
        case .misdelivered: self = .misdelivered(flow: try reader.flow(), datagram: try reader.data())
        }
    }
}

extension ByteWriter {
    fileprivate mutating func target(_ target: Target) {
        switch target {
        case .service(let index):
            integer(UInt8(0))
            integer(UInt32(truncatingIfNeeded: index))
        case .client(let index):
            integer(UInt8(1))
            integer(UInt32(truncatingIfNeeded: index))
        }
    }

    fileprivate mutating func flow(_ flow: FlowKey) {
        address(flow.peer)
        address(flow.local)
    }
}

extension ByteReader {
    fileprivate mutating func target() throws(MalformedBytes) -> Target {
        let kind: UInt8 = try integer()
        let index: UInt32 = try integer()
        switch kind {
        case 0: return .service(Int(index))
        case 1: return .client(Int(index))
        default: throw MalformedBytes()
        }
    }

    fileprivate mutating func flow() throws(MalformedBytes) -> FlowKey {
        FlowKey(peer: try address(), local: try address())
    }
}

/// Encodes a message of either direction: its kind, then its values.
private func encodeMessage<Kind: RawRepresentable<UInt8>>(_ kind: Kind, _ write: (inout ByteWriter) -> Void) -> [UInt8]
{
    var writer = ByteWriter()
    writer.integer(kind.rawValue)
    write(&writer)
    return writer.bytes
}
