import Glibc
import LinuxSystem

/// A text `HOST:PORT`, where HOST is an IPv4 address, an IPv6 address in brackets, or a host name.
struct HostAndPort {
    /// The host name or address, without brackets.
    let host: String
    let port: UInt16

    /// The host name has no address, or one that datagrams cannot be sent to.
    struct Unresolved: Error {
        /// What is wrong, and what is expected instead.
        let message: String
        /// Whether a later attempt may succeed, because no name server answers, as during boot.
        var isTransient = false
    }

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

    /// Returns the address that the resolver ranks first (RFC 6724). It may block on a name server.
    func resolve() throws(Unresolved) -> SocketAddress {
        let address = try lookUp()
        if let reason = address.reasonAgainst(.sending) {
            throw Unresolved(message: "\(address) \(reason)")
        }
        return address
    }

    private func lookUp() throws(Unresolved) -> SocketAddress {
        if let address = SocketAddress(host: host, port: port) { return address }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, nil, &hints, &list)
        guard status == 0 else {
            let reason = status == EAI_SYSTEM ? strerror(errno).map { String(cString: $0) } : nil
            throw unresolved(
                reason ?? String(cString: gai_strerror(status)),
                isTransient: status == EAI_AGAIN || status == EAI_SYSTEM)
        }
        defer { freeaddrinfo(list) }
        var entry = list
        while let current = entry?.pointee {
            if let raw = current.ai_addr, let address = SocketAddress(raw, length: Int(current.ai_addrlen)) {
                return address.with(port: port)
            }
            entry = current.ai_next
        }
        throw unresolved("it has neither an IPv4 nor an IPv6 address")
    }

    private func unresolved(_ reason: String, isTransient: Bool = false) -> Unresolved {
        Unresolved(
            message: "the host name \(ReadContext.quoted(host)) has no address (\(reason)); "
                + "expected a name that resolves, or an address", isTransient: isTransient)
    }
}

extension SocketAddress {
    /// The purpose of a configured address.
    enum Use {
        case listening, sending
        /// Sockets are bound to it, and the kernel chooses the port.
        case source

        fileprivate func expected(_ wildcard: String) -> String {
            self == .listening ? "a unicast address or \(wildcard)" : "a unicast address"
        }

        /// An IPv6 address as this kind of key writes it.
        fileprivate func text(_ host: some StringProtocol, _ port: UInt16) -> String {
            self == .source ? "\(host)" : "[\(host)]:\(port)"
        }
    }

    /// Why the address cannot be used for a purpose on any machine, as the end of a sentence that begins with it.
    func reasonAgainst(_ use: Use) -> String? {
        if isIPv4Mapped { return "is an IPv4 address inside an IPv6 one; expected the IPv4 address itself" }
        if use != .listening, isWildcard {
            return "is not the address of a single machine; expected \(use.expected(""))"
        }
        let first = withBytes { $0[0] }
        switch family {
        case .ipv4:
            // 224.0.0.0/4 is multicast. In 240.0.0.0/4, only 255.255.255.255 (broadcast) can be bound at all.
            return first >= 224 ? "is not the address of a single machine; expected \(use.expected("0.0.0.0"))" : nil
        case .ipv6:
            if first == 0xff { return "is not the address of a single machine; expected \(use.expected("[::]"))" }
            switch (isLinkLocal, scope) {
            case (true, 0):
                return "is a link-local address without its interface; expected \(use.text("\(host)%INTERFACE", port))"
            case (false, 1...):
                // The kernel ignores the interface of such an address, so it would be a duplicate of the address.
                let plain = host.prefix { $0 != "%" }
                return "has an interface, which only a link-local address needs; expected \(use.text(plain, port))"
            default: return nil
            }
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
