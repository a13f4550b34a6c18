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
        guard let named = HostAndPort(text) else {
            let hasPort = text.lastIndex(of: ":").flatMap { HostAndPort.port(text[text.index(after: $0)...]) } != nil
            let quoted = ConfigurationReading.quoted(hasPort ? "udp:" + text : text)
            table.report(
                .backend,
                hasPort
                    ? "expected \(expected), found the string \(quoted)"
                    : "expected a port, 1 to 65535, at the end of \(quoted)")
            return nil
        }
        do throws(HostAndPort.Unresolved) {
            return .udp(try named.resolve())
        } catch {
            table.report(.backend, error.message)
            return nil
        }
    }
}
