import CLinux
import Glibc
import LinuxSystem
import Logging

/// Sends entries to systemd-journald without blocking. libsystemd's sd_journal_sendv blocks while the queue of the
/// journal is full (net.unix.max_dgram_qlen, 10 by default), which would stop every connection.
struct JournalSocket: Sendable {
    /// The path of journald's socket.
    static let standardPath = "/run/systemd/journal/socket"

    private let sender: UnixDatagramSender

    init(path: String = standardPath) throws(SystemError) { sender = try UnixDatagramSender(to: path) }

    /// - Returns: whether the entry was sent.
    func send(_ entry: [UInt8]) -> Bool { entry.withUnsafeBytes { sender.send($0) } == nil }

    /// Whether standard error is connected to the journal. $JOURNAL_STREAM has the device and inode number of the
    /// connection (systemd.exec(5)), so a standard error that was redirected is recognised.
    static func isStandardError(_ journalStream: String?, descriptor: Int32 = STDERR_FILENO) -> Bool {
        guard let parts = journalStream?.split(separator: ":", omittingEmptySubsequences: false), parts.count == 2,
            let device = UInt64(parts[0]), let inode = UInt64(parts[1])
        else { return false }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return false }
        return UInt64(status.st_dev) == device && UInt64(status.st_ino) == inode
    }
}

/// The native protocol of the journal (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram for each entry, one line for each
/// field.
enum JournalEncoding {
    /// Longer values are cut, so that an entry fits in a datagram.
    static let maximumValueBytes = 16_384

    static func encode(_ entry: LogEntry, role: String) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(512)
        append("MESSAGE", entry.message, to: &bytes)
        append("PRIORITY", "\(priority(entry.level))", to: &bytes)
        append("SYSLOG_IDENTIFIER", "dtlsd", to: &bytes)
        if role.hasPrefix("worker "), entry.metadata["WORKER"] == nil {
            append("WORKER", String(role.dropFirst(7)), to: &bytes)
        }
        for (key, value) in entry.fields { append(fieldName(key), value, to: &bytes) }
        return bytes
    }

    /// The priority of a level (syslog(3)).
    static func priority(_ level: Logger.Level) -> Int {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }

    /// The name of the field for a metadata key. It has at most 64 upper-case ASCII letters, digits and underscores, and
    /// does not begin with a digit or an underscore, since journald drops such fields.
    static func fieldName(_ key: String) -> String {
        var name = ""
        for scalar in key.unicodeScalars.prefix(64) {
            switch scalar {
            case "A"..."Z", "0"..."9": name.unicodeScalars.append(scalar)
            case "a"..."z": name += String(scalar).uppercased()
            default: name += "_"
            }
        }
        let needsPrefix =
            switch name {
            case "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "": true
            default: name.first == "_" || name.first?.isNumber == true
            }
        return needsPrefix ? String("X_\(name)".prefix(64)) : name
    }

    /// A field of any bytes.
    static func append(_ name: StaticString, _ value: UnsafeRawBufferPointer, to bytes: inout [UInt8]) {
        name.withUTF8Buffer { bytes.append(contentsOf: $0) }
        if value.contains(UInt8(ascii: "\n")) {
            bytes.append(UInt8(ascii: "\n"))
            withUnsafeBytes(of: UInt64(value.count).littleEndian) { bytes.append(contentsOf: $0) }
        } else {
            bytes.append(UInt8(ascii: "="))
        }
        bytes.append(contentsOf: value)
        bytes.append(UInt8(ascii: "\n"))
    }

    static func append(_ name: String, _ value: String, to bytes: inout [UInt8]) {
        let value = value.utf8.count > maximumValueBytes ? value.cut(toUTF8Bytes: maximumValueBytes) : value
        bytes.append(contentsOf: name.utf8)
        if value.utf8.contains(UInt8(ascii: "\n")) {
            bytes.append(UInt8(ascii: "\n"))
            withUnsafeBytes(of: UInt64(value.utf8.count).littleEndian) { bytes.append(contentsOf: $0) }
        } else {
            bytes.append(UInt8(ascii: "="))
        }
        bytes.append(contentsOf: value.utf8)
        bytes.append(UInt8(ascii: "\n"))
    }
}

extension String {
    /// The longest beginning of at most `limit` UTF-8 bytes that ends with a whole character and "…".
    func cut(toUTF8Bytes limit: Int) -> String {
        guard utf8.count > limit else { return self }
        var result = String.UnicodeScalarView()
        var left = limit - 3
        for scalar in unicodeScalars {
            left -= UTF8.width(scalar)
            if left < 0 { break }
            result.append(scalar)
        }
        return String(result) + "…"
    }
}
