import Foundation

/// What /proc tells about processes and their sockets.
enum ProcessTable {
    /// Whether it runs: a process that has ended and that nobody has waited for does not.
    static func isRunning(_ pid: pid_t) -> Bool {
        guard let state = fields(of: pid)?.first else { return false }
        return state != "Z" && state != "X"
    }

    static func children(of parent: pid_t) -> [pid_t] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.filter { fields(of: $0)?.dropFirst().first == "\(parent)" }.sorted()
    }

    /// Its argument 0, empty where it has ended.
    static func name(of pid: pid_t) -> String {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/cmdline") else { return "" }
        return String(decoding: data.prefix { $0 != 0 }, as: UTF8.self)
    }

    /// Whether it waits for something at this moment.
    static func isAsleep(_ pid: pid_t) -> Bool { fields(of: pid)?.first == "S" }

    /// Whether SIGSTOP has reached it.
    static func isStopped(_ pid: pid_t) -> Bool { fields(of: pid)?.first == "T" }

    static func openDescriptors(of pid: pid_t) -> Int {
        (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd"))?.count ?? 0
    }

    /// The ports of the peers that this process' connected UDP sockets have.
    static func peerPorts(of pid: pid_t) -> Set<UInt16> {
        Set(udpSockets(of: pid).map(\.remotePort).filter { $0 != 0 })
    }

    /// The ports that this process' UDP sockets are bound to.
    static func localPorts(of pid: pid_t) -> Set<UInt16> {
        Set(udpSockets(of: pid).map(\.localPort))
    }

    /// The fields of /proc/PID/stat from the state on.
    private static func fields(of pid: pid_t) -> [Substring]? {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/stat") else { return nil }
        let text = String(decoding: data, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        return text[text.index(after: end)...].split(separator: " ")
    }

    private struct UDPSocketLine {
        var localPort: UInt16
        var remotePort: UInt16
        var inode: String
    }

    private static func udpSockets(of pid: pid_t) -> [UDPSocketLine] {
        let folder = "/proc/\(pid)/fd"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        let inodes = Set(
            names.compactMap { name -> String? in
                guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(name)"),
                    target.hasPrefix("socket:[")
                else { return nil }
                return String(target.dropFirst(8).dropLast())
            })
        return ["/proc/net/udp", "/proc/net/udp6"].flatMap(lines).filter { inodes.contains($0.inode) }
    }

    private static func lines(of file: String) -> [UDPSocketLine] {
        let text = String(decoding: FileManager.default.contents(atPath: file) ?? Data(), as: UTF8.self)
        return text.split(separator: "\n").dropFirst().compactMap { line in
            let columns = line.split(separator: " ")
            guard columns.count > 9, let local = port(columns[1]), let remote = port(columns[2]) else { return nil }
            return UDPSocketLine(localPort: local, remotePort: remote, inode: String(columns[9]))
        }
    }

    /// `0100007F:1151` → 4433
    private static func port(_ address: Substring) -> UInt16? {
        address.split(separator: ":").last.flatMap { UInt16($0, radix: 16) }
    }
}
