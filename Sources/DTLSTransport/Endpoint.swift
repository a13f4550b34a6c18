import DTLSEngine
import LinuxSystem
import Primitives

/// What happens to the datagrams of one listening address, without I/O and without a clock: each gives an ``Action``.
///
/// Nothing is kept of a peer before its address is proven by a cookie, and nothing is allocated for it. Of an admitted
/// one, its flow is remembered for two seconds.
package struct Endpoint {
    /// How a peer proves that it has the address that its datagrams come from.
    package enum Policy {
        /// A DTLS server: by a cookie (RFC 6347, section 4.2.1).
        case cookies(CookieAuthority)
        /// A client's local side, which plain datagrams come to: it does not. Every program that can send to the
        /// address gets a place, so the address belongs on the loopback interface or a network that is trusted.
        case none
    }

    /// What is to be done about a datagram.
    package enum Action: ~Copyable {
        /// Write the answer, which asks for a cookie, and send it to the datagram's source.
        case reply(HelloVerifyRequest)
        /// Write the alert, and send it to the datagram's source: the hello offers no version that is known here.
        case refuse(ProtocolVersionAlert)
        /// Its sender's address is proven. Make a connection for it if there is a place, and report the outcome by
        /// ``Endpoint/admitted(_:_:as:now:)`` or ``Endpoint/refused(_:)``.
        case admit(Opening)
        /// It belongs to the connection of this number, which was admitted moments ago: it was sent before that one's
        /// own socket was connected (rule 4). Where the connection is gone, call ``Endpoint/forget(_:)`` and pass the
        /// datagram in again.
        case forward(connection: UInt64)
        /// It has a protected record with this connection ID (RFC 9146): it is of that connection, whatever its flow is.
        /// Where nobody has the connection, it may be of ``Endpoint/recentConnection(of:now:)``; otherwise call
        /// ``Endpoint/dropOfNoConnection()``.
        case recordWithConnectionID(ConnectionID)
        /// It is a protected record of a connection that was not admitted lately. Where nobody has that connection, call
        /// ``Endpoint/dropOfNoConnection()``.
        case recordOfConnection
        case drop(DropReason)
    }

    package enum DropReason {
        /// ``Endpoint/access`` does not allow the peer.
        case denied
        /// It is a ClientHello that contradicts itself.
        case malformed
        /// It is a copy of the ClientHello that its client was just admitted with.
        case repeated
        /// It is a ClientHello with a cookie that is not valid, and so many of these have come that it is not answered.
        case wrongCookie
        /// It is nothing of the above.
        case unrelated
    }

    /// The beginning of a connection.
    package enum Opening: ~Copyable {
        /// The ClientHello whose cookie is valid.
        case hello(VerifiedHello)
        /// A datagram of a sender that needs no cookie; valid as long as the one passed in.
        case plain(UnsafeRawBufferPointer)

        /// The random of the ClientHello; `nil` for a plain datagram.
        package var random: ClientRandom? {
            switch self {
            case .hello(let hello): hello.random
            case .plain: nil
            }
        }
    }

    /// What has happened, by kind.
    package struct Counters {
        /// Datagrams that have come to the listener, those that a connection's socket has yielded included, and their
        /// bytes.
        package var datagrams: UInt64 = 0
        package var bytes: UInt64 = 0
        /// ClientHellos, with and without a cookie.
        package var hellos: UInt64 = 0
        package var hellosAnswered: UInt64 = 0
        package var admitted: UInt64 = 0
        /// Valid hellos for which there was no place, and datagrams of peers that are not served.
        package var refused = Tally<Refusal>()
        /// ClientHellos that contradict themselves.
        package var malformed: UInt64 = 0
        /// Copies of the ClientHello that a client was just admitted with.
        package var repeated: UInt64 = 0
        /// ClientHellos whose cookies were not valid, and that got no answer since there were so many.
        package var wrongCookies: UInt64 = 0
        /// Datagrams with protected records of connections that are not here.
        package var ofNoConnection: UInt64 = 0
        /// Other datagrams that are no ClientHello and of no recent connection, or that cannot be answered.
        package var unrelated: UInt64 = 0
        /// Answers that the kernel did not take.
        package var unsent: UInt64 = 0

        package init() {}

        package mutating func add(_ other: Counters) {
            datagrams &+= other.datagrams
            bytes &+= other.bytes
            hellos &+= other.hellos
            hellosAnswered &+= other.hellosAnswered
            admitted &+= other.admitted
            refused.add(other.refused)
            malformed &+= other.malformed
            repeated &+= other.repeated
            wrongCookies &+= other.wrongCookies
            ofNoConnection &+= other.ofNoConnection
            unrelated &+= other.unrelated
            unsent &+= other.unsent
        }
    }

    package var policy: Policy
    /// Which peers are served: those that all of these allow. Others get no answer at all.
    package var access: [AccessList] = []
    package private(set) var counters = Counters()
    private var recent = RecentFlows()
    private var answersToWrongCookies = TokenBucket()

    /// How often a hello whose cookie is not valid is answered like one without (RFC 6347, section 4.2.1). Its client has
    /// waited for more than a minute, or the secret has changed: of a fleet that is in its handshakes then, all are
    /// answered within some seconds. Made-up cookies come by the hundred thousand, and an answer takes three times what all
    /// else about one takes.
    static let rateOfAnswersToWrongCookies = Rate(perSecond: 2_000)

    package init(_ policy: Policy) { self.policy = policy }

    /// Finds out what is to be done about a datagram.
    /// - Parameters:
    ///   - minute: the present one, which cookies go by.
    ///   - fragments: puts a ClientHello together that has come in several records.
    package mutating func receive(
        _ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, now: Instant, minute: Minute, _ fragments: HelloFragments
    ) -> Action {
        for list in access where !list.allows(flow.peer) {
            counters.refused.count(.denied)
            return .drop(.denied)
        }
        guard case .cookies(let cookies) = policy else {
            if let connection = recent.connection(of: flow, now: now) { return .forward(connection: connection) }
            return .admit(.plain(datagram))
        }
        switch ClientHello.parse(fragments.join(datagram)) {
        case .hello(let hello):
            counters.hellos &+= 1
            if hello.offersNoKnownVersion {
                counters.refused.count(.version)
                return .refuse(ProtocolVersionAlert(answering: hello))
            }
            guard let verified = cookies.verify(hello, for: flow, minute: minute) else {
                guard
                    hello.cookie.isEmpty
                        || answersToWrongCookies.takeIfHeld(of: Self.rateOfAnswersToWrongCookies, now: now)
                else {
                    counters.wrongCookies &+= 1
                    return .drop(.wrongCookie)
                }
                counters.hellosAnswered &+= 1
                return .reply(HelloVerifyRequest(hello: hello, flow: flow, cookies: cookies, minute: minute))
            }
            if recent.contains(flow, verified.random, now: now) {
                counters.repeated &+= 1
                return .drop(.repeated)
            }
            // A re-handshake (RFC 6347, section 4.2.8) of a connection that has just got its socket is that one's.
            if let connection = recent.resumedConnection(of: flow, now: now) {
                return .forward(connection: connection)
            }
            return .admit(.hello(verified))
        case .malformed:
            counters.malformed &+= 1
            return .drop(.malformed)
        case .notClientHello:
            if let id = ConnectionID(ofRecordIn: datagram) { return .recordWithConnectionID(id) }
            if let connection = recent.connection(of: flow, now: now) { return .forward(connection: connection) }
            guard Self.isOfConnection(datagram) else { return dropUnrelated() }
            return .recordOfConnection
        }
    }

    /// The connection of a client that was admitted moments ago with this flow.
    @inline(__always)  // An endpoint is not copied for it, as it would be for a call.
    package func recentConnection(of flow: FlowKey, now: Instant) -> UInt64? {
        recent.connection(of: flow, now: now)
    }

    /// Whether a datagram looks like one of an established connection. That of a client that has lost the end of its
    /// handshake, and asks for it by sending its own last flight again (RFC 6347, section 4.2.4), begins with messages in
    /// the clear.
    private static func isOfConnection(_ datagram: UnsafeRawBufferPointer) -> Bool {
        guard let first = Record(of: datagram) else { return false }
        if first.isOfConnection { return true }
        guard first.isDTLS, first.contentType == .handshake || first.contentType == .changeCipherSpec else {
            return false
        }
        return Records(of: datagram).prefix(maximumRecordsOfFlight).contains { $0.isOfConnection }
    }

    /// Records of a client's last flight in one datagram: certificate, key exchange, proof, ChangeCipherSpec, Finished.
    private static let maximumRecordsOfFlight = 8

    /// A datagram has come that nobody can be answered for, or that is longer than any record.
    @discardableResult
    package mutating func dropUnrelated() -> Action {
        counters.unrelated &+= 1
        return .drop(.unrelated)
    }

    /// A protected record has come of a connection that is not here: its client has got another port from a NAT, or does
    /// not know that the connection is closed.
    package mutating func dropOfNoConnection() { counters.ofNoConnection &+= 1 }

    /// A connection that was without a socket has one now. What its peer has sent before that was connected, and what is
    /// still on its way to the listener, is to be forwarded to it (rule 4).
    /// - Parameters:
    ///   - connection: the number by which ``Action/forward(connection:)`` will name it.
    package mutating func expectLateDatagrams(of flow: FlowKey, for connection: UInt64, now: Instant) {
        recent.insert(flow, nil, connection, now: now)
    }

    /// There is a connection now for what ``Action/admit(_:)`` was about.
    /// - Parameter connection: the number by which ``Action/forward(connection:)`` will name it.
    package mutating func admitted(_ random: ClientRandom?, _ flow: FlowKey, as connection: UInt64, now: Instant) {
        counters.admitted &+= 1
        recent.insert(flow, random, connection, now: now)
    }

    /// There is no connection for what ``Action/admit(_:)`` was about. The peer's next try counts as the first.
    package mutating func refused(_ refusal: Refusal) { counters.refused.count(refusal) }

    /// The connection of the flow is gone, though it was admitted moments ago.
    package mutating func forget(_ flow: FlowKey) { recent.forget(flow) }

    /// Gives up what is known of flows that were admitted more than ``RecentFlows/lifetime`` ago: some 200 bytes of each.
    /// - Returns: when the next one may be given up; `nil` where there is none.
    mutating func forgetExpiredFlows(now: Instant) -> Instant? { recent.removeExpired(now: now) }

    /// Counts a datagram that has come.
    @inline(__always)
    mutating func countDatagram(byteCount: Int) {
        counters.datagrams &+= 1
        counters.bytes &+= UInt64(truncatingIfNeeded: byteCount)
    }

    /// Returns what was counted, and begins again at 0.
    mutating func takeCounters() -> Counters {
        defer { counters = Counters() }
        return counters
    }

    /// The kernel has not taken so many of the answers.
    package mutating func countUnsent(_ count: Int) { counters.unsent &+= UInt64(truncatingIfNeeded: count) }
}

extension ConnectionID {
    /// The connection ID of the first record in a datagram that has one. The last flight of a handshake begins with
    /// records that have none.
    fileprivate init?(ofRecordIn datagram: UnsafeRawBufferPointer) {
        for record in Records(of: datagram) where record.contentType == .connectionID {
            self.init(selfDescribedIn: UnsafeRawBufferPointer(rebasing: datagram[record.precedingBytes.count...]))
            return
        }
        return nil
    }
}

/// The answer to a ClientHello without a valid cookie: it asks the client to come back with the one that is in it. It
/// is valid as long as the hello's datagram.
package struct HelloVerifyRequest {
    let hello: ClientHello
    let flow: FlowKey
    let cookies: CookieAuthority
    let minute: Minute

    /// Bytes of the datagram.
    package static let size = CookieAuthority.helloVerifyRequestSize

    /// Writes the datagram.
    /// - Returns: its size, or 0 where nothing is to be sent.
    package func write(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        flow.peer.withBytes { peer in
            flow.local.withBytes { local in
                cookies.writeHelloVerifyRequest(
                    answering: hello, peer: peer, local: local, minute: minute, into: buffer)
            }
        }
    }

    /// Gives `body` the datagram, unless nothing is to be sent.
    func withDatagram(_ body: (UnsafeRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: Self.size, alignment: 8) { buffer in
            let count = write(into: buffer)
            if count > 0 { body(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
        }
    }
}

/// The flows that a listener has admitted in the last two seconds, with a bound: what tells a repeated ClientHello, or
/// a late fragment of one, from a new client's (rule 4).
struct RecentFlows {
    private struct Entry {
        /// `nil` for a sender of plain datagrams, and for a connection that had been without a socket.
        let random: ClientRandom?
        let connection: UInt64
        var expiry: Instant
    }

    private var entries: [FlowKey: Entry] = [:]
    /// The flows in the order in which they came, from `oldest` on.
    private var order: [FlowKey] = []
    private var oldest = 0

    static let capacity = 4_096
    /// What lay in a queue when the client was admitted is read long before; and where its worker has died, the hello
    /// that the client sends again after 1 and 3 seconds (RFC 6347, section 4.2.4.1) must be let in.
    static let lifetime = Duration.seconds(2)

    /// Whether a client was admitted lately with just this hello.
    func contains(_ flow: FlowKey, _ random: ClientRandom, now: Instant) -> Bool {
        guard let entry = entries[flow], entry.expiry > now else { return false }
        return entry.random == random
    }

    /// The connection of a client that was admitted lately.
    func connection(of flow: FlowKey, now: Instant) -> UInt64? {
        guard let entry = entries[flow], entry.expiry > now else { return nil }
        return entry.connection
    }

    /// The connection of a client that was not admitted lately, but has got a socket again.
    func resumedConnection(of flow: FlowKey, now: Instant) -> UInt64? {
        guard let entry = entries[flow], entry.expiry > now, entry.random == nil else { return nil }
        return entry.connection
    }

    mutating func insert(_ flow: FlowKey, _ random: ClientRandom?, _ connection: UInt64, now: Instant) {
        let entry = Entry(random: random, connection: connection, expiry: now + Self.lifetime)
        // A flow that is there already keeps its place in the order: it may go early, which costs nothing but memory.
        guard entries.updateValue(entry, forKey: flow) == nil else { return }
        order.append(flow)
        if order.count - oldest > Self.capacity { removeOldest() }
    }

    /// Gives up the flows that have expired, and the memory when there are no others.
    /// - Returns: when the next one expires; `nil` where there is none.
    mutating func removeExpired(now: Instant) -> Instant? {
        while oldest < order.count {
            let expiry = entries[order[oldest]]?.expiry ?? .distantPast
            if expiry > now { return expiry }
            removeOldest()
        }
        self = RecentFlows()
        return nil
    }

    private mutating func removeOldest() {
        entries[order[oldest]] = nil
        oldest += 1
        guard oldest * 2 > order.count else { return }
        order.removeFirst(oldest)
        oldest = 0
    }

    /// Has the flow expire now. It keeps its place in the order.
    mutating func forget(_ flow: FlowKey) { entries[flow]?.expiry = .distantPast }
}

/// Datagrams that a connection's socket has yielded, and that belong to a listener: they take their turn after what the
/// listener itself has read.
struct MisdeliveredDatagrams {
    typealias Item = (datagram: [UInt8], flow: FlowKey)

    private var waiting: [Item] = []
    private var isScheduled = false
    /// No more than one client that sends fast could bring: the rest is lost, as on the wire.
    static let maximum = 1_024

    enum Outcome {
        /// There is no room: the datagram is lost.
        case full
        case waits
        /// It waits, and ``takeAll()`` is to be called at the end of the loop's turn, after ``turnHasCome()``.
        case needsTurn
    }

    mutating func add(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) -> Outcome {
        guard waiting.count < Self.maximum else { return .full }
        waiting.append(([UInt8](datagram), flow))
        defer { isScheduled = true }
        return isScheduled ? .waits : .needsTurn
    }

    /// The turn that was asked for has come.
    mutating func turnHasCome() { isScheduled = false }

    mutating func takeAll() -> [Item] {
        guard !waiting.isEmpty else { return [] }
        defer { waiting.removeAll(keepingCapacity: true) }
        return waiting
    }
}
