import CLinux
import Glibc

/// What this process uses of the machine, by what the kernel says without a walk over everything that is open.
public enum ProcessResources {
    /// The descriptors that are open. From Linux 6.2 on /proc/self/fd has their number as its size. Elsewhere, and without
    /// /proc, it is that of the lowest one that is free, which is the same as long as there are no gaps.
    public static var openDescriptors: Int {
        var status = stat()
        if stat("/proc/self/fd", &status) == 0, status.st_size > 0 { return Int(status.st_size) }
        let lowest = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)
        guard lowest >= 0 else { return 0 }
        close(lowest)
        return Int(lowest)
    }

    /// /proc/self/statm, opened when it is first read, and kept: a process that may open no files any more can go on
    /// reading it.
    private static let memorySizes = FileDescriptor(owning: open("/proc/self/statm", O_RDONLY | O_CLOEXEC))

    /// Bytes of memory that are in use, what is shared with other processes included. Without /proc it is the most that
    /// there ever were (getrusage(2)).
    public static var residentBytes: Int {
        if let text = try? readSmall(memorySizes, "/proc/self/statm") {
            let fields = text.split(separator: " ")
            if fields.count > 1, let pages = Int(fields[1]) { return pages * Int(getpagesize()) }
        }
        var usage = rusage()
        return getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 ? Int(usage.ru_maxrss) * 1_024 : 0
    }

    /// Bytes of memory that this process and all others of its control group can still take: what the machine has, and
    /// what the limits of the control groups above leave (version 2); `nil` where nothing says.
    public static var availableBytes: Int? {
        let machine = (try? readSmallFile("/proc/meminfo")).flatMap { text -> Int? in
            let line = text.split(separator: "\n").first { $0.hasPrefix("MemAvailable:") }
            return line.flatMap { $0.split(separator: " ").dropFirst().first }.flatMap { Int($0) }.map { $0 * 1_024 }
        }
        return [machine, roomInControlGroups].compactMap(\.self).min()
    }

    private static var roomInControlGroups: Int? {
        guard let text = try? readSmallFile("/proc/self/cgroup"),
            let line = text.split(separator: "\n").first(where: { $0.hasPrefix("0::/") })
        else { return nil }
        var path = String(line.dropFirst(3))
        var least: Int?
        while true {
            let folder = "/sys/fs/cgroup" + (path == "/" ? "" : path)
            if let limit = number("\(folder)/memory.max"), let used = number("\(folder)/memory.current") {
                least = min(least ?? .max, max(0, limit - used))
            }
            guard path.count > 1, let slash = path.lastIndex(of: "/") else { return least }
            path = slash == path.startIndex ? "/" : String(path[..<slash])
        }
    }

    /// "max" is no number.
    private static func number(_ path: String) -> Int? {
        (try? readSmallFile(path)).flatMap { Int($0.filter { !$0.isWhitespace }) }
    }

    /// The first 4 KiB of a file of the kernel's.
    private static func readSmallFile(_ path: String) throws(SystemError) -> String {
        try readSmall(FileDescriptor(owning: try system("open", path) { open(path, O_RDONLY | O_CLOEXEC) }), path)
    }

    private static func readSmall(_ file: borrowing FileDescriptor, _ path: String) throws(SystemError) -> String {
        let raw = file.rawValue
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = try system("pread", path) {
            bytes.withUnsafeMutableBytes { pread(raw, $0.baseAddress, $0.count, 0) }
        }
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
}
