import LinuxSystem
import Primitives

/// `[service.NAME.forward.health_check]`
struct HealthCheckSection {
    fileprivate var check = HealthCheck(datagram: [])

    /// - Returns: `nil` without the table, and without its datagram, which is reported.
    var configuration: HealthCheck? { check.datagram.isEmpty ? nil : check }

    static let schema = Schema<Self>(
        {
            Key(
                "send", \.check.datagram, .datagram, isRequired: { _ in true }, default: nil,
                doc: "The datagram that each backend is sent.")
            Key(
                "expect", \.check.expected, .answer, default: "none; any answer",
                doc: "The answer that a backend has to give, or a pattern of it.")
            Key(
                "interval", \.check.interval, .seconds(1...3_600),
                doc: "How long it takes from one check of a backend to the next.")
            Key(
                "timeout", \.check.timeout, .seconds(1...60),
                doc: "How long a backend may take to answer.")
            Key(
                "fall", \.check.fall, .integer(1...100),
                doc: "How many checks have to fail one after the other before a backend is down.")
            Key(
                "rise", \.check.rise, .integer(1...100),
                doc: "How many checks have to pass one after the other before a backend is up again.")
        },
        check: { table, section in
            guard section.check.timeout > section.check.interval else { return }
            let fault = "a check would begin before the one before it has ended; expected"
            if table.has(\.check.timeout) {
                table.report(
                    \.check.timeout, "\(fault) at most the interval, which is \(section.check.interval.seconds) s")
            } else {
                table.report(
                    \.check.interval,
                    "\(fault) at least the timeout, which is \(section.check.timeout.seconds) s, or a shorter timeout")
            }
        })
}

/// Bytes in the file: a text, or "hex:" and hexadecimal digits.
private enum BytesInFile {
    static let prefix = "hex:"
    /// The largest datagram that is sent without being split on most paths.
    static let maximumCount = 1_400

    /// The bytes of hexadecimal digits, which may have spaces between them; `nil` for any other text.
    static func bytes(ofDigits text: Substring) -> [UInt8]? {
        let digits = text.utf8.filter { $0 != UInt8(ascii: " ") }
        guard digits.count % 2 == 0 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = Hexadecimal.value(digits[index]), let low = Hexadecimal.value(digits[index + 1]) else {
                return nil
            }
            bytes.append(high << 4 | low)
        }
        return bytes
    }
}

extension ValueType where Value == [UInt8] {
    fileprivate static var datagram: Self {
        let text = ValueType<String>.string(
            "a text, or \"hex:\" and two hexadecimal digits for each byte, 1 to \(BytesInFile.maximumCount) bytes in all"
        )
        return Self(text.expected) { field in
            guard let value = text.read(field) else { return nil }
            let bytes =
                value.hasPrefix(BytesInFile.prefix)
                ? BytesInFile.bytes(ofDigits: value.dropFirst(BytesInFile.prefix.count)) : Array(value.utf8)
            guard let bytes, (1...BytesInFile.maximumCount).contains(bytes.count) else {
                field.reportMismatch(found: value)
                return nil
            }
            return bytes
        }
    }
}

extension ValueType where Value == BytePattern {
    fileprivate static var answer: Self {
        let text = ValueType<String>.string(
            "a text, or \"hex:\" and two hexadecimal digits for each byte, with * for any bytes")
        return Self(text.expected) { field in
            guard let value = text.read(field) else { return nil }
            if value.hasPrefix(BytesInFile.prefix) {
                let pieces = value.dropFirst(BytesInFile.prefix.count)
                    .split(separator: "*", omittingEmptySubsequences: false).map(BytesInFile.bytes(ofDigits:))
                let known = pieces.compactMap { $0 }
                if known.count == pieces.count { return BytePattern(pieces: known) }
                field.reportMismatch(found: value)
                return nil
            }
            do throws(BytePattern.Mistake) {
                return try BytePattern(value)
            } catch {
                field.report("\(ReadContext.quoted(value)): \(error.description); expected \(field.expected)")
                return nil
            }
        }
    }
}
