/// Where the keys of a TOML text stand. The parser knows it and does not tell, so this reads the text a second time:
/// exact for a valid text, and total for any other.
struct KeyLines {
    /// Something that the parser must not be given.
    struct Refusal {
        var line: Int
        var message: String
    }

    /// Levels of a dotted key that the parser is trusted with: it frees what it has read recursively.
    static let maximumDepth = 16

    fileprivate(set) var refusals: [Refusal] = []
    fileprivate var lines: [[String]: Int] = [:]
    fileprivate var elements: [[String]: [Int]] = [:]

    init(_ text: [UInt8]) {
        var scanner = KeyScanner(text)
        scanner.scan()
        self = scanner.found
    }

    fileprivate init() {}

    /// The line of a key, or of the nearest table that encloses it.
    /// - Parameter element: the number of a string in the key's array, for its own line.
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

    /// 0 at the end: the reader refuses texts that hold one.
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
        skipComment()
        advance()
    }

    private mutating func header() {
        while current == UInt8(ascii: "[") { advance() }
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

    /// The first line that names a path is its line; it is that of the tables on the way too.
    private mutating func record(_ path: [String]) {
        if path.count > KeyLines.maximumDepth {
            found.refusals.append(
                .init(line: line, message: "a key of more than \(KeyLines.maximumDepth) parts, and none is known"))
            return
        }
        var whole = table
        for part in path {
            whole.append(part)
            if found.lines[whole] == nil { found.lines[whole] = line }
        }
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

    /// Runs over a value to the end of its last line, through arrays and strings of many lines.
    private mutating func value(of path: [String]) {
        var depth = 0
        while position < text.count {
            switch current {
            case UInt8(ascii: "\n"):
                if depth == 0 { return }
                advance()
            case UInt8(ascii: "#"): skipComment()
            case UInt8(ascii: "["), UInt8(ascii: "{"):
                depth += 1
                advance()
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                depth = max(0, depth - 1)
                advance()
            case UInt8(ascii: "\""), UInt8(ascii: "'"):
                if depth == 1 { found.elements[path, default: []].append(line) }
                _ = string()
            default: advance()
            }
        }
    }

    /// The inside of the string that starts here, its escapes as they stand.
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
        for _ in 0..<(isLong ? 3 : 1) where current == quote { advance() }
        return inside
    }

    /// The parser hands strings and keys out as C strings, which would end there.
    private mutating func refuseEscapedNul() {
        let rest = text[position...].prefix(10)
        guard rest.starts(with: Array("\\u0000".utf8)) || rest.starts(with: Array("\\U00000000".utf8)) else { return }
        found.refusals.append(.init(line: line, message: "an escaped NUL character, which no value can hold"))
    }
}
