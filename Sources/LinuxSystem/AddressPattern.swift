/// Some peers: those of one address or network, or one by its address and port.
public struct AddressPattern: Hashable, Sendable, CustomStringConvertible {
    public let network: NetworkPrefix
    /// `nil`: any.
    public let port: UInt16?

    /// Parses `192.0.2.7`, `192.0.2.0/24`, `192.0.2.7:4711`, `2001:db8::/32`, `[2001:db8::1]:4711`.
    public init(parsing text: String) throws(NetworkPrefix.Mistake) {
        if let address = SocketAddress(text) {
            network = NetworkPrefix(of: address, lengths: NetworkPrefix.Lengths(ipv4: 32, ipv6: 128))
            port = address.port
        } else {
            network = try NetworkPrefix(parsing: text)
            port = nil
        }
    }

    public func matches(_ address: SocketAddress) -> Bool {
        if let port, port != address.port { return false }
        let (family, bits) = address.number
        return family == network.family && bits >= network.first && bits <= network.last
    }

    /// As ``init(parsing:)`` reads it.
    public var description: String {
        let isOne = network.length == NetworkPrefix.maximumLength(network.family)
        let text = "\(network)"
        guard isOne, let slash = text.lastIndex(of: "/") else { return text }
        let host = text[..<slash]
        guard let port else { return String(host) }
        return network.family == .ipv4 ? "\(host):\(port)" : "[\(host)]:\(port)"
    }
}
