import DTLSEngine
import Glibc
import LinuxSystem

/// What the path to the peer takes. A socket that does not fragment refuses what is larger than the kernel knows the
/// path to take: the interface's MTU, or less where a router has said so.
extension Connection {
    /// Bytes of a message that fits every path that Linux believes in (552 bytes, net.ipv4.route.min_pmtu), whatever
    /// the cipher adds. Only for larger ones is the kernel asked, and once.
    static let alwaysFits = 400

    private var headers: Int { local.family == .ipv4 ? 28 : 48 }

    /// Makes handshake flights fit what the kernel knows of the path.
    func fitToPath(_ engine: Engine) {
        guard let mtu = try? UDPSocket.pathMTU(of: socket, local.family) else { return }
        engine.limitPayload(to: mtu - headers)
    }

    /// Throws for a message that the path does not take. To be called for one that is larger than `knownToFit`.
    func checkFits(_ count: Int) throws(EngineError) {
        guard engine.isEstablished else { return }
        knownToFit = largestMessage
        guard count > knownToFit, count <= Engine.maximumMessageSize else { return }
        counters.tooLarge &+= 1
        lastError = EMSGSIZE
        throw .path(count, limit: knownToFit)
    }

    /// Bytes of the largest message that the path takes now in one piece, as far as the kernel knows; 0 before the
    /// handshake is done.
    package var largestMessage: Int {
        guard engine.isEstablished else { return 0 }
        guard socket.isOpen, (try? UDPSocket.refusesLarge(socket, local.family)) == true,
            let mtu = try? UDPSocket.pathMTU(of: socket, local.family)
        else { return Engine.maximumMessageSize }
        return engine.largestMessage(inPayload: mtu - headers)
    }

    /// The kernel has refused a datagram for its size, or a router has told it that one was too large: the next flight
    /// and the next message have to be smaller.
    func pathHasShrunk() {
        knownToFit = 0
        if case .handshaking = phase { fitToPath(engine) }
        if let successor { fitToPath(successor.engine) }
    }
}
