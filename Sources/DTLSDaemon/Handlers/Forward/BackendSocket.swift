import DTLSTransport
import LinuxSystem
import Primitives

/// Why there is no socket that is connected to a UDP backend.
enum BackendSocketFailure: Error {
    /// The backend cannot be reached; `errno` says why.
    case backend(Int32)
    /// This machine gives no socket. An operator is to be told if that is news.
    case machine(LocalShortage, isNews: Bool)
}

extension SourceAddresses {
    /// Opens a socket and connects it to a UDP backend or server, from the next place that gives one.
    mutating func openSocket(
        to peer: SocketAddress, _ options: SocketOptions, now: Instant
    ) throws(BackendSocketFailure) -> FileDescriptor {
        var last: LocalShortage?
        var isNews = false
        for source in takeTurn(peer.family, now: now) {
            do throws(BackendSocketFailure) {
                let socket = try Self.openSocket(to: peer, from: source.local, options)
                noteSocket(from: source)
                return socket
            } catch {
                guard case .machine(let shortage, _) = error else {
                    noteSocket(from: source)
                    throw error
                }
                last = shortage
                if note(shortage, from: source, now: now) { isNews = true }
            }
        }
        // Where none was tried, all are short.
        guard let shortage = last ?? shortage(peer.family) else { throw .backend(0) }
        throw .machine(shortage, isNews: isNews)
    }

    private static func openSocket(
        to peer: SocketAddress, from source: LocalSource?, _ options: SocketOptions
    ) throws(BackendSocketFailure) -> FileDescriptor {
        let socket = try open(peer.family, from: source, options)
        do throws(SystemError) {
            if let source, let ports = source.ports {
                try UDPSocket.connect(socket, to: peer, from: source.address, ports: ports.all)
            } else {
                try UDPSocket.connect(socket, to: peer)
            }
        } catch {
            if error.operation == "bind" { throw .machine(LocalShortage(error), isNews: false) }
            if let shortage = LocalShortage(connecting: error, from: source?.address) {
                throw .machine(shortage, isNews: false)
            }
            throw .backend(error.errno)
        }
        return socket
    }

    private static func open(
        _ family: SocketAddress.Family, from source: LocalSource?, _ options: SocketOptions
    ) throws(BackendSocketFailure) -> FileDescriptor {
        do throws(SystemError) {
            let socket = try UDPSocket.open(family, options: options)
            if let source, source.ports == nil { try UDPSocket.bindWithoutPort(socket, to: source.address) }
            return socket
        } catch {
            throw .machine(LocalShortage(error), isNews: false)
        }
    }
}

extension ForwardBackends {
    /// Opens a socket and connects it to a UDP backend, from the next of the service's source addresses that gives one.
    func openSocket(to backend: SocketAddress, now: Instant) throws(BackendSocketFailure) -> FileDescriptor {
        try settings.sources.openSocket(to: backend, socketOptions, now: now)
    }

    /// The options of sockets to UDP backends.
    var socketOptions: SocketOptions { SocketOptions(interface: settings.interface) }

    /// Why a client gets no socket to its backend, and whether an operator is to be told.
    typealias Shortage = (backend: Backend, reason: LocalShortage, isNews: Bool)

    /// Why a new client would get no socket to its backend; `nil` where it would get one. Asked before the handshake,
    /// it spares the client one that ends in silence.
    ///
    /// During a shortage a socket is opened as a trial, once in every ``SourceAddresses/pause``, and once for each
    /// socket of the service that is closed.
    func shortage(for peer: SocketAddress, now: Instant) -> Shortage? {
        guard settings.sources.isShort else { return nil }
        let client = RendezvousHash.client(peer)
        let backend = choice(of: client, home: home(of: client), for: ObjectIdentifier(self), now: now).configuration
        guard case .udp(let address) = backend.address, settings.sources.shortage(address.family) != nil else {
            return nil
        }
        do throws(BackendSocketFailure) {
            _ = try openSocket(to: address, now: now)
            return nil
        } catch {
            guard case .machine(let reason, let isNews) = error else { return nil }
            return (backend, reason, isNews)
        }
    }
}
