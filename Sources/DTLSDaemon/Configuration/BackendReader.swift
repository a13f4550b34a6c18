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
        var found: [(element: Int, backend: Backend)] = []
        for (element, text) in texts {
            do throws(BadBackend) {
                found.append((element, Backend(name: text, address: try address(text))))
            } catch {
                table.report(.backend, element: element, error.message, isTransient: error.isTransient)
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
                "\(ReadContext.quoted(backend.name)) is the same backend as "
                    + "\(ReadContext.quoted(earlier.backend.name))\(place); expected each of them once")
        }
    }

    private struct BadBackend: Error {
        var message: String
        var isTransient = false
    }

    private static func address(_ text: String) throws(BadBackend) -> Backend.Address {
        if text.hasPrefix("unix:") { return try unix(String(text.dropFirst(5))) }
        if text.hasPrefix("udp:") { return try udp(String(text.dropFirst(4))) }
        throw BadBackend(message: "expected \(expected), found the string \(ReadContext.quoted(text))")
    }

    private static func unix(_ path: String) throws(BadBackend) -> Backend.Address {
        guard path.hasPrefix("/") else {
            let found = ReadContext.quoted(path)
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
        guard let named = HostAndPort(text) else {
            let hasPort = text.lastIndex(of: ":").flatMap { HostAndPort.port(text[text.index(after: $0)...]) } != nil
            throw BadBackend(
                message: hasPort
                    ? "expected \(expected), found the string \(ReadContext.quoted("udp:" + text))"
                    : "expected a port, 1 to 65535, at the end of \(ReadContext.quoted(text))")
        }
        do throws(HostAndPort.Unresolved) {
            return .udp(try named.resolve())
        } catch {
            throw BadBackend(message: error.message, isTransient: error.isTransient)
        }
    }
}
