import DTLSEngine
import Primitives

/// A file of identities and keys, one pair a line: the format of GnuTLS' psktool and of stunnel's PSKsecrets.
///
/// `IDENTITY:KEY`, cut at the first colon.
/// - The identity is 1 to 255 bytes as they are. `#` and hexadecimal digits before the colon are an identity in
///   hexadecimal, which psktool writes where the identity has a colon. Every other line that begins with `#`, and every
///   empty one, means nothing.
/// - The key is in hexadecimal when it is nothing but hexadecimal digits, or pairs of them between colons; then it must
///   have an even number of digits. Anything else is the key itself, as it is, as with stunnel. It has 16 to 512 bytes.
///
/// stunnel takes an odd number of hexadecimal digits for text; here that is an error, since a digit was lost.
enum PresharedKeyFile {
    /// What is wrong with a line. A key is never part of it.
    struct Problem: Error, Equatable {
        var line: Int
        var message: String
    }

    /// stunnel's minimum; 128 bits (RFC 9257, section 4).
    static let minimumKeyLength = 16

    /// - Returns: the keys in the order of the file, and what is wrong with the other lines.
    static func parse(_ bytes: [UInt8]) -> (keys: [PresharedKey], problems: [Problem]) {
        var keys: [PresharedKey] = []
        var problems: [Problem] = []
        var lines: [[UInt8]: Int] = [:]
        for (index, line) in text(of: bytes).split(separator: newline, omittingEmptySubsequences: false).enumerated() {
            do throws(Problem) {
                guard let key = try parse(line: line, number: index + 1) else { continue }
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

    /// Some editors put a byte order mark before a text.
    private static func text(of bytes: [UInt8]) -> ArraySlice<UInt8> {
        bytes.starts(with: [0xef, 0xbb, 0xbf]) ? bytes.dropFirst(3) : bytes[...]
    }

    private static func parse(line: ArraySlice<UInt8>, number: Int) throws(Problem) -> PresharedKey? {
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
        if let reason = fault(of: key) { throw problem(reason) }
        return PresharedKey(identity: identity, key: Hexadecimal.bytes(key) ?? Array(key))
    }

    private static func fault(of key: ArraySlice<UInt8>) -> String? {
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
            return "a key of \(count) bytes; expected \(minimumKeyLength) to \(PresharedKeys.maximumKeyLength) bytes"
                + " (two hexadecimal digits each, or as text)"
        }
        return nil
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
}
