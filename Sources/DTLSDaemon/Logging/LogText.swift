import CLinux
import Glibc
import LinuxSystem
import Logging
import Primitives

/// A log entry as one line of text: local time, level, role, message, and the metadata as KEY=value. Control and
/// formatting characters are escaped, so an entry is always one line, and cannot be mistaken for another entry.
enum TextEncoding {
    /// PIPE_BUF: the kernel writes up to this many bytes to a pipe whole or not at all (pipe(7)).
    static let maximumLineBytes = 4_096

    static func encode(_ entry: LogEntry, role: String, at time: timespec? = nil) -> [UInt8] {
        var line = timestamp(time)
        line += " \(entry.level.rawValue) \(role): "
        appendEscaped(entry.message, to: &line)
        for (key, value) in entry.fields where key != Logger.messageIDKey {
            line += " "
            appendEscaped(key, to: &line)
            line += "="
            appendValue(value, to: &line)
        }
        return Array(line.cut(toUTF8Bytes: maximumLineBytes - 1).utf8) + [UInt8(ascii: "\n")]
    }

    /// `2026-11-23T15:10:16.123+01:00`
    static func timestamp(_ given: timespec?) -> String {
        var time = timespec()
        if let given { time = given } else { clock_gettime(CLOCK_REALTIME, &time) }
        var local = tm()
        localtime_r(&time.tv_sec, &local)
        let offset = abs(local.tm_gmtoff) / 60
        return "\(local.tm_year + 1900)-\(padded(local.tm_mon + 1))-\(padded(local.tm_mday))"
            + "T\(padded(local.tm_hour)):\(padded(local.tm_min)):\(padded(local.tm_sec))"
            + ".\(padded(time.tv_nsec / 1_000_000, 3))"
            + "\(local.tm_gmtoff < 0 ? "-" : "+")\(padded(offset / 60)):\(padded(offset % 60))"
    }

    private static func padded(_ number: some BinaryInteger, _ width: Int = 2) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
    }

    /// A metadata value as it stands in a line: in quotes unless it is one word.
    static func value(_ value: String) -> String {
        var text = ""
        appendValue(value, to: &text)
        return text
    }

    private static func appendValue(_ value: String, to line: inout String) {
        // Nearly all values are plain, and to look the properties of each character up costs more than the rest of the line.
        if !value.isEmpty, isPrintableASCII(value, butNot: " =\"\\") {
            line += value
            return
        }
        var escaped = ""
        appendEscaped(value, quotes: true, to: &escaped)
        let isPlain = !escaped.isEmpty && escaped == value && !value.contains { $0 == " " || $0 == "=" }
        line += isPlain ? value : "\"\(escaped)\""
    }

    private static func isPrintableASCII(_ text: String, butNot excluded: StaticString) -> Bool {
        excluded.withUTF8Buffer { excluded in
            text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f && !excluded.contains($0) }
        }
    }

    private static func appendEscaped(_ text: String, quotes: Bool = false, to line: inout String) {
        if isPrintableASCII(text, butNot: "\"\\") {
            line += text
            return
        }
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\n": line += "\\n"
            case "\r": line += "\\r"
            case "\t": line += "\\t"
            case "\\": line += "\\\\"
            case "\"" where quotes: line += "\\\""
            default:
                Printable.append(scalar, to: &line)
            }
        }
    }
}

/// Writes lines to standard error, or to standard output, without blocking. O_NONBLOCK cannot be set on the descriptor itself, since its flags
/// are shared with other processes (a terminal's with the shell).
struct LineWriter: Sendable {
    private enum Way: Sendable {
        /// A regular file, to which a write does not block.
        case plain
        case socket
        /// A pipe or terminal that was opened a second time, with O_NONBLOCK of its own.
        case reopened(SharedDescriptor)
        /// A file that cannot be opened again (the terminal of another user). It is polled before each write. A write can
        /// still block if another process fills the same pipe in between.
        case polled
    }

    private final class SharedDescriptor: Sendable {
        let descriptor: FileDescriptor
        init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    }

    private let descriptor: Int32
    private let way: Way

    /// - Parameter descriptor: the descriptor to write to. The caller keeps it open.
    init(descriptor: Int32 = STDERR_FILENO) {
        self.descriptor = descriptor
        way = Self.findWay(descriptor)
    }

    private static func findWay(_ descriptor: Int32) -> Way {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return .polled }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return .plain
        case S_IFSOCK: return .socket
        case S_IFIFO, S_IFCHR:
            let own = open("/proc/self/fd/\(descriptor)", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_APPEND)
            return own >= 0 ? .reopened(SharedDescriptor(FileDescriptor(owning: own))) : .polled
        default: return .polled
        }
    }

    /// - Returns: whether the whole line was written.
    func write(_ line: [UInt8]) -> Bool {
        let written = line.withUnsafeBytes { bytes in
            switch way {
            case .plain: Glibc.write(descriptor, bytes.baseAddress, bytes.count)
            case .socket:
                Glibc.send(
                    descriptor, bytes.baseAddress, bytes.count,
                    Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
            case .reopened(let own): Glibc.write(own.descriptor.rawValue, bytes.baseAddress, bytes.count)
            case .polled: canWrite() ? Glibc.write(descriptor, bytes.baseAddress, bytes.count) : -1
            }
        }
        return written == line.count
    }

    private func canWrite() -> Bool {
        var request = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        return poll(&request, 1, 0) == 1 && request.revents == Int16(POLLOUT)
    }
}
