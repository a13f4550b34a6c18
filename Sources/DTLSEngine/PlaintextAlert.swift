import COpenSSL
import Primitives

/// An alert without protection, as both sides send them before they have keys. Anybody can forge one who knows the two
/// addresses, so it must not end a handshake that goes on (RFC 6347, section 4.1.2.7).
///
/// It is held back, and believed once the peer has said nothing else while its flight was sent again, and for ``silence``
/// after that, which a peer may need to compute: 3 seconds in all by the timers of RFC 6347, section 4.2.4.1. Where the
/// network says meanwhile that nobody is there any more, the next timeout is enough.
struct PlaintextAlert {
    /// The record, with its header.
    let record: [UInt8]
    /// Whether it can end a handshake: it is fatal, or close_notify (RFC 5246, section 7.2).
    let endsHandshake: Bool
    private static let silence = Duration.seconds(2)
    private var firstTimeout: Instant?
    private var isRefused = false

    /// The alert that a record of epoch 0 holds: its level, and its description (RFC 5246, section 7.2). `nil` for
    /// other records, for those with more or fewer bytes than an alert has, and for those that are not complete.
    init?(_ record: Record) {
        guard let content = record.plaintextAlert else { return nil }
        endsHandshake = content.level == UInt8(SSL3_AL_FATAL) || content.description == UInt8(SSL_AD_CLOSE_NOTIFY)
        self.record = [UInt8](record.bytes)
    }

    /// The first record of epoch 0 in a datagram whose type says that it is an alert, whatever its content is.
    static func firstRecord(in datagram: UnsafeRawBufferPointer) -> Record? {
        Records(of: datagram).first { $0.contentType == .alert && !$0.isProtected }
    }

    /// Notes a timeout in which the peer has sent nothing else.
    /// - Returns: whether the alert is to be believed now.
    mutating func timeoutPassed(now: Instant) -> Bool {
        guard let firstTimeout else {
            firstTimeout = now
            return false
        }
        return isRefused || now - firstTimeout >= Self.silence
    }

    /// Notes that the network has refused a datagram to the peer (ICMP), since the flight was sent again.
    mutating func peerWasRefused() { if firstTimeout != nil { isRefused = true } }
}

/// The answer to a ClientHello that offers no version which is known here (RFC 5246, appendix E.1; RFC 8446, section
/// 4.2.1). It is stateless, as a HelloVerifyRequest is, and valid as long as the hello's datagram.
public struct ProtocolVersionAlert {
    /// Bytes of the datagram. The smallest valid ClientHello has 67.
    public static let size = Record.headerSize + 2

    private let hello: ClientHello

    public init(answering hello: ClientHello) { self.hello = hello }

    /// Writes the datagram.
    /// - Returns: its size, or 0 where `buffer` has fewer than ``size`` bytes.
    public func write(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard buffer.count >= Self.size else { return 0 }
        // DTLS 1.3 has the record version of DTLS 1.2 too (RFC 9147, section 4).
        Record.writeHeader(
            .alert, version: ProtocolVersion.dtls12.rawValue, sequenceNumber: hello.recordSequence, length: 2,
            to: buffer)
        buffer[Record.headerSize] = UInt8(SSL3_AL_FATAL)
        buffer[Record.headerSize + 1] = UInt8(SSL_AD_PROTOCOL_VERSION)
        return Self.size
    }

    /// Gives `body` the datagram.
    public func withDatagram(_ body: (UnsafeRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: Self.size, alignment: 8) { buffer in
            body(UnsafeRawBufferPointer(rebasing: buffer[..<write(into: buffer)]))
        }
    }
}
