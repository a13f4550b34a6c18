import COpenSSL
import COpenSSLClock
import Primitives

/// One DTLS connection in OpenSSL: every handshake, and after it the records that are OpenSSL's, where the keys do not
/// leave it (see ``Engine``).
final class OpenSSLConnection {
    private enum State { case handshaking, established, closed }

    let ssl: OpaquePointer
    let bio: DatagramBIO
    /// The engine keeps the context alive for the callbacks that OpenSSL has from it.
    let context: TLSContext
    private var state = State.handshaking
    /// Whether SSL_read has said that it wants a new datagram.
    private var isDrained = false
    private var hasBuffers = true
    /// How often the present flight has been sent again.
    private var flightRetransmissions: UInt8 = 0
    /// How often the peer has asked for the flight that has ended the handshake.
    private var lastFlightRequests: UInt8 = 0
    /// When flights are sent again; see ``Engine/setFirstTimeout(_:)``.
    private var timing = FlightTiming.unmeasured
    /// What a client finds it out by, until it has.
    private var measurement: RoundTripMeasurement?
    /// How long the timer of the present flight runs.
    private var timeout = FlightTiming.unmeasured.firstTimeout
    /// When the present flight was sent, and when it was sent last.
    private var flightSent = Instant.distantPast
    private var flightSentLast = Instant.distantPast
    /// Whether the peer repeats the flight that the present one is the answer to.
    private var hasRepetition = false
    private var repetitionsAnswered: UInt8 = 0
    private var evidence = SizeEvidence()
    /// The UDP payload, in bytes, that the path is thought to take.
    private var pathPayloadSize: UInt16
    /// The UDP payload, in bytes, that handshake flights fit now: less than the path's after some got lost.
    private(set) var payloadSize: Int
    /// When the flight that waits for an answer must be sent again; `Instant.distantFuture` where none does.
    private(set) var deadline = Instant.distantFuture
    /// The bytes of the largest message that a record may hold: less than ``Engine/maximumMessageSize`` where the client has
    /// asked for less (max_fragment_length: RFC 6066, section 4). OpenSSL ends a connection over which more is sent
    /// ("exceeds max fragment size").
    @inline(__always)
    var recordLimit: Int { filter.contentLimit }
    private var alert: PlaintextAlert?
    /// A client's flights; a server's are not noted.
    private(set) var flights: HandshakeFlights?
    private(set) var filter = RecordFilter()
    /// ``Record/number`` of the newest empty record, where OpenSSL does not tell of them.
    var newestEmptyRecord: UInt64 = 0
    /// What checks such records, from the first one on.
    var peerEmptyRecord: EmptyRecord?
    /// For a client that was asked for its cookie more than once, or never counted; see accept(_:).
    var pendingHello: [UInt8]?
    var numbering = RecordNumbering()
    /// Protected records that came during the handshake, for the record layer that reads them after it.
    private(set) var held = HeldRecords()
    /// What has been sent with keys during the handshake.
    private(set) var protectedWrites = ProtectedWrites()
    /// What was written by the step that the handshake ended with; `nil` where the peer sends last.
    private(set) var lastFlight: LastFlight?
    /// Where a connection ID is offered or can be answered with: until it is known that none is agreed on.
    private var adapter: ConnectionIDAdapter?
    /// What holds the client back until it is known whether it may come in; `nil` where nobody is asked, and after the
    /// handshake.
    private var gate: AuthorizationGate?
    /// What the client is called, as the answer has said.
    private(set) var label: String?
    /// The number of the newest record in the clear that was written, where there is a ``gate``.
    private(set) var lastPlaintextNumber: UInt64 = 0
    /// What the hellos have said of connection IDs, where this side has one.
    var connectionIDs: ConnectionIDNegotiation? { adapter?.negotiation }

    private init(_ context: TLSContext, over bio: DatagramBIO, payloadSize: Int) throws(OpenSSLError) {
        OpenSSLError.clear()
        guard let ssl = SSL_new(context.pointer) else { throw OpenSSLError.drain() }
        self.ssl = ssl
        self.bio = bio
        self.context = context
        // SSL_set_bio takes one reference where both are the same.
        BIO_up_ref(bio.pointer)
        SSL_set_bio(ssl, bio.pointer, bio.pointer)
        self.payloadSize = min(max(payloadSize, Engine.payloadSizes.lowerBound), Engine.payloadSizes.upperBound)
        pathPayloadSize = UInt16(truncatingIfNeeded: self.payloadSize)
        _ = co_ssl_set_mtu(ssl, self.payloadSize)
        stopOpenSSLTimer()
    }

    /// A server's side, from a ClientHello whose cookie has been verified: OpenSSL is told to accept it whatever it is.
    /// Continue with `next(now:)`.
    ///
    /// A first fragment of the hello will do (see ``ClientHello/parse(_:)``); the others are delivered as they come.
    /// - Parameter localAddress: the 4 or 16 bytes of the address that the client has sent to, for a context that
    ///   chooses a certificate by it; none where that is not known.
    /// - Parameter resumptionKeys: see ``Engine``.
    convenience init(
        accepting context: ServerContext, over bio: DatagramBIO, payloadSize: Int, hello: consuming VerifiedHello,
        localAddress: [UInt8] = [], connectionID: ConnectionID? = nil, resumptionKeys: ResumptionKeys? = nil
    ) throws(OpenSSLError) {
        try self.init(context, over: bio, payloadSize: payloadSize)
        SSL_set_accept_state(ssl)
        if let resumptionKeys, !resumptionKeys.attach(to: ssl) { throw OpenSSLError.drain() }
        timing = .measured(hello.roundTrip, on: .server)
        try ask(context.authorization)
        try negotiate(connectionID)
        if context.choosesByAddress { context.chooseVirtualHost(forAddress: localAddress, of: ssl) }
        try accept(hello)
    }

    /// A client's side. Continue with `next(now:)`, which writes the first flight.
    /// - Parameter serverName: sent as SNI when it is a host name, and checked against the server's certificate (a host
    ///   name or an IP address) where the context verifies it.
    convenience init(
        connecting context: ClientContext, over bio: DatagramBIO, payloadSize: Int, serverName: String? = nil,
        connectionID: ConnectionID? = nil
    ) throws(OpenSSLError) {
        try self.init(context, over: bio, payloadSize: payloadSize)
        SSL_set_connect_state(ssl)
        flights = HandshakeFlights()
        timing = .ofHello
        measurement = RoundTripMeasurement()
        try ask(context.asksAboutServer ? .all : .none)
        try negotiate(connectionID)
        guard let serverName else { return }
        let parameters = SSL_get0_param(ssl)
        if X509_VERIFY_PARAM_set1_ip_asc(parameters, serverName) == 1 { return }
        OpenSSLError.clear()
        guard X509_VERIFY_PARAM_set1_host(parameters, serverName, 0) == 1,
            co_ssl_set_tlsext_host_name(ssl, serverName) == 1
        else { throw OpenSSLError.drain() }
    }

    private func ask(_ scope: AuthorizationScope) throws(OpenSSLError) {
        guard scope != .none else { return }
        guard let gate = AuthorizationGate.attach(scope, to: ssl) else { throw OpenSSLError.drain() }
        self.gate = gate
    }

    private func negotiate(_ connectionID: ConnectionID?) throws(OpenSSLError) {
        guard let connectionID, context.negotiatesConnectionIDs else { return }
        guard let negotiation = ConnectionIDNegotiation.attach(connectionID, to: ssl) else {
            throw OpenSSLError.drain()
        }
        adapter = ConnectionIDAdapter(negotiation, over: ssl)
    }

    deinit { SSL_free(ssl) }

    /// Takes a datagram from the peer. It must stay valid until `next(now:)` has said `.needsInput` or `.closed`, or
    /// has thrown.
    @inline(__always)
    func deliver(_ datagram: UnsafeRawBufferPointer) {
        if state == .handshaking {
            evidence.hasHeardPeer = true
            if let record = Record(of: datagram) { noteArrival(of: record) }
        }
        // A renegotiation may have agreed on another cipher.
        if context.allowsRenegotiation { filter.measure(ssl, payloadSize: payloadSize) }
        if takesRecordsOneByOne {
            if let adapter { adapter.deliver(datagram) } else { gate?.deliver(datagram) }
            lendNextRecord()
            return
        }
        bio.lend(state == .handshaking ? filtered(datagram) : filter.established(datagram))
        isDrained = false
    }

    private func filtered(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        filter.measure(ssl, payloadSize: payloadSize)
        let filtered = held.split(filter.handshaking(datagram))
        return filtered.isEmpty ? filtered : holdAlertBack(filtered)
    }

    /// Whether what one record does decides on what becomes of the next one.
    @inline(__always)
    private var takesRecordsOneByOne: Bool { adapter != nil || gate != nil }

    /// The next record: one that the gate has let go, or of the datagram.
    private func nextRecord() -> ConnectionIDAdapter.Input? {
        if let (bytes, original) = gate?.nextReleased() {
            if let original { return .translated(bytes, original: original) }
            return .plain(bytes)
        }
        if let adapter { return adapter.next() }
        return gate?.nextOfDatagram().map { .plain($0) }
    }

    private func dropRestOfDatagram() {
        adapter?.dropRest()
        gate?.dropRest()
    }

    /// Lends OpenSSL the next record that is for it.
    /// - Returns: false where there is none.
    @discardableResult
    private func lendNextRecord() -> Bool {
        isDrained = false
        while let input = nextRecord() {
            switch input {
            case .held(let record): held.hold(record, wasRead: false)
            case .plain(let record):
                if gate?.holds(record, ssl) == true { continue }
                filter.measure(ssl, payloadSize: payloadSize)
                let accepted = filter.handshaking(record)
                let early = held.split(accepted)
                let allowed = early.isEmpty ? early : holdAlertBack(early)
                if accepted.count < record.count || allowed.count < early.count { dropRestOfDatagram() }
                guard allowed.isEmpty else {
                    bio.lend(allowed)
                    return true
                }
            case .translated(let record, let original):
                if gate?.holds(record, original: original, ssl) == true { continue }
                filter.measure(ssl, payloadSize: payloadSize)
                guard filter.handshaking(record).count == record.count else { continue }
                held.hold(original, wasRead: true)
                bio.lend(record)
                return true
            }
        }
        bio.lend(nil)
        return false
    }

    /// Records an alert of epoch 0 and returns the datagram's bytes before it: OpenSSL would end the handshake at once.
    private func holdAlertBack(_ datagram: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard let record = PlaintextAlert.firstRecord(in: datagram) else {
            // The peer goes on.
            alert = nil
            return datagram
        }
        if alert == nil, let found = PlaintextAlert(record), found.endsHandshake { alert = found }
        return record.precedingBytes
    }

    /// The next thing that happened.
    func next(now: Instant) throws(EngineError) -> Engine.Event {
        switch state {
        case .handshaking: return try continueHandshake(now: now)
        case .established: return try held.isEmpty ? read(now: now) : readHeld(now: now)
        case .closed: return .closed
        }
    }

    /// Reads what was held during the handshake, and then what the datagram has left.
    private func readHeld(now: Instant) throws(EngineError) -> Engine.Event {
        while let record = held.removeFirst() {
            // OpenSSL has had it.
            if record.wasRead { continue }
            let result = record.bytes.withUnsafeBytes { bytes -> Result<Engine.Event, EngineError> in
                bio.lend(bytes)
                isDrained = false
                defer { bio.lend(nil) }
                do throws(EngineError) { return .success(try read(now: now)) } catch { return .failure(error) }
            }
            let event = try result.get()
            if case .needsInput = event { continue }
            return event
        }
        return try read(now: now)
    }

    /// Takes the records that were held: the connection's keys have left OpenSSL, and it reads none of them.
    func takeHeld() -> HeldRecords {
        defer { held = HeldRecords() }
        return held
    }

    private func continueHandshake(now: Instant) throws(EngineError) -> Engine.Event {
        if let refusal = gate?.finalRefusal {
            state = .closed
            bio.lend(nil)
            writeFatalAlert(refusal.alert)
            throw .unauthorized(refusal)
        }
        guard let hello = pendingHello else {
            let event =
                try takesRecordsOneByOne ? continueRecordByRecord(now: now) : concludeStep(handshake(now: now))
            if hasRepetition { try answerRepetition(now: now) }
            return event
        }
        pendingHello = nil
        let event = try concludeStep(handshake(with: hello, now: now))
        if adapter?.isDone == true { adapter = nil }
        return event
    }

    /// Has OpenSSL read record by record.
    private func continueRecordByRecord(now: Instant) throws(EngineError) -> Engine.Event {
        while true {
            let event = try concludeStep(handshake(now: now))
            if case .established = event {
                leaveGate()
                return event
            }
            if lendNextRecord() { continue }
            if gate?.findQuestion(ssl) == true {
                // The client has sent its flight, or repeats what has got lost of it.
                deadline = .distantFuture
                return .needsAuthorization
            }
            if gate?.hasReleased == true, lendNextRecord() { continue }
            if adapter?.isDone == true { adapter = nil }
            return event
        }
    }

    /// Holds what the gate and the datagram have left when the handshake is done, for the record layer that comes then.
    private func leaveGate() {
        label = gate?.label
        while let (bytes, original) = gate?.nextReleased() {
            held.hold(original ?? bytes, wasRead: false)
        }
        if let adapter {
            adapter.holdRest(in: &held)
        } else {
            while let bytes = gate?.nextOfDatagram() {
                // Only protected records are of use then.
                guard let record = Record(of: bytes), record.isProtected, record.isComplete else { continue }
                held.hold(bytes, wasRead: false)
            }
        }
        gate = nil
    }

    /// Lets the client in or keeps it out, after `.needsAuthorization`.
    func authorize(_ answer: AuthorizationAnswer) { gate?.answer(answer) }

    var authorizationQuestion: AuthorizationQuestion? { gate?.question }

    private func concludeStep(_ result: Int32) throws(EngineError) -> Engine.Event {
        if result == 1 {
            if let fault = ServerVerifier.finalFault(of: ssl) {
                state = .closed
                bio.lend(nil)
                throw .handshake(OpenSSLError("certificate verify failed"), verification: fault)
            }
            state = .established
            ResumptionKeys.release(from: ssl)
            alert = nil
            filter.measure(ssl, payloadSize: payloadSize)
            // DTLSv1_listen has turned this on; a renegotiation would ask for a cookie that is never made.
            if context.allowsRenegotiation { SSL_clear_options(ssl, CO_SSL_OP_COOKIE_EXCHANGE) }
            return .established
        }
        let outcome = SSL_get_error(ssl, result)
        if outcome == SSL_ERROR_WANT_READ { return endOfDatagram() }
        state = .closed
        bio.lend(nil)
        if outcome == SSL_ERROR_ZERO_RETURN { throw .cancelled }
        let error = OpenSSLError.drain()
        switch HandshakeRefusal.reason(for: ssl) {
        case .unknownServerName(let name): throw .unknownServerName(name)
        case .unauthorized(let refusal): throw .unauthorized(refusal)
        case .certificate(let rejection):
            rejection.correctAlert(in: bio.outbox)
            bio.notes.correctSentAlert(to: rejection.alert)
            throw .handshake(error, verification: rejection.description)
        case .server(let fault): throw .handshake(error, verification: fault)
        case .rawPublicKeyNotTaken:
            throw .handshake(
                OpenSSLError(
                    "the client takes no raw public key (server_certificate_type, RFC 7250), and the service has no"
                        + " certificate"),
                verification: nil)
        case .unknownPresharedKeyIdentity(let identity):
            let name = Printable.quoted(PresharedKeys.text(of: identity))
            throw .handshake(error, verification: "unknown PSK identity \(name)")
        case .presharedKeyUnavailable(let reason):
            throw .handshake(error, verification: "the client's pre-shared key cannot be had: \(reason)")
        case .presharedKeyIdentityWithNUL(let identity):
            throw .handshake(
                error,
                verification: "the PSK identity \(Printable.quoted(identity)) has a NUL byte in it, which no"
                    + " identity may have, since programs would take what stands before it for the whole")
        case .longConnectionID(let count):
            throw .handshake(
                OpenSSLError(
                    "the server's connection ID has \(count) bytes, and \(ConnectionID.maximumCount) are the most that"
                        + " this side takes"),
                verification: nil)
        case .connectionIDWithoutAEAD(let suite):
            throw .handshake(
                OpenSSLError(
                    "the server has agreed to connection IDs and chosen \(suite), and this side has them only with"
                        + " suites of AEAD in DTLS 1.2"),
                verification: nil)
        case nil: throw .handshake(error, verification: verificationError)
        }
    }

    private func handshake(now: Instant) -> Int32 {
        OpenSSLError.clear()
        let checkpoint = bio.outbox.checkpoint
        _ = bio.takeProtectedWrites()
        let result = SSL_do_handshake(ssl)
        FreedMemory.sessionEnds()
        noteProtectedWrites(since: checkpoint)
        renumber(since: checkpoint)
        if gate != nil { notePlaintextWrites(since: checkpoint) }
        if result == 1 {
            lastFlight = bio.outbox.datagrams(since: checkpoint).map {
                LastFlight(
                    $0, payloadSize: payloadSize, connectionIDLength: adapter?.peerConnectionIDLength ?? 0)
            }
        }
        let hasWritten = bio.outbox.checkpoint != checkpoint
        if hasWritten { evidence.begin(largest: bio.outbox.largestDatagram(since: checkpoint)) }
        if hasWritten, measurement != nil { measureRoundTrip(since: checkpoint, now: now) }
        adjustDeadline(hasWritten: hasWritten, now: now)
        if flights != nil { noteFlight(hasWritten: hasWritten, isDone: result == 1, now: now) }
        return result
    }

    private func noteFlight(hasWritten: Bool, isDone: Bool, now: Instant) {
        if isDone { flights?.goOn(writing: nil, now: now) }
        // What OpenSSL writes when it gives up is an alert.
        guard !isDone, hasWritten, SSL_want(ssl) == SSL_READING else { return }
        let hello: HandshakeFlight.Kind = flights?.hasBegun == true ? .helloWithCookie : .hello
        flights?.goOn(writing: HandshakeState(ssl) == .clientHelloWritten ? hello : .keyExchange, now: now)
    }

    /// Notes what OpenSSL has written with keys, and has the peer's connection ID put into it.
    private func noteProtectedWrites(since checkpoint: Outbox.Checkpoint) {
        let written = bio.takeProtectedWrites()
        guard written.lastNumber > 0 else { return }
        protectedWrites.add(written)
        // Where memory is short, it is as if the wire had lost them, and they are sent again later.
        if adapter?.translateWritten(to: bio.outbox, since: checkpoint, payloadSize: payloadSize) == false {
            OpenSSLError.clear()
        }
    }

    private func notePlaintextWrites(since checkpoint: Outbox.Checkpoint) {
        guard let written = bio.outbox.datagrams(since: checkpoint) else { return }
        written.bytes.withUnsafeBytes { bytes in
            var start = 0
            for size in written.sizes {
                for record in Records(of: UnsafeRawBufferPointer(rebasing: bytes[start..<(start + size)]))
                where !record.isProtected {
                    lastPlaintextNumber = max(lastPlaintextNumber, record.sequenceNumber)
                }
                start += size
            }
        }
    }

    private func handshake(with datagram: [UInt8], now: Instant) -> Int32 {
        datagram.withUnsafeBytes {
            bio.lend($0)
            defer { bio.lend(nil) }
            return handshake(now: now)
        }
    }

    @inline(__always)
    private func renumber(since checkpoint: Outbox.Checkpoint) {
        if numbering.changesNumbers { numbering.apply(to: bio.outbox, since: checkpoint) }
    }

    private func read(now: Instant) throws(EngineError) -> Engine.Event {
        // After a record, ask OpenSSL again only where it holds another: it saves a call per datagram.
        if isDrained, bio.isTaken, SSL_has_pending(ssl) == 0 { return endOfDatagram() }
        OpenSSLError.clear()
        let checkpoint = bio.outbox.checkpoint
        let wasRenegotiating = isRenegotiating
        var count = 0
        // SSL_read answers 0 for an empty record, as it does for an end, and SSL_get_error says SSL_ERROR_SYSCALL then.
        let result = SSL_read_ex(ssl, bio.plaintext.baseAddress, bio.plaintext.count, &count)
        hasBuffers = true
        if result == 1 {
            isDrained = true
            return .message(UnsafeRawBufferPointer(rebasing: bio.plaintext[..<count]))
        }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ:
            let hasWritten = bio.outbox.checkpoint != checkpoint
            if context.allowsRenegotiation { adjustDeadline(hasWritten: hasWritten, now: now) }
            if hasWritten {
                renumber(since: checkpoint)
                // The peer has sent its last flight again, and OpenSSL this side's: that was lost, perhaps for its
                // size, where that is not the first time.
                if !wasRenegotiating, !isRenegotiating {
                    lastFlightRequests = min(lastFlightRequests + 1, SizeEvidence.sendings)
                    if lastFlightRequests >= SizeEvidence.sendings - 1 { shrink(below: payloadSize) }
                    bio.notes.noteRetransmission()
                }
            }
            if Self.readsPastEmptyRecords, let datagram = bio.lastDatagram, holdsEmptyRecord(datagram) {
                bio.lend(nil)
                return .message(UnsafeRawBufferPointer(rebasing: bio.plaintext[..<0]))
            }
            return endOfDatagram()
        case SSL_ERROR_ZERO_RETURN:
            bio.lend(nil)
            // The peer's close_notify is to be answered (RFC 5246, section 7.2.1).
            close()
            return .closed
        default:
            state = .closed
            bio.lend(nil)
            let error = OpenSSLError.drain()
            // In a renegotiation, a client can ask for a name that is not served.
            if case .unknownServerName(let name) = HandshakeRefusal.reason(for: ssl) { throw .unknownServerName(name) }
            throw .record(error)
        }
    }

    private var isRenegotiating: Bool { isRenegotiable && SSL_in_init(ssl) != 0 }
    var isRenegotiable: Bool { context.allowsRenegotiation }

    @inline(__always)
    private func endOfDatagram() -> Engine.Event {
        bio.lend(nil)
        return .needsInput
    }

    /// Encrypts one message of up to ``maximumMessageSize`` bytes into one datagram of the outbox. An empty one is an
    /// empty record.
    @inline(__always)
    func send(_ message: UnsafeRawBufferPointer) throws(EngineError) {
        guard state == .established else { throw .notEstablished }
        guard message.count > 0 else { return try sendEmptyRecord() }
        guard message.count <= recordLimit else { throw refusal(ofSize: message.count) }
        if !hasBuffers { allocateBuffers() }
        OpenSSLError.clear()
        let written = SSL_write(ssl, message.baseAddress, Int32(truncatingIfNeeded: message.count))
        if written <= 0 { throw .record(OpenSSLError.drain()) }
    }

    private func refusal(ofSize size: Int) -> EngineError {
        size > Engine.maximumMessageSize ? .size(size) : .fragment(size, limit: recordLimit)
    }

    /// Writes close_notify once, where the handshake is done (RFC 5246, section 7.2.1), and ends the connection.
    func close() {
        defer { state = .closed }
        guard state == .established else { return }
        if !hasBuffers { allocateBuffers() }
        OpenSSLError.clear()
        SSL_shutdown(ssl)
        OpenSSLError.clear()
    }

    /// Whether an alert without protection has come, from the peer or forged in its name, and nothing since.
    var holdsAlert: Bool { alert != nil }

    func peerWasRefused() { alert?.peerWasRefused() }

    /// Gives OpenSSL the alert that is held back, if there is one, and throws what it makes of it.
    func deliverHeldAlert(now: Instant) throws(EngineError) {
        guard let alert else { return }
        self.alert = nil
        _ = try concludeStep(handshake(with: alert.record, now: now))
    }

    /// Releases OpenSSL's record buffers, 28 KiB, until the next datagram needs them: for a connection that is idle.
    func releaseBuffers() {
        // A flight that waits for its answer may have to be sent again at any time.
        guard deadline == .distantFuture else { return }
        if SSL_free_buffers(ssl) == 1 { hasBuffers = false }
    }

    /// OpenSSL allocates buffers again when it reads, but not when it writes: SSL_write, SSL_shutdown and
    /// DTLSv1_handle_timeout after SSL_free_buffers follow a null pointer (seen with 3.0).
    private func allocateBuffers() {
        SSL_alloc_buffers(ssl)
        hasBuffers = true
    }

    var isEstablished: Bool { state == .established }

    /// Why the client's certificate was refused, where that is what the handshake has failed for.
    var peerRejection: PeerRejection? {
        if case .certificate(let rejection) = HandshakeRefusal.reason(for: ssl) { rejection } else { nil }
    }

    private var verificationError: String? {
        let result = SSL_get_verify_result(ssl)
        guard result != Int(X509_V_OK), SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER != 0 else { return nil }
        return X509_verify_cert_error_string(result).map { String(cString: $0) }
    }
}

/// The sizes of flights and messages.
extension OpenSSLConnection {
    /// The UDP payload that a client's hello is not cut below. Servers need not put hellos together, and some do not
    /// (Mbed TLS 2.28 and 3.6: MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE).
    private static let smallestHelloPayload = 548

    /// Makes the flight that is about to be sent again smaller, where its losses say that its size is the reason (RFC
    /// 6347, section 4.1.1.1): OpenSSL fragments messages again each time.
    private func adjustSize(now: Instant) {
        if isWaitingForServer { return adjustSizeOfHello(now: now) }
        let isTooLarge = evidence.speaksAgainstSize(
            retransmissions: flightRetransmissions, lostFor: flightSentLast - flightSent, silence: now - flightSent)
        guard isTooLarge else { return }
        if shrink(below: min(payloadSize, evidence.largest)) { evidence.hasShrunk = true }
    }

    /// A server does not say anything as long as no hello reaches it, so a hello has its silence alone to go by. It is sent
    /// in pieces every third time, and whole in between: perhaps the pieces themselves are what the server does not take.
    private func adjustSizeOfHello(now: Instant) {
        let pieces = FlightSize.next(below: min(Int(pathPayloadSize), evidence.largestHello))
        if let pieces, pieces >= Self.smallestHelloPayload,
            evidence.sendsHelloInPieces(retransmissions: flightRetransmissions, after: now - flightSent)
        {
            usePayload(of: pieces)
        } else {
            usePayload(of: Int(pathPayloadSize))
        }
    }

    /// - Returns: whether there is a size to shrink to.
    @discardableResult
    private func shrink(below size: Int) -> Bool {
        guard let smaller = FlightSize.next(below: size) else { return false }
        usePayload(of: smaller)
        return true
    }

    /// The UDP payload, in bytes, that the losses of flights have left, where it is less than the path was thought to take.
    var discoveredPayloadSize: Int? { evidence.hasShrunk && payloadSize < Int(pathPayloadSize) ? payloadSize : nil }

    /// Whether this is a client whose hello has had no answer but for a request for a cookie.
    private var isWaitingForServer: Bool { HandshakeState(ssl) == .clientHelloWritten }

    private func usePayload(of size: Int) {
        payloadSize = size
        _ = co_ssl_set_mtu(ssl, size)
    }

    /// Makes flights fit a path that takes a UDP payload of this many bytes, if they do not yet.
    func limitPayload(to size: Int) {
        let size = max(size, Engine.payloadSizes.lowerBound)
        if size < Int(pathPayloadSize) { pathPayloadSize = UInt16(truncatingIfNeeded: size) }
        if size < payloadSize { usePayload(of: size) }
    }

    /// The bytes of the largest message that the peer takes, and whose record fits a UDP payload of `size` bytes; 0
    /// before the handshake is done.
    func largestMessage(inPayload size: Int) -> Int {
        guard isEstablished else { return 0 }
        _ = co_ssl_set_mtu(ssl, size)
        defer { _ = co_ssl_set_mtu(ssl, payloadSize) }
        return min(DTLS_get_data_mtu(ssl), recordLimit)
    }
}

/// The timer of flights (RFC 6347, section 4.2.4.1): ``FlightTiming``, doubled each time up to 60 seconds, and 12 tries,
/// as OpenSSL's own. Each flight begins with the first timeout, as OpenSSL's, GnuTLS's and Mbed TLS's do.
///
/// OpenSSL's goes by the system's clock, which can be set back; then it would not be due for as long as that. So the
/// deadlines are kept here, by the clock of the caller's instants, and OpenSSL's timer is made to be due when they are.
extension OpenSSLConnection {
    /// Whether OpenSSL's timers can be made to be due; if not, they are left as they are. They cannot in a program that
    /// has loaded OpenSSL before this code, and with a version of OpenSSL that asks another clock. So it is tried.
    static let controlsTimers: Bool = {
        defer { OpenSSLError.clear() }
        guard let context = SSL_CTX_new(DTLS_client_method()) else { return false }
        defer { SSL_CTX_free(context) }
        guard let ssl = SSL_new(context) else { return false }
        defer { SSL_free(ssl) }
        guard let bio = BIO_new(BIO_s_mem()) else { return false }
        SSL_set_bio(ssl, bio, bio)
        SSL_set_options(ssl, CO_SSL_OP_NO_QUERY_MTU)
        _ = co_ssl_set_mtu(ssl, Engine.payloadSizes.upperBound)
        SSL_set_connect_state(ssl)
        // It writes a hello, and waits for the answer.
        SSL_do_handshake(ssl)
        openssl_clock_set_ahead(10_000_000_000)
        defer { openssl_clock_set_ahead(0) }
        var left = timeval()
        return co_dtls_get_timeout(ssl, &left) == 1 && left.tv_sec == 0 && left.tv_usec == 0
    }()

    /// Has OpenSSL's own timer not be due before ``handleTimeout(now:)`` wants it to.
    private func stopOpenSSLTimer() {
        guard Self.controlsTimers else { return }
        // Microseconds: 71 minutes from when a flight is sent, and none from a time that lies ahead.
        DTLS_set_timer_cb(ssl) { _, _ in openssl_clock_is_ahead() == 1 ? 1 : .max }
    }

    /// Whether OpenSSL has a flight that waits for an answer.
    private var hasUnansweredFlight: Bool {
        guard SSL_in_init(ssl) != 0 else { return false }
        var left = timeval()
        return co_dtls_get_timeout(ssl, &left) == 1
    }

    /// "No less than the RFC 6298 maximum of 60 seconds" (RFC 6347, section 4.2.4.1).
    private static let longestTimeout = Duration.seconds(60)

    /// Begins to wait for the answer to a flight, or stops.
    /// - Parameter hasWritten: whether OpenSSL has just written something: a new flight then, as long as it has one.
    func adjustDeadline(hasWritten: Bool, now: Instant) {
        guard hasUnansweredFlight, gate?.isWaiting != true else {
            deadline = .distantFuture
            return
        }
        guard hasWritten || deadline == .distantFuture else { return }
        flightRetransmissions = 0
        repetitionsAnswered = 0
        (flightSent, flightSentLast) = (now, now)
        timeout = timing.firstTimeout
        deadline = now + timeout
    }

    /// Sets the first timeout of flights to what somebody has said it to be.
    func setFirstTimeout(_ timeout: Duration) {
        timing = .set(to: timeout)
        measurement = nil
    }

    /// A client has written its first flight, or the second one, since the answer to the first one has come.
    private func measureRoundTrip(since checkpoint: Outbox.Checkpoint, now: Instant) {
        if flights?.hasBegun == true {
            timing = .measured(measurement?.roundTrip(now: now), on: .client)
            measurement = nil
        } else {
            noteHello(since: checkpoint, now: now)
        }
    }

    /// A hello has one record in each datagram.
    private func noteHello(since checkpoint: Outbox.Checkpoint, now: Instant) {
        measurement?.noteHello(records: bio.outbox.count(since: checkpoint), now: now)
    }

    /// Sends the last flight again if its time has come. Throws when the peer has not answered for OpenSSL's 12 tries,
    /// or has said nothing but a fatal alert.
    func handleTimeout(now: Instant) throws(EngineError) {
        guard deadline <= now, state != .closed else { return }
        if alert?.timeoutPassed(now: now) == true { try deliverHeldAlert(now: now) }
        flightRetransmissions = min(flightRetransmissions + 1, 100)
        adjustSize(now: now)
        try sendFlightAgain(now: now)
        timeout = min(timeout * 2, Self.longestTimeout)
        deadline = now + timeout
    }

    /// Sends the present flight again. Throws where OpenSSL gives up.
    private func sendFlightAgain(now: Instant) throws(EngineError) {
        if !hasBuffers { allocateBuffers() }
        OpenSSLError.clear()
        let checkpoint = bio.outbox.checkpoint
        _ = bio.takeProtectedWrites()
        let hasRetransmitted = retransmitByOpenSSL(now: now)
        noteProtectedWrites(since: checkpoint)
        guard hasRetransmitted else {
            state = .closed
            throw .handshake(OpenSSLError.drain(), verification: nil)
        }
        flights?.retransmit()
        if measurement != nil { noteHello(since: checkpoint, now: now) }
        flightSentLast = now
        bio.notes.noteRetransmission()
        renumber(since: checkpoint)
        if gate != nil { notePlaintextWrites(since: checkpoint) }
        evidence.largest = bio.outbox.largestDatagram(since: checkpoint)
    }

    /// - Returns: false where OpenSSL has given up.
    private func retransmitByOpenSSL(now: Instant) -> Bool {
        // In the year 2286, and later with each call: later than all timers that have been set, whatever the clock
        // says. A tenth of a second is the shortest time between two calls (``FlightTiming``), and each makes a second
        // here. OpenSSL has room for more until the year 2554 (ossl_time_now), so for 26 years of this machine.
        openssl_clock_set_ahead(10_000_000_000 + Int64(clamping: now.nanoseconds / 100_000_000))
        defer { openssl_clock_set_ahead(0) }
        return co_dtls_handle_timeout(ssl) >= 0
    }
}

/// A peer that sends its flight again has not got the answer, and need not wait for this side's timer.
extension OpenSSLConnection {
    /// How often one flight is sent again for this. OpenSSL ends a handshake after 12 repetitions, whatever they are for.
    private static let mostRepetitionsAnswered: UInt8 = 4

    /// Notes what the first record of a datagram says about the present flight: that the peer has not got it, since it repeats
    /// the flight that this one answers, or that it has, since it goes on.
    private func noteArrival(of record: Record) {
        measurement?.noteArrival(of: record)
        // A client's hellos are answered by messages of the same kind.
        guard deadline != .distantFuture, flights.map({ $0.all.last?.kind == .keyExchange }) ?? true else { return }
        guard record.isPlaintextHandshake else {
            if record.isProtected || record.contentType == .changeCipherSpec { evidence.hasArrived = true }
            return
        }
        guard let fragment = HandshakeFragment(record.fragment), let type = record.fragment.first else { return }
        let first = flights == nil ? HandshakeType.clientHello : .serverHello
        if type == first.rawValue {
            if fragment.offset == 0 { hasRepetition = true }
        } else if flights == nil || type == HandshakeType.newSessionTicket.rawValue {
            evidence.hasArrived = true
        }
    }

    private func answerRepetition(now: Instant) throws(EngineError) {
        hasRepetition = false
        guard state == .handshaking, deadline != .distantFuture, repetitionsAnswered < Self.mostRepetitionsAnswered,
            now >= flightSentLast + timing.shortestPause
        else { return }
        repetitionsAnswered += 1
        try sendFlightAgain(now: now)
        deadline = max(deadline, now + timing.shortestPause)
    }
}

/// How OpenSSL is put past a cookie exchange that the listener has done.
extension OpenSSLConnection {
    /// The most times that a client may have been asked for a cookie. For each of them OpenSSL has to parse one hello
    /// more.
    static let maximumHelloSequence: UInt16 = 16

    /// Gives OpenSSL a ClientHello whose cookie has been verified.
    ///
    /// `DTLSv1_listen` is made for this, and knows one case: the client was asked once, so its hello has message_seq 1,
    /// and so has the answer. A client that was asked again because its first cookie had become too old counts on, and
    /// some clients never count.
    func accept(_ hello: consuming VerifiedHello) throws(OpenSSLError) {
        numbering = RecordNumbering(from: hello.recordSequence)
        guard hello.messageSequence == 1 else { return try repeatExchange(upTo: hello) }
        guard let address = BIO_ADDR_new() else { throw OpenSSLError.drain() }
        defer { BIO_ADDR_free(address) }
        let result = hello.datagram.withUnsafeBytes { datagram in
            bio.lend(datagram)
            defer { bio.lend(nil) }
            OpenSSLError.clear()
            return DTLSv1_listen(ssl, address)
        }
        guard result == 1 else { throw OpenSSLError.drain() }
    }

    /// Has OpenSSL ask for a cookie as often as the client was asked, so that both count messages alike, and keeps the
    /// hello for ``next(now:)``. The requests that OpenSSL writes are dropped: the listener has sent them already.
    private func repeatExchange(upTo hello: borrowing VerifiedHello) throws(OpenSSLError) {
        guard hello.messageSequence <= Self.maximumHelloSequence else {
            throw OpenSSLError(
                reasons: ["the client has been asked for a cookie \(counted(hello.messageSequence, "time"))"],
                library: 0,
                reason: 0)
        }
        let checkpoint = bio.outbox.checkpoint
        defer { bio.outbox.truncate(to: checkpoint) }
        if hello.messageSequence > 0 { SSL_set_options(ssl, CO_SSL_OP_COOKIE_EXCHANGE) }
        for sequence in 0..<hello.messageSequence {
            let result = Self.helloWithoutCookie(sequence).withUnsafeBytes { datagram in
                bio.lend(datagram)
                defer { bio.lend(nil) }
                OpenSSLError.clear()
                return SSL_do_handshake(ssl)
            }
            guard SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ else { throw OpenSSLError.drain() }
        }
        pendingHello = hello.datagram
    }

    /// The smallest ClientHello, to be answered with a HelloVerifyRequest.
    private static func helloWithoutCookie(_ sequence: UInt16) -> [UInt8] {
        let sequence = [UInt8(truncatingIfNeeded: sequence >> 8), UInt8(truncatingIfNeeded: sequence)]
        let random = [UInt8](repeating: 0, count: 32)
        // version, random, no session id, no cookie, one cipher suite, no compression
        let body = [0xfe, 0xfd] + random + [0, 0, 0, 2, 0xc0, 0x2b, 1, 0]
        let size = UInt8(body.count)
        let message = [1, 0, 0, size] + sequence + [0, 0, 0, 0, 0, size] + body
        return [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0] + sequence + [0, UInt8(message.count)] + message
    }
}
