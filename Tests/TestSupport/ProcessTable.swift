import Foundation

/// What /proc tells about processes and their sockets.
package enum ProcessTable {
    /// Whether it runs: a process that has ended and that nobody has waited for does not.
    package static func isRunning(_ pid: pid_t) -> Bool {
        guard let state = fields(of: pid)?.first else { return false }
        return state != "Z" && state != "X"
    }

    package static func children(of parent: pid_t) -> [pid_t] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { pid_t($0) }.filter { fields(of: $0)?.dropFirst().first == "\(parent)" }.sorted()
    }

    /// Its argument 0, empty where it has ended.
    package static func name(of pid: pid_t) -> String {
        String(text(of: "/proc/\(pid)/cmdline").prefix { $0 != "\0" })
    }

    /// How often it has begun to wait, or been made to, if it waits for something at this moment: the same number twice
    /// says that it has waited all the time between.
    package static func sleep(of pid: pid_t) -> Int? {
        guard fields(of: pid)?.first == "S" else { return nil }
        let counts = text(of: "/proc/\(pid)/status").split(separator: "\n").filter { $0.contains("ctxt_switches:") }
        return counts.compactMap { $0.split(separator: "\t").last.flatMap { Int($0) } }.reduce(0, +)
    }

    /// Whether SIGSTOP has reached it.
    package static func isStopped(_ pid: pid_t) -> Bool { fields(of: pid)?.first == "T" }

    package static func openDescriptors(of pid: pid_t) -> Int {
        (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd"))?.count ?? 0
    }

    /// How many sockets it has open: what tells, and misses nothing, whether a connection has left one behind. Workers
    /// have other descriptors that come and go: one with their configuration, which they say that they have before they
    /// close it.
    package static func openSockets(of pid: pid_t) -> Int { sockets(of: pid).count }

    /// The ports that this process' UDP sockets are bound to. One that is missing may be there nevertheless: the kernel
    /// writes /proc/net/udp bit by bit, and goes on by position after sockets have come and gone. So this is for
    /// waiting until a port is there, and for no other question.
    package static func localPorts(of pid: pid_t) -> Set<UInt16> {
        let inodes = Set(sockets(of: pid))
        return Set(
            ["/proc/net/udp", "/proc/net/udp6"].flatMap { text(of: $0).split(separator: "\n").dropFirst() }
                .compactMap { line in
                    let columns = line.split(separator: " ")
                    guard columns.count > 9, inodes.contains(columns[9]) else { return nil }
                    // `0100007F:1151` → 4433
                    return columns[1].split(separator: ":").last.flatMap { UInt16($0, radix: 16) }
                })
    }

    /// Whether a UDP socket that is bound to the port holds datagrams that nobody has read.
    package static func hasUnreadDatagrams(atPort port: UInt16) -> Bool {
        ["/proc/net/udp", "/proc/net/udp6"].flatMap { text(of: $0).split(separator: "\n").dropFirst() }.contains {
            line in
            let columns = line.split(separator: " ")
            // `0100007F:1151`, and `00000000:00000B40`: bytes to be sent and to be read.
            guard columns.count > 9,
                columns[1].split(separator: ":").last.map({ UInt16($0, radix: 16) == port }) == true
            else { return false }
            return columns[4].split(separator: ":").last.map { UInt32($0, radix: 16) != 0 } == true
        }
    }

    /// All of a file of /proc, empty where there is none. It has no size that could be known, and a read brings a page
    /// of it at most: FileManager takes the first for the whole file.
    package static func text(of file: String) -> String {
        let descriptor = open(file, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { return String(decoding: text, as: UTF8.self) }
            text += buffer[..<count]
        }
    }

    /// The inodes of its sockets.
    private static func sockets(of pid: pid_t) -> [Substring] {
        let folder = "/proc/\(pid)/fd"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return names.compactMap { name in
            guard let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(name)"),
                target.hasPrefix("socket:[")
            else { return nil }
            return target.dropFirst(8).dropLast()
        }
    }

    /// The fields of /proc/PID/stat from the state on.
    private static func fields(of pid: pid_t) -> [Substring]? {
        let text = text(of: "/proc/\(pid)/stat")
        guard let end = text.lastIndex(of: ")") else { return nil }
        return text[text.index(after: end)...].split(separator: " ")
    }
}
