import Primitives

/// A file of identities and keys, one pair in each line, in the format of GnuTLS' psktool and stunnel's PSKsecrets.
///
/// A line is `IDENTITY:KEY`, separated by the first colon.
/// - The identity has 1 to 255 bytes. `#` followed by hexadecimal digits is an identity in hexadecimal, which psktool
///   writes when the identity contains a colon. All other lines that begin with `#`, and empty lines, are ignored.
/// - The key has 16 to 512 bytes, or as few as the reader accepts. It is hexadecimal when it consists of hexadecimal digits only, or of pairs of them
///   that are separated by colons, and must then have an even number of digits. Any other text is the key itself, as in
///   stunnel.
///
/// stunnel reads an odd number of hexadecimal digits as text. Here it is an error, since a digit is probably missing.
package enum PresharedKeyFile {
    /// An error in a line. Its message never contains a key.
    package struct Problem: Error, Equatable {
        package var line: Int
        package var message: String

        package init(line: Int, message: String) {
            self.line = line
            self.message = message
        }
    }

    /// 128 bits (RFC 9257, section 4), which is also the minimum of stunnel.
    package static let minimumKeyLength = 16

    /// - Parameter minimumKeyLength: bytes of the shortest key that is accepted; 1 to 512.
    /// - Returns: the keys in the order of the file, and the errors in other lines.
    package static func parse(
        _ bytes: [UInt8], minimumKeyLength: Int = PresharedKeyFile.minimumKeyLength
    ) -> (keys: [PresharedKey], problems: [Problem]) {
        var keys: [PresharedKey] = []
        var problems: [Problem] = []
        var lines: [[UInt8]: Int] = [:]
        for (index, line) in text(of: bytes).split(separator: newline, omittingEmptySubsequences: false).enumerated() {
            do throws(Problem) {
                guard let key = try parse(line: line, number: index + 1, minimumKeyLength) else { continue }
                if let first = lines.updateValue(index + 1, forKey: key.identity) {
                    throw Problem(line: index + 1, message: "the same identity as in line \(first); expected it once")
                }
                keys.append(key)
            } catch {
                problems.append(error)
            }
        }
        return (keys, problems)
    }

    private static let newline = UInt8(ascii: "\n")
    private static let colon = UInt8(ascii: ":")
    private static let hash = UInt8(ascii: "#")

    /// The byte order mark, which some editors write at the start of a text.
    private static func text(of bytes: [UInt8]) -> ArraySlice<UInt8> {
        bytes.starts(with: [0xef, 0xbb, 0xbf]) ? bytes.dropFirst(3) : bytes[...]
    }

    private static func parse(
        line: ArraySlice<UInt8>, number: Int, _ minimumKeyLength: Int
    ) throws(Problem) -> PresharedKey? {
        let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
        func problem(_ message: String) -> Problem { Problem(line: number, message: message) }
        guard line.contains(where: { !isSpace($0) }) else { return nil }
        let colon = line.firstIndex(of: colon)
        var identity = Array(line[..<(colon ?? line.endIndex)])
        if line.first == hash {
            guard colon != nil, let decoded = Hexadecimal.bytes(identity.dropFirst()), !decoded.isEmpty else {
                return nil
            }
            identity = decoded
        }
        guard let colon else { throw problem("no colon; expected IDENTITY:KEY") }
        guard (1...PresharedKeys.maximumIdentityLength).contains(identity.count), !identity.contains(0) else {
            throw problem(
                "an identity of \(identity.count) bytes; expected 1 to \(PresharedKeys.maximumIdentityLength) bytes"
                    + " other than NUL before the colon")
        }
        let key = line[line.index(after: colon)...]
        if let reason = fault(of: key, minimumKeyLength) { throw problem(reason) }
        return PresharedKey(identity: identity, key: Hexadecimal.bytes(key) ?? Array(key))
    }

    private static func fault(of key: ArraySlice<UInt8>, _ minimumKeyLength: Int) -> String? {
        if let first = key.first, let last = key.last, isSpace(first) || isSpace(last) {
            return "a space before or after the key; expected the key alone after the colon"
        }
        if key.contains(0) { return "a NUL byte in the key; expected text, or hexadecimal digits" }
        let isDigits = !key.isEmpty && key.allSatisfy { Hexadecimal.value($0) != nil }
        if isDigits, !key.count.isMultiple(of: 2) {
            return "a key of \(key.count) hexadecimal digits; expected an even number of them"
        }
        let count = Hexadecimal.bytes(key)?.count ?? key.count
        guard (minimumKeyLength...PresharedKeys.maximumKeyLength).contains(count) else {
            return
                "a key of \(counted(count, "byte")); expected \(minimumKeyLength) to \(PresharedKeys.maximumKeyLength) bytes"
                + " (two hexadecimal digits each, or as text)"
        }
        return nil
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
}
