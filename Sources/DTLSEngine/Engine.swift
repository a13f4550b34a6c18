import Primitives

/// One DTLS connection without I/O or clock: datagrams in; datagrams, messages and events out.
///
/// `deliver` a datagram, then call `next(now:)` until it says `.needsInput`; whatever is in the ``DatagramBIO``'s
/// outbox after any call is to be sent to the peer. Call `handleTimeout(now:)` when ``deadline`` has passed. An engine
/// that has thrown is finished: send the outbox (it may hold an alert), and let it go.
///
/// OpenSSL does the handshake. After it the keys leave OpenSSL, which is freed: the engine seals and opens records
/// itself, and what is left of the connection is its ``RecordState``, which can be moved to other memory and taken up by
/// another engine, in another process too. The records of AES-CBC, of DTLS 1.0, and of contexts that allow renegotiation
/// stay with OpenSSL; see ``isMovable``.
public final class Engine {
    /// The largest message of one record, in bytes (RFC 6347, section 4.1: as in TLS, 2^14).
    public static let maximumMessageSize = 16_384
    /// The smallest and largest UDP payload that a handshake flight can be made to fit, in bytes. OpenSSL's floor is
    /// 208; above 4,096 its buffer BIO would split a record over two datagrams.
    public static let payloadSizes = 208...4_096

    public enum Event {
        /// There is no further event until a datagram or the timeout comes.
        case needsInput
        /// The handshake is done; messages may follow at once.
        case established
        /// A decrypted message, valid until the next call of any engine of this thread. It is empty for an empty record
        /// (RFC 5246, section 6.2.1), as some stacks send them (mbedTLS, wolfSSL).
        case message(UnsafeRawBufferPointer)
        /// The peer has answered a path_challenge with this cookie (RFC 9853). The datagram that held the answer tells
        /// which path it came over.
        case pathResponse(UInt64)
        /// The record with the peer's Finished has come once more, while the last flight is kept: the peer asks for that
        /// (pion/dtls 3.1 sends the record that it was), or anybody who has seen the record go by. ``sendLastFlight()``
        /// answers.
        case finishedRepeated
        /// The peer asks for the last flight, which this engine has left (``leaveLastFlight()``).
        /// ``keepLastFlight(_:until:now:)`` and ``repeatLastFlight(now:)`` answer, or ``forgetLastFlight()`` where it is
        /// kept no longer.
        case lastFlightWanted
        /// The peer has said who it is (``authorizationQuestion``), and the handshake waits for ``authorize(_:)``. It is
        /// asked for once in a handshake, where a server's settings have an ``ServerSettings/authorization``, or a client's
        /// say so (``ClientSettings/asksAboutServer``).
        case needsAuthorization
        /// The peer has sent close_notify, and no event follows.
        case closed
    }

    private let bio: DatagramBIO
    /// The side that works: OpenSSL's during the handshake, and the one that has the records after it.
    private var openSSL: OpenSSLConnection?
    private var records: ProtectedRecords?
    /// OpenSSL's side when the keys have just left it, for what may be asked right after `.established`.
    private var left: OpenSSLConnection?
    private var agreement: Boxed<SessionDetails>?
    /// The UDP payload, in bytes, that the handshake's flights have fitted at last.
    private var finalPayloadSize: UInt16 = 0
    /// See ``discoveredPayloadSize``.
    private var hasDiscoveredSize = false

    // MARK: Making

    /// A server's side, from a ClientHello whose cookie has been verified: OpenSSL is told to accept it whatever it is.
    /// Continue with `next(now:)`.
    ///
    /// A first fragment of the hello will do (see ``ClientHello/parse(_:)``); the others are delivered as they come.
    /// - Parameter localAddress: the 4 or 16 bytes of the address that the client has sent to, for a context that
    ///   chooses a certificate by it; none where that is not known.
    /// - Parameter connectionID: what the client is to put into its protected records (RFC 9146), where it has offered
    ///   to, and the context's settings have ``ServerSettings/connectionIDs``; `nil`: the client's offer is ignored.
    public convenience init(
        accepting context: ServerContext, over bio: DatagramBIO, payloadSize: Int, hello: consuming VerifiedHello,
        localAddress: [UInt8] = [], connectionID: ConnectionID? = nil
    ) throws(OpenSSLError) {
        try self.init(
            accepting: context, over: bio, payloadSize: payloadSize, hello: hello, localAddress: localAddress,
            connectionID: connectionID, resumptionKeys: nil)
    }

    /// - Parameter resumptionKeys: the keys of this handshake's sessions, in place of those of the context's ring.
    package init(
        accepting context: ServerContext, over bio: DatagramBIO, payloadSize: Int, hello: consuming VerifiedHello,
        localAddress: [UInt8], connectionID: ConnectionID?, resumptionKeys: ResumptionKeys?
    ) throws(OpenSSLError) {
        self.bio = bio
        openSSL = try OpenSSLConnection(
            accepting: context, over: bio, payloadSize: payloadSize, hello: hello, localAddress: localAddress,
            connectionID: connectionID, resumptionKeys: resumptionKeys)
    }

    /// A client's side. Continue with `next(now:)`, which writes the first flight.
    /// - Parameter serverName: sent as SNI when it is a host name, and checked against the server's certificate (a host
    ///   name or an IP address) where the context verifies it.
    /// - Parameter connectionID: what the server is to put into its protected records (RFC 9146), if the context's
    ///   settings have ``ClientSettings/connectionIDs``; an empty one only lets the server have its own; `nil`: nothing
    ///   is offered.
    public init(
        connecting context: ClientContext, over bio: DatagramBIO, payloadSize: Int, serverName: String? = nil,
        connectionID: ConnectionID? = nil
    ) throws(OpenSSLError) {
        self.bio = bio
        openSSL = try OpenSSLConnection(
            connecting: context, over: bio, payloadSize: payloadSize, serverName: serverName,
            connectionID: connectionID)
    }

    /// An established connection from the state of its records, which goes on in that memory. See ``RecordState``.
    /// - Parameter memory: ``RecordState/byteCount`` bytes, 8-byte aligned, that nobody else writes as long as the engine
    ///   is used. They are not wiped when the engine goes.
    public init(resuming memory: UnsafeMutableRawPointer, over bio: DatagramBIO) throws(InvalidRecordState) {
        if let fault = RecordState.fault(of: memory) { throw fault }
        self.bio = bio
        records = ProtectedRecords(RecordState(memory), ownsMemory: false)
    }

    /// An established connection from a copy of the state of its records, with which nobody else may go on: numbers of
    /// records would be used twice.
    public init(resuming bytes: [UInt8], over bio: DatagramBIO) throws(InvalidRecordState) {
        let records = try ProtectedRecords(copying: bytes)
        self.bio = bio
        self.records = records
    }

    deinit { records?.end(bio) }

    /// Sets how long a flight of the handshake waits for its answer before it is sent again for the first time. It is
    /// three round trips of the cookie's exchange otherwise, from a quarter of a second to one second (``FlightTiming``). To
    /// be called before the first `next(now:)`.
    public func setFirstTimeout(_ timeout: Duration) { openSSL?.setFirstTimeout(timeout) }

    /// Offers a session to the server, which may take it up or do a full handshake. To be called before the first
    /// `next(now:)`.
    ///
    /// One whose ticket makes the hello larger than a datagram is not offered: a server need not put hellos together
    /// (Mbed TLS does not), and would refuse this one for ever. OpenSSL's servers put the client's certificate
    /// into a ticket, which then has up to 2 KB; ours does not (``SessionNotes``).
    public func resume(_ session: ResumableSession) { openSSL?.resume(session) }

    // MARK: Working

    /// Takes a datagram from the peer. It must stay valid until `next(now:)` has said `.needsInput` or `.closed`, or
    /// has thrown.
    @inline(__always)
    public func deliver(_ datagram: UnsafeRawBufferPointer) {
        if let openSSL { openSSL.deliver(datagram) } else { records?.deliver(datagram) }
    }

    /// The next thing that happened.
    @inline(__always)
    public func next(now: Instant) throws(EngineError) -> Event {
        guard let openSSL else { return try nextOfRecords(now: now) }
        let event = try openSSL.next(now: now)
        if case .established = event { try concludeHandshake(of: openSSL, now: now) }
        return event
    }

    private func nextOfRecords(now: Instant) throws(EngineError) -> Event {
        if left != nil { left = nil }
        return try records?.next(over: bio, now: now) ?? .closed
    }

    private func concludeHandshake(of openSSL: OpenSSLConnection, now: Instant) throws(EngineError) {
        var details = SessionDetails(openSSL.ssl)
        let negotiation = openSSL.connectionIDs
        details.connectionIDs = negotiation?.agreed
        details.checksReturnRoutability = negotiation?.checksReturnRoutability ?? false
        details.label = openSSL.label
        agreement = Boxed(details)
        guard let records = ProtectedRecords(leaving: openSSL, now: now) else {
            guard details.connectionIDs == nil else {
                throw .handshake(
                    OpenSSLError("the keys of the records cannot be had, which connection IDs need"), verification: nil)
            }
            return
        }
        finalPayloadSize = UInt16(clamping: openSSL.payloadSize)
        hasDiscoveredSize = openSSL.discoveredPayloadSize != nil
        self.records = records
        self.openSSL = nil
        left = openSSL
    }

    /// Who waits for ``authorize(_:)``; `nil` where nobody does.
    public var authorizationQuestion: AuthorizationQuestion? { openSSL?.authorizationQuestion }

    /// Answers `.needsAuthorization`. Continue with `next(now:)`, which writes the alert for a client that is kept out, and
    /// throws. Only the first answer counts.
    public func authorize(_ answer: AuthorizationAnswer) { openSSL?.authorize(answer) }

    /// Encrypts one message of up to ``maximumMessageSize`` bytes into one datagram of the outbox. An empty one is an
    /// empty record.
    @inline(__always)
    public func send(_ message: UnsafeRawBufferPointer) throws(EngineError) {
        guard let openSSL else {
            guard records != nil else { throw .notEstablished }
            try records?.send(message, over: bio)
            return
        }
        try openSSL.send(message)
    }

    /// What tells the peer that the connection ends (RFC 5246, section 7.2).
    public enum ClosingAlert: Sendable {
        case closeNotify
        /// The peer has proven who it is, and may not come in. Where the records are OpenSSL's, which writes no alert of
        /// its user's choice, close_notify takes its place.
        case accessDenied
        /// Another fatal alert, as ``accessDenied``.
        case fatal(UInt8)
    }

    /// Writes close_notify, or another alert in its place, once, where the handshake is done (RFC 5246, section 7.2.1), and
    /// ends the connection.
    public func close(_ alert: ClosingAlert = .closeNotify) {
        if let openSSL { openSSL.close() } else { records?.close(alert, over: bio) }
    }

    /// Asks the peer to answer with the same cookie over the path that the datagram is sent on: a path_challenge (RFC
    /// 9853), one datagram of the outbox. Nothing happens where ``checksReturnRoutability`` does not hold.
    /// - Parameter cookie: 64 random bits.
    public func sendPathChallenge(_ cookie: UInt64) { records?.sendPathChallenge(cookie, over: bio) }

    /// Writes the flight that has ended the handshake once more, after `.finishedRepeated`.
    public func sendLastFlight() { records?.sendLastFlight(over: bio) }

    /// When ``handleTimeout(now:)`` is to be called; `Instant.distantFuture` where it need not be.
    public var deadline: Instant { openSSL?.deadline ?? records?.deadline ?? .distantFuture }

    /// Does what is due: sends the last flight again, or gives up what is kept for the end of a handshake. Throws when
    /// the peer has not answered for OpenSSL's 12 tries, or has said nothing but a fatal alert.
    public func handleTimeout(now: Instant) throws(EngineError) {
        if let openSSL { try openSSL.handleTimeout(now: now) } else { records?.handleTimeout(now: now) }
    }

    /// Whether an alert without protection has come, from the peer or forged in its name, and nothing since.
    public var holdsAlert: Bool { openSSL?.holdsAlert ?? false }

    /// Notes that the network has refused a datagram to the peer (ECONNREFUSED), which anybody can forge: where the peer's
    /// last word was an alert without protection, that is believed after one more timeout.
    public func peerWasRefused() { openSSL?.peerWasRefused() }

    /// Gives OpenSSL the alert that is held back, if there is one, and throws what it makes of it.
    public func deliverHeldAlert(now: Instant) throws(EngineError) { try openSSL?.deliverHeldAlert(now: now) }

    /// Releases OpenSSL's record buffers, 28 KiB, until the next datagram needs them: for a connection that is idle. An
    /// engine that is movable has none.
    public func releaseBuffers() { openSSL?.releaseBuffers() }

    // MARK: Moving

    /// Whether the keys have left OpenSSL, so that the connection's ``RecordState`` is all that there is of it. It is
    /// known from `.established` on.
    @inline(__always)
    public var isMovable: Bool { records != nil }

    /// Goes on with the state of the connection's records in other memory, where it can be found when this engine is
    /// gone. Where the engine is not movable, nothing happens.
    ///
    /// To be called after `.established` and before anything else.
    /// - Parameter memory: ``RecordState/byteCount`` bytes, 8-byte aligned, which outlive the engine.
    public func moveRecordState(to memory: UnsafeMutableRawPointer) { records?.move(to: memory) }

    /// Goes on as another engine of the same thread, which goes on as this one: for an owner whose constant an engine is, so
    /// that a call of it counts no references.
    public func exchange(with other: Engine) {
        swap(&openSSL, &other.openSSL)
        swap(&records, &other.records)
        swap(&left, &other.left)
        swap(&agreement, &other.agreement)
        swap(&finalPayloadSize, &other.finalPayloadSize)
        swap(&hasDiscoveredSize, &other.hasDiscoveredSize)
    }

    /// Ends the engine without a word to the peer, and gives the state of its records, for one engine to go on with.
    /// - Returns: ``RecordState/byteCount`` bytes, which hold keys; `nil` where the engine is not movable.
    public func takeRecordState() -> [UInt8]? {
        guard isEstablished else { return nil }
        defer {
            records?.end(bio)
            records = nil
        }
        return records?.bytes
    }

    /// The flight that has ended the handshake on this side, in bytes, and until when it is kept: the peer may have lost
    /// it, and ask for it by sending its own Finished again (RFC 6347, section 4.2.4). `nil` where nobody asks any more,
    /// or where the engine is not movable. It holds no secrets.
    package var lastFlight: (bytes: [UInt8], expiry: Instant)? { records?.lastFlight }

    /// Leaves the ``lastFlight`` to the owner, who keeps it: it takes as much memory as all else of an engine, and few
    /// peers ask for it. The engine says `.lastFlightWanted` when the peer does.
    package func leaveLastFlight() { records?.leaveLastFlight() }

    package var hasLeftLastFlight: Bool { records?.hasLeftLastFlight ?? false }

    /// Keeps the ``lastFlight`` that this engine has left, or that of an engine whose state this one goes on with.
    package func keepLastFlight(_ bytes: [UInt8], until expiry: Instant, now: Instant) {
        records?.keepLastFlight(bytes, until: expiry, now: now)
    }

    /// Writes the last flight once more for the peer that has asked for it, after `.lastFlightWanted`.
    package func repeatLastFlight(now: Instant) { records?.repeatLastFlight(over: bio, now: now) }

    /// The last flight is kept no longer, here or elsewhere.
    package func forgetLastFlight() { records?.forgetLastFlight() }

    // MARK: Queries

    @inline(__always)
    public var isEstablished: Bool { openSSL?.isEstablished ?? records?.isOpen ?? false }

    /// What the handshake has agreed on; `nil` before it is done, and after ``releaseDetails()``, and for an engine that
    /// was resumed.
    public var details: SessionDetails? { agreement?.value }

    /// Gives up the details, some hundred bytes, where somebody else keeps them.
    public func releaseDetails() { agreement = nil }

    /// The session of a client's connection, for the next one; `nil` where the server gave none. It is there right after
    /// `.established`, until the next call of `next(now:)`, where the engine is movable.
    public var resumableSession: ResumableSession? { (openSSL ?? left)?.resumableSession }

    /// The bytes of the largest message that a record may hold: less than ``maximumMessageSize`` where the client has
    /// asked for less (max_fragment_length: RFC 6066, section 4). A peer ends a connection over which more is sent.
    @inline(__always)
    public var recordLimit: Int { openSSL?.recordLimit ?? records?.contentLimit ?? Self.maximumMessageSize }

    /// The UDP payload, in bytes, that handshake flights fit now: less than the path's after some got lost.
    public var payloadSize: Int { openSSL?.payloadSize ?? Int(finalPayloadSize) }

    /// ``payloadSize``, where flights had to be made so small since larger ones did not arrive, and nothing else has said
    /// that they would not: the network does not tell by ICMP what it takes. `nil` otherwise.
    public var discoveredPayloadSize: Int? {
        guard let openSSL else { return hasDiscoveredSize ? payloadSize : nil }
        return openSSL.discoveredPayloadSize
    }

    /// Makes flights fit a path that takes a UDP payload of this many bytes, if they do not yet.
    public func limitPayload(to size: Int) { openSSL?.limitPayload(to: size) }

    /// The bytes of the largest message that the peer takes, and whose record fits a UDP payload of `size` bytes; 0
    /// before the handshake is done.
    public func largestMessage(inPayload size: Int) -> Int {
        openSSL?.largestMessage(inPayload: size) ?? records?.largestMessage(inPayload: size) ?? 0
    }

    /// What was agreed on by RFC 9146, from `.established` on; `nil` where nothing was.
    public var connectionIDs: ConnectionIDs? { records?.connectionIDs }

    /// Whether a datagram begins with a record that has a connection ID other than this side's own, so that it is of
    /// another connection, whose peer has got the address of this one's. It is known from `.established` on.
    @inline(__always)
    public func isOfAnotherConnection(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard !datagram.isEmpty, datagram[0] == ContentType.connectionID.rawValue else { return false }
        return records?.isOfAnotherConnection(datagram) ?? false
    }

    /// Whether a datagram holds the record of the peer's Finished once more, while the last flight is kept, so that it has
    /// the engine say `.finishedRepeated`. It costs nothing otherwise.
    public func holdsRepeatedFinished(_ datagram: UnsafeRawBufferPointer) -> Bool {
        records?.holdsRepeatedFinished(datagram, over: bio) ?? false
    }

    /// Whether return routability checks were agreed on (RFC 9853), from `.established` on.
    public var checksReturnRoutability: Bool { records?.checksReturnRoutability ?? false }

    /// Epoch and number, in one, of the newest record of the peer's that was authentic; it grows with each newer one.
    /// So who compares it before and after a datagram knows whether that held such a record. It is 0 where the engine is
    /// not movable.
    @inline(__always)
    public var newestReceived: UInt64 { records?.newestReceived ?? 0 }

    /// A client's flights, as long as the handshake goes on, after it has failed, and right after `.established`; none for
    /// a server's side.
    public var flights: [HandshakeFlight] { (openSSL ?? left)?.flights?.all ?? [] }

    /// Why the client's certificate was refused, where that is what the handshake has failed for.
    public var peerRejection: PeerRejection? { openSSL?.peerRejection }

    /// What a log adds to the reason of a handshake with a pre-shared key that has failed.
    public var presharedKeyRemark: String { openSSL?.presharedKeyRemark ?? "" }

    /// The SSL, as long as there is one.
    var ssl: OpaquePointer? { (openSSL ?? left)?.ssl }
    /// OpenSSL's side, where that works.
    var openSSLConnection: OpenSSLConnection? { openSSL }
    /// The state of the records, where they are not OpenSSL's.
    var recordState: RecordState? { records?.state }
}
