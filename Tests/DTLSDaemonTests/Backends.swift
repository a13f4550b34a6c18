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
    convenience init(_ backends: [Backend]) throws {
        self.init(ForwardConfiguration(backends: try #require(NonEmpty(backends))))
    }
}
