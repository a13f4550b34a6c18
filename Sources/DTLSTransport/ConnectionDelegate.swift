import DTLSEngine
import LinuxSystem

/// Who is told what becomes of a ``Connection``. Each call may close the connection.
package protocol ConnectionDelegate: AnyObject {
    func connectionEstablished(_ connection: Connection)
    /// `message` is valid during the call.
    func connection(_ connection: Connection, received message: UnsafeRawBufferPointer)
    /// The messages that one read of the socket has brought have all been handed out; what was sent meanwhile leaves
    /// next.
    func connectionHasRead(_ connection: Connection)
    /// A datagram that the socket yielded but that is not this connection's: another peer's, or, after
    /// `connectionClosed`, a ClientHello that was left on the socket. It belongs to the listener (rules 1 to 3 of UDP,
    /// in docs/architecture.md).
    func connection(_ connection: Connection, foreign datagram: UnsafeRawBufferPointer, from peer: SocketAddress)
    /// Whether the peer may begin anew on this connection's socket, and with what; `nil`: it may not.
    func restartMaterial(for connection: Connection) -> RehandshakeMaterial?
    /// The peer has lost its state, and has begun anew: what it was before is over. `connectionEstablished` follows.
    func connectionRestarts(_ connection: Connection)
    /// The peer has begun anew, and its new handshake has failed: what it was before goes on.
    func connection(_ connection: Connection, refusedRestart ending: Connection.Ending)
    /// Reading the socket gave an error, which the call has cleared: an ICMP message (ECONNREFUSED and the like), which
    /// anybody can forge.
    func connection(_ connection: Connection, socketFailed errno: Int32)
    /// The connection has ended, and its socket is closed. Called once.
    func connectionClosed(_ connection: Connection, _ ending: Connection.Ending)
}

extension ConnectionDelegate {
    package func connection(_ connection: Connection, socketFailed errno: Int32) {}
}

extension Connection {
    /// Why a connection has ended.
    package enum Ending: Error, Equatable, CustomStringConvertible {
        case closedByPeer
        /// The peer has come back without its state, and has done a new handshake.
        case restarted
        case closedHere
        case idle
        case handshakeTimedOut
        /// OpenSSL's reason.
        case failed(EngineError)

        package var description: String {
            switch self {
            case .closedByPeer: "closed by the peer"
            case .restarted: "the peer began anew"
            case .closedHere: "closed here"
            case .idle: "idle"
            case .handshakeTimedOut: "the handshake took too long"
            case .failed(let error): error.description
            }
        }
    }

    /// The timeouts and sizes that a connection lives by.
    package struct Limits: Equatable, Sendable {
        /// The time that the handshake may take.
        package var handshakeTimeout: Duration
        /// The time without a datagram from the peer after which the connection ends; zero: no limit.
        package var idleTimeout: Duration
        /// Largest IP packet of a handshake flight, in bytes.
        package var mtu: Int

        package init(handshakeTimeout: Duration = .seconds(60), idleTimeout: Duration = .zero, mtu: Int = 1_400) {
            self.handshakeTimeout = handshakeTimeout
            self.idleTimeout = idleTimeout
            self.mtu = mtu
        }

        /// UDP payload that fits the MTU, after an IP and a UDP header.
        func payloadSize(_ family: SocketAddress.Family) -> Int { mtu - (family == .ipv4 ? 28 : 48) }
    }

    /// What has passed, application data alone; and datagrams that could not be sent.
    package struct Counters {
        package var messagesIn: UInt64 = 0
        package var bytesIn: UInt64 = 0
        package var messagesOut: UInt64 = 0
        package var bytesOut: UInt64 = 0
        package var unsent: UInt64 = 0
        /// Messages that the path to the peer does not take in one piece; see ``Connection/send(_:)``.
        package var tooLarge: UInt64 = 0
    }
}
