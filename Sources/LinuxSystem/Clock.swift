import CLinux
import Glibc

/// The clocks that the loop and the cookies go by.
public enum Clock {
    /// Nanoseconds of CLOCK_MONOTONIC.
    public static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }

    /// Seconds of CLOCK_BOOTTIME: since the machine has started, its sleep included. The same in every process.
    public static func bootSeconds() -> UInt64 { read(CLOCK_BOOTTIME) / 1_000_000_000 }

    /// Minutes since 1970: what a cookie's key is chosen by.
    public static func minute() -> UInt64 { read(CLOCK_REALTIME) / 60_000_000_000 }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
    }
}

extension UInt64 {
    /// Milliseconds as the loop's nanoseconds.
    public static func milliseconds(_ count: Int) -> UInt64 { UInt64(clamping: count) &* 1_000_000 }
    /// Microseconds as the loop's nanoseconds.
    public static func microseconds(_ count: Int) -> UInt64 { UInt64(clamping: count) &* 1_000 }
}
