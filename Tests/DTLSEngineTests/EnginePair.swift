import COpenSSL
import Primitives
import TestSupport
import Testing
import VirtualClock

@testable import DTLSEngine

/// A client's engine and a server's, with the cookie exchange before it, over a simulated wire in virtual time.
///
/// Both share one ``DatagramBIO``, as the connections of a worker do. Everything happens on the calling thread.
final class EnginePair {
    /// One side, and what has happened to it.
    struct Endpoint {
        var engine: Engine?
        var isEstablished = false
        var isClosed = false
        var messages: [[UInt8]] = []
        /// The cookies of the path_responses that have come.
        var pathResponses: [UInt64] = []
        /// How often the record of the other side's Finished has come once more.
        var repetitions = 0
        var error: EngineError?
        /// What OpenSSL has said when the handshake was done: after that it may be gone.
        var session: ResumableSession?
        var alternativeNames: AlternativeNames?
        var stapledResponse: [UInt8]?
        var shownCertificates: Int32?

        var isAtEnd: Bool { isEstablished || error != nil }
    }

    private(set) var client = Endpoint()
    private(set) var server = Endpoint()
    var wire: SimulatedWire
    private let clock: Int64
    private(set) var bio: DatagramBIO
    let serverContext: ServerContext
    private let payloadSize: Int
    /// What the server's engine is told that the client has come to.
    private let localAddress: [UInt8]
    /// What the server's engine has clients put into their records.
    private let serverID: ConnectionID?
    private let serverTimeout: Duration?
    /// Has the ticket keys of the server in another process's place; `nil`: the server's context has them.
    private let keySource: TicketKeyRing?
    private let cookies: CookieAuthority
    private let fragments = HelloFragments()
    /// How many good cookies are refused, as if they had become too old.
    var cookiesToRefuse = 0
    /// Answers the questions who may come in; `nil`: later, by ``answer(_:)``.
    var authorize: (AuthorizationQuestion) -> AuthorizationAnswer? = { _ in nil }
    private(set) var questions: [AuthorizationQuestion] = []
    /// Somebody on the way, who changes the client's datagrams.
    var tamper: ([UInt8]) -> [UInt8] = { $0 }
    private let clientAddress: [UInt8] = [192, 0, 2, 1, 0x30, 0x39]
    private let serverAddress: [UInt8] = [192, 0, 2, 2, 0x11, 0x51]
    /// The virtual time that the pair began at.
    private static let start: Int64 = 1_700_000_000_000_000

    init(
        client clientSettings: ClientSettings, server serverSettings: ServerSettings, payloadSize: Int = 1452,
        conditions: WireConditions = .perfect, seed: UInt64 = 1, serverName: String? = "localhost",
        ticketKeys: [UInt8]? = nil, keySource: TicketKeyRing? = nil, session: ResumableSession? = nil,
        sessions: SessionCache? = nil,
        localAddress: [UInt8] = [],
        asksForStaple: Bool = false, askingFor otherName: String? = nil,
        scheduleCapacity: Int = CipherContexts.defaultCapacity, clientTimeout: Duration? = nil,
        serverTimeout: Duration? = nil,
        clientID: ConnectionID? = nil, serverID: ConnectionID? = nil, heldKeys: HeldKeys? = nil,
        prepareClient: (OpaquePointer) -> Void = { _ in }
    ) throws {
        clock = virtual_clock_start(Self.start)
        bio = try DatagramBIO(scheduleCapacity: scheduleCapacity)
        wire = SimulatedWire(conditions, seed: seed)
        var (clientSettings, serverSettings) = (clientSettings, serverSettings)
        clientSettings.connectionIDs = clientID != nil
        serverSettings.connectionIDs = serverID != nil
        self.serverID = serverID
        self.serverTimeout = serverTimeout
        self.keySource = keySource
        let ring = ticketKeys.flatMap(TicketKey.init).map { TicketKeyRing([$0]) }
        serverContext = try ServerContext(
            serverSettings, tickets: keySource == nil ? ring : TicketKeyRing(), sessions: sessions, heldKeys: heldKeys)
        self.payloadSize = payloadSize
        self.localAddress = localAddress
        cookies = try CookieAuthority(secret: Array(repeating: 9, count: 32))
        client.engine = try Engine(
            connecting: ClientContext(clientSettings, heldKeys: heldKeys), over: bio, payloadSize: payloadSize,
            serverName: serverName, connectionID: clientID)
        if let session { client.engine?.resume(session) }
        if let clientTimeout { client.engine?.setFirstTimeout(clientTimeout) }
        if let otherName, let ssl = client.engine?.ssl { _ = co_ssl_set_tlsext_host_name(ssl, otherName) }
        if asksForStaple, let ssl = client.engine?.ssl {
            SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_STATUS_REQ_TYPE, Int(TLSEXT_STATUSTYPE_ocsp), nil)
        }
        if let ssl = client.engine?.ssl { prepareClient(ssl) }
        proceed(.client)
    }

    deinit { virtual_clock_stop(clock) }

    private static var now: Instant { Instant(nanoseconds: UInt64(virtual_clock_now()) * 1_000) }

    /// Microseconds of virtual time since the beginning.
    var elapsed: Int64 { virtual_clock_now() - Self.start }

    /// Whether a side has ended because no answer came to any of its 12 tries.
    var hasGivenUp: Bool {
        [client, server].contains { $0.error.map { "\($0)" == "read timeout expired" } ?? false }
    }

    /// Lets time pass, from one arrival or timeout to the next, until `condition` holds, nothing more can happen, or
    /// an hour has gone by. (The steps are counted too: a timer that never fires would make no time pass.)
    func run(until condition: (EnginePair) -> Bool = { _ in false }) {
        for _ in 0..<100_000 {
            if condition(self) || elapsed > 3_600_000_000 { return }
            let now = virtual_clock_now()
            let deadlines = [client, server].compactMap { $0.error == nil ? $0.engine?.deadline : nil }
            let nextTimeout = deadlines.min().flatMap { $0 == .distantFuture ? nil : Int64($0.nanoseconds / 1_000) }
            if let arrival = wire.nextArrival, arrival <= nextTimeout ?? .max, let delivery = wire.takeNext() {
                virtual_clock_advance(max(0, arrival - now))
                receive(delivery)
            } else if let nextTimeout {
                virtual_clock_advance(max(0, nextTimeout - now))
                handleTimeout(.client)
                handleTimeout(.server)
            } else {
                return
            }
        }
    }

    /// Runs until both sides have finished their handshake or failed in it.
    func handshake() { run { $0.client.isAtEnd && $0.server.isAtEnd } }

    func send(_ message: [UInt8], from side: SimulatedWire.Side) throws {
        defer { flush(side) }
        try message.withUnsafeBytes { try endpoint(side).engine?.send($0) }
    }

    /// Answers the server's question late.
    func answer(_ answer: AuthorizationAnswer) {
        server.engine?.authorize(answer)
        proceed(.server)
    }

    func close(_ side: SimulatedWire.Side) {
        endpoint(side).engine?.close()
        flush(side)
    }

    func releaseBuffers() { for endpoint in [client, server] { endpoint.engine?.releaseBuffers() } }

    /// Hands a datagram to a side at once, past the wire.
    func inject(_ datagram: [UInt8], into side: SimulatedWire.Side) {
        receive(SimulatedWire.Delivery(time: virtual_clock_now(), order: 0, side: side, datagram: datagram))
    }

    /// Has the client begin another handshake on its connection.
    func renegotiate() {
        guard let engine = client.engine else { return }
        SSL_renegotiate(engine.ssl)
        SSL_do_handshake(engine.ssl)
        engine.openSSLConnection?.adjustDeadline(hasWritten: true, now: Self.now)
        flush(.client)
    }

    /// What the last handshake of a side has ended with: another value after each.
    func finished(_ side: SimulatedWire.Side) -> [UInt8] {
        guard let engine = endpoint(side).engine else { return [] }
        return [UInt8](unsafeUninitializedCapacity: 64) { $1 = SSL_get_finished(engine.ssl, $0.baseAddress, 64) }
    }

    /// An authentic record of a side whose records are not OpenSSL's, which is not sent.
    func record(_ type: ContentType, _ content: [UInt8], from side: SimulatedWire.Side) throws -> [UInt8] {
        let state = try #require(endpoint(side).engine?.recordState)
        let (number, algorithm) = (try #require(state.takeNumber()), try #require(state.algorithm))
        let overhead = algorithm.overhead + CipherContexts.connectionIDOverhead(state.peerConnectionID)
        var record = [UInt8](repeating: 0, count: Record.headerSize + overhead + content.count)
        var hint: Int32 = 0
        let contexts = CipherContexts(capacity: 1)
        let isSealed = record.withUnsafeMutableBytes { record in
            content.withUnsafeBytes { contexts.seal($0, type, number, state, hint: &hint, into: record) }
        }
        try #require(isSealed)
        return record
    }

    /// Has another engine go on with the connection of a side, from its state alone.
    func move(_ side: SimulatedWire.Side) throws {
        let state = try #require(endpoint(side).engine?.takeRecordState())
        let engine = try Engine(resuming: state, over: bio)
        change(side) { $0.engine = engine }
    }

    func replaceEngine(of side: SimulatedWire.Side, by engine: Engine?) { change(side) { $0.engine = engine } }

    /// Lets both engines go.
    func letGo() {
        client.engine = nil
        server.engine = nil
    }

    private func endpoint(_ side: SimulatedWire.Side) -> Endpoint { side == .client ? client : server }

    private func change(_ side: SimulatedWire.Side, _ body: (inout Endpoint) -> Void) {
        if side == .client { body(&client) } else { body(&server) }
    }

    private func receive(_ delivery: SimulatedWire.Delivery) {
        delivery.datagram.withUnsafeBytes { datagram in
            if delivery.side == .server, server.engine == nil {
                accept(datagram)
            } else if endpoint(delivery.side).error == nil {
                endpoint(delivery.side).engine?.deliver(datagram)
                proceed(delivery.side)
            }
        }
    }

    /// What the acceptor does: answers a hello without a good cookie, and makes an engine of one with.
    private func accept(_ datagram: UnsafeRawBufferPointer) {
        let datagram = fragments.join(datagram)
        guard case .hello(let hello) = ClientHello.parse(datagram) else { return }
        let minute = Minute(milliseconds: virtual_clock_now() / 1_000)
        clientAddress.withUnsafeBytes { peer in
            serverAddress.withUnsafeBytes { local in
                if let verified = cookies.verify(hello, peer: peer, local: local, minute: minute) {
                    cookiesToRefuse -= 1
                    if cookiesToRefuse < 0 { return begin(verified) }
                }
                let size = CookieAuthority.helloVerifyRequestSize
                let reply = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
                    count = cookies.writeHelloVerifyRequest(
                        answering: hello, peer: peer, local: local, minute: minute,
                        into: UnsafeMutableRawBufferPointer(buffer))
                }
                wire.send(reply, to: .client, at: virtual_clock_now())
            }
        }
    }

    private func begin(_ hello: consuming VerifiedHello) {
        do throws(OpenSSLError) {
            let keys = keySource?.makeResumptionKeys(offered: hello.offeredSession)
            server.engine = try Engine(
                accepting: serverContext, over: bio, payloadSize: payloadSize, hello: hello,
                localAddress: localAddress, connectionID: serverID,
                resumptionKeys: keys?.withUnsafeBytes { ResumptionKeys($0) })
            if let serverTimeout { server.engine?.setFirstTimeout(serverTimeout) }
            proceed(.server)
        } catch { server.error = .handshake(error, verification: nil) }
    }

    private func handleTimeout(_ side: SimulatedWire.Side) {
        guard endpoint(side).error == nil, let engine = endpoint(side).engine, engine.deadline <= Self.now else {
            return
        }
        do throws(EngineError) { try engine.handleTimeout(now: Self.now) } catch { change(side) { $0.error = error } }
        flush(side)
    }

    /// Takes every event that the side's engine has, and sends what it wrote.
    private func proceed(_ side: SimulatedWire.Side) {
        guard let engine = endpoint(side).engine else { return }
        do throws(EngineError) {
            events: while true {
                switch try engine.next(now: Self.now) {
                case .needsInput: break events
                case .established: change(side) { $0.noteHandshake(of: engine) }
                case .message(let bytes): change(side) { $0.messages.append(Array(bytes)) }
                case .pathResponse(let cookie): change(side) { $0.pathResponses.append(cookie) }
                case .lastFlightWanted: engine.forgetLastFlight()
                case .finishedRepeated: change(side) { $0.repetitions += 1 }
                case .needsAuthorization:
                    guard let question = engine.authorizationQuestion else { break }
                    questions.append(question)
                    if let answer = authorize(question) { engine.authorize(answer) }
                case .closed:
                    change(side) { $0.isClosed = true }
                    break events
                }
            }
        } catch { change(side) { $0.error = error } }
        flush(side)
    }

    func flush(_ side: SimulatedWire.Side) {
        var datagrams: [[UInt8]] = []
        bio.outbox.withDatagrams { bytes, sizes in
            var offset = 0
            for size in sizes {
                datagrams.append(Array(bytes[offset..<offset + size]))
                offset += size
            }
        }
        bio.outbox.removeAll()
        let other: SimulatedWire.Side = side == .client ? .server : .client
        for datagram in datagrams {
            wire.send(side == .client ? tamper(datagram) : datagram, to: other, at: virtual_clock_now())
        }
    }
}

extension Engine {
    var version: String { details?.version ?? "none" }
    var cipher: String { details?.cipher ?? "none" }
    var isResumed: Bool { details?.isResumed ?? false }
    var serverName: String? { details?.serverName }
    var applicationProtocol: String? { details?.applicationProtocol }
    var peerName: PeerName? { details?.peerName }
}

extension EnginePair.Endpoint {
    fileprivate mutating func noteHandshake(of engine: Engine) {
        isEstablished = true
        session = engine.resumableSession
        guard let ssl = engine.ssl else { return }
        alternativeNames = SSL_get0_peer_certificate(ssl).map { AlternativeNames(of: $0) }
        shownCertificates = SSL_get_peer_cert_chain(ssl).map { OPENSSL_sk_num($0) }
        stapledResponse = Self.stapledResponse(ssl)
    }

    /// The OCSP response that has come with the server's certificate.
    private static func stapledResponse(_ ssl: OpaquePointer) -> [UInt8]? {
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = withUnsafeMutablePointer(to: &bytes) {
            SSL_ctrl(ssl, SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP, 0, $0)
        }
        guard let bytes, count > 0 else { return nil }
        return Array(UnsafeBufferPointer(start: bytes, count: count))
    }
}
