import CLinux
import Glibc
import Primitives

extension Instant {
    /// The present time of CLOCK_MONOTONIC.
    public static func now() -> Instant {
        let time = read(CLOCK_MONOTONIC)
        return Instant(
            nanoseconds: UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000
                &+ UInt64(truncatingIfNeeded: time.tv_nsec))
    }
}

extension UnixTime {
    /// The present time of CLOCK_REALTIME.
    public static func now() -> UnixTime { UnixTime(seconds: Int64(read(CLOCK_REALTIME).tv_sec)) }
}

extension Minute {
    /// The present minute by CLOCK_REALTIME.
    public static func now() -> Minute {
        let time = read(CLOCK_REALTIME)
        return Minute(milliseconds: Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000)
    }
}

extension BootTime {
    /// The present time of CLOCK_BOOTTIME.
    public static func now() -> BootTime {
        BootTime(seconds: UInt64(truncatingIfNeeded: read(CLOCK_BOOTTIME).tv_sec))
    }
}

private func read(_ clock: clockid_t) -> timespec {
    var time = timespec()
    clock_gettime(clock, &time)
    return time
}

/// Random bytes from the kernel, for secrets.
public enum RandomBytes {
    public static func make(_ count: Int) throws(SystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            // getentropy(3) returns at most 256 bytes in one call.
            let part = min(256, count - filled)
            _ = try system("getentropy") {
                bytes.withUnsafeMutableBytes { buffer in
                    buffer.baseAddress.map { getentropy($0 + filled, part) } ?? 0
                }
            }
            filled += part
        }
        return bytes
    }
}

/// malloc's heap.
public enum Heap {
    /// Gives free memory back to the system (malloc_trim(3)). It walks over the whole heap.
    public static func trim() { cl_trim_heap() }
}

/// The limit on open descriptors (RLIMIT_NOFILE).
public enum OpenFileLimit {
    /// Raises the soft limit to the hard limit, and returns it; 1,048,576 if there is no hard limit.
    public static func raise() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
        let wanted = min(limit.rlim_max, 1_048_576)
        if limit.rlim_cur < wanted {
            var raised = rlimit(rlim_cur: wanted, rlim_max: limit.rlim_max)
            if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) == 0 { limit = raised }
        }
        return Int(clamping: min(limit.rlim_cur, 1_048_576))
    }
}
