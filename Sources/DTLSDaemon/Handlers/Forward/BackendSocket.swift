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

extension ForwardBackends {
    /// Opens a socket and connects it to a UDP backend, from the next of the service's source addresses that gives one.
    func openSocket(to backend: SocketAddress, now: Instant) throws(BackendSocketFailure) -> FileDescriptor {
        var last: LocalShortage?
        var isNews = false
        for source in settings.sources.takeTurn(backend.family, now: now) {
            do throws(BackendSocketFailure) {
                let socket = try Self.openSocket(to: backend, from: source.address)
                settings.sources.noteSocket(from: source)
                return socket
            } catch {
                guard case .machine(let shortage, _) = error else {
                    settings.sources.noteSocket(from: source)
                    throw error
                }
                last = shortage
                if settings.sources.note(shortage, from: source, now: now) { isNews = true }
            }
        }
        // Where none was tried, all are short.
        guard let shortage = last ?? settings.sources.shortage(backend.family) else { throw .backend(0) }
        throw .machine(shortage, isNews: isNews)
    }

    private static func openSocket(
        to backend: SocketAddress, from source: SocketAddress?
    ) throws(BackendSocketFailure) -> FileDescriptor {
        let socket = try openSocket(backend.family, from: source)
        do throws(SystemError) {
            try UDPSocket.connect(socket, to: backend)
        } catch {
            if let shortage = LocalShortage(connecting: error, from: source) { throw .machine(shortage, isNews: false) }
            throw .backend(error.errno)
        }
        return socket
    }

    private static func openSocket(
        _ family: SocketAddress.Family, from source: SocketAddress?
    ) throws(BackendSocketFailure) -> FileDescriptor {
        do throws(SystemError) {
            let socket = try UDPSocket.open(family)
            if let source { try UDPSocket.bindWithoutPort(socket, to: source) }
            return socket
        } catch {
            throw .machine(LocalShortage(error), isNews: false)
        }
    }

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
