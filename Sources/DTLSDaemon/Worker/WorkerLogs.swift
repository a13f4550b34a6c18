import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// The log of one worker. What unauthenticated peers can cause goes through limiters.
final class WorkerLogs: TimerTarget {
    /// The number of the worker.
    let worker: Int
    private let loop: EventLoop
    private let logger: Logger
    /// For connections opened and closed, which a busy service logs in normal operation.
    private var connections: LogLimiter
    /// For what goes wrong.
    private var failures: LogLimiter

    /// Is called with how many messages of a service could not be logged (handler "log").
    var onMessagesLost: (Int, String) -> Void = { _, _ in }

    init(worker: Int, loop: EventLoop) {
        self.worker = worker
        self.loop = loop
        var logger = Logger(label: "dtlsd")
        logger[metadataKey: "WORKER"] = "\(worker)"
        self.logger = logger
        // journald lets a service write 10,000 entries in 30 s by default, all its processes together.
        connections = LogLimiter(burst: 100, perSecond: 20)
        failures = LogLimiter(burst: 20, perSecond: 2)
        super.init()
    }

    func opened(_ connection: Connection, _ id: ConnectionNumber, _ service: ServiceRuntime) {
        connections.log(
            .connectionOpened, to: logger, now: loop.now, "connection opened",
            openedFields(connection, service).merging(["CONNECTION": "\(id.text)"]) { $1 })
        scheduleFlush()
    }

    private func openedFields(_ connection: Connection, _ service: ServiceRuntime) -> Logger.Metadata {
        let session = connection.session
        var fields: Logger.Metadata = [
            "PEER": "\(connection.peer)", "LOCAL": "\(connection.local)", "SERVICE": "\(service.configuration.name)",
            "VERSION": "\(session.version)", "CIPHER": "\(session.cipher)", "RESUMED": session.isResumed ? "yes" : "no",
            "HANDSHAKE_USEC": "\(connection.handshakeDuration.nanoseconds / 1_000)",
        ]
        fields.merge(Self.connectionIDFields(session.connectionIDs)) { $1 }
        if let name = session.serverName { fields["SNI"] = "\(name)" }
        if let name = session.applicationProtocol { fields["ALPN"] = "\(name)" }
        if let label = session.label { fields["LABEL"] = "\(label)" }
        fields.merge(Self.clientFields(session.peerName)) { $1 }
        return fields
    }

    /// The connection IDs, in hexadecimal digits, by which a capture of the traffic can be searched. An empty one is in no
    /// record.
    static func connectionIDFields(_ ids: ConnectionIDs?) -> Logger.Metadata {
        guard let ids else { return [:] }
        var fields: Logger.Metadata = [:]
        if !ids.own.isEmpty { fields["CONNECTION_ID"] = "\(ids.own)" }
        if !ids.peer.isEmpty { fields["PEER_CONNECTION_ID"] = "\(ids.peer)" }
        return fields
    }

    /// A client is at another address than before, and its connection goes on.
    /// - Parameter former: where the client was before, as far as that is known.
    func moved(_ connection: Connection, from former: SocketAddress?, _ service: ServiceRuntime) {
        connections.log(
            .connectionMoved, to: logger, now: loop.now, "the client's address has changed, and the connection goes on",
            movedFields(connection, former, service))
        scheduleFlush()
    }

    private func movedFields(
        _ connection: Connection, _ former: SocketAddress?, _ service: ServiceRuntime
    ) -> Logger.Metadata {
        var fields: Logger.Metadata = [
            "PEER": "\(connection.peer)", "LOCAL": "\(connection.local)", "SERVICE": "\(service.configuration.name)",
        ]
        if let former { fields["FORMER_PEER"] = "\(former)" }
        return fields.merging(Self.connectionIDFields(connection.connectionIDs)) { $1 }
    }

    /// Records of a client have come from an address, and nobody has answered there.
    func checkFailed(_ connection: Connection, at address: SocketAddress, _ service: ServiceRuntime) {
        failures.log(
            .pathCheckFailed, to: logger, now: loop.now,
            "the client does not answer at the address \(address) that its records have come from:"
                + " the connection stays at \(connection.peer)",
            [
                "PEER": "\(connection.peer)", "OTHER_PEER": "\(address)",
                "SERVICE": "\(service.configuration.name)",
            ].merging(Self.connectionIDFields(connection.connectionIDs)) { $1 })
        scheduleFlush()
    }

    /// Clients choose the length of their names, which are cut at 256 bytes.
    private static func clientFields(_ client: PeerName?) -> Logger.Metadata {
        var fields: Logger.Metadata = [:]
        if let name = client?.name { fields["CLIENT"] = "\(name.cut(toUTF8Bytes: 256))" }
        if let fingerprint = client?.fingerprint { fields["CLIENT_FINGERPRINT"] = "\(fingerprint)" }
        return fields
    }

    /// - Parameters:
    ///   - ids: the connection IDs (RFC 9146) that the connection had.
    ///   - dropped: how many datagrams of the client exceeded its limits.
    func closed(
        _ peer: SocketAddress, _ id: ConnectionNumber, _ ids: ConnectionIDs?, _ counters: Connection.Counters,
        _ service: ServiceRuntime,
        _ ending: Connection.Ending, dropped: UInt64
    ) {
        connections.log(
            .connectionClosed, to: logger, now: loop.now, "connection closed: \(ending)",
            closedFields(peer, counters, service, ending, dropped).merging(["CONNECTION": "\(id.text)"]) { $1 }
                .merging(Self.connectionIDFields(ids)) { $1 })
        scheduleFlush()
    }

    private func closedFields(
        _ peer: SocketAddress, _ counters: Connection.Counters, _ service: ServiceRuntime,
        _ ending: Connection.Ending, _ dropped: UInt64
    ) -> Logger.Metadata {
        var fields: Logger.Metadata = [
            "PEER": "\(peer)", "SERVICE": "\(service.configuration.name)", "REASON": "\(ending)",
            "BYTES_IN": "\(counters.bytesIn)", "BYTES_OUT": "\(counters.bytesOut)",
            "DATAGRAMS_IN": "\(counters.messagesIn)", "DATAGRAMS_OUT": "\(counters.messagesOut)",
        ]
        if counters.unsent > 0 { fields["DATAGRAMS_UNSENT"] = "\(counters.unsent)" }
        if dropped > 0 { fields["DATAGRAMS_DROPPED"] = "\(dropped)" }
        if counters.tooLarge > 0 { fields["DATAGRAMS_TOO_LARGE"] = "\(counters.tooLarge)" }
        return fields
    }

    /// - Parameter client: who the client has claimed to be.
    func handshakeFailed(
        peer: SocketAddress, _ service: ServiceRuntime, _ reason: @autoclosure () -> String,
        client: @autoclosure () -> PeerName? = nil
    ) {
        failures.log(
            .handshakeFailed, to: logger, now: loop.now, "handshake failed: \(reason())",
            ["PEER": "\(peer)", "SERVICE": "\(service.configuration.name)"].merging(Self.clientFields(client())) { $1 })
        scheduleFlush()
    }

    /// The client of a connection has proven who it is, and may not come in.
    func refused(_ connection: Connection, _ refusal: Refusal, _ reason: String, _ service: ServiceRuntime) {
        failures.log(
            .clientRefused, to: logger, now: loop.now, "client refused: \(reason)",
            openedFields(connection, service).merging(["REASON": "\(refusal.key)"]) { $1 })
        scheduleFlush()
    }

    /// A client has sent more than its connection may. What is beyond the limit is dropped from now on.
    func trafficLimited(_ excess: TrafficExcess, _ connection: Connection, _ service: ServiceRuntime) {
        failures.log(
            .trafficLimited, to: logger, now: loop.now,
            "datagrams are dropped: the client has sent more than \(excess.key) allows, as set for its service or for all",
            ["PEER": "\(connection.peer)", "SERVICE": "\(service.configuration.name)", "REASON": "\(excess.key)"])
        scheduleFlush()
    }

    /// Logs about a service what traffic can cause any number of times.
    func limited(
        _ event: LogEvent, _ message: @autoclosure () -> String, _ service: ServiceRuntime,
        _ more: @autoclosure () -> Logger.Metadata = [:]
    ) {
        failures.log(
            event, to: logger, now: loop.now, message(),
            more().merging(["SERVICE": "\(service.configuration.name)"]) { $1 })
        scheduleFlush()
    }

    /// Logs that a connection was opened or closed.
    func connectionEvent(
        _ event: LogEvent, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> Logger.Metadata
    ) {
        connections.log(event, to: logger, now: loop.now, message(), fields())
        scheduleFlush()
    }

    /// Logs what traffic, or a server that is down, can cause any number of times.
    func limited(
        _ event: LogEvent, _ message: @autoclosure () -> String, fields: @autoclosure () -> Logger.Metadata
    ) {
        failures.log(event, to: logger, now: loop.now, message(), fields())
        scheduleFlush()
    }

    /// Logs what the caller has bounded.
    func always(
        _ event: LogEvent, _ message: @autoclosure () -> String, _ service: ServiceRuntime? = nil,
        _ more: Logger.Metadata = [:]
    ) {
        var fields = more
        if let service { fields["SERVICE"] = "\(service.configuration.name)" }
        logger.log(event, message(), fields)
    }

    /// Entries that are held back are reported a while later, even if nothing follows.
    private func scheduleFlush() {
        if connections.isHoldingBack || failures.isHoldingBack {
            loop.timers.arm(self, at: loop.now + .milliseconds(1_000))
        }
    }

    /// Reports what is still held back. Call it when the worker ends.
    func finish() {
        connections.finish(to: logger)
        failures.finish(to: logger)
    }

    override func timerFired(now: Instant) {
        connections.flush(now: now, to: logger)
        failures.flush(now: now, to: logger)
        scheduleFlush()
    }
}
