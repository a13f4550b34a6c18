import LinuxSystem

/// `[service.NAME.forward]`
struct ForwardConfiguration: Codable, Equatable, Sendable {
    /// At least one, each of them once. A client's is chosen by its address.
    var backends: [Backend]
    /// Whether each datagram to a backend begins with a header of the PROXY protocol.
    var proxyProtocol = false
}

struct Backend: Codable, Equatable, Sendable, CustomStringConvertible {
    enum Address: Codable, Hashable, Sendable {
        case udp(SocketAddress)
        /// A Unix datagram socket's path.
        case unix(String)
    }

    /// As the file has it. Clients are dealt out by it, so a host name keeps its clients when its address changes.
    var name: String
    var address: Address

    var description: String {
        switch address {
        case .udp(let address): "udp:\(address)"
        case .unix(let path): "unix:\(path)"
        }
    }
}

extension HandlerConfiguration {
    /// Where its datagrams go; none for a handler that sends nowhere.
    var backends: [Backend] {
        if case .forward(let forward) = self { forward.backends } else { [] }
    }
}
