import ArgumentParser
import CLinux
import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// A server as the command line names it: `HOST:PORT`, with a host name, an IPv4 address, or an IPv6 address in brackets.
struct Destination: ExpressibleByArgument, Equatable {
    /// The host name or address, without brackets.
    let host: String
    let port: UInt16

    init?(argument text: String) {
        if let address = SocketAddress(text) {
            guard address.port != 0, let colon = text.lastIndex(of: ":") else { return nil }
            host = String(text[..<colon].drop { $0 == "[" }.prefix { $0 != "]" })
            port = address.port
            return
        }
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let digits = text[text.index(after: colon)...]
        // UInt16("+53") is 53, too.
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port != 0 else {
            return nil
        }
        host = String(text[..<colon])
        self.port = port
        if host.isEmpty || host.contains(where: { ":[]% ".contains($0) }) { return nil }
    }

    /// The host as certificates have it: an address without its interface, a name without a dot at its end.
    var certificateName: String {
        let name = host.prefix { $0 != "%" }
        return String(name.hasSuffix(".") ? name.dropLast() : name)
    }

    /// As it was typed, fit for a terminal.
    var description: String {
        let isAddress = host.contains(":")
        return TerminalText.printable(isAddress ? "[\(host)]:\(port)" : "\(host):\(port)")
    }

    /// All addresses of the host, best first (RFC 6724). It may block on a name server.
    func resolve() throws(TalkingFailure) -> [DtlsAddress] {
        if let address = SocketAddress(host: host, port: port) { return [DtlsAddress(address)] }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, nil, &hints, &list)
        guard status == 0 else {
            let reason = status == EAI_SYSTEM ? String(cString: strerror(errno)) : String(cString: gai_strerror(status))
            throw .unresolved(host: host, reason: reason, isTransient: status == EAI_AGAIN || status == EAI_SYSTEM)
        }
        defer { freeaddrinfo(list) }
        var addresses: [DtlsAddress] = []
        var entry = list
        while let current = entry?.pointee {
            if let raw = current.ai_addr, var address = SocketAddress(raw, length: Int(current.ai_addrlen)) {
                address.port = port
                if !addresses.contains(DtlsAddress(address)) { addresses.append(DtlsAddress(address)) }
            }
            entry = current.ai_next
        }
        guard !addresses.isEmpty else {
            throw .unresolved(host: host, reason: "it has neither an IPv4 nor an IPv6 address", isTransient: false)
        }
        return addresses
    }
}
