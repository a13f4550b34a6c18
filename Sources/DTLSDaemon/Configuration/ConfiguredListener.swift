import LinuxSystem

/// An address that a service or a client listens on, and where the file says so.
struct ConfiguredListener {
    var address: SocketAddress
    /// The key, and the number of the string in its array.
    var path: [String]
    var element: Int
    var interface: String?
    var ipv6Only: Bool

    static func read<Key>(_ table: TableReader<Key>, _ key: Key, _ socket: SocketOptions) -> [ConfiguredListener] {
        let expected = "\"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", the address in numbers, the port 1 to 65535"
        var listeners: [ConfiguredListener] = []
        for (element, text) in table.strings(key, expected) {
            guard let address = SocketAddress(text), address.port != 0 else {
                let found = "found the string \(ReadContext.quoted(text))"
                table.report(key, element: element, "expected \(expected), \(found)")
                continue
            }
            if let reason = address.reasonAgainst(.listening) {
                table.report(key, element: element, "\(address) \(reason)")
                continue
            }
            listeners.append(
                ConfiguredListener(
                    address: address, path: table.path(key), element: element, interface: socket.interface,
                    ipv6Only: socket.ipv6Only))
        }
        return listeners
    }

    /// SO_REUSEPORT lets two sockets have one address, and the kernel then deals the peers out between them.
    static func reportCollisions(_ listeners: [ConfiguredListener], _ reading: ReadContext) {
        for (index, listener) in listeners.enumerated() {
            guard let earlier = listeners[..<index].first(where: { $0.collides(with: listener) }) else { continue }
            let path = ReadContext.text(of: earlier.path) ?? ""
            let line = reading.line(of: earlier.path, element: earlier.element).map { " (line \($0))" } ?? ""
            reading.report(
                listener.path, element: listener.element,
                "\(listener.address) collides with \(earlier.address) of \(path)\(line); "
                    + "expected an address and port that nothing else listens on")
        }
    }

    private func collides(with other: ConfiguredListener) -> Bool {
        guard interface == other.interface, address.port == other.address.port else { return false }
        if address == other.address { return true }
        guard address.isWildcard, other.address.isWildcard else { return false }
        return address.family == .ipv6 ? !ipv6Only : !other.ipv6Only
    }
}
