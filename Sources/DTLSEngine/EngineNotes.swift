import COpenSSL

/// What the engines of one thread have done that somebody may count, until it is taken: all of it is of the engine that
/// was called last. A datagram seldom brings any of it.
public final class EngineNotes {
    /// Whether there is anything to take.
    public private(set) var isEmpty = true
    /// Flights of handshakes that were sent again.
    public private(set) var retransmittedFlights = 0
    /// The descriptions of alerts (RFC 5246, section 7.2) that were sent, and that were taken for the peer's.
    public private(set) var sentAlerts: [UInt8] = []
    public private(set) var receivedAlerts: [UInt8] = []
    /// Records that an established connection has dropped, by ``RecordDrop``.
    private var dropped: (Int, Int, Int, Int) = (0, 0, 0, 0)
    public private(set) var droppedRecords = 0

    /// The most alerts of each direction: a peer can send many warnings in one datagram.
    private static let maximum = 64

    init() {
        sentAlerts.reserveCapacity(Self.maximum)
        receivedAlerts.reserveCapacity(Self.maximum)
    }

    /// Forgets everything that was noted.
    public func removeAll() {
        isEmpty = true
        retransmittedFlights = 0
        if droppedRecords > 0 {
            droppedRecords = 0
            dropped = (0, 0, 0, 0)
        }
        sentAlerts.removeAll(keepingCapacity: true)
        receivedAlerts.removeAll(keepingCapacity: true)
    }

    func noteRetransmission() {
        isEmpty = false
        retransmittedFlights += 1
    }

    func noteDropped(_ reason: RecordDrop) {
        isEmpty = false
        droppedRecords += 1
        switch reason {
        case .malformed: dropped.0 += 1
        case .unprotected: dropped.1 += 1
        case .replayed: dropped.2 += 1
        case .forged: dropped.3 += 1
        }
    }

    public func dropped(_ reason: RecordDrop) -> Int {
        switch reason {
        case .malformed: dropped.0
        case .unprotected: dropped.1
        case .replayed: dropped.2
        case .forged: dropped.3
        }
    }

    func noteSentAlert(_ description: UInt8) {
        isEmpty = false
        if sentAlerts.count < Self.maximum { sentAlerts.append(description) }
    }

    func noteReceivedAlert(_ description: UInt8) {
        isEmpty = false
        if receivedAlerts.count < Self.maximum { receivedAlerts.append(description) }
    }

    /// Another description has taken the place of that of the alert that was sent last.
    func correctSentAlert(to description: UInt8) {
        if !sentAlerts.isEmpty { sentAlerts[sentAlerts.count - 1] = description }
    }
}

/// Why an established connection drops a record without a word (RFC 6347, section 4.1.2.7).
public enum RecordDrop: Int, Sendable, CaseIterable {
    /// It is none of this connection's by its form: the rest of its datagram is dropped with it.
    case malformed
    /// It has no protection: a flight of the handshake that was sent again, mostly.
    case unprotected
    /// It has come before, or is older than the last 64.
    case replayed
    /// It was not made with the connection's keys.
    case forged
}

extension TLSContext {
    /// Has OpenSSL note the alerts that its connections send and receive.
    func noteAlerts() {
        SSL_CTX_set_info_callback(pointer) { ssl, event, value in
            guard event & SSL_CB_ALERT != 0, let bio = SSL_get_rbio(ssl), let notes = DatagramBIO.notes(of: bio) else {
                return
            }
            // The level is in the byte above.
            let description = UInt8(truncatingIfNeeded: value)
            if event & SSL_CB_READ != 0 {
                notes.noteReceivedAlert(description)
            } else {
                notes.noteSentAlert(description)
            }
        }
    }
}
