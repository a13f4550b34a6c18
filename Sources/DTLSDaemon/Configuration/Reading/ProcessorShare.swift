import CLinux
import Glibc

/// How many processors this process may use, which is how many workers there are by default.
enum ProcessorShare {
    /// The processors of the affinity mask (cpusets set it, too), and no more than the CPU time that the control groups
    /// allow: a container with a limit of 1.5 processors gets two workers on a machine with 64.
    static func current() -> Int {
        count(processors: usable, limits: limitFiles().compactMap { contents(of: $0) })
    }

    /// The processors of the affinity mask alone.
    static var usable: Int {
        let usable = Int(cl_usable_processors())
        // A machine with more than 1,024 processors has a larger mask.
        return max(1, usable > 0 ? usable : sysconf(Int32(_SC_NPROCESSORS_ONLN)))
    }

    /// - Parameter limits: the contents of the `cpu.max` files of the process' control group and of those above it: the
    ///   microseconds of CPU time in each period, or "max", and the period
    ///   (Documentation/admin-guide/cgroup-v2.rst).
    static func count(processors: Int, limits: [String]) -> Int {
        limits.reduce(max(1, processors)) { count, limit in
            let words = limit.split(whereSeparator: \.isWhitespace)
            guard words.count == 2, let quota = UInt64(words[0]), let period = UInt64(words[1]), period > 0 else {
                return count
            }
            // A part of a processor is worth a worker of its own.
            let share = quota / period + (quota % period == 0 ? 0 : 1)
            return max(1, Int(min(share, UInt64(count))))
        }
    }

    /// The `cpu.max` files from the process' own control group up to the root of what it sees. In a container with a
    /// control group namespace, its own group is that root.
    static func limitFiles(group: String? = contents(of: "/proc/self/cgroup")) -> [String] {
        // Version 2 is the line "0::/path".
        let line = group?.split(separator: "\n").first { $0.hasPrefix("0::/") }
        var path = line.map { String($0.dropFirst(3)) } ?? "/"
        var files: [String] = []
        while true {
            files.append("/sys/fs/cgroup" + (path == "/" ? "" : path) + "/cpu.max")
            guard path != "/", let slash = path.lastIndex(of: "/") else { return files }
            path = slash == path.startIndex ? "/" : String(path[..<slash])
        }
    }

    private static func contents(of path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let count = read(descriptor, &buffer, buffer.count)
        return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
    }
}
