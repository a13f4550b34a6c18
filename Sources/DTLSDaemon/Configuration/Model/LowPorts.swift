import Glibc
import LinuxSystem

extension Configuration {
    /// Whether there are ports that only root and CAP_NET_BIND_SERVICE may bind: those of listeners, which the sockets of all
    /// connections are bound to as well, and those that backends and servers are sent to from.
    var needsLowPorts: Bool {
        let first = Self.firstUnprivilegedPort
        return needsLowSourcePorts || listeningTables.contains { table in table.listen.contains { $0.port < first } }
    }

    /// Whether there are such ports among those that backends and servers are sent to from.
    var needsLowSourcePorts: Bool {
        let sources = services.flatMap { service -> [LocalSource] in
            if case .forward(let forward) = service.handler { forward.sources } else { [] }
        }
        let ports = (sources + clients.flatMap(\.sources)).compactMap(\.ports)
        guard !ports.isEmpty else { return false }
        let first = Self.firstUnprivilegedPort
        return ports.contains { $0.first < first }
    }

    /// net.ipv4.ip_unprivileged_port_start, which holds for IPv6 too.
    static var firstUnprivilegedPort: UInt16 {
        guard let bytes = try? FileContents(of: "/proc/sys/net/ipv4/ip_unprivileged_port_start", maximumSize: 64).bytes,
            let port = UInt16(String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self))
        else { return 1_024 }
        return port
    }
}
