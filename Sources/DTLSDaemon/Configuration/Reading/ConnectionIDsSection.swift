import Primitives
import TOMLKit

/// The table `[connection_ids]`.
extension ConnectionIDConfiguration {
    static let schema = Schema<Self> {
        Key(
            "key_file", \.keys, .connectionIDKeys,
            default: "none; dtlsd generates a key and writes it to no file",
            doc: "The keys that connection IDs are encrypted with; the first one makes new ones.")
        Key(
            "server_id", \.serverID, .serverID,
            doc: "What tells this machine from others with the same keys.")
    }
}

extension ValueType where Value == [UInt8] {
    fileprivate static var serverID: Self {
        let lengths = ConnectionIDConfiguration.serverIDLengths
        return Self(
            scalar: "\(2 * lengths.lowerBound) to \(2 * lengths.upperBound) hexadecimal digits, two for each byte",
            text: { "\"\(Hexadecimal.text($0))\"" },
            { value in
                guard let text = value.string, !text.contains(":"), let bytes = Hexadecimal.bytes(Array(text.utf8)),
                    lengths.contains(bytes.count)
                else { return nil }
                return bytes
            })
    }
}

extension ValueType where Value == Int? {
    /// The length of connection IDs, or `nil` for "off".
    static func connectionIDLength(_ range: ClosedRange<Int>) -> Self {
        Self(
            scalar: "\"off\", or a number of bytes, \(range.lowerBound) to \(range.upperBound)",
            text: { $0.map { "\($0)" } ?? "\"off\"" },
            { value in
                if value.string == "off" { return .some(nil) }
                return value.int.flatMap { range.contains($0) ? .some($0) : nil }
            })
    }
}

extension ValueType where Value == [ConnectionIDKey] {
    fileprivate static var connectionIDKeys: Self {
        let name = ValueType<String>.string("the path of a file with a number, 0 to 6, and a key in each line")
        return Self(name.expected) { field in
            guard let name = name.read(field), let bytes = field.contents(name, isSecret: true) else { return nil }
            let (keys, problems) = ConnectionIDKeyFile.parse(bytes)
            let file = ReadContext.quoted(name)
            for problem in problems { field.report("\(file), line \(problem.line): \(problem.message)") }
            if keys.isEmpty, problems.isEmpty {
                field.report("\(file) has no key; expected a line with a number, 0 to 6, and 32 hexadecimal digits")
            }
            return keys.isEmpty ? nil : keys
        }
    }
}

/// A file of keys for connection IDs, one in each line: a number, 0 to 6, which stands in the connection IDs that are
/// made with the key, and 32 hexadecimal digits. Empty lines, and lines that begin with `#`, are ignored.
enum ConnectionIDKeyFile {
    /// An error in a line. Its message never contains a key.
    struct Problem: Error, Equatable {
        var line: Int
        var message: String
    }

    /// - Returns: the keys in the order of the file, and the errors in other lines.
    static func parse(_ bytes: [UInt8]) -> (keys: [ConnectionIDKey], problems: [Problem]) {
        var keys: [ConnectionIDKey] = []
        var problems: [Problem] = []
        var lines: [UInt8: Int] = [:]
        for (index, line) in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            let words = line.split { $0 == 0x20 || $0 == 0x09 || $0 == 0x0d }
            guard let first = words.first, first.first != UInt8(ascii: "#") else { continue }
            do throws(Problem) {
                let key = try parse(words, line: index + 1)
                if let first = lines.updateValue(index + 1, forKey: key.rotation) {
                    throw Problem(line: index + 1, message: "the same number as in line \(first); expected it once")
                }
                keys.append(key)
            } catch {
                problems.append(error)
            }
        }
        return (keys, problems)
    }

    private static func parse(_ words: [ArraySlice<UInt8>], line: Int) throws(Problem) -> ConnectionIDKey {
        func problem(_ message: String) -> Problem { Problem(line: line, message: message) }
        guard words.count == 2, let digits = words.last, let number = words.first else {
            throw problem("\(words.count) words; expected a number, 0 to 6, and a key of 32 hexadecimal digits")
        }
        guard number.count == 1, let digit = number.first, digit >= UInt8(ascii: "0"),
            ConnectionIDConfiguration.rotations.contains(digit - UInt8(ascii: "0"))
        else { throw problem("expected a number, 0 to 6, before the key") }
        guard let key = Hexadecimal.bytes(digits), key.count == ConnectionIDConfiguration.keyLength else {
            throw problem("a key of \(digits.count) characters; expected 32 hexadecimal digits")
        }
        return ConnectionIDKey(rotation: digit - UInt8(ascii: "0"), bytes: key)
    }
}
