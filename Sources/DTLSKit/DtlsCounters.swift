import DTLSEngine
import DTLSTransport

/// What has passed over a connection, or over all connections of a server. (Not in the reference, like all of this file.)
public struct DtlsCounters: Sendable, Equatable {
    /// Datagrams that were received: handshakes and all else that the protocols add are among them.
    public internal(set) var datagramsReceived: UInt64 = 0
    /// Bytes of the payloads of ``datagramsReceived``.
    public internal(set) var datagramBytesReceived: UInt64 = 0
    /// Datagrams that were sent, likewise.
    public internal(set) var datagramsSent: UInt64 = 0
    /// Bytes of the payloads of ``datagramsSent``.
    public internal(set) var datagramBytesSent: UInt64 = 0
    /// The program's messages that were received.
    public internal(set) var messagesReceived: UInt64 = 0
    /// Bytes of ``messagesReceived``.
    public internal(set) var messageBytesReceived: UInt64 = 0
    /// The program's messages that were sent.
    public internal(set) var messagesSent: UInt64 = 0
    /// Bytes of ``messagesSent``.
    public internal(set) var messageBytesSent: UInt64 = 0
    /// Flights of handshakes that were sent again, since they or their answers were lost or late.
    public internal(set) var flightsRetransmitted: UInt64 = 0
    /// Datagrams that the kernel did not take.
    public internal(set) var unsent: UInt64 = 0
    /// Messages that were larger than the peer or the path takes.
    public internal(set) var tooLarge: UInt64 = 0
    /// Records that were dropped in silence, as the protocol demands (RFC 6347, section 4.1.2.7).
    public internal(set) var recordsDropped = DtlsDroppedRecords()

    init() {}

    static func += (sum: inout DtlsCounters, other: DtlsCounters) {
        sum.datagramsReceived &+= other.datagramsReceived
        sum.datagramBytesReceived &+= other.datagramBytesReceived
        sum.datagramsSent &+= other.datagramsSent
        sum.datagramBytesSent &+= other.datagramBytesSent
        sum.messagesReceived &+= other.messagesReceived
        sum.messageBytesReceived &+= other.messageBytesReceived
        sum.messagesSent &+= other.messagesSent
        sum.messageBytesSent &+= other.messageBytesSent
        sum.flightsRetransmitted &+= other.flightsRetransmitted
        sum.unsent &+= other.unsent
        sum.tooLarge &+= other.tooLarge
        for reason in DtlsDroppedRecords.Reason.allCases { sum.recordsDropped[reason] += other.recordsDropped[reason] }
    }
}

/// How many records of established connections were dropped, by reason. Those of AES-CBC and of DTLS 1.0 are OpenSSL's, which
/// does not tell.
public struct DtlsDroppedRecords: Sendable, Equatable {
    /// Why a record was dropped.
    public enum Reason: Int, Sendable, CaseIterable {
        /// It is none of the connection's by its form. The rest of its datagram is dropped with it.
        case malformed
        /// It has no protection: a flight of the handshake that was sent again, mostly.
        case unprotected
        /// It has come before, or is older than the last 64.
        case replayed
        /// It was not made with the connection's keys.
        case forged

        var drop: RecordDrop {
            switch self {
            case .malformed: .malformed
            case .unprotected: .unprotected
            case .replayed: .replayed
            case .forged: .forged
            }
        }
    }

    private var malformed: UInt64 = 0
    private var unprotected: UInt64 = 0
    private var replayed: UInt64 = 0
    private var forged: UInt64 = 0

    init() {}

    /// Records that were dropped for this reason.
    public internal(set) subscript(reason: Reason) -> UInt64 {
        get {
            switch reason {
            case .malformed: malformed
            case .unprotected: unprotected
            case .replayed: replayed
            case .forged: forged
            }
        }
        set {
            switch reason {
            case .malformed: malformed = newValue
            case .unprotected: unprotected = newValue
            case .replayed: replayed = newValue
            case .forged: forged = newValue
            }
        }
    }

    /// All of them.
    public var total: UInt64 { malformed &+ unprotected &+ replayed &+ forged }
}

/// What has become of a server's clients, in the thread that the server belongs to.
public struct DtlsServerCounters: Sendable, Equatable {
    /// Why a client's handshake did not come to its end.
    public enum Failure: Int, Sendable, CaseIterable {
        /// The client's certificate was not accepted, or its pre-shared key is not known.
        case unverified
        /// The program has refused the client.
        case refused
        /// The client has sent a fatal alert.
        case alert
        /// The client has given up (close_notify), or has begun once more.
        case cancelled
        /// It has not come to its end in the handshake's timeout.
        case timedOut
        /// Anything else, nothing in common for instance.
        case other

        init(_ ending: Connection.Ending) {
            self =
                switch ending {
                case .handshakeTimedOut, .idle: .timedOut
                case .closedByPeer, .replaced: .cancelled
                case .refused, .failed(.unauthorized): .refused
                case .failed(.cancelled): .cancelled
                case .failed(.handshake(_, verification: .some)): .unverified
                case .failed(.handshake(let error, nil))
                where error.reasons.contains("peer did not return a certificate"): .unverified
                // OpenSSL has a reason for each alert: 1000 and its number (SSL_AD_REASON_OFFSET).
                case .failed(.handshake(let error, nil)) where (1_000..<1_256).contains(error.reason): .alert
                default: .other
                }
        }
    }

    /// Handshakes that were done, those that resumed a session among them.
    public internal(set) var handshakesDone: UInt64 = 0
    /// Those of ``handshakesDone`` that resumed a session.
    public internal(set) var handshakesResumed: UInt64 = 0
    private var failures = [UInt64](repeating: 0, count: Failure.allCases.count)
    /// Clients that had to try again, since ``DtlsServer/backlog`` of them were waiting.
    public internal(set) var clientsTurnedAway: UInt64 = 0
    /// What has passed over the connections of the server, those that are closed among them. What a task does is counted
    /// there.
    public internal(set) var traffic = DtlsCounters()

    /// Handshakes that have failed, or were given up by the client, for this reason.
    public internal(set) subscript(reason: Failure) -> UInt64 {
        get { failures[reason.rawValue] }
        set { failures[reason.rawValue] = newValue }
    }

    /// All of them.
    public var handshakesFailed: UInt64 { failures.reduce(0, &+) }
}

/// Something that has happened, for logs and metrics.
public enum DtlsEvent: Sendable {
    /// A handshake is done, after so long.
    case handshakeDone(DtlsAgreement, duration: Duration)
    /// A handshake has failed, for this reason.
    case handshakeFailed(DtlsError)
    /// Flights of a handshake were sent again.
    case flightsRetransmitted(Int)
    /// Records were dropped in silence. A flood of forged datagrams is a flood of these, so what does not only count them
    /// should bound how often it speaks.
    case recordsDropped(DtlsDroppedRecords.Reason, count: Int)
    /// An established connection has ended.
    case ended(DtlsError)
    /// A client has to try again, since ``DtlsServer/backlog`` of them are waiting.
    case clientTurnedAway
}

/// Who is told of what happens to the connections of a server or client: the place for swift-log, swift-metrics or anything
/// else. See <doc:Observing>.
public final class DtlsObserver: Sendable, Equatable {
    package let observe: @Sendable (DtlsEvent, DtlsAddress) -> Void

    /// - Parameter observe: gets each event, and the peer's address. It is called on the connection's thread while the library
    ///   works: it must not call the library, and must not take long.
    public init(_ observe: @escaping @Sendable (DtlsEvent, DtlsAddress) -> Void) { self.observe = observe }

    /// Whether they are the same object.
    public static func == (one: DtlsObserver, other: DtlsObserver) -> Bool { one === other }

    /// Tells of what the engine has noted about a connection.
    package func tell(_ notes: EngineNotes, of remote: DtlsAddress) {
        if notes.retransmittedFlights > 0 { observe(.flightsRetransmitted(notes.retransmittedFlights), remote) }
        guard notes.droppedRecords > 0 else { return }
        for reason in DtlsDroppedRecords.Reason.allCases {
            let count = notes.dropped(reason.drop)
            if count > 0 { observe(.recordsDropped(reason, count: count), remote) }
        }
    }
}

/// The counters of one connection. The words are the transport's, which adds to them while datagrams pass.
final class CounterBlock {
    private let words: UnsafeMutableRawPointer
    var dropped = DtlsDroppedRecords()

    init() {
        let count = TrafficCounter.allCases.count * 8
        words = .allocate(byteCount: count, alignment: 8)
        words.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    }

    deinit { words.deallocate() }

    var traffic: TrafficCounters { TrafficCounters(words) }

    var counters: DtlsCounters {
        let traffic = traffic
        var counters = DtlsCounters()
        counters.datagramsReceived = traffic[.datagramsReceived]
        counters.datagramBytesReceived = traffic[.datagramBytesReceived]
        counters.datagramsSent = traffic[.datagramsSent]
        counters.datagramBytesSent = traffic[.datagramBytesSent]
        counters.messagesReceived = traffic[.messagesReceived]
        counters.messageBytesReceived = traffic[.messageBytesReceived]
        counters.messagesSent = traffic[.messagesSent]
        counters.messageBytesSent = traffic[.messageBytesSent]
        counters.flightsRetransmitted = traffic[.flightsRetransmitted]
        counters.unsent = traffic[.unsent]
        counters.tooLarge = traffic[.tooLarge]
        counters.recordsDropped = dropped
        return counters
    }

    func note(_ notes: EngineNotes, _ observer: DtlsObserver?, _ remote: @autoclosure () -> DtlsAddress) {
        if notes.droppedRecords > 0 {
            for reason in DtlsDroppedRecords.Reason.allCases {
                dropped[reason] &+= UInt64(notes.dropped(reason.drop))
            }
        }
        observer?.tell(notes, of: remote())
    }
}

/// What a server counts.
final class ServerCounterBlock {
    private var counters = DtlsServerCounters()
    /// Those of connections that are open here.
    private var open: [ObjectIdentifier: CounterBlock] = [:]

    func add(_ block: CounterBlock) { open[ObjectIdentifier(block)] = block }

    /// The connection is over, or somewhere else.
    func remove(_ block: CounterBlock) {
        guard open.removeValue(forKey: ObjectIdentifier(block)) != nil else { return }
        counters.traffic += block.counters
    }

    func handshakeDone(_ agreement: DtlsAgreement) {
        counters.handshakesDone += 1
        if agreement.isResumed { counters.handshakesResumed += 1 }
    }

    func handshakeFailed(_ reason: DtlsServerCounters.Failure) { counters[reason] += 1 }

    func clientTurnedAway() { counters.clientsTurnedAway += 1 }

    var present: DtlsServerCounters {
        var present = counters
        for block in open.values { present.traffic += block.counters }
        return present
    }
}

extension DtlsConnection {
    /// What has passed over the connection, since this object has it; also once it is closed.
    public var counters: DtlsCounters {
        checkThread()
        return counterBlock.counters
    }
}

extension DtlsServer {
    /// What has become of the clients of this server, and what has passed over their connections; also once it is closed.
    public var counters: DtlsServerCounters {
        checkThread()
        return counterBlock.present
    }
}
