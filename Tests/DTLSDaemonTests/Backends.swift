import DTLSEngine
import DTLSTransport
import LinuxSystem
import Testing

@testable import DTLSDaemon

extension Backend {
    /// As the configuration `"udp:ADDRESS:PORT"` says it.
    static func udp(_ text: String) throws -> Backend {
        Backend(name: "udp:\(text)", address: .udp(try #require(SocketAddress(text))))
    }

    static func unix(_ path: String) -> Backend { Backend(name: "unix:\(path)", address: .unix(path)) }
}

extension NonEmpty {
    /// - Throws: where there is no element.
    static func of(_ elements: Element...) throws -> NonEmpty { try #require(NonEmpty(elements)) }
}

extension ForwardBackends {
    convenience init(_ backends: [Backend], hosts: HostTable = HostTable()) throws {
        let backends = try #require(NonEmpty(backends))
        self.init(backends, ForwardSettings(ForwardConfiguration(backends: backends), hosts: hosts))
    }
}

extension ForwardService {
    /// The backends for a client that has shown this in its handshake; `nil` where it is refused.
    func backends(of session: SessionDetails, _ slot: ConnectionSlot? = nil) -> ForwardBackends? {
        if case .backends(let backends) = destination(of: session, slot) { backends } else { nil }
    }
}
