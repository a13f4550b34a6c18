import CLinux
import Glibc

/// The standard streams, written at once and as a whole.
enum Standard {
    static var isOutputTerminal: Bool { isatty(1) == 1 }
    static var isErrorTerminal: Bool { isatty(2) == 1 }

    /// - Returns: false where nobody reads it any more.
    @discardableResult
    static func output(_ bytes: [UInt8]) -> Bool { write(bytes, to: 1) }

    @discardableResult
    static func output(_ text: String) -> Bool { write(Array(text.utf8), to: 1) }

    static func error(_ text: String) { _ = write(Array(text.utf8), to: 2) }

    private static func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 {
                switch errno {
                case EINTR: continue
                case EAGAIN:
                    var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    poll(&entry, 1, -1)
                    continue
                default: return false
                }
            }
            rest = rest.dropFirst(count)
        }
        return true
    }
}

/// A day of the calendar, UTC.
struct CalendarDate: CustomStringConvertible {
    /// Since 1970.
    let seconds: Int64

    /// `2026-11-28`
    var description: String {
        var time = time_t(seconds)
        var parts = tm()
        guard gmtime_r(&time, &parts) != nil else { return "an unknown date" }
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(Int(parts.tm_year) + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
    }

    /// Whole days from now until then; negative once it has passed.
    func daysLeft(now: Int64 = Int64(time(nil))) -> Int {
        let left = seconds.subtractingReportingOverflow(now).partialValue
        return Int(left >= 0 ? left / 86_400 : -((86_399 - left) / 86_400))
    }
}
