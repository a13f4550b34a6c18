import LinuxSystem

/// Where a service sends its clients' datagrams.
struct Backend: Codable, Equatable, Sendable, CustomStringConvertible {
    enum Address: Codable, Hashable, Sendable, CustomStringConvertible {
        case udp(SocketAddress)
        /// The path of a Unix datagram socket.
        case unix(String)
        /// A host name. In a worker, a backend for each of its addresses takes the place of this one, once it has any.
        case name(String, port: UInt16)

        var description: String {
            switch self {
            case .udp(let address): "udp:\(address)"
            case .unix(let path): "unix:\(path)"
            case .name(let host, let port): "udp:\(host):\(port)"
            }
        }
    }

    /// The backend as written in the file. It determines which clients the backend gets, so that a host name keeps its
    /// clients when its address changes.
    var name: String
    var address: Address

    /// The host name and port, where the backend is one.
    var host: (name: String, port: UInt16)? {
        if case .name(let name, let port) = address { (name, port) } else { nil }
    }

    var description: String { "\(address)" }
}
