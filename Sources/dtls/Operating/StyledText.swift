import Primitives

/// How a part of a line is shown where colour may be used.
enum Style: Equatable, Sendable {
    case plain
    case strong
    case dim
    case good
    case warning
    case bad

    /// The parameters of the escape sequence SGR (ECMA-48, 8.3.117) that begins it; `nil` for plain text.
    fileprivate var parameters: String? {
        switch self {
        case .plain: nil
        case .strong: "1"
        case .dim: "2"
        case .good: "32"
        case .warning: "33"
        case .bad: "1;31"
        }
    }
}

/// One line for people. It never contains a control character, whatever it was made of.
struct StyledLine: Equatable, Sendable, ExpressibleByStringLiteral {
    struct Span: Equatable, Sendable {
        var text: String
        var style: Style
    }

    private(set) var spans: [Span]

    static let empty = StyledLine("")

    init(_ text: String, _ style: Style = .plain) {
        spans = []
        append(text, style)
    }

    init(stringLiteral text: String) { self.init(text) }

    mutating func append(_ text: String, _ style: Style = .plain) {
        let text = TerminalText.printable(text)
        if text.isEmpty { return }
        if let last = spans.indices.last, spans[last].style == style {
            spans[last].text += text
        } else {
            spans.append(Span(text: text, style: style))
        }
    }

    static func + (one: StyledLine, other: StyledLine) -> StyledLine {
        var sum = one
        for span in other.spans { sum.append(span.text, span.style) }
        return sum
    }

    var text: String { spans.map(\.text).joined() }
    var width: Int { spans.reduce(0) { $0 + TerminalText.width(of: $1.text) } }

    /// The line, or as much of it as fits beside an ellipsis.
    func cut(to width: Int) -> StyledLine {
        guard self.width > width else { return self }
        var result = StyledLine.empty
        var left = width - 1
        for span in spans {
            let part = TerminalText.prefix(of: span.text, width: left)
            result.append(part, span.style)
            left -= TerminalText.width(of: part)
            if part != span.text { break }
        }
        if width > 0 { result.append("…", result.spans.last?.style ?? .plain) }
        return result
    }

    /// The line for a terminal or a file, without a line feed.
    func encoded(inColour: Bool) -> String {
        guard inColour else { return text }
        return spans.map { span in
            span.style.parameters.map { "\u{1b}[\($0)m\(span.text)\u{1b}[0m" } ?? span.text
        }.joined()
    }
}

/// Text of other programs and of peers, for a terminal.
enum TerminalText {
    /// The text with escapes in place of all that a terminal might obey, or that could turn the direction of writing.
    static func printable(_ text: String) -> String {
        if text.unicodeScalars.allSatisfy(Printable.isPrintable) { return text }
        var result = ""
        for scalar in text.unicodeScalars { Printable.append(scalar, to: &result) }
        return result
    }

    /// The columns that printable text takes.
    static func width(of text: String) -> Int {
        text.utf8.allSatisfy { $0 < 0x80 }
            ? text.utf8.count : text.unicodeScalars.reduce(0) { $0 + width(of: $1) }
    }

    /// As much of the text as fits into `width` columns.
    static func prefix(of text: String, width: Int) -> String {
        var result = ""
        var left = width
        for scalar in text.unicodeScalars {
            left -= self.width(of: scalar)
            if left < 0 { break }
            result.unicodeScalars.append(scalar)
        }
        return result
    }

    /// As wcwidth(3) has it, whatever the locale: marks that combine take no column, and the wide characters of Unicode
    /// Standard Annex #11 take two.
    private static func width(of scalar: Unicode.Scalar) -> Int {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark: return 0
        default: break
        }
        return switch scalar.value {
        case 0x1100...0x115F, 0x2E80...0x303E, 0x3041...0xA4CF, 0xA960...0xA97F, 0xAC00...0xD7A3, 0xF900...0xFAFF,
            0xFE30...0xFE6F, 0xFF01...0xFF60, 0xFFE0...0xFFE6, 0x1F300...0x1F64F, 0x1F680...0x1F6FF,
            0x1F900...0x1FAFF, 0x20000...0x3FFFD:
            2
        default: 1
        }
    }
}
