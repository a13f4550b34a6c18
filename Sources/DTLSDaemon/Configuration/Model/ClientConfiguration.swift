import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// One `[client.NAME]` table: plain datagrams in on this machine, one DTLS connection to a server for each local
/// sender.
struct ClientConfiguration: Codable, Equatable, Sendable {
    var name: String
    /// Where the plain datagrams come in; empty when systemd passes the sockets in.
    var listen: [SocketAddress]
    var server: SocketAddress
    /// Asked for as SNI if it is a host name, and the name or IP address that the server's certificate must have.
    var serverName: String
    /// Trust, certificate, ciphers, versions: what the engine's ClientContext is made of.
    var tls: ClientSettings
    /// 2 to 120 seconds.
    var handshakeTimeout = Duration.seconds(60)
    /// The time without a datagram in either direction after which a sender's connection is closed; zero: never.
    var idleTimeout = Duration.seconds(300)
    /// The time in which datagrams are sent and nothing comes back after which a connection is made again; zero: never.
    var answerTimeout = Duration.seconds(60)
    /// Largest IP packet of a handshake flight, bytes, 256 to 9,000.
    var mtu = 1_400
    /// Whether a new connection takes up the session of an earlier one.
    var resumes = true
    var socket: SocketOptions

    /// Of the sockets to the local senders: what is plain UDP may be fragmented.
    var localSocket: SocketOptions {
        var options = socket
        options.fragmentation = nil
        return options
    }
}
