import Glibc
import Logging
import Primitives

/// A log entry as one line of JSON, for collectors of containers' logs: the time, the level, the process, the message, and
/// the metadata under the names that the journal has, in small letters.
enum JSONEncoding {
    /// Messages and values that take more as JSON are cut, so that a line is valid within ``TextEncoding/maximumLineBytes``.
    private static let maximumMessageBytes = 2_048
    private static let maximumValueBytes = 512

    static func encode(_ entry: LogEntry, role: String, at time: timespec? = nil) -> [UInt8] {
        var line = "{"
        append("time", TextEncoding.timestamp(time), to: &line)
        append("level", entry.level.rawValue, to: &line)
        append("process", role, to: &line)
        append("message", entry.message, limit: maximumMessageBytes, to: &line)
        for (key, value) in entry.fields {
            var field = ""
            append(name(key), value, limit: maximumValueBytes, to: &field)
            // Two bytes are left for what ends the line, and one for a comma.
            guard line.utf8.count + field.utf8.count + 3 <= TextEncoding.maximumLineBytes else { continue }
            line += "," + field
        }
        return Array(line.utf8) + [UInt8(ascii: "}"), UInt8(ascii: "\n")]
    }

    /// The journal's name of a field in small letters. Metadata cannot take the names that every entry has.
    private static func name(_ key: String) -> String {
        let name = JournalEncoding.fieldName(key).lowercased()
        return ["time", "level", "process", "message"].contains(name) ? "x_\(name)" : name
    }

    /// - Parameter limit: the most bytes of the value as JSON.
    private static func append(_ name: String, _ value: String, limit: Int = maximumValueBytes, to line: inout String) {
        if line.utf8.count > 1 { line += "," }
        line += "\"\(name)\":\""
        var left = limit
        for scalar in value.unicodeScalars {
            let escaped = escaped(scalar)
            left -= escaped.utf8.count
            guard left >= 0 else {
                line += "…"
                break
            }
            line += escaped
        }
        line += "\""
    }

    private static func escaped(_ scalar: Unicode.Scalar) -> String {
        switch scalar {
        case "\"": "\\\""
        case "\\": "\\\\"
        case "\n": "\\n"
        case "\r": "\\r"
        case "\t": "\\t"
        case _ where Printable.isPrintable(scalar): String(scalar)
        default:
            // RFC 8259, section 7: a character outside the basic plane is two of UTF-16.
            String(scalar).utf16.map { unit in
                let digits = String(unit, radix: 16)
                return "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
            }.joined()
        }
    }
}
