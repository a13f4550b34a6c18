import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// This machine gives no socket to a backend, for want of a port for example. It says nothing about the backend.
struct LocalShortage: Error, Equatable {
    /// What a new client is refused for meanwhile.
    let refusal: Refusal
    let error: SystemError

    /// - Parameter error: of socket(2), bind(2), or of what prepares the socket.
    init(_ error: SystemError) {
        // bind(2) finds no free port for port 0.
        refusal = error.errno == EADDRINUSE ? .localPorts : Refusal(error)
        self.error = error
    }

    /// - Parameter error: of connect(2) on a UDP socket.
    /// - Returns: `nil` where the error says that the backend cannot be reached.
    init?(connecting error: SystemError, from source: SocketAddress?) {
        switch error.errno {
        // A socket without a port gets one here (inet_autobind), and EAGAIN where all are taken.
        case EAGAIN: refusal = .localPorts
        case EMFILE, ENFILE, ENOBUFS, ENOMEM: refusal = .descriptors
        // No datagram may leave the machine from a loopback address.
        case EINVAL where source != nil: refusal = .socket
        default: return nil
        }
        self.error = error
    }
}

/// Where one worker binds the sockets to the UDP backends of one service, or to the server of one client, and which of these
/// places give no socket at present. It does no I/O.
///
/// A UDP socket takes a port of its address for itself alone, so an address has as many sockets as
/// net.ipv4.ip_local_port_range has ports, for all backends and processes together. Connections are spread over the
/// addresses in turn. To find out that an address has no port left costs the kernel a millisecond, so such an address
/// is left alone for a while.
struct SourceAddresses {
    /// How long an address that gave no socket is left alone. It ends when a socket of the service is closed.
    static let pause = Duration.seconds(1)
    /// How often an operator is told of the same shortage.
    static let noticeInterval = Duration.seconds(60)

    /// One address in its family.
    struct Source: Equatable {
        fileprivate let family: SocketAddress.Family
        fileprivate let index: Int
        /// `nil`: the kernel chooses the address and the port for each backend.
        let local: LocalSource?
        var address: SocketAddress? { local?.address }
    }

    private struct State {
        let local: LocalSource?
        /// Why it gave no socket the last time; `nil`: it gave one.
        var shortage: LocalShortage?
        var pauseEnd = Instant.distantPast
    }

    private struct Addresses {
        var states: [State]
        /// The address that is next in turn.
        var turn = 0
        var nextNotice = Instant.distantPast

        var shortage: LocalShortage? {
            states.allSatisfy { $0.shortage != nil } ? states.first?.shortage : nil
        }
    }

    private var ipv4: Addresses
    private var ipv6: Addresses
    /// Whether an address of either family gave no socket the last time that it was tried.
    private(set) var isShort = false

    /// - Parameter sources: those that may be used. For a family without any, the kernel chooses.
    init(_ sources: [LocalSource] = []) {
        func of(_ family: SocketAddress.Family) -> Addresses {
            let own = sources.filter { $0.address.family == family }.map { State(local: $0) }
            return Addresses(states: own.isEmpty ? [State(local: nil)] : own)
        }
        ipv4 = of(.ipv4)
        ipv6 = of(.ipv6)
    }

    /// The addresses for one more socket, in the order in which they are to be tried; none while all are left alone.
    mutating func takeTurn(_ family: SocketAddress.Family, now: Instant) -> [Source] {
        let all = self[family]
        self[family].turn = (all.turn + 1) % all.states.count
        return all.states.indices.map { (all.turn + $0) % all.states.count }
            .filter { all.states[$0].shortage == nil || all.states[$0].pauseEnd <= now }
            .map { Source(family: family, index: $0, local: all.states[$0].local) }
    }

    /// Why no address of the family gives a socket; `nil` where one may.
    func shortage(_ family: SocketAddress.Family) -> LocalShortage? { isShort ? self[family].shortage : nil }

    /// The address has given a socket.
    mutating func noteSocket(from source: Source) {
        guard isShort else { return }
        self[source.family].states[source.index].shortage = nil
        isShort = (ipv4.states + ipv6.states).contains { $0.shortage != nil }
    }

    /// The address gave no socket.
    /// - Returns: whether an operator is to be told: no other address of the family gives one either.
    mutating func note(_ shortage: LocalShortage, from source: Source, now: Instant) -> Bool {
        isShort = true
        self[source.family].states[source.index].shortage = shortage
        self[source.family].states[source.index].pauseEnd = now + Self.pause
        guard self[source.family].shortage != nil, self[source.family].nextNotice <= now else { return false }
        self[source.family].nextNotice = now + Self.noticeInterval
        return true
    }

    /// A socket of the service was closed, and its port may be free.
    mutating func noteClosedSocket() {
        guard isShort else { return }
        for index in ipv4.states.indices { ipv4.states[index].pauseEnd = .distantPast }
        for index in ipv6.states.indices { ipv6.states[index].pauseEnd = .distantPast }
    }

    private subscript(family: SocketAddress.Family) -> Addresses {
        get {
            switch family {
            case .ipv4: ipv4
            case .ipv6: ipv6
            }
        }
        set {
            switch family {
            case .ipv4: ipv4 = newValue
            case .ipv6: ipv6 = newValue
            }
        }
    }
}
