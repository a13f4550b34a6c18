import LinuxSystem

/// Where datagrams are sent to, as the configuration names it.
enum HostAddress: Codable, Hashable, Sendable, CustomStringConvertible {
    case address(SocketAddress)
    /// A host name, whose addresses the resolver finds while the daemon runs.
    case name(String, port: UInt16)

    var description: String {
        switch self {
        case .address(let address): "\(address)"
        case .name(let name, let port): "\(name):\(port)"
        }
    }
}

/// A host name in a configuration, and the key that has it.
struct ConfiguredName: Codable, Equatable, Sendable {
    var host: String
    /// The place of the key, with an empty message.
    var place: ConfigurationProblem

    /// What an operator is told where the name has no address.
    func problem(_ reason: String) -> ConfigurationProblem {
        var problem = place
        problem.message =
            "the host name \(ReadContext.quoted(host)) has no address (\(reason)); expected a name that resolves, or an"
            + " address. Nothing can be sent there until it has one"
        return problem
    }
}

/// `[resolver]`
struct ResolverConfiguration: Codable, Equatable, Sendable {
    /// The name servers, in the order in which they are asked; empty: those of /etc/resolv.conf.
    var servers: [SocketAddress] = []
}
