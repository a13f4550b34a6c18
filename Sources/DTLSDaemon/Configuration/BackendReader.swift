import Glibc
import LinuxSystem

/// Reads `[service.NAME.forward]`: where the datagrams of a service go.
enum BackendReader {
    private static let expected = "\"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\""
    /// Bytes of a Unix socket's path: sun_path less the NUL that ends it (unix(7)).
    private static let longestPath = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

    /// `nil` when there is none, or any of them is not good.
    static func read(_ table: TableReader<ForwardKey>) -> [Backend]? {
        table.require(.backend, expected)
        guard table.has(.backend) else { return nil }
        let texts = table.strings(.backend, expected)
        if texts.isEmpty, table.isEmptyArray(.backend) {
            table.report(.backend, "expected \(expected), found an empty array")
        }
        var found: [(element: Int, backend: Backend)] = []
        for (element, text) in texts {
            do throws(BadBackend) {
                found.append((element, Backend(name: text, address: try address(text))))
            } catch {
                table.report(.backend, element: element, error.message)
            }
        }
        reportDuplicates(found, table)
        return found.isEmpty ? nil : found.map(\.backend)
    }

    private static func reportDuplicates(
        _ found: [(element: Int, backend: Backend)], _ table: TableReader<ForwardKey>
    ) {
        for (index, (element, backend)) in found.enumerated() {
            guard let earlier = found[..<index].first(where: { $0.backend.address == backend.address }) else {
                continue
            }
            let line = table.reading.line(of: table.path(.backend), element: earlier.element)
            let place = line.map { " (line \($0))" } ?? ""
            table.report(
                .backend, element: element,
                "\(ConfigurationReading.quoted(backend.name)) is the same backend as "
                    + "\(ConfigurationReading.quoted(earlier.backend.name))\(place); expected each of them once")
        }
    }

    private struct BadBackend: Error {
        var message: String
    }

    private static func address(_ text: String) throws(BadBackend) -> Backend.Address {
        if text.hasPrefix("unix:") { return try unix(String(text.dropFirst(5))) }
        if text.hasPrefix("udp:") { return try udp(String(text.dropFirst(4))) }
        throw BadBackend(message: "expected \(expected), found the string \(ConfigurationReading.quoted(text))")
    }

    private static func unix(_ path: String) throws(BadBackend) -> Backend.Address {
        guard path.hasPrefix("/") else {
            let found = ConfigurationReading.quoted(path)
            throw BadBackend(message: "expected an absolute path after \"unix:\", found \(found)")
        }
        guard path.utf8.count <= longestPath else {
            throw BadBackend(
                message:
                    "the path has \(path.utf8.count) bytes; expected at most \(longestPath), as many as a socket's may have"
            )
        }
        return .unix(path)
    }

    private static func udp(_ text: String) throws(BadBackend) -> Backend.Address {
        if let address = SocketAddress(text), address.port != 0 { return .udp(address) }
        guard let colon = text.lastIndex(of: ":"), let port = port(text[text.index(after: colon)...]) else {
            let found = ConfigurationReading.quoted(text)
            throw BadBackend(message: "expected a port, 1 to 65535, at the end of \(found)")
        }
        let host = String(text[..<colon])
        guard !host.isEmpty, !host.contains(where: { ":[]% ".contains($0) }) else {
            let found = ConfigurationReading.quoted("udp:" + text)
            throw BadBackend(message: "expected \(expected), found the string \(found)")
        }
        do throws(UnresolvedHost) {
            return .udp(try resolve(host, port))
        } catch {
            throw BadBackend(
                message: "the host name \(ConfigurationReading.quoted(host)) has no address (\(error.reason)); "
                    + "expected a name that resolves, or an address")
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
