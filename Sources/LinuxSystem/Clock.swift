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
    public static func now() -> Minute { Minute(of: .now()) }
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
