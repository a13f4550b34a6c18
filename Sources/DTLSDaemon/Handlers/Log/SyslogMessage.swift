// Imports nothing: scripts/fuzz builds this file by itself.

/// A message of syslog, RFC 5424 or RFC 3164, taken apart as far as it can be: any bytes are a message. The parts are
/// the datagram's own bytes, valid as long as it is.
struct SyslogMessage {
    /// The whole message, without its frame and trailer.
    let whole: UnsafeRawBufferPointer
    /// 0 (kernel) to 23; 1 (user) where the message has no PRI (RFC 3164, section 4.3.3).
    private(set) var facility: UInt8 = 1
    /// 0 (emergency) to 7 (debug); 5 (notice) where the message has no PRI.
    private(set) var severity: UInt8 = 5
    private(set) var hasPriority = false
    private(set) var timestamp: UnsafeRawBufferPointer?
    private(set) var hostname: UnsafeRawBufferPointer?
    /// RFC 5424's APP-NAME, or the TAG of RFC 3164.
    private(set) var identifier: UnsafeRawBufferPointer?
    private(set) var processID: UnsafeRawBufferPointer?
    private(set) var messageID: UnsafeRawBufferPointer?
    private(set) var structuredData: UnsafeRawBufferPointer?
    /// What follows the header.
    private(set) var text: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer) {
        whole = Self.withoutTrailer(bytes)
        text = whole
        var scanner = Scanner(whole)
        if let value = scanner.priority() {
            hasPriority = true
            facility = value / 8
            severity = value % 8
            text = scanner.rest
        }
        let afterPriority = scanner
        if hasPriority, takeHeader5424(&scanner) { return }
        scanner = afterPriority
        takeHeader3164(&scanner)
    }

    /// Messages in datagrams need no trailer (RFC 5426, RFC 6012), but many senders append line ends, and some a NUL.
    private static func withoutTrailer(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var end = bytes.count
        while end > 0, [0x0a, 0x0d, 0x00].contains(bytes[end - 1]) { end -= 1 }
        return UnsafeRawBufferPointer(rebasing: bytes[..<end])
    }

    /// RFC 5424, section 6: `1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG]`, where "-" is no value.
    private mutating func takeHeader5424(_ scanner: inout Scanner) -> Bool {
        guard scanner.take("1 "), let timestamp = scanner.word(upTo: 64), let hostname = scanner.word(upTo: 255),
            let identifier = scanner.word(upTo: 48), let processID = scanner.word(upTo: 128),
            let messageID = scanner.word(upTo: 32), let data = scanner.structuredData(),
            scanner.isAtEnd || scanner.take(" ")
        else { return false }
        self.timestamp = Self.value(timestamp)
        self.hostname = Self.value(hostname)
        self.identifier = Self.value(identifier)
        self.processID = Self.value(processID)
        self.messageID = Self.value(messageID)
        structuredData = Self.value(data)
        // A byte order mark says that what follows is UTF-8.
        _ = scanner.take("\u{feff}")
        text = scanner.rest
        return true
    }

    private static func value(_ word: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        word.count == 1 && word[0] == UInt8(ascii: "-") ? nil : word
    }

    /// RFC 3164, section 4.1: `Mmm dd hh:mm:ss HOSTNAME TAG[PID]: text`; rsyslog's and syslog-ng's variants with a
    /// timestamp of RFC 3339, and the local form without a host name.
    private mutating func takeHeader3164(_ scanner: inout Scanner) {
        guard let timestamp = scanner.timestamp3164() ?? scanner.timestamp3339() else { return }
        self.timestamp = timestamp
        text = scanner.rest
        let afterTimestamp = scanner
        if takeTag(&scanner) { return }
        scanner = afterTimestamp
        guard let hostname = scanner.word(upTo: 255) else { return }
        self.hostname = hostname
        text = scanner.rest
        _ = takeTag(&scanner)
    }

    /// `name: `, `name[123]: `, `name[123] `
    private mutating func takeTag(_ scanner: inout Scanner) -> Bool {
        guard let name = scanner.prefix(upTo: 48, where: { $0 > 0x20 && $0 != 0x3a && $0 != 0x5b && $0 != 0x7f }) else {
            return false
        }
        var processID: UnsafeRawBufferPointer?
        if scanner.take("[") {
            processID = scanner.prefix(upTo: 128, where: { $0 > 0x20 && $0 != 0x5d && $0 != 0x7f })
            guard scanner.take("]") else { return false }
            _ = scanner.take(":")
        } else {
            guard scanner.take(":") else { return false }
        }
        guard scanner.isAtEnd || scanner.take(" ") else { return false }
        identifier = name
        self.processID = processID
        text = scanner.rest
        return true
    }
}

/// RFC 6012, section 5.4: a DTLS record holds one or more frames, `MSG-LEN SP SYSLOG-MSG`. Few senders do so; all
/// others have one message in a record, without a frame.
enum SyslogFrames {
    /// The most frames of one datagram that are told apart. Each costs an entry of the log, and a record has room for
    /// thousands of empty ones.
    static let maximumCount = 64

    /// Calls `body` with each message of a datagram, without its frame. Whatever the bytes are, none is left out but
    /// frames' heads and what is between frames of line ends. What follows the last frame that counts is one message.
    static func each(of datagram: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) {
        var rest = datagram
        var count = 0
        while count < maximumCount, let (start, length) = head(of: rest) {
            count += 1
            // A frame that goes on in another record is cut off here: records come in any order, or not at all.
            let end = start + min(length, rest.count - start)
            body(UnsafeRawBufferPointer(rebasing: rest[start..<end]))
            rest = UnsafeRawBufferPointer(rebasing: rest[end...])
            while let first = rest.first, [0x0a, 0x0d, 0x00].contains(first) {
                rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst())
            }
        }
        if !rest.isEmpty { body(rest) }
    }

    /// Where a frame's message begins, and its length. A message begins with "<" (RFC 5424, section 6), which tells a
    /// frame from a text that begins with a number.
    private static func head(of bytes: UnsafeRawBufferPointer) -> (start: Int, length: Int)? {
        var length = 0
        var index = 0
        // No record is longer than five digits.
        while index < min(bytes.count, 5) {
            let byte = bytes[index]
            if byte == 0x20 { break }
            guard (0x30...0x39).contains(byte), index > 0 || byte != 0x30 else { return nil }
            length = length * 10 + Int(byte - 0x30)
            index += 1
        }
        guard index > 0, index + 1 < bytes.count, bytes[index] == 0x20, bytes[index + 1] == UInt8(ascii: "<") else {
            return nil
        }
        return (index + 1, length)
    }
}

/// A place in a message, up to which it is understood. A call that finds nothing leaves it where it is.
private struct Scanner {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }
    var rest: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[position...]) }

    private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

    mutating func take(_ expected: StaticString) -> Bool {
        expected.withUTF8Buffer { expected in
            guard bytes.count - position >= expected.count else { return false }
            for index in expected.indices where bytes[position + index] != expected[index] { return false }
            position += expected.count
            return true
        }
    }

    /// The bytes that `condition` takes: 1 to `limit` of them, and not more.
    mutating func prefix(upTo limit: Int, where condition: (UInt8) -> Bool) -> UnsafeRawBufferPointer? {
        var end = position
        while end < bytes.count, condition(bytes[end]) { end += 1 }
        guard end > position, end - position <= limit else { return nil }
        defer { position = end }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<end])
    }

    /// Printable characters and the space after them.
    mutating func word(upTo limit: Int) -> UnsafeRawBufferPointer? {
        let start = position
        guard let word = prefix(upTo: limit, where: { $0 > 0x20 && $0 != 0x7f }), take(" ") else {
            position = start
            return nil
        }
        return word
    }

    /// `<0>` to `<191>`.
    mutating func priority() -> UInt8? {
        let start = position
        guard take("<"), let digits = prefix(upTo: 3, where: { (0x30...0x39).contains($0) }), take(">") else {
            position = start
            return nil
        }
        let value = digits.reduce(0) { $0 * 10 + Int($1 - 0x30) }
        guard value <= 191 else {
            position = start
            return nil
        }
        return UInt8(value)
    }

    /// RFC 5424, section 6.3: `-`, or `[id name="value" …]` once or several times.
    mutating func structuredData() -> UnsafeRawBufferPointer? {
        let start = position
        if take("-") { return UnsafeRawBufferPointer(rebasing: bytes[start..<position]) }
        while next == UInt8(ascii: "[") {
            guard skipElement() else {
                position = start
                return nil
            }
        }
        return position > start ? UnsafeRawBufferPointer(rebasing: bytes[start..<position]) : nil
    }

    /// A "]" inside quotes, or after a backslash there, is a part of a value.
    private mutating func skipElement() -> Bool {
        var isQuoted = false
        while let byte = next {
            position += 1
            switch byte {
            case UInt8(ascii: "\""): isQuoted.toggle()
            case UInt8(ascii: "\\") where isQuoted: position = min(position + 1, bytes.count)
            case UInt8(ascii: "]") where !isQuoted: return true
            default: break
            }
        }
        return false
    }

    /// `Nov  3 18:04:05 `, or with a day like `03`.
    mutating func timestamp3164() -> UnsafeRawBufferPointer? {
        let pattern: StaticString = "Aaa d0 00:00:00 "
        return matching(pattern)
    }

    /// `2026-11-03T18:04:05Z `, with a fraction and an offset where there are any.
    mutating func timestamp3339() -> UnsafeRawBufferPointer? {
        let start = position
        guard matches("0000-00-00T00:00:00") else { return nil }
        guard let word = word(upTo: 64) else {
            position = start
            return nil
        }
        return word
    }

    private mutating func matching(_ pattern: StaticString) -> UnsafeRawBufferPointer? {
        guard matches(pattern) else { return nil }
        let start = position
        position += pattern.utf8CodeUnitCount
        return UnsafeRawBufferPointer(rebasing: bytes[start..<(position - 1)])
    }

    /// A: an upper-case letter; a: a lower-case one; 0: a digit; d: a digit or a space; anything else: itself.
    private func matches(_ pattern: StaticString) -> Bool {
        pattern.withUTF8Buffer { pattern in
            guard bytes.count - position >= pattern.count else { return false }
            return pattern.indices.allSatisfy { index in
                let byte = bytes[position + index]
                switch pattern[index] {
                case UInt8(ascii: "A"): return (0x41...0x5a).contains(byte)
                case UInt8(ascii: "a"): return (0x61...0x7a).contains(byte)
                case UInt8(ascii: "0"): return (0x30...0x39).contains(byte)
                case UInt8(ascii: "d"): return (0x30...0x39).contains(byte) || byte == 0x20
                default: return byte == pattern[index]
                }
            }
        }
    }
}
