import DTLSEngine
import LinuxSystem
import Primitives

extension Connection {
    /// Why a connection has ended.
    package enum Ending: Error, Equatable, CustomStringConvertible {
        case closedByPeer
        /// The peer has come back without its state, and has done a new handshake, or is to do one as a new client.
        case replaced
        case closedHere
        /// Another peer is at the peer's address now, and this one cannot be told where it is.
        case addressTaken
        case idle
        /// It has no socket, and its service is not in the configuration any more, so that nothing of its peer could
        /// reach it.
        case serviceRemoved
        case handshakeTimedOut
        /// The peer has proven who it is, and may not come in. The reason is for the log.
        indirect case refused(String)
        /// OpenSSL's reason.
        indirect case failed(EngineError)

        package var description: String {
            switch self {
            case .closedByPeer: "closed by the peer"
            case .replaced: "the peer has begun a new handshake"
            case .closedHere: "closed here"
            case .addressTaken: "the client's address is another client's now"
            case .idle: "idle"
            case .serviceRemoved: "its service is not in the configuration any more"
            case .handshakeTimedOut: "the handshake took too long"
            case .refused(let reason): "refused: \(reason)"
            case .failed(let error): error.description
            }
        }

        /// What the peer is told.
        var alert: Engine.ClosingAlert {
            if case .refused = self { .accessDenied } else { .closeNotify }
        }
    }

    /// What bounds the packets of an established connection, beside what the kernel knows of the path.
    package enum RecordBound: Codable, Hashable, Sendable {
        case none
        /// What the handshake's flights had to be made to fit, where larger ones did not arrive.
        case handshake
        /// An IP packet of so many bytes, also in the handshake.
        case size(Int)
    }

    /// The timeouts and sizes that a connection lives by.
    package struct Limits: Equatable, Sendable {
        // Each connection has its own, so the times are 2 and 4 bytes in place of 16: milliseconds, and hundredths of
        // seconds for what may be days, which 4 bytes hold 497 of.
        private let handshakeMilliseconds: UInt32
        private let idleHundredths: UInt32
        private let parkMilliseconds: UInt32
        /// 0 where there is none.
        private let retransmissionMilliseconds: UInt16
        private var packetSize: UInt16
        /// 0 for ``RecordBound/none``, and 1 for ``RecordBound/handshake``.
        private let recordSize: UInt16

        /// For the handshake.
        package var handshakeTimeout: Duration { .milliseconds(Int64(handshakeMilliseconds)) }
        /// Without a datagram from the peer; zero: no limit.
        package var idleTimeout: Duration { .milliseconds(Int64(idleHundredths) * 10) }
        /// Without a datagram in either direction, after which the delegate hears that the connection is silent; zero:
        /// never.
        package var parkAfter: Duration { .milliseconds(Int64(parkMilliseconds)) }
        /// From when a flight of the handshake is sent until it is sent again for the first time; `nil`: as the exchange
        /// of the cookie has found the path to be (``Engine/setFirstTimeout(_:)``).
        package var retransmission: Duration? {
            retransmissionMilliseconds == 0 ? nil : .milliseconds(Int64(retransmissionMilliseconds))
        }
        /// Largest IP packet of a handshake flight, in bytes.
        package var mtu: Int {
            get { Int(packetSize) }
            set { packetSize = UInt16(clamping: newValue) }
        }
        package var recordBound: RecordBound {
            switch recordSize {
            case 0: .none
            case 1: .handshake
            default: .size(Int(recordSize))
            }
        }

        package init(
            handshakeTimeout: Duration = .seconds(60), idleTimeout: Duration = .zero, parkAfter: Duration = .zero,
            retransmission: Duration? = nil, mtu: Int = 1_400, recordBound: RecordBound = .none
        ) {
            handshakeMilliseconds = UInt32(clamping: Self.milliseconds(handshakeTimeout))
            idleHundredths = UInt32(clamping: (Self.milliseconds(idleTimeout) + 9) / 10)
            parkMilliseconds = UInt32(clamping: Self.milliseconds(parkAfter))
            retransmissionMilliseconds = UInt16(clamping: retransmission.map { max(Self.milliseconds($0), 1) } ?? 0)
            switch recordBound {
            case .none: (recordSize, packetSize) = (0, UInt16(clamping: mtu))
            case .handshake: (recordSize, packetSize) = (1, UInt16(clamping: mtu))
            case .size(let size):
                recordSize = UInt16(clamping: max(size, 2))
                packetSize = UInt16(clamping: min(mtu, size))
            }
        }

        /// What is not zero does not become zero.
        private static func milliseconds(_ duration: Duration) -> Int64 {
            (duration.nanoseconds + 999_999) / 1_000_000
        }

        /// Bytes of an IP and a UDP header.
        static func headerSize(_ family: SocketAddress.Family) -> Int { family == .ipv4 ? 28 : 48 }

        /// Bytes of the UDP payload that fits the MTU.
        func payloadSize(_ family: SocketAddress.Family) -> Int { mtu - Self.headerSize(family) }
    }

    /// What has passed, application data alone; and datagrams that could not be sent.
    package struct Counters {
        package var messagesIn: UInt64 = 0
        package var bytesIn: UInt64 = 0
        package var messagesOut: UInt64 = 0
        package var bytesOut: UInt64 = 0
        package var unsent: UInt64 = 0
        /// Messages that were larger than the peer or the path takes; see ``Connection/send(_:)``.
        package var tooLarge: UInt64 = 0
    }
}
