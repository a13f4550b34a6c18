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
    case misdelivered(id: ConnectionNumber, datagram: UnsafeRawBufferPointer)
    /// Close all connections with close_notify, and end. With `keepingConnections`: finish handshakes that are under
    /// way, for two seconds at most, leave all connections in their slots as they are, and end without a word to peers
    /// and backends.
    case stop(keepingConnections: Bool)
    /// Answer with a report.
    case ping
    /// The keys of the sessions of a re-handshake come along that ``MessageFromWorker/rehandshake(id:hello:)`` has asked for,
    /// with its hello (``ResumptionKeys``).
    case rehandshake(id: ConnectionNumber, resumptionKeys: UnsafeRawBufferPointer, hello: UnsafeRawBufferPointer)
    /// The file that connections' secrets are appended to comes along. It belongs to the next ``configure(generation:)``.
    case keyLog
    /// The memory that all workers keep the sessions of clients without tickets in comes along (``SessionTable``). It
    /// belongs to the next ``configure(generation:)``.
    case sessions
    /// The worker's channel to the key process comes along, in the place of an earlier one. A worker that has none makes its
    /// contexts all the same, and their handshakes fail until it has one.
    case keys
    /// The memory file of the worker's connections (``SlotFile``) comes along. It is sent once, before the first
    /// ``configure(generation:)``, and may hold connections that a worker before this one has served. Its number is in
    /// the numbers of all its connections.
    ///
    /// `outliveDaemon`: the service manager keeps the file too, so that the next main process goes on with it.
    case slots(table: UInt16, outliveDaemon: Bool)
    /// The memory file that the worker counts in comes along (``CounterFile``). It is sent once, after
    /// ``slots(table:outliveDaemon:)``, and may hold what a worker before this one has counted.
    case counters
    /// Serve the connections that are in the slots. It is sent once, to a worker whose number has had a worker before,
    /// after this one has activated its first configuration and before any other message about a connection.
    ///
    /// Established connections whose service or client is in the configuration are parked from now on: sockets of
    /// their peers come by ``resume(id:flow:datagrams:)``. The worker makes their far sockets again itself. It ends all
    /// others, and reports them closed.
    case takeOver
    /// Datagrams that came to listeners, and that each look like a record of the connection: it has this flow, or its
    /// connection ID is in the record (RFC 9146). Nobody has authenticated them, and the flow may be anybody's.
    ///
    /// Of a connection without a socket, a good record is kept, and answered with ``MessageFromWorker/wake(_:)``. Where
    /// one from another flow shows that the peer is there now, the answer is ``MessageFromWorker/rebind(id:flow:)``.
    case records([ReceivedRecord])
    /// The far socket of a connection (to its backend, or from a tunnel to its server) comes along. It belongs to the
    /// ``resume(id:flow:datagrams:)`` or ``adopt(_:)`` of this connection that follows.
    case farSocket(id: ConnectionNumber)
    /// A socket for a connection comes along, connected to its peer; none where this process had no descriptor left, and
    /// then the worker answers with ``MessageFromWorker/parked(_:)``. The connection had no socket, or one of the flow
    /// that it has left (``MessageFromWorker/rebind(id:flow:)``). Its slot has the flow of this socket. The datagrams
    /// come after those that the worker has kept. They are the peer's, but nobody has authenticated them: what the new
    /// socket held, a ClientHello whose cookie is valid for this flow (a re-handshake, RFC 6347, section 4.2.8), or the
    /// plain ones of a tunnel's local sender.
    case resume(id: ConnectionNumber, flow: FlowKey, datagrams: [UnsafeRawBufferPointer])
    /// There is no socket at the moment for a connection that the worker has sent ``MessageFromWorker/wake(_:)`` or
    /// ``MessageFromWorker/rebind(id:flow:)`` for. What the worker has kept for it is lost, and the next datagram may
    /// wake it. Where it has a socket, it keeps it.
    case resumeFailed(id: ConnectionNumber)
    /// The peer of another connection has been proven to be at the address that this one's socket is connected to (a
    /// NAT has given a port to somebody else): give the socket up, which the other connection gets one in place of. The
    /// worker parks the connection, and answers with ``MessageFromWorker/parked(_:)``, or ends it where it cannot.
    case giveUpSocket(id: ConnectionNumber)
    /// Connections that another worker has released, or that were stored, are in slots of this worker now, without
    /// sockets of their peers.
    case adopt([ConnectionNumber])
    /// Give up to `count` connections up, for other workers; `UInt32.max`: all that can move. Each is answered with
    /// ``MessageFromWorker/released(_:hadSocket:)``, those with sockets first, and all with ``MessageFromWorker/releaseDone``.
    /// With `UInt32.max`, connections whose handshake ends later are released then, after that answer. Connections of
    /// programs (`exec`), which lose their program by it, are released with `UInt32.max` alone.
    case release(count: UInt32)
    /// End these connections, with close_notify to their peers, whether they have sockets or not.
    case close([ConnectionNumber])
    /// The level of the log, whatever the configuration says; `nil`: as the configuration says.
    case logLevel(LogLevel?)
    /// Log all that passes between this process and these peers, and no others.
    case trace([AddressPattern])
    /// The addresses of a host name of the configuration from now on, with port 0. They are sent before the first
    /// ``configure(generation:)`` that has the name, unless it has none then, and again when they change.
    case addresses([SocketAddress], ofHost: String)
    /// The health checks of a service's backend fail, or pass again. All that are down are sent before each
    /// ``configure(generation:)``.
    case backend(Backend.Address, ofService: String, isDown: Bool)

    /// A connection that a worker takes over.
    struct Handover {
        let id: ConnectionNumber
        /// The configuration that `target` is an index into. A worker that could not activate this configuration must
        /// not look the index up in another one.
        let generation: UInt32
        let target: Target
        let flow: FlowKey
        /// What the client is to put into its records (RFC 9146); `nil`: its offer of connection IDs is not answered.
        let connectionID: ConnectionID?
        /// The keys of the handshake's sessions (``ResumptionKeys``); `nil` for a client's sender.
        let resumptionKeys: UnsafeRawBufferPointer?
        /// A service's ``VerifiedHello`` as it is handed over; `nil` for a client's sender.
        let hello: UnsafeRawBufferPointer?
        /// What was read after the hello, or from the sender.
        let datagrams: [UnsafeRawBufferPointer]
    }

    /// A datagram that a listener got, for a connection.
    struct ReceivedRecord {
        let id: ConnectionNumber
        let flow: FlowKey
        let datagram: UnsafeRawBufferPointer
    }

    fileprivate enum Kind: UInt8 {
        case configure = 1
        case connection = 2
        case misdelivered = 3
        case stop = 4
        case ping = 5
        case rehandshake = 6
        case keyLog = 7
        case slots = 8
        case takeOver = 9
        case records = 10
        case farSocket = 11
        case resume = 12
        case resumeFailed = 13
        case adopt = 14
        case release = 15
        case giveUpSocket = 16
        case counters = 17
        case close = 18
        case logLevel = 19
        case trace = 20
        case addresses = 21
        case backend = 22
        case sessions = 23
        case keys = 24
    }

    static func encode(configure generation: UInt32) -> [UInt8] {
        encodeMessage(Kind.configure) { $0.integer(generation) }
    }

    static func encode(
        connection id: ConnectionNumber, generation: UInt32, target: Target, flow: FlowKey,
        connectionID: ConnectionID?, resumptionKeys: [UInt8]?, hello: [UInt8]?, datagrams: [[UInt8]]
    ) -> [UInt8] {
        encodeMessage(Kind.connection) {
            $0.number(id)
            $0.integer(generation)
            $0.target(target)
            $0.flow(flow)
            $0.optional(connectionID) { writer, id in id.withUnsafeBytes { writer.data($0) } }
            $0.optional(resumptionKeys) { $0.data($1) }
            $0.optional(hello) { $0.data($1) }
            $0.list(datagrams) { $0.data($1) }
        }
    }

    static func encode(
        rehandshake id: ConnectionNumber, resumptionKeys: [UInt8], hello: UnsafeRawBufferPointer
    ) -> [UInt8] {
        encodeMessage(Kind.rehandshake) {
            $0.number(id)
            $0.data(resumptionKeys)
            $0.data(hello)
        }
    }

    static func encode(misdelivered datagram: UnsafeRawBufferPointer, id: ConnectionNumber) -> [UInt8] {
        encodeMessage(Kind.misdelivered) {
            $0.number(id)
            $0.data(datagram)
        }
    }

    static func encode(stopKeepingConnections keeping: Bool) -> [UInt8] {
        encodeMessage(Kind.stop) { $0.bool(keeping) }
    }

    static func encode(farSocketOf id: ConnectionNumber) -> [UInt8] {
        encodeMessage(Kind.farSocket) { $0.number(id) }
    }

    static func encode(resume id: ConnectionNumber, flow: FlowKey, datagrams: [[UInt8]]) -> [UInt8] {
        encodeMessage(Kind.resume) {
            $0.number(id)
            $0.flow(flow)
            $0.list(datagrams) { $0.data($1) }
        }
    }

    static func encode(resumeFailed id: ConnectionNumber) -> [UInt8] {
        encodeMessage(Kind.resumeFailed) { $0.number(id) }
    }

    static func encode(giveUpSocketOf id: ConnectionNumber) -> [UInt8] {
        encodeMessage(Kind.giveUpSocket) { $0.number(id) }
    }

    /// - Parameter ids: at most ``ConnectionNumber/maximumOfMessage``.
    static func encode(adopt ids: [ConnectionNumber]) -> [UInt8] {
        encodeMessage(Kind.adopt) { $0.list(ids) { $0.number($1) } }
    }

    /// - Parameter ids: at most ``ConnectionNumber/maximumOfMessage``.
    static func encode(close ids: [ConnectionNumber]) -> [UInt8] {
        encodeMessage(Kind.close) { $0.list(ids) { $0.number($1) } }
    }

    static func encode(logLevel: LogLevel?) -> [UInt8] {
        encodeMessage(Kind.logLevel) { $0.optional(logLevel) { $0.string($1.rawValue) } }
    }

    static func encode(trace patterns: [AddressPattern]) -> [UInt8] {
        encodeMessage(Kind.trace) { $0.list(patterns) { $0.string("\($1)") } }
    }

    static func encode(addresses: [SocketAddress], ofHost host: String) -> [UInt8] {
        encodeMessage(Kind.addresses) {
            $0.list(addresses) { $0.address($1) }
            $0.string(host)
        }
    }

    static func encode(backend address: Backend.Address, ofService service: String, isDown: Bool) -> [UInt8] {
        encodeMessage(Kind.backend) {
            $0.data(BinaryCoding.encode(address))
            $0.string(service)
            $0.bool(isDown)
        }
    }

    static func encode(release count: UInt32) -> [UInt8] {
        encodeMessage(Kind.release) { $0.integer(count) }
    }

    static var sessionsBytes: [UInt8] { encodeMessage(Kind.sessions) { _ in } }
    static var keyLogBytes: [UInt8] { encodeMessage(Kind.keyLog) { _ in } }
    static var keysBytes: [UInt8] { encodeMessage(Kind.keys) { _ in } }
    static func encode(slotsOfTable number: Int, outliveDaemon: Bool) -> [UInt8] {
        encodeMessage(Kind.slots) {
            $0.integer(UInt16(truncatingIfNeeded: number))
            $0.bool(outliveDaemon)
        }
    }
    static var countersBytes: [UInt8] { encodeMessage(Kind.counters) { _ in } }
    static var takeOverBytes: [UInt8] { encodeMessage(Kind.takeOver) { _ in } }
    static var pingBytes: [UInt8] { encodeMessage(Kind.ping) { _ in } }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .configure: self = .configure(generation: try reader.integer())
        case .connection:
            self = .connection(
                Handover(
                    id: try reader.number(), generation: try reader.integer(), target: try reader.target(),
                    flow: try reader.flow(),
                    connectionID: try reader.optional { reader throws(MalformedBytes) in try reader.connectionID() },
                    resumptionKeys: try reader.optional { reader throws(MalformedBytes) in try reader.data() },
                    hello: try reader.optional { reader throws(MalformedBytes) in try reader.data() },
                    datagrams: try reader.list { reader throws(MalformedBytes) in try reader.data() }))
        case .misdelivered: self = .misdelivered(id: try reader.number(), datagram: try reader.data())
        case .stop: self = .stop(keepingConnections: try reader.bool())
        case .ping: self = .ping
        case .rehandshake:
            self = .rehandshake(
                id: try reader.number(), resumptionKeys: try reader.data(), hello: try reader.data())
        case .keyLog: self = .keyLog
        case .keys: self = .keys
        case .sessions: self = .sessions
        case .slots: self = .slots(table: try reader.integer(), outliveDaemon: try reader.bool())
        case .counters: self = .counters
        case .takeOver: self = .takeOver
        case .records:
            var records: [ReceivedRecord] = []
            while !reader.isAtEnd {
                records.append(
                    ReceivedRecord(id: try reader.number(), flow: try reader.flow(), datagram: try reader.data()))
            }
            self = .records(records)
        case .farSocket: self = .farSocket(id: try reader.number())
        case .resume:
            self = .resume(
                id: try reader.number(), flow: try reader.flow(),
                datagrams: try reader.list { reader throws(MalformedBytes) in try reader.data() })
        case .resumeFailed: self = .resumeFailed(id: try reader.number())
        case .giveUpSocket: self = .giveUpSocket(id: try reader.number())
        case .adopt: self = .adopt(try reader.numbers())
        case .release: self = .release(count: try reader.integer())
        case .close: self = .close(try reader.numbers())
        case .logLevel:
            let level = try reader.optionalString()
            self = .logLevel(level.flatMap { LogLevel(rawValue: $0) })
        case .trace:
            self = .trace(try reader.list { reader throws(MalformedBytes) in try reader.addressPattern() })
        case .backend:
            self = .backend(
                try BinaryCoding.decode(from: try reader.data()), ofService: try reader.string(),
                isDown: try reader.bool())
        case .addresses:
            self = .addresses(
                try reader.list { reader throws(MalformedBytes) in try reader.address() }, ofHost: try reader.string())
        }
    }
}

/// Gathers the records of one ``MessageToWorker/records(_:)``, in memory that is used again for the next.
struct RecordGathering {
    private var writer = ByteWriter()
    /// The records that are in the message.
    private(set) var count = 0

    /// Bytes of a message, well below ``UnixChannel/maximumMessageSize``: a socket's buffer takes several of them.
    static let maximumBytes = 32_768

    /// The message.
    var bytes: [UInt8] { writer.bytes }

    /// Whether the message is to be sent before the datagram is added. One of any size has room in an empty message.
    func isFull(for datagram: UnsafeRawBufferPointer) -> Bool {
        count > 0 && writer.bytes.count + datagram.count + Self.overhead > Self.maximumBytes
    }

    /// Bytes of the number, the flow and the lengths, at most.
    private static let overhead = 128

    mutating func add(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, of id: ConnectionNumber) {
        if count == 0 { writer.integer(MessageToWorker.Kind.records.rawValue) }
        writer.number(id)
        writer.flow(flow)
        writer.data(datagram)
        count += 1
    }

    mutating func removeAll() {
        writer.removeAll()
        count = 0
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
    /// The client of a connection begins a re-handshake with this datagram (RFC 6347, section 4.2.8), whose cookie the worker
    /// has checked. It is answered with ``MessageToWorker/rehandshake(id:resumptionKeys:hello:)``.
    case rehandshake(id: ConnectionNumber, hello: UnsafeRawBufferPointer)
    /// Connections without sockets need some: a good record of the peer waits, or a message for it. Each is answered
    /// with ``MessageToWorker/resume(id:flow:datagrams:)`` or ``MessageToWorker/resumeFailed(id:)``.
    case wake([ConnectionNumber])
    /// The peer of a connection is at this flow now, which an authentic record that is newer than all before, or a path
    /// response (RFC 9853), has shown: the connection wants a socket that is connected there. It may have one at its
    /// former flow, which it keeps until then. It is answered with ``MessageToWorker/resume(id:flow:datagrams:)`` or
    /// ``MessageToWorker/resumeFailed(id:)``.
    case rebind(id: ConnectionNumber, flow: FlowKey)
    /// Datagrams to be sent to peers that no socket is connected to, each from the listener of its local address: to one
    /// whose address is not proven yet (a path challenge, RFC 9853), or the close_notify of a connection without a socket.
    case sendFromListener([DatagramToSend])
    /// Connections have no sockets of their peers from now on. Sent at once, and before the socket is closed, so that
    /// no datagram finds neither.
    case parked([ConnectionNumber])
    /// The far socket of a connection comes along. It belongs to the ``released(_:hadSocket:)`` of this connection that follows.
    case farSocket(id: ConnectionNumber)
    /// The worker has given connections up, as it was asked to: it touches neither their slots nor their sockets any
    /// more, says nothing more about them, and ignores what it is still told of them. One that has a socket comes alone,
    /// with the peer's socket, from which nothing has been read that the state in the slot does not know of.
    ///
    /// The others were parked. A socket that was sent for one of them meanwhile is still on its way to the worker, which
    /// goes on with the connection when it comes: such a connection must not move.
    case released([ConnectionNumber], hadSocket: Bool)
    /// All connections are released that ``MessageToWorker/release(count:)`` has asked for and that can move now.
    case releaseDone
    /// All addresses of a host name refuse datagrams, so that it should be looked up again.
    case hostRefused(String)
    /// The key process has left the worker without an answer, and its channel is closed. It is answered with
    /// ``MessageToWorker/keys``, some time later.
    case keysLost

    /// A datagram for the peer of a flow.
    struct DatagramToSend {
        let flow: FlowKey
        let datagram: UnsafeRawBufferPointer
    }

    /// What has happened since the last report, and the main process acts on. What is only counted is in the
    /// ``CounterFile``.
    struct Report: Equatable {
        /// The connections whose first handshake has succeeded.
        var established: [ConnectionNumber] = []
        /// The connections that have ended, or were refused by the worker. Their slots are wiped, and the worker has no
        /// more use for them.
        var closed: [ConnectionNumber] = []
        /// Datagrams of ``MessageToWorker/records(_:)`` in which no record was good, or that were copies, and that have come
        /// from where their connections are not known to be.
        var forged: UInt32 = 0
        /// Where the `forged` ones have come from, as far as there is room: their sources may be forged, too.
        var forgedFrom: [NetworkPrefix: ForgedSource] = [:]
        /// Connections that were handed over and that the worker has refused, for the log. They are in `closed`, too.
        var refused = Tally<Refusal>()

        /// How many datagrams that nobody has sealed came from one network.
        struct ForgedSource: Equatable {
            /// One of the network's addresses.
            let address: SocketAddress
            var count: UInt32
        }

        /// The most networks of ``forgedFrom``.
        static let maximumSources = 1_024

        /// Counts a datagram that the peer of a connection has not sealed, or a copy of one that it has.
        /// - Parameter source: where it has come from.
        mutating func countForged(from source: SocketAddress) {
            forged &+= 1
            let network = NetworkPrefix(of: source, lengths: NetworkPrefix.Lengths())
            if let index = forgedFrom.index(forKey: network) {
                forgedFrom.values[index].count &+= 1
            } else if forgedFrom.count < Self.maximumSources {
                forgedFrom[network] = ForgedSource(address: source, count: 1)
            }
        }

        var isEmpty: Bool { self == Report() }

        /// Removes and returns what fits one message; the rest stays for the next.
        mutating func takePart() -> Report {
            var part = self
            part.established = Array(established.prefix(ConnectionNumber.maximumOfMessage))
            part.closed = Array(closed.prefix(ConnectionNumber.maximumOfMessage))
            let rest = (
                established.dropFirst(ConnectionNumber.maximumOfMessage),
                closed.dropFirst(ConnectionNumber.maximumOfMessage)
            )
            self = Report()
            established = Array(rest.0)
            closed = Array(rest.1)
            return part
        }
    }

    fileprivate enum Kind: UInt8 {
        case ready = 1
        case rejected = 2
        case report = 3
        case misdelivered = 4
        case setupLost = 5
        case wake = 6
        case parked = 7
        case farSocket = 8
        case released = 9
        case releaseDone = 10
        case rebind = 11
        case sendFromListener = 12
        case hostRefused = 13
        case keysLost = 14
        case rehandshake = 15
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
            $0.list(report.established) { $0.number($1) }
            $0.list(report.closed) { $0.number($1) }
            $0.integer(report.forged)
            $0.list(Array(report.forgedFrom.values)) {
                $0.address($1.address)
                $0.integer($1.count)
            }
            for kind in Refusal.allCases { $0.integer(report.refused[kind]) }
        }
    }

    static func encode(misdelivered datagram: UnsafeRawBufferPointer, flow: FlowKey) -> [UInt8] {
        encodeMessage(Kind.misdelivered) {
            $0.flow(flow)
            $0.data(datagram)
        }
    }

    /// - Parameter ids: at most ``ConnectionNumber/maximumOfMessage``.
    static func encode(wake ids: [ConnectionNumber]) -> [UInt8] {
        encodeMessage(Kind.wake) { $0.list(ids) { $0.number($1) } }
    }

    /// - Parameter ids: at most ``ConnectionNumber/maximumOfMessage``.
    static func encode(parked ids: [ConnectionNumber]) -> [UInt8] {
        encodeMessage(Kind.parked) { $0.list(ids) { $0.number($1) } }
    }

    static func encode(rebind id: ConnectionNumber, flow: FlowKey) -> [UInt8] {
        encodeMessage(Kind.rebind) {
            $0.number(id)
            $0.flow(flow)
        }
    }

    static func encode(sendFromListener datagram: UnsafeRawBufferPointer, flow: FlowKey) -> [UInt8] {
        var one = DatagramGathering()
        one.add(datagram, flow)
        return one.bytes
    }

    static func encode(farSocketOf id: ConnectionNumber) -> [UInt8] {
        encodeMessage(Kind.farSocket) { $0.number(id) }
    }

    /// - Parameters:
    ///   - ids: at most ``ConnectionNumber/maximumOfMessage``, and one if it had a socket.
    ///   - hadSocket: whether the peer's socket comes along.
    static func encode(released ids: [ConnectionNumber], hadSocket: Bool) -> [UInt8] {
        encodeMessage(Kind.released) {
            $0.list(ids) { $0.number($1) }
            $0.bool(hadSocket)
        }
    }

    static func encode(hostRefused host: String) -> [UInt8] {
        encodeMessage(Kind.hostRefused) { $0.string(host) }
    }

    static func encode(rehandshake id: ConnectionNumber, hello: UnsafeRawBufferPointer) -> [UInt8] {
        encodeMessage(Kind.rehandshake) {
            $0.number(id)
            $0.data(hello)
        }
    }

    static var keysLostBytes: [UInt8] { encodeMessage(Kind.keysLost) { _ in } }
    static var releaseDoneBytes: [UInt8] { encodeMessage(Kind.releaseDone) { _ in } }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .ready: self = .ready(generation: try reader.integer(), capacity: try reader.integer())
        case .rejected: self = .rejected(generation: try reader.integer(), reason: try reader.string())
        case .setupLost: self = .setupLost(generation: try reader.integer())
        case .report:
            var report = Report(
                established: try reader.numbers(), closed: try reader.numbers(), forged: try reader.integer())
            for _ in 0..<(try reader.integer(UInt32.self)) {
                let source = Report.ForgedSource(address: try reader.address(), count: try reader.integer())
                report.forgedFrom[NetworkPrefix(of: source.address, lengths: NetworkPrefix.Lengths())] = source
            }
            for kind in Refusal.allCases { report.refused.count(kind, try reader.integer()) }
            self = .report(report)
        case .misdelivered: self = .misdelivered(flow: try reader.flow(), datagram: try reader.data())
        case .wake: self = .wake(try reader.numbers())
        case .rebind: self = .rebind(id: try reader.number(), flow: try reader.flow())
        case .sendFromListener:
            var datagrams: [DatagramToSend] = []
            repeat {
                datagrams.append(DatagramToSend(flow: try reader.flow(), datagram: try reader.data()))
            } while !reader.isAtEnd
            self = .sendFromListener(datagrams)
        case .parked: self = .parked(try reader.numbers())
        case .farSocket: self = .farSocket(id: try reader.number())
        case .released: self = .released(try reader.numbers(), hadSocket: try reader.bool())
        case .releaseDone: self = .releaseDone
        case .hostRefused: self = .hostRefused(try reader.string())
        case .keysLost: self = .keysLost
        case .rehandshake: self = .rehandshake(id: try reader.number(), hello: try reader.data())
        }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

/// Gathers the datagrams of one ``MessageFromWorker/sendFromListener(_:)``, in memory that is used again for the next.
struct DatagramGathering {
    private var writer = ByteWriter()
    /// The datagrams that are in the message.
    private(set) var count = 0

    /// The message.
    var bytes: [UInt8] { writer.bytes }

    mutating func add(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) {
        if count == 0 { writer.integer(MessageFromWorker.Kind.sendFromListener.rawValue) }
        writer.flow(flow)
        writer.data(datagram)
        count += 1
    }

    mutating func removeAll() {
        writer.removeAll()
        count = 0
    }
}

extension ConnectionNumber {
    /// The most numbers of each list in one message, which then stays well below ``UnixChannel/maximumMessageSize``.
    static let maximumOfMessage = 4_096
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

    fileprivate mutating func number(_ number: ConnectionNumber) { integer(number.rawValue) }

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

    fileprivate mutating func number() throws(MalformedBytes) -> ConnectionNumber {
        ConnectionNumber(rawValue: try integer())
    }

    fileprivate mutating func numbers() throws(MalformedBytes) -> [ConnectionNumber] {
        try list { reader throws(MalformedBytes) in try reader.number() }
    }

    fileprivate mutating func connectionID() throws(MalformedBytes) -> ConnectionID {
        guard let id = ConnectionID(try data()) else { throw MalformedBytes() }
        return id
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

extension ByteReader {
    fileprivate mutating func addressPattern() throws(MalformedBytes) -> AddressPattern {
        let text = try string()
        do throws(NetworkPrefix.Mistake) { return try AddressPattern(parsing: text) } catch { throw MalformedBytes() }
    }
}
