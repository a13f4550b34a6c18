import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// One `[client.NAME]` table. It receives plain datagrams on this machine, and has one DTLS connection to a server for
/// each local sender.
struct ClientConfiguration: Codable, Equatable, Sendable {
    var name: String
    /// The addresses at which plain datagrams arrive; empty when systemd passes the sockets in.
    var listen: [SocketAddress]
    var server: HostAddress
    /// From where the server is sent to. For a server of a family without any, the kernel chooses.
    var sources: [LocalSource] = []
    /// The only network interface over which the server is sent to; `nil`: the routes decide.
    var interface: String?
    /// The name or IP address that the server's certificate must have. A host name is also sent to the server (SNI).
    var serverName: String
    /// The trusted CAs, certificate, cipher suites and versions, from which the engine's ClientContext is created.
    var tls: ClientSettings
    /// How long the server may take for the handshake: 2 to 120 seconds.
    var handshakeTimeout = Duration.seconds(60)
    /// The time without a datagram in either direction after which a connection is closed; zero: never.
    var idleTimeout = Duration.seconds(300)
    /// How long datagrams are sent without an answer before a new connection is established; zero: for ever.
    var answerTimeout = Duration.seconds(60)
    /// How long a flight of the handshake waits for its answer at first: 1 to 60 seconds; `nil`: as the exchange of the
    /// cookie has found the path to be.
    var retransmission: Duration?
    /// The largest IP packet of a handshake flight, 256 to 9,000 bytes.
    var mtu = 1_400
    /// What bounds the packets of established connections, beside what the kernel knows of their paths.
    var recordMTU = Connection.RecordBound.none
    /// The length of the connection ID (RFC 9146) that the server is asked to put into its records, 0 to 20 bytes; 0:
    /// none, while this side sends the server's. `nil`: connection IDs are not offered.
    var connectionIDLength: Int?
    /// Whether a new connection resumes the session of an earlier one.
    var resumes = true
    var socket: SocketOptions

    /// The server's host name; `nil` where the configuration has an address.
    var host: String? { if case .name(let name, _) = server { name } else { nil } }

    /// The options of the sockets to the server. The interface of the table `socket` is the one that senders come by.
    var serverSocket: SocketOptions {
        var options = socket
        options.interface = interface
        options.freeBind = false
        return options
    }

    /// The options of the sockets for local senders, where plain UDP may be fragmented.
    var localSocket: SocketOptions {
        var options = socket
        options.fragmentation = nil
        return options
    }
}
