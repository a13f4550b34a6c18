/// The line of each key in a TOML text, for messages.
///
/// toml++ 3.4.0, the parser inside TOMLKit 0.6.0, knows the place of every value (`node::source()`), but TOMLKit does
/// not expose it. This type therefore scans the text again. The result is exact for a valid text, and the scan ends for
/// any text.
struct KeyLines {
    /// A text that must not be passed to the parser. toml++ 3.4.0, which is inside TOMLKit 0.6.0, ends the process on
    /// `a = [}`, `[,` and `a = 1979-05-27T` (failed assertions in parse_value, parse_key and parse_time), and on keys
    /// of 100,000 parts.
    struct Refusal {
        var line: Int
        var message: String
    }

    /// The largest number of parts of a dotted key, since the parser frees nested tables recursively.
    static let maximumDepth = 16

    fileprivate(set) var refusals: [Refusal] = []
    fileprivate var lines: [[String]: Int] = [:]
    fileprivate var elements: [[String]: [Int]] = [:]
    /// The keys whose values are inline tables, or have some in them.
    fileprivate var inlineTables: Set<[String]> = []

    init(_ text: [UInt8]) {
        var scanner = KeyScanner(text)
        scanner.scan()
        self = scanner.found
    }

    fileprivate init() {}

    /// Whether there is such a key.
    func has(_ path: [String]) -> Bool { lines[path] != nil }

    /// Whether a table may have this key: those of an inline table are not known.
    func mayHave(_ key: String, in table: [String]) -> Bool {
        if has(table + [key]) { return true }
        return has(table) && !lines.keys.contains { $0.count > table.count && $0.starts(with: table) }
    }

    /// Whether a table below one of those in this table may have this key: those of inline tables are not known.
    func mayHave(_ key: String, belowTablesIn table: String) -> Bool {
        lines.keys.contains { $0.count > 2 && $0.first == table && $0.last == key }
            || inlineTables.contains { $0.first == table }
    }

    /// The line of a key, or of the innermost table that contains it.
    /// - Parameter element: the number of an element of the key's array, whose line is wanted.
    func line(of path: [String], element: Int? = nil) -> Int? {
        if let element, let list = elements[path], list.indices.contains(element) { return list[element] }
        var path = path
        while !path.isEmpty {
            if let line = lines[path] { return line }
            path.removeLast()
        }
        return nil
    }
}

private struct KeyScanner {
    var found = KeyLines()
    private let text: [UInt8]
    private var position = 0
    private var line = 1
    private var table: [String] = []

    init(_ text: [UInt8]) { self.text = text }

    /// The current byte; 0 at the end, since the reader refuses texts with a NUL byte.
    private var current: UInt8 { peek(0) }

    private func peek(_ distance: Int) -> UInt8 {
        position + distance < text.count ? text[position + distance] : 0
    }

    private mutating func advance() {
        if current == UInt8(ascii: "\n") { line += 1 }
        if position < text.count { position += 1 }
    }

    mutating func scan() {
        if text.starts(with: [0xef, 0xbb, 0xbf]) { position = 3 }
        while position < text.count {
            skipSpace()
            switch current {
            case UInt8(ascii: "\n"), UInt8(ascii: "#"): break
            case UInt8(ascii: "["): header()
            default: pair()
            }
            skipRestOfLine()
        }
    }

    private mutating func skipSpace() {
        while current == UInt8(ascii: " ") || current == UInt8(ascii: "\t") { advance() }
    }

    private mutating func skipComment() {
        while position < text.count, current != UInt8(ascii: "\n") { advance() }
    }

    private mutating func skipRestOfLine() {
        while position < text.count, current != UInt8(ascii: "\n"), current != UInt8(ascii: "#") { skipPlain() }
        skipComment()
        advance()
    }

    /// Skips a byte outside strings and comments, where TOML is ASCII. The parser accepts Unicode spaces and line ends
    /// there, and then fails an assertion.
    private mutating func skipPlain() {
        let isSpace = current == UInt8(ascii: "\t") || current == UInt8(ascii: "\r")
        if !isSpace, !(0x20..<0x7f).contains(current) {
            let isFirst = found.refusals.last?.line != line
            if isFirst { refuse("not valid TOML: a control character, or one beyond ASCII, outside of quotes") }
        }
        advance()
    }

    private mutating func header() {
        advance()
        if current == UInt8(ascii: "[") { advance() }
        skipSpace()
        if !isBare(current), current != UInt8(ascii: "\""), current != UInt8(ascii: "'") {
            refuse("not valid TOML: expected a table's name after [")
        }
        table = []
        let path = dottedKey()
        record(path)
        table = path
    }

    private mutating func pair() {
        let path = dottedKey()
        guard !path.isEmpty else { return }
        record(path)
        skipSpace()
        guard current == UInt8(ascii: "=") else { return }
        advance()
        value(of: table + path)
    }

    /// Records the first line that names a path, which is also the line of the tables that contain it.
    private mutating func record(_ path: [String]) {
        guard path.count <= KeyLines.maximumDepth else { return refuseDepth() }
        var whole = table
        for part in path {
            whole.append(part)
            if found.lines[whole] == nil { found.lines[whole] = line }
        }
    }

    private mutating func refuse(_ message: String) {
        found.refusals.append(.init(line: line, message: message))
    }

    private mutating func refuseDepth() {
        refuse("a key of more than \(KeyLines.maximumDepth) parts; expected one of at most 5")
    }

    private mutating func dottedKey() -> [String] {
        var parts: [String] = []
        while true {
            skipSpace()
            if current == UInt8(ascii: "\"") || current == UInt8(ascii: "'") {
                parts.append(string())
            } else {
                let start = position
                while isBare(current) { advance() }
                guard position > start else { return parts }
                parts.append(String(decoding: text[start..<position], as: UTF8.self))
            }
            skipSpace()
            guard current == UInt8(ascii: ".") else { return parts }
            advance()
        }
    }

    private func isBare(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"): true
        default: false
        }
    }

    /// Skips a value to the end of its last line, including multi-line arrays and strings.
    private mutating func value(of path: [String]) {
        var open: [UInt8] = []
        var dots = 0
        var awaitsElement = false
        while position < text.count {
            switch current {
            case UInt8(ascii: "\n"):
                if open.isEmpty { return }
                advance()
                continue
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"):
                advance()
                continue
            case UInt8(ascii: "#"):
                skipComment()
                continue
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                if current == UInt8(ascii: "}"), open.last == UInt8(ascii: "[") {
                    refuse("not valid TOML: a } inside an array; expected a value or ]")
                } else {
                    _ = open.popLast()
                }
                advance()
                continue
            default: break
            }
            if awaitsElement { found.elements[path, default: []].append(line) }
            awaitsElement = false
            switch current {
            case UInt8(ascii: "["), UInt8(ascii: "{"):
                if current == UInt8(ascii: "{") { found.inlineTables.insert(path) }
                open.append(current)
                awaitsElement = open.count == 1
                dots = 0
                advance()
            case UInt8(ascii: ","):
                awaitsElement = open.count == 1
                dots = 0
                advance()
            case UInt8(ascii: "."):
                // The dot may belong to a dotted key in an inline table; a number has at most one.
                dots += 1
                if dots == KeyLines.maximumDepth { refuseDepth() }
                advance()
            case UInt8(ascii: "\""), UInt8(ascii: "'"): _ = string()
            case UInt8(ascii: "T"), UInt8(ascii: "t"):
                if endsDate, !(0x30...0x39).contains(peek(1)) {
                    refuse("not valid TOML: a date without a time after its T")
                }
                advance()
            default: skipPlain()
            }
        }
    }

    /// Whether the bytes before this one end with the day of a date.
    private var endsDate: Bool {
        guard position >= 3 else { return false }
        let before = text[(position - 3)..<position]
        return before.first == UInt8(ascii: "-") && before.dropFirst().allSatisfy { (0x30...0x39).contains($0) }
    }

    /// Reads the contents of the string that starts here, without decoding its escapes.
    private mutating func string() -> String {
        let quote = current
        let isLong = peek(1) == quote && peek(2) == quote
        for _ in 0..<(isLong ? 3 : 1) { advance() }
        let start = position
        while position < text.count {
            if current == quote, !isLong || (peek(1) == quote && peek(2) == quote) { break }
            if current == UInt8(ascii: "\n"), !isLong { break }
            if current == UInt8(ascii: "\\"), quote == UInt8(ascii: "\"") {
                refuseEscapedNul()
                advance()
            }
            advance()
        }
        let inside = String(decoding: text[start..<position], as: UTF8.self)
        // A multi-line string may contain two quotes directly before the three that close it.
        for _ in 0..<(isLong ? 5 : 1) where current == quote { advance() }
        return inside
    }

    /// Refuses an escaped NUL, since the parser returns strings and keys as C strings, which would end there.
    private mutating func refuseEscapedNul() {
        let rest = text[position...].prefix(10)
        guard rest.starts(with: Array("\\u0000".utf8)) || rest.starts(with: Array("\\U00000000".utf8)) else { return }
        refuse("an escaped NUL character, which no value can hold")
    }
}
