import Glibc
import LinuxSystem

/// A text `HOST:PORT`, where HOST is an IPv4 address, an IPv6 address in brackets, or a host name.
struct HostAndPort {
    /// The host name or address, without brackets.
    let host: String
    let port: UInt16

    /// - Returns: `nil` when the text does not have this form, or the port is 0.
    init?(_ text: String) {
        if let address = SocketAddress(text) {
            guard address.port != 0, let colon = text.lastIndex(of: ":") else { return nil }
            host = String(text[..<colon].drop { $0 == "[" }.prefix { $0 != "]" })
            port = address.port
            return
        }
        guard let colon = text.lastIndex(of: ":"), let port = Self.port(text[text.index(after: colon)...]) else {
            return nil
        }
        host = String(text[..<colon])
        self.port = port
        if host.isEmpty || host.contains(where: { ":[]% ".contains($0) }) { return nil }
    }

    /// The host as it appears in certificates: an address without its interface, or a name without a dot at its end,
    /// which has a meaning for the resolver only.
    var certificateName: String {
        let name = host.prefix { $0 != "%" }
        return String(name.hasSuffix(".") ? name.dropLast() : name)
    }

    /// Parses a port of digits only, since `UInt16("+53")` is 53 too.
    static func port(_ text: some StringProtocol) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let port = UInt16(text),
            port != 0
        else { return nil }
        return port
    }

    /// What is wrong with it whatever a name server says, and what is expected instead.
    struct Mistake: Error {
        let message: String
    }

    /// An address that can be sent to, or a name that can be asked for. A name is noted for the resolver.
    func checked(_ field: Field, element: Int? = nil) throws(Mistake) -> HostAddress {
        if let address = SocketAddress(host: host, port: port) {
            if let reason = address.reasonAgainst(.sending) { throw Mistake(message: "\(address) \(reason)") }
            return .address(address)
        }
        guard Self.isHostName(host) else {
            throw Mistake(
                message: "\(ReadContext.quoted(host)) is neither an address nor a host name; expected labels of 1 to 63"
                    + " ASCII letters, digits, - and _, the last of them no number, and 253 bytes at most")
        }
        field.context.names.append(
            ConfiguredName(host: host, place: field.context.problem(field.path, element: element, "")))
        return .name(host, port: port)
    }

    /// Whether a name server may know the name. Underscores are in the names of many machines.
    static func isHostName(_ name: String) -> Bool {
        let absolute = name.hasSuffix(".") ? name.dropLast() : name[...]
        let labels = absolute.split(separator: ".", omittingEmptySubsequences: false)
        guard absolute.utf8.count <= 253, let last = labels.last else { return false }
        return !last.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
            && labels.allSatisfy { label in
                (1...63).contains(label.utf8.count)
                    && label.utf8.allSatisfy { $0.isLetterOrDigit || $0 == 0x2d || $0 == 0x5f }
            }
    }
}

// MARK: Listening

extension ValueType where Value == [Element<SocketAddress>] {
    /// The addresses that a service or a client listens on, one or several.
    static var listenAddresses: Self {
        Self("\"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", the address in numbers, the port 1 to 65535") { field in
            field.strings.compactMap { text in
                guard let address = SocketAddress(text.value), address.port != 0 else {
                    field.reportMismatch(element: text.number, found: text.value)
                    return nil
                }
                if let reason = address.reasonAgainst(.listening) {
                    field.report(element: text.number, "\(address) \(reason)")
                    return nil
                }
                return Element(number: text.number, value: address)
            }
        }
    }
}

/// An address that a service or a client listens on, and its place in the file.
struct ListenAddress {
    var address: SocketAddress
    /// The path of the key, and the number of the string in its array.
    var path: [String]
    var element: Int
    var interface: String?
    var ipv6Only: Bool

    static func of(_ listen: [Element<SocketAddress>], _ field: Field, _ socket: SocketOptions) -> [ListenAddress] {
        listen.map {
            ListenAddress(
                address: $0.value, path: field.path, element: $0.number, interface: socket.interface,
                ipv6Only: socket.ipv6Only)
        }
    }

    /// Reports duplicates: SO_REUSEPORT lets two sockets have one address, and the kernel then divides the peers
    /// between them.
    static func reportCollisions(_ all: [ListenAddress], _ context: ReadContext) {
        for (index, one) in all.enumerated() {
            guard let earlier = all[..<index].first(where: { $0.collides(with: one) }) else { continue }
            let path = ReadContext.text(of: earlier.path) ?? ""
            let line = context.line(of: earlier.path, element: earlier.element).map { " (line \($0))" } ?? ""
            context.report(
                one.path, element: one.element,
                "\(one.address) collides with \(earlier.address) of \(path)\(line); "
                    + "expected an address and port that nothing else listens on")
        }
    }

    private func collides(with other: ListenAddress) -> Bool {
        guard interface == other.interface, address.port == other.address.port else { return false }
        if address == other.address { return true }
        guard address.isWildcard, other.address.isWildcard else { return false }
        return address.family == .ipv6 ? !ipv6Only : !other.ipv6Only
    }
}

// MARK: Name servers

extension ResolverConfiguration {
    static let schema = Schema<Self> {
        Key(
            "servers", \.servers, .nameServers, default: "none; those of /etc/resolv.conf",
            doc: "The name servers that are asked, in this order.")
    }
}

extension ValueType where Value == [SocketAddress] {
    fileprivate static var nameServers: Self {
        Self("\"ADDRESS\", \"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", the address in numbers, or an array of several")
        {
            field in
            field.strings.compactMap { text in
                guard let address = SocketAddress(host: text.value, port: 53) ?? SocketAddress(text.value),
                    address.port != 0
                else {
                    field.reportMismatch(element: text.number, found: text.value)
                    return nil
                }
                if let reason = address.reasonAgainst(.sending) {
                    field.report(element: text.number, "\(address) \(reason)")
                    return nil
                }
                return address
            }
        }
    }
}
