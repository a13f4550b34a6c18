import DTLSEngine
import LinuxSystem
import Primitives

/// One DTLS association without I/O and without a clock: all that a ``Connection`` is, but for its socket.
///
/// It has the engine, the handshake of a peer that has lost its state (RFC 6347, section 4.2.8), the deadlines of both,
/// what is known of the path, and the counters. Give it a datagram with ``receive(_:now:_:offer:)``, then call
/// ``next(now:_:)`` until it says `.needsInput`. Call ``handleTimeout(now:_:)`` when ``deadline(now:)`` has passed, and
/// `next(now:_:)` after it. What it writes goes into the outbox of the lease that each of these calls asks for.
package final class Association {
    package enum Event {
        /// The peer has answered a path_challenge with this cookie (RFC 9853).
        case pathResponse(UInt64)
        /// The record of the peer's Finished has come once more, from the peer or from anybody; see
        /// ``sendLastFlight()``.
        case finishedRepeated
        /// A client waits for ``authorize(_:_:)`` with the number.
        case needsAuthorization(number: UInt32)
        /// There is nothing more to say until a datagram comes or a deadline passes, or ever, once ``ending`` is set.
        case needsInput
        /// A handshake is done; messages may follow at once.
        case established
        /// A decrypted message, valid until the next call of any association of this thread; empty for an empty record.
        case message(UnsafeRawBufferPointer)
        /// The peer has lost its state and has done a new handshake: the association that it had is over. Counters and
        /// session are still those of that one. `.established` follows.
        case replaced
        /// The peer's new handshake has failed, for the reason given: the association that it had goes on.
        case rehandshakeFailed(Connection.Ending)
    }

    /// What is to be done about a datagram that was received.
    package enum Disposition {
        /// The association has taken it: ask for what follows from it.
        case taken
        /// It is a hello that begins a new handshake, once it comes again with the keys of that one's sessions
        /// (``RehandshakeMaterial/Keys``).
        case wantsKeys
        /// It is not this association's. A listener should see it, after this one's end where that has come.
        case misdelivered
    }

    private enum Phase {
        case handshaking
        case established
        case ended(Connection.Ending)
    }

    /// OpenSSL's record buffers, where it has the records.
    private enum RecordBuffers {
        case held
        case released
        /// The records are the engine's own.
        case none
    }

    /// The number of the question that the engine waits for an answer to; 0 where it waits for none.
    private var openQuestion: UInt32 = 0
    private var lastQuestion: UInt32 = 0

    /// What ``next(now:_:)`` has to say of a handshake beside the one that the engine is in.
    private enum RehandshakeNews {
        case none
        case datagram
        case done
        case failed(Connection.Ending)
    }

    /// The flow of the association's socket; see ``move(to:)``.
    package private(set) var flow: FlowKey
    private(set) var counters = Connection.Counters()
    /// Where the same is counted for many connections together.
    let traffic: TrafficCounters
    /// When the handshake began that the present association came from.
    package private(set) var started: Instant

    /// Constant, so that nothing is counted when it is called: references cost 5 % of an echo.
    private let engine: Engine
    private var phase = Phase.handshaking
    /// Where all of the association is kept that another process needs to go on with it; `nil` where none is to.
    private let slot: ConnectionSlot?
    private let shared: EngineBuffers
    private let limits: Connection.Limits
    /// What was agreed on, for an association that was suspended before.
    private var resumedDetails: Boxed<SessionDetails>?
    /// Whether the engine may have something to say.
    private var hasInput = true
    /// The random of the hello that the present association began with; `nil` for a client's side.
    private var random: ClientRandom?
    private var rehandshake: Rehandshake?
    private var rehandshakes = TokenBucket()
    private var rehandshakeNews = RehandshakeNews.none
    private var hasRehandshakeNews = false
    private var lastReceived: Instant
    private var lastSent = Instant.distantPast
    private var buffers = RecordBuffers.held
    /// Whether the deadline may have become earlier than the one that was asked for last.
    private var hasNewDeadline = true
    /// Bytes of the largest message that the path is known to take.
    private var knownToFit: Int
    /// Bytes of the largest IP packet that the handshake has found the path to take, where it had to find out and
    /// ``Connection/RecordBound/handshake`` holds; else 0.
    private var discoveredMTU: UInt16 = 0

    /// How long OpenSSL's record buffers are kept after the last datagram.
    private static let bufferIdleTimeout = Duration.seconds(1)
    /// How long messages are dropped for a peer whose new handshake goes on; see ``dropsMessages(now:)``.
    private static let rehandshakeSilence = Duration.seconds(1)
    /// Bytes of a message that fits every path that Linux believes in (552 bytes, net.ipv4.route.min_pmtu), whatever
    /// the cipher adds. The kernel is asked about larger ones only, and once.
    private static let alwaysFits = 400

    private init(
        _ engine: Engine, _ flow: FlowKey, _ random: ClientRandom?, _ slot: ConnectionSlot?,
        _ limits: Connection.Limits, _ traffic: TrafficCounters, _ buffers: EngineBuffers, now: Instant
    ) {
        self.engine = engine
        self.traffic = traffic
        self.flow = flow
        self.random = random
        self.slot = slot
        self.limits = limits
        shared = buffers
        started = now
        lastReceived = now
        knownToFit = limits.recordBound == .none ? Self.alwaysFits : 0
    }

    /// A server's side, from the hello of a client whose address is proven. It writes nothing before ``next(now:_:)``.
    /// - Parameters:
    ///   - slot: is written from the end of the handshake on.
    ///   - connectionID: what the client is to put into its records, where it has offered to (RFC 9146).
    ///   - resumptionKeys: the keys of the handshake's sessions, in place of the context's.
    ///   - traffic: where it counts what passes.
    package static func accept(
        _ hello: consuming VerifiedHello, _ flow: FlowKey, slot: ConnectionSlot? = nil, context: ServerContext,
        connectionID: ConnectionID? = nil, resumptionKeys: ResumptionKeys? = nil, limits: Connection.Limits,
        traffic: TrafficCounters = .ignored, buffers: EngineBuffers, now: Instant
    ) throws(OpenSSLError) -> Association {
        let random = hello.random
        let engine = try makeEngine(hello, flow, context, connectionID, resumptionKeys, limits, buffers, now: now)
        return Association(engine, flow, random, slot, limits, traffic, buffers, now: now)
    }

    /// A client's side.
    /// - Parameters:
    ///   - session: offered to the server, unless the hello would need more than one datagram for it.
    ///   - connectionID: what the server is to put into its records (RFC 9146); `nil`: nothing is offered.
    ///   - pathMTU: bytes of the largest IP packet that the kernel knows the path to take; `nil` where it does not say.
    package static func connect(
        _ flow: FlowKey, slot: ConnectionSlot? = nil, context: ClientContext, serverName: String?,
        resuming session: ResumableSession?, connectionID: ConnectionID? = nil, limits: Connection.Limits,
        traffic: TrafficCounters = .ignored, pathMTU: Int?, buffers: EngineBuffers, now: Instant
    ) throws(OpenSSLError) -> Association {
        var limits = limits
        if let pathMTU { limits.mtu = min(limits.mtu, pathMTU) }
        if let known = buffers.pathSizes.size(to: flow.peer, now: now) { limits.mtu = min(limits.mtu, known) }
        let engine = try Engine(
            connecting: context, over: buffers.bio, payloadSize: limits.payloadSize(flow.local.family),
            serverName: serverName, connectionID: connectionID)
        if let timeout = limits.retransmission { engine.setFirstTimeout(timeout) }
        if let session { engine.resume(session) }
        return Association(engine, flow, nil, slot, limits, traffic, buffers, now: now)
    }

    /// An established association, of either side, from what a slot holds of it. No other one may go on with the slot.
    static func resume(
        _ slot: ConnectionSlot, _ flow: FlowKey, isServer: Bool, limits: Connection.Limits,
        traffic: TrafficCounters = .ignored, buffers: EngineBuffers, now: Instant
    ) throws(InvalidRecordState) -> Association {
        let engine = try Engine(resuming: slot.records, over: buffers.bio)
        if buffers.slots?.flight(of: slot) != nil { engine.leaveLastFlight() }
        let random = isServer ? ClientRandom(writtenDown: slot.random) : nil
        let association = Association(engine, flow, random, slot, limits, traffic, buffers, now: now)
        association.phase = .established
        association.buffers = .none
        association.hasInput = false
        association.started = slot.started
        association.lastReceived = min(slot.lastReceived, now)
        // The connection is used again: it is not to be given up for its silence at once.
        association.lastSent = now
        association.counters = slot.counters
        if limits.recordBound == .handshake { association.discoveredMTU = slot.discoveredMTU }
        return association
    }

    private static func makeEngine(
        _ hello: consuming VerifiedHello, _ flow: FlowKey, _ context: ServerContext, _ connectionID: ConnectionID?,
        _ resumptionKeys: ResumptionKeys?, _ limits: Connection.Limits, _ buffers: EngineBuffers, now: Instant
    ) throws(OpenSSLError) -> Engine {
        var limits = limits
        if let known = buffers.pathSizes.size(to: flow.peer, now: now) { limits.mtu = min(limits.mtu, known) }
        // The address without its port.
        let engine = try Engine(
            accepting: context, over: buffers.bio, payloadSize: limits.payloadSize(flow.local.family), hello: hello,
            localAddress: flow.local.withBytes { [UInt8]($0.dropLast(2)) }, connectionID: connectionID,
            resumptionKeys: resumptionKeys)
        if let timeout = limits.retransmission { engine.setFirstTimeout(timeout) }
        return engine
    }

    @inline(__always)
    var isHandshaking: Bool {
        if case .handshaking = phase { return true }
        return false
    }

    @inline(__always)
    package var isOpen: Bool {
        if case .ended = phase { return false }
        return true
    }

    /// Why the association has ended; `nil` while it goes on.
    package var ending: Connection.Ending? {
        if case .ended(let ending) = phase { return ending }
        return nil
    }

    // MARK: Receiving

    /// Takes a datagram of the peer, as ``receive(_:now:_:offer:)``, if it is one that an established association gets
    /// most of the time.
    /// - Returns: false where it may be something else, and is to be given to that function.
    @inline(__always)
    func receiveRecords(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard case .established = phase, !mayConcernRehandshake(datagram), !engine.isOfAnotherConnection(datagram)
        else {
            return false
        }
        engine.deliver(datagram)
        hasInput = true
        return true
    }

    /// Takes a datagram of the peer. It must stay valid until ``next(now:_:)`` has said `.needsInput`.
    /// - Parameter offer: what a peer that has lost its state can do a new handshake with, asked for only where a
    ///   datagram says that the peer has. `nil`: it cannot do one here.
    package func receive(
        _ datagram: UnsafeRawBufferPointer, now: Instant, _ lease: borrowing OutboxLease,
        offer: () -> RehandshakeOffer?
    ) -> Disposition {
        switch phase {
        case .established where mayConcernRehandshake(datagram):
            return receiveBesideAssociation(shared.fragments.join(datagram), now: now, lease, offer)
        case .handshaking where isHelloOfAnotherHandshake(datagram):
            return receiveInsteadOfHandshake(shared.fragments.join(datagram), now: now, lease, offer)
        case .established where engine.isOfAnotherConnection(datagram):
            return .misdelivered
        case .handshaking, .established:
            engine.deliver(datagram)
            hasInput = true
            return .taken
        case .ended:
            return .misdelivered
        }
    }

    /// One comparison for application data, which is nearly all that comes.
    @inline(__always)
    private func mayConcernRehandshake(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard let record = Record(of: datagram), record.contentType != .applicationData else { return false }
        return random != nil && (rehandshake != nil || ClientHello.couldBePart(of: datagram))
    }

    private func isHelloOfAnotherHandshake(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard random != nil, case .hello(let hello) = ClientHello.parse(shared.fragments.join(datagram)) else {
            return false
        }
        return hello.randomValue != random
    }

    /// Takes a hello of another handshake than the one that goes on. With a valid cookie, which nobody else can bring,
    /// the client has given that one up: it goes on as a new client, since there is no established association to be
    /// kept beside the new handshake.
    private func receiveInsteadOfHandshake(
        _ datagram: UnsafeRawBufferPointer, now: Instant, _ lease: borrowing OutboxLease,
        _ offer: () -> RehandshakeOffer?
    ) -> Disposition {
        guard let offer = offer() else {
            // The listener is to ask for a cookie; an alert in plain text before the hello says as much as one would.
            guard engine.holdsAlert else { return .taken }
            deliverHeldAlert(now: now, lease)
            return .misdelivered
        }
        let verdict = Rehandshake.verdict(
            datagram, flow, current: random, pending: nil, offer: { offer }, answer: { lease.append($0) })
        switch verdict {
        case .begins: break
        default: return .taken
        }
        if engine.holdsAlert { deliverHeldAlert(now: now, lease) } else { end(.replaced) }
        return .misdelivered
    }

    private func receiveBesideAssociation(
        _ datagram: UnsafeRawBufferPointer, now: Instant, _ lease: borrowing OutboxLease,
        _ askForOffer: () -> RehandshakeOffer?
    ) -> Disposition {
        var offer: RehandshakeOffer?
        let verdict = Rehandshake.verdict(
            datagram, flow, current: random, pending: rehandshake?.random,
            offer: {
                offer = askForOffer()
                return offer
            },
            answer: { lease.append($0) })
        switch consume verdict {
        case .ignored:
            break
        case .forAssociation:
            engine.deliver(datagram)
            hasInput = true
        case .begins(let hello):
            // The peer has left the new handshake that it had begun before: that one's flight must not be sent again.
            rehandshake = nil
            guard isOpen, let offer else { break }
            if offer.material.context != nil, offer.material.staysBeside { return .misdelivered }
            guard let context = offer.material.context else {
                end(.replaced)
                return .misdelivered
            }
            switch offer.material.keys {
            case .given(let keys):
                beginRehandshake(hello, context, keys, pathMTU: offer.pathMTU, now: now)
            case .ofContext:
                guard rehandshakes.takeIfHeld(of: Rehandshake.limit, now: now) else { break }
                beginRehandshake(hello, context, nil, pathMTU: offer.pathMTU, now: now)
            case .wanted:
                guard rehandshakes.takeIfHeld(of: Rehandshake.limit, now: now) else { break }
                return .wantsKeys
            }
        case .continues:
            rehandshake?.engine.deliver(datagram)
            announce(.datagram)
        }
        return .taken
    }

    /// Hands out what has happened, one event at a time.
    @inline(__always)
    package func next(now: Instant, _ lease: borrowing OutboxLease) -> Event {
        guard isOpen else { return .needsInput }
        if hasRehandshakeNews, let event = nextOfRehandshake(now: now) { return event }
        guard hasInput else { return .needsInput }
        if buffers == .released { takeBuffers() }
        do throws(EngineError) {
            switch try engine.next(now: now) {
            case .needsInput:
                hasInput = false
                return .needsInput
            case .message(let message):
                lastReceived = now
                counters.messagesIn &+= 1
                counters.bytesIn &+= UInt64(truncatingIfNeeded: message.count)
                traffic.add(1, .messagesReceived)
                traffic.add(message.count, .messageBytesReceived)
                return .message(message)
            case .pathResponse(let cookie):
                lastReceived = now
                return .pathResponse(cookie)
            case .finishedRepeated:
                return .finishedRepeated
            case .lastFlightWanted:
                return repeatLastFlight(now: now, lease)
            case .needsAuthorization:
                openQuestion = nextQuestion()
                return .needsAuthorization(number: openQuestion)
            case .established:
                phase = .established
                lastReceived = now
                hasNewDeadline = true
                settle(engine, random, started: started, now: now)
                return .established
            case .closed:
                end(.closedByPeer)
            }
        } catch {
            end(.failed(error))
        }
        return .needsInput
    }

    // MARK: Authorization

    private func nextQuestion() -> UInt32 {
        lastQuestion = lastQuestion == .max ? 1 : lastQuestion + 1
        return lastQuestion
    }

    /// What is asked by a number; `nil` where its handshake is over or given up.
    package func question(_ number: UInt32) -> AuthorizationQuestion? {
        guard isOpen, number != 0 else { return nil }
        if number == openQuestion { return engine.authorizationQuestion }
        return rehandshake?.openQuestion == number ? rehandshake?.engine.authorizationQuestion : nil
    }

    /// Answers a question, unless its handshake is over or given up. Continue with ``next(now:_:)``.
    package func authorize(_ number: UInt32, _ answer: AuthorizationAnswer) {
        guard isOpen, number != 0 else { return }
        if number == openQuestion {
            openQuestion = 0
            engine.authorize(answer)
            hasInput = true
            hasNewDeadline = true
        } else if let rehandshake, rehandshake.openQuestion == number {
            rehandshake.openQuestion = 0
            rehandshake.engine.authorize(answer)
            announce(.datagram)
        }
    }

    // MARK: Sending

    /// Encrypts a message of up to 16,384 bytes into one datagram. Where it is larger than what is
    /// ``isKnownToFit(_:)``, call ``checkFits(_:enforcedMTU:)`` first.
    @inline(__always)
    package func send(
        _ message: UnsafeRawBufferPointer, now: Instant, _ lease: borrowing OutboxLease
    ) throws(EngineError) {
        guard isOpen else { throw .notEstablished }
        if rehandshake != nil, dropsMessages(now: now) {
            countUnsent(1, tooLarge: 0)
            return
        }
        do throws(EngineError) {
            try engine.send(message)
        } catch {
            if error == .exhausted { end(.failed(error)) }
            throw error
        }
        if buffers == .released { takeBuffers() }
        lastSent = now
        counters.messagesOut &+= 1
        counters.bytesOut &+= UInt64(truncatingIfNeeded: message.count)
        traffic.add(1, .messagesSent)
        traffic.add(message.count, .messageBytesSent)
    }

    /// OpenSSL has taken its record buffers again, to read or to write with.
    private func takeBuffers() {
        buffers = .held
        hasNewDeadline = true
    }

    /// Whether messages are dropped, since the peer, whose new handshake goes on, could read none. GnuTLS (3.7.9) waits
    /// for 50 ms after each such datagram: among some hundred a second, a handshake took 4 to 11 seconds.
    ///
    /// For a second only: the hello with the valid cookie may be a copy of an earlier one, sent by somebody else.
    private func dropsMessages(now: Instant) -> Bool {
        guard let rehandshake else { return false }
        return now < rehandshake.started + Self.rehandshakeSilence
    }

    /// The socket has not taken datagrams of this association, some of them for their size.
    func countUnsent(_ unsent: Int, tooLarge: Int) {
        counters.unsent &+= UInt64(truncatingIfNeeded: unsent)
        counters.tooLarge &+= UInt64(truncatingIfNeeded: tooLarge)
        traffic.add(unsent, .unsent)
        traffic.add(tooLarge, .tooLarge)
    }

    // MARK: Path

    /// What was agreed on by RFC 9146; `nil` where nothing was, and before the handshake is done.
    var connectionIDs: ConnectionIDs? { engine.connectionIDs }
    /// Whether return routability checks were agreed on (RFC 9853).
    var checksReturnRoutability: Bool { engine.checksReturnRoutability }
    /// It grows with each authentic record that is newer than all before.
    @inline(__always)
    var newestReceived: UInt64 { engine.newestReceived }

    /// Asks the peer for an answer over the path that the datagram takes (RFC 9853).
    func sendPathChallenge(_ cookie: UInt64) { engine.sendPathChallenge(cookie) }

    /// Notes in the slot what may be sent to the peer's address, where that is not proven.
    func notePath(unprovenAllowance: Int?) {
        if case .established = phase { slot?.unprovenAllowance = unprovenAllowance }
    }

    /// Writes the flight that has ended the handshake once more, after `.finishedRepeated`.
    package func sendLastFlight(now: Instant) {
        if engine.hasLeftLastFlight { fetchLastFlight(now: now) }
        engine.sendLastFlight()
    }

    @inline(never)
    private func repeatLastFlight(now: Instant, _ lease: borrowing OutboxLease) -> Event {
        fetchLastFlight(now: now)
        engine.repeatLastFlight(now: now)
        return next(now: now, lease)
    }

    /// Gives the engine the last flight back, which the slot file keeps.
    private func fetchLastFlight(now: Instant) {
        guard let slot, let flight = shared.slots?.flight(of: slot), flight.expiry > now else {
            return engine.forgetLastFlight()
        }
        engine.keepLastFlight(flight.bytes, until: flight.expiry, now: now)
        hasNewDeadline = true
    }

    /// Whether a datagram holds the record of the peer's Finished once more, while the peer may ask for the last flight.
    func holdsRepeatedFinished(_ datagram: UnsafeRawBufferPointer) -> Bool {
        engine.holdsRepeatedFinished(datagram)
    }

    /// The association has a socket of another flow from now on: its peer, or this side, is at another address.
    func move(to flow: FlowKey) {
        self.flow = flow
        if discoveredMTU > 0, case .established = phase { slot?.discoveredMTU = 0 }
        discoveredMTU = 0
        forgetPathSize()
    }

    /// The path is another one, or the cipher, which may add more to a message.
    private func forgetPathSize() { knownToFit = limits.recordBound == .none ? Self.alwaysFits : 0 }

    /// Bytes of the largest IP packet that a record may make; `nil` where nothing but the kernel says so.
    private var recordMTU: Int? {
        switch limits.recordBound {
        case .none: nil
        case .handshake: discoveredMTU > 0 ? Int(discoveredMTU) : nil
        case .size(let size): size
        }
    }

    /// Bytes of the largest message that the peer takes, and the path in one piece; 0 before the handshake is done.
    /// - Parameter enforcedMTU: bytes of the largest IP packet that the path takes, as the kernel knows it; `nil` where
    ///   larger ones may be fragmented.
    package func largestMessage(enforcedMTU: Int?) -> Int {
        guard engine.isEstablished else { return 0 }
        guard let mtu = [enforcedMTU, recordMTU].compactMap(\.self).min() else { return engine.recordLimit }
        return engine.largestMessage(inPayload: payloadSize(inMTU: mtu))
    }

    /// Whether the path is known to take a message of so many bytes.
    @inline(__always)
    package func isKnownToFit(_ count: Int) -> Bool { count <= knownToFit }

    /// Throws, and counts, a message that the peer has not agreed to take, or that the path does not take in one piece.
    /// - Parameter enforcedMTU: as in ``largestMessage(enforcedMTU:)``.
    package func checkFits(_ count: Int, enforcedMTU: Int?) throws(EngineError) {
        guard engine.isEstablished else { return }
        knownToFit = largestMessage(enforcedMTU: enforcedMTU)
        guard count > knownToFit, count <= Engine.maximumMessageSize else { return }
        countUnsent(0, tooLarge: 1)
        if count > engine.recordLimit { throw .fragment(count, limit: engine.recordLimit) }
        throw .path(count, limit: knownToFit)
    }

    /// Makes the flights of the handshake fit a path of this MTU, in bytes.
    func fitFlights(toMTU mtu: Int) { engine.limitPayload(to: payloadSize(inMTU: mtu)) }

    /// The kernel has refused a datagram for its size, or a router has told it that one was too large: the next flight
    /// and the next message have to be smaller.
    /// - Parameter mtu: what the kernel knows by now; `nil` where it does not say.
    func pathHasShrunk(toMTU mtu: Int?) {
        knownToFit = 0
        guard let mtu else { return }
        if case .handshaking = phase { fitFlights(toMTU: mtu) }
        rehandshake?.engine.limitPayload(to: payloadSize(inMTU: mtu))
    }

    private func payloadSize(inMTU mtu: Int) -> Int { mtu - Connection.Limits.headerSize(flow.local.family) }

    // MARK: Rehandshake

    private func beginRehandshake(
        _ hello: consuming VerifiedHello, _ context: ServerContext, _ keys: ResumptionKeys?, pathMTU: Int?, now: Instant
    ) {
        let random = hello.random
        do throws(OpenSSLError) {
            let engine = try Self.makeEngine(hello, flow, context, connectionIDs?.own, keys, limits, shared, now: now)
            if let pathMTU { engine.limitPayload(to: payloadSize(inMTU: pathMTU)) }
            rehandshake = Rehandshake(engine: engine, random: random, started: now)
            hasNewDeadline = true
            announce(.datagram)
        } catch {
            announce(.failed(.failed(.handshake(error, verification: nil))))
        }
    }

    private func announce(_ news: RehandshakeNews) {
        rehandshakeNews = news
        hasRehandshakeNews = true
    }

    private func nextOfRehandshake(now: Instant) -> Event? {
        let news = rehandshakeNews
        rehandshakeNews = .none
        hasRehandshakeNews = false
        switch news {
        case .none:
            return nil
        case .datagram:
            guard let rehandshake else { return nil }
            do throws(EngineError) {
                // Before it is established, an engine has nothing else to say.
                switch try rehandshake.engine.next(now: now) {
                case .established:
                    announce(.done)
                    return .replaced
                case .needsAuthorization:
                    rehandshake.openQuestion = nextQuestion()
                    return .needsAuthorization(number: rehandshake.openQuestion)
                default: return nil
                }
            } catch {
                endRehandshake()
                return .rehandshakeFailed(.failed(error))
            }
        case .done:
            guard let rehandshake else { return nil }
            replace(by: rehandshake, now: now)
            return .established
        case .failed(let ending):
            endRehandshake()
            return .rehandshakeFailed(ending)
        }
    }

    private func endRehandshake() {
        rehandshake = nil
        // The connection may be given up for its silence again.
        hasNewDeadline = true
    }

    private func replace(by rehandshake: Rehandshake, now: Instant) {
        self.rehandshake = nil
        let new = rehandshake.engine
        settle(new, rehandshake.random, started: rehandshake.started, now: now)
        // The other one ends with what was there before.
        engine.exchange(with: new)
        random = rehandshake.random
        started = rehandshake.started
        lastReceived = now
        counters = Connection.Counters()
        forgetPathSize()
        // The datagram that has completed the handshake may hold a message behind it.
        hasInput = true
        hasNewDeadline = true
    }

    /// Notes what has become of a handshake that is done: in the slot, where there is one. What was there before stays
    /// as it is until all that is new is there.
    private func settle(_ engine: Engine, _ random: ClientRandom?, started: Instant, now: Instant) {
        buffers = engine.isMovable ? .none : .held
        notePathSize(of: engine, now: now)
        guard let slot else { return }
        let details = engine.details?.encoded(inAtMost: ConnectionSlot.maximumDetails) ?? []
        let prepared: ConnectionSlot.PreparedAssociation
        if let random {
            prepared = random.withBytes {
                slot.prepare(
                    random: $0, details: details, handshakeDuration: now - started, discoveredMTU: discoveredMTU)
            }
        } else {
            prepared = slot.prepare(
                random: UnsafeRawBufferPointer(start: nil, count: 0), details: details,
                handshakeDuration: now - started, discoveredMTU: discoveredMTU)
        }
        engine.moveRecordState(to: prepared.records)
        slot.started = started
        slot.flight = keepLastFlight(of: engine, random, started: started, now: now)
        slot.establish(prepared, isMovable: engine.isMovable)
    }

    /// Keeps the flight that has ended the handshake, which the peer may not have got, in the slot file: for this process,
    /// and for the one that goes on with the slot.
    /// - Returns: for ``ConnectionSlot/flight``.
    private func keepLastFlight(of engine: Engine, _ random: ClientRandom?, started: Instant, now: Instant) -> UInt32 {
        guard let slots = shared.slots, let flight = engine.lastFlight else { return 0 }
        let owner =
            random.map { $0.withBytes { ConnectionSlot.flightOwner(started: started, random: $0) } }
            ?? withUnsafeBytes(of: (UInt64(0), UInt64(0))) {
                ConnectionSlot.flightOwner(started: started, random: $0)
            }
        let place = slots.keepFlight(flight.bytes, of: owner, until: flight.expiry, now: now, by: .worker)
        if place != 0 { engine.leaveLastFlight() }
        return place
    }

    /// What has taken from the start of the handshake to its end, as it is to be kept.
    func noteHandshakeDuration(_ duration: Duration) { slot?.handshakeDuration = duration }

    /// Gives up what was agreed on where the slot has it. It is asked for again from there.
    func releaseDetails() { if slot != nil { engine.releaseDetails() } }

    // MARK: Time

    /// Whether ``deadline(now:)`` may be earlier than it was when it was asked for last. It may otherwise have become
    /// later, which need not be known before the earlier one has passed.
    @inline(__always)
    package var mayHaveEarlierDeadline: Bool {
        if hasNewDeadline || rehandshake != nil { return true }
        switch phase {
        case .handshaking: return true
        // A renegotiation may have begun.
        case .established: return engine.deadline != .distantFuture
        case .ended: return false
        }
    }

    /// When ``handleTimeout(now:_:)`` is to be called at the latest.
    package func deadline(now: Instant) -> Instant {
        hasNewDeadline = false
        switch phase {
        case .handshaking:
            return deadline(of: engine, started: started)
        case .established:
            // The engine's is that of a renegotiation, or the end of what is kept of a handshake.
            let deadline = min(bufferDeadline, idleDeadline, engine.deadline)
            guard let rehandshake else {
                // Once it has passed, the delegate has been told, and acts on it.
                let silence = silenceDeadline
                return silence > now ? min(deadline, silence) : deadline
            }
            return min(deadline, self.deadline(of: rehandshake.engine, started: rehandshake.started))
        case .ended:
            return .distantFuture
        }
    }

    private var bufferDeadline: Instant {
        buffers == .held ? max(lastReceived, lastSent) + Self.bufferIdleTimeout : .distantFuture
    }

    /// When the connection may be given up to its slot for its silence.
    private var silenceDeadline: Instant {
        guard limits.parkAfter > .zero, slot != nil, buffers == .none else { return .distantFuture }
        return max(lastReceived, lastSent) + limits.parkAfter
    }

    /// Whether nothing has passed for so long that the connection is to give its socket up, and nothing is going on that
    /// needs one.
    func isSilent(now: Instant) -> Bool {
        guard case .established = phase, rehandshake == nil else { return false }
        return now >= silenceDeadline
    }

    /// Whether nothing has passed for `duration`, and all that there is of the association is in its slot.
    func hasBeenSilent(for duration: Duration, now: Instant) -> Bool {
        isMovable && rehandshake == nil && now >= max(lastReceived, lastSent) + duration
    }

    /// Whether another process can go on with what is in the slot.
    var isMovable: Bool {
        guard case .established = phase else { return false }
        return slot != nil && buffers == .none
    }

    private var idleDeadline: Instant {
        limits.idleTimeout > .zero ? lastReceived + limits.idleTimeout : .distantFuture
    }

    /// A handshake's next deadline: its retransmission, or its end.
    private func deadline(of engine: Engine, started: Instant) -> Instant {
        min(started + limits.handshakeTimeout, engine.deadline)
    }

    /// Does what is due: retransmits flights, gives buffers back, or ends what has taken too long.
    package func handleTimeout(now: Instant, _ lease: borrowing OutboxLease) {
        hasNewDeadline = true
        switch phase {
        case .handshaking:
            if now >= started + limits.handshakeTimeout {
                deliverHeldAlert(now: now, lease)
                return close(.handshakeTimedOut, lease)
            }
            retransmit(now: now)
        case .established:
            if now >= idleDeadline { return close(.idle, lease) }
            if now >= bufferDeadline {
                engine.releaseBuffers()
                buffers = .released
            }
            handleTimeoutOfRehandshake(now: now)
            // A renegotiation's flight.
            retransmit(now: now)
        case .ended:
            break
        }
    }

    private func retransmit(now: Instant) {
        do throws(EngineError) { try engine.handleTimeout(now: now) } catch { end(.failed(error)) }
        // Where this handshake comes too late to its end, the peer's next one has it easier.
        if case .handshaking = phase { notePathSize(of: engine, now: now) }
    }

    /// Remembers what the handshake has found out about the path.
    private func notePathSize(of engine: Engine, now: Instant) {
        guard let payload = engine.discoveredPayloadSize else { return }
        let size = payload + Connection.Limits.headerSize(flow.local.family)
        shared.pathSizes.note(size, to: flow.peer, now: now)
        if limits.recordBound == .handshake { discoveredMTU = UInt16(clamping: size) }
    }

    private func handleTimeoutOfRehandshake(now: Instant) {
        guard let rehandshake else { return }
        if now >= rehandshake.started + limits.handshakeTimeout { return announce(.failed(.handshakeTimedOut)) }
        do throws(EngineError) {
            try rehandshake.engine.handleTimeout(now: now)
        } catch {
            announce(.failed(.failed(error)))
        }
    }

    /// The network says that nobody is where the peer was, which anybody can forge.
    func peerWasRefused() {
        if case .handshaking = phase { engine.peerWasRefused() }
    }

    /// Takes an alert that was held back, since it came without protection, for the peer's.
    private func deliverHeldAlert(now: Instant, _ lease: borrowing OutboxLease) {
        guard engine.holdsAlert else { return }
        do throws(EngineError) { try engine.deliverHeldAlert(now: now) } catch { end(.failed(error)) }
    }

    // MARK: Shutdown

    private func end(_ ending: Connection.Ending) {
        guard isOpen else { return }
        phase = .ended(ending)
    }

    /// Ends the association with close_notify, or the alert that its ending has, or without a word where the handshake is
    /// not done.
    package func close(_ ending: Connection.Ending, _ lease: borrowing OutboxLease) {
        guard isOpen else { return }
        engine.close(ending.alert)
        end(ending)
    }

    /// Ends the association without a word to the peer: another one goes on with it, in another process perhaps, by
    /// what is in the slot.
    package func abandon() {
        updateSlot()
        end(.closedHere)
    }

    /// Writes what has changed since the last time, and what the engine does not write itself.
    @inline(__always)
    func updateSlot() {
        guard let slot, case .established = phase else { return }
        slot.counters = counters
        slot.lastReceived = lastReceived
    }

    /// Wipes the slot of an association that has ended for good. A client's side may get another one.
    func wipeSlot() {
        if random == nil { slot?.leaveAssociation() } else { slot?.end() }
    }

    // MARK: Queries

    /// The UDP payload, in bytes, that flights of the handshake fit.
    var payloadSize: Int { engine.payloadSize }

    /// What the handshake has agreed on; nothing before it is done.
    package var session: SessionDetails {
        var session = engine.details ?? resumedDetails?.value ?? detailsInSlot ?? SessionDetails()
        session.connectionIDs = connectionIDs
        session.checksReturnRoutability = checksReturnRoutability
        return session
    }

    private var detailsInSlot: SessionDetails? {
        guard case .established = phase else { return nil }
        return slot?.session
    }

    /// From the start of the handshake to its end, as far as that is kept.
    var handshakeDuration: Duration {
        guard case .established = phase else { return .zero }
        return slot?.handshakeDuration ?? .zero
    }

    /// A client's flights, until right after the handshake; see ``Engine/flights``.
    package var flights: [HandshakeFlight] { engine.flights }
    /// See ``Engine/peerCertificate``.
    var peerCertificate: [UInt8]? { engine.peerCertificate }
    /// See ``Engine/peerCertificates``.
    package var peerCertificates: [[UInt8]] { engine.peerCertificates }
    /// See ``Engine/exporterSecret``.
    var exporterSecret: ExporterSecret? { engine.exporterSecret }
    /// See ``Engine/unfinishedDetails``.
    var unfinishedDetails: SessionDetails? { engine.unfinishedDetails }
    /// Why the client's certificate was refused, where the handshake has failed for that.
    var peerRejection: PeerRejection? { engine.peerRejection }
    /// What a log adds to the reason of a failed handshake with a pre-shared key.
    var presharedKeyRemark: String { engine.presharedKeyRemark }
    /// What the next connection to the same server can resume; `nil` where the server has given nothing for it. It is
    /// there when the association has just been established.
    package var resumableSession: ResumableSession? { engine.resumableSession }
}

extension ConnectionSlot {
    /// What the handshake has agreed on, as far as there was room for it; `nil` where there is nothing that this program
    /// can read.
    package var session: SessionDetails? {
        var reader = ByteReader(details)
        return try? SessionDetails(decoding: &reader)
    }
}

// MARK: - Suspension

extension Association {
    /// Ends the association without a word to the peer, and gives what another one goes on with. A new handshake that the
    /// peer may have begun is given up: the peer begins another one.
    /// - Returns: `nil` where it is not established, or its records are OpenSSL's.
    func suspend() -> SuspendedAssociation? {
        guard case .established = phase, let records = engine.takeRecordState() else { return nil }
        let details = session
        phase = .ended(.closedHere)
        rehandshake = nil
        return SuspendedAssociation(flow, records, random, details)
    }

    var canSuspend: Bool {
        if case .established = phase { return engine.isMovable }
        return false
    }

    /// An established association, from what ``suspend()`` has given. Nobody else may go on with that.
    static func resume(
        _ suspended: SuspendedAssociation, limits: Connection.Limits, traffic: TrafficCounters, buffers: EngineBuffers,
        now: Instant
    ) throws(InvalidRecordState) -> Association {
        let engine = try Engine(resuming: suspended.records, over: buffers.bio)
        let association = Association(
            engine, suspended.flow, suspended.random, nil, limits, traffic, buffers, now: now)
        association.phase = .established
        association.hasInput = false
        association.buffers = .none
        association.resumedDetails = Boxed(suspended.details)
        return association
    }
}
