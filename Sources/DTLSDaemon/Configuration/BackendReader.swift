import Glibc
import LinuxSystem

/// Reads `[service.NAME.forward]`: where the datagrams of a service go.
enum BackendReader {
    private static let expected = "\"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\""
    /// Bytes of a Unix socket's path: sun_path less the NUL that ends it (unix(7)).
    private static let longestPath = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    static func read(_ table: TableReader<ForwardKey>) -> Backend? {
        table.require(.backend, expected)
        guard let text = table.string(.backend, expected) else { return nil }
        if text.hasPrefix("unix:") { return unix(String(text.dropFirst(5)), table) }
        if text.hasPrefix("udp:") { return udp(String(text.dropFirst(4)), table) }
        table.report(.backend, "expected \(expected), found the string \(ConfigurationReading.quoted(text))")
        return nil
    }

    private static func unix(_ path: String, _ table: TableReader<ForwardKey>) -> Backend? {
        guard path.hasPrefix("/") else {
            let found = ConfigurationReading.quoted(path)
            table.report(.backend, "expected an absolute path after \"unix:\", found \(found)")
            return nil
        }
        guard path.utf8.count <= longestPath else {
            table.report(
                .backend,
                "the path has \(path.utf8.count) bytes; expected at most \(longestPath), as many as a socket's may have"
            )
            return nil
        }
        return .unix(path)
    }

    private static func udp(_ text: String, _ table: TableReader<ForwardKey>) -> Backend? {
        if let address = SocketAddress(text), address.port != 0 { return .udp(address) }
        guard let colon = text.lastIndex(of: ":"), let port = port(text[text.index(after: colon)...]) else {
            let found = ConfigurationReading.quoted(text)
            table.report(.backend, "expected a port, 1 to 65535, at the end of \(found)")
            return nil
        }
        let host = String(text[..<colon])
        guard !host.isEmpty, !host.contains(where: { ":[]% ".contains($0) }) else {
            table.report(
                .backend, "expected \(expected), found the string \(ConfigurationReading.quoted("udp:" + text))")
            return nil
        }
        do throws(UnresolvedHost) {
            return .udp(try resolve(host, port))
        } catch {
            table.report(
                .backend,
                "the host name \(ConfigurationReading.quoted(host)) has no address (\(error.reason)); "
                    + "expected a name that resolves, or an address")
            return nil
        }
    }

    /// Digits alone: `UInt16("+53")` is 53 too.
    private static func port(_ text: Substring) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let port = UInt16(text),
            port != 0
        else { return nil }
        return port
    }

    private struct UnresolvedHost: Error {
        var reason: String
    }

    /// The address that the resolver ranks first (RFC 6724).
    private static func resolve(_ host: String, _ port: UInt16) throws(UnresolvedHost) -> SocketAddress {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, nil, &hints, &list)
        guard status == 0 else {
            let reason = status == EAI_SYSTEM ? strerror(errno).map { String(cString: $0) } : nil
            throw UnresolvedHost(reason: reason ?? String(cString: gai_strerror(status)))
        }
        defer { freeaddrinfo(list) }
        var entry = list
        while let current = entry?.pointee {
            if let raw = current.ai_addr, let address = SocketAddress(raw, length: Int(current.ai_addrlen)) {
                return address.with(port: port)
            }
            entry = current.ai_next
        }
        throw UnresolvedHost(reason: "it has neither an IPv4 nor an IPv6 address")
    }
}
