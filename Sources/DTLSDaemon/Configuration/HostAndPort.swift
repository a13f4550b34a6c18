import Glibc
import LinuxSystem

/// `HOST:PORT`, where HOST is an IPv4 address, an IPv6 address in brackets, or a name.
struct HostAndPort {
    /// A name or an address, without brackets.
    let host: String
    let port: UInt16

    /// The name has no address, or one that nothing can be sent to.
    struct Unresolved: Error {
        /// A sentence with what is expected instead.
        let message: String
        /// It may have one later: no name server answers, as during boot.
        var isTransient = false
    }

    /// - Returns: `nil` for what is none, and for port 0.
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

    /// The host as certificates name it: an address without its interface, a name without the dot at its end, which
    /// only the resolver knows.
    var certificateName: String {
        let name = host.prefix { $0 != "%" }
        return String(name.hasSuffix(".") ? name.dropLast() : name)
    }

    /// Digits alone: `UInt16("+53")` is 53 too.
    static func port(_ text: some StringProtocol) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let port = UInt16(text),
            port != 0
        else { return nil }
        return port
    }

    /// The address that the resolver ranks first (RFC 6724). It may wait for a name server.
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
