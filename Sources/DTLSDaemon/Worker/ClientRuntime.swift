import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A client of the active configuration, made ready in a worker. A connection keeps the one that it began with; the
/// next connection of the same sender takes the one that is active then.
final class ClientRuntime {
    let configuration: ClientConfiguration
    let context: ClientContext
    let limits: Connection.Limits
    /// Its ``SlotTarget``.
    let target: UInt64
    /// Where its tunnels count.
    private(set) var counters = TargetCounters.ignored
    /// Whether the last handshake with the server has failed.
    private var isServerOut = false
    /// Where the server is.
    private var addresses = ServerAddresses()
    private var sources: SourceAddresses
    private let hosts: HostTable
    /// The session that any of this worker's connections has been given, and the next one offers.
    private var session = OfferedSession<ResumableSession>()

    /// What tunnels of this client go by.
    var timeouts: TunnelState.Timeouts {
        TunnelState.Timeouts(answer: configuration.answerTimeout, idle: configuration.idleTimeout)
    }

    init(
        _ configuration: ClientConfiguration, hosts: HostTable, heldKeys: HeldKeys
    ) throws(CredentialsError) {
        self.configuration = configuration
        self.hosts = hosts
        target = SlotTarget.client(configuration.name)
        sources = SourceAddresses(configuration.sources)
        context = try ClientContext(configuration.tls, heldKeys: heldKeys)
        // The tunnel has the idle timeout, since datagrams of its local side count for it too.
        limits = Connection.Limits(
            handshakeTimeout: configuration.handshakeTimeout, idleTimeout: .zero,
            retransmission: configuration.retransmission, mtu: configuration.mtu,
            recordBound: configuration.recordMTU)
        readAddresses()
    }

    /// Takes over the addresses of the server's host name that are known now.
    /// - Returns: whether there are some.
    @discardableResult
    func readAddresses() -> Bool {
        switch configuration.server {
        case .address(let address): addresses.replace(with: [address])
        case .name(let name, let port):
            addresses.replace(with: hosts.addresses(of: name, port: port).filter { !isOwn($0) })
        }
        return addresses.current != nil
    }

    /// Whether the client itself listens there: it would receive what it sends, each time from a new sender.
    private func isOwn(_ address: SocketAddress) -> Bool {
        configuration.listen.contains {
            $0 == address || $0.port == address.port && $0.isWildcard && address.isLoopback
        }
    }

    /// The address that the next connection goes to; `nil` where the server's host name has none.
    var server: SocketAddress? { addresses.current }

    /// Opens a socket and connects it to an address of the server.
    func openSocket(to server: SocketAddress, now: Instant) throws(SystemError) -> ConnectedSocket {
        let socket: FileDescriptor
        do throws(BackendSocketFailure) {
            socket = try sources.openSocket(to: server, configuration.serverSocket, now: now)
        } catch {
            switch error {
            case .backend(let errno): throw SystemError("connect", server.description, errno: errno)
            case .machine(let shortage, _): throw shortage.error
            }
        }
        // A connected UDP socket has an address.
        let local = try UDPSocket.localAddress(of: socket) ?? .anyAddress(server.family, port: 0)
        return ConnectedSocket(socket: socket, flow: FlowKey(peer: server, local: local))
    }

    /// A socket to the server was closed, and its port may be free.
    func noteClosedSocket() { sources.noteClosedSocket() }

    /// No connection to this address could be made, or the server is not there any more: the next one goes to the next
    /// address. Where all have failed, there may be others by now.
    func noteFailure(of address: SocketAddress?, now: Instant) {
        guard addresses.noteFailure(of: address), case .name(let name, _) = configuration.server else { return }
        hosts.noteRefusal(of: name, now: now)
    }

    func noteEstablished() { addresses.noteSuccess() }

    /// Counts what happens to its tunnels there from now on.
    func count(in counters: TargetCounters) {
        self.counters = counters
        counters.block.setMember(0, of: .backendsOut, isServerOut)
    }

    /// Notes how the newest handshake with the server has ended.
    func noteServer(isOut: Bool) {
        if isOut, !isServerOut { counters.block.add(to: .backendOutages) }
        isServerOut = isOut
        counters.block.setMember(0, of: .backendsOut, isOut)
    }

    /// The session that the next connection resumes; `nil` for a full handshake.
    func session(now: Instant) -> ResumableSession? {
        session.session(now: now)
    }

    /// Keeps the session of a connection that has just been established.
    func keepSession(of established: Connection, now: Instant) {
        guard let given = established.resumableSession else { return }
        session.keep(given, isResumed: established.session.isResumed, now: now)
    }

    func dropSession() { session.drop() }

    func dropTimedOutSession(now: Instant) { session.dropTimedOut(now: now) }
}
