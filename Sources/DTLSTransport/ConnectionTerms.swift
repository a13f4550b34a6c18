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

    /// The timeouts and sizes that a connection lives by.
    package struct Limits: Equatable, Sendable {
        // Each connection has its own, so the times are milliseconds in 4 bytes, up to 49 days, in place of 16.
        private let handshakeMilliseconds: UInt32
        private let idleMilliseconds: UInt32
        private let parkMilliseconds: UInt32
        private var packetSize: UInt16

        /// For the handshake.
        package var handshakeTimeout: Duration { .milliseconds(Int64(handshakeMilliseconds)) }
        /// Without a datagram from the peer; zero: no limit.
        package var idleTimeout: Duration { .milliseconds(Int64(idleMilliseconds)) }
        /// Without a datagram in either direction, after which the delegate hears that the connection is silent; zero:
        /// never.
        package var parkAfter: Duration { .milliseconds(Int64(parkMilliseconds)) }
        /// Largest IP packet of a handshake flight, in bytes.
        package var mtu: Int {
            get { Int(packetSize) }
            set { packetSize = UInt16(clamping: newValue) }
        }

        package init(
            handshakeTimeout: Duration = .seconds(60), idleTimeout: Duration = .zero, parkAfter: Duration = .zero,
            mtu: Int = 1_400
        ) {
            handshakeMilliseconds = Self.milliseconds(handshakeTimeout)
            idleMilliseconds = Self.milliseconds(idleTimeout)
            parkMilliseconds = Self.milliseconds(parkAfter)
            packetSize = UInt16(clamping: mtu)
        }

        /// What is not zero does not become zero.
        private static func milliseconds(_ duration: Duration) -> UInt32 {
            UInt32(clamping: (duration.nanoseconds + 999_999) / 1_000_000)
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
