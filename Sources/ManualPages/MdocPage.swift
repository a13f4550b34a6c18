/// A day, as mdoc(7) writes it.
struct DocumentDate {
    let text: String

    private static let months = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ]

    /// - Parameter text: `2026-11-28`
    init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
        guard parts.count == 3, let year = parts[0], let month = parts[1], let day = parts[2],
            Self.months.indices.contains(month - 1), (1...31).contains(day)
        else { return nil }
        self.text = "\(Self.months[month - 1]) \(day), \(year)"
    }
}

/// A manual page in the language mdoc(7), which mandoc and groff read.
struct MdocPage {
    let name: String
    let section: Int
    private(set) var text: String

    var fileName: String { "\(name).\(section)" }

    /// - Parameter summary: what the page is about, without a period at its end.
    init(name: String, section: Int, summary: String, date: DocumentDate) {
        self.name = name
        self.section = section
        text = ".Dd \(date.text)\n.Dt \(name.uppercased()) \(section)\n.Os dtlsd\n.Sh NAME\n"
        macro("Nm", name)
        macro("Nd", summary)
    }

    /// Adds a line with a macro and its arguments, which are texts and not macros themselves.
    mutating func macro(_ name: String, _ arguments: String...) {
        request(([name] + arguments.map(Self.argument)).joined(separator: " "))
    }

    /// Adds a line with macros that have been written and escaped by the caller.
    mutating func request(_ line: String) { text += "." + line + "\n" }

    /// Adds paragraphs, lists and literal lines, as a comment or a discussion of a command has them.
    mutating func prose(_ lines: [String]) {
        var isFirst = true
        for block in ProseBlock.blocks(of: lines) {
            switch block {
            case .paragraph(let words):
                if !isFirst { request("Pp") }
                filled(words)
            case .items(let items):
                request("Bl -bullet -compact")
                for item in items {
                    request("It")
                    filled(item)
                }
                request("El")
            case .literal(let lines):
                request("Bd -literal -offset indent")
                for line in lines { text += Self.line(Self.escaped(line)) + "\n" }
                request("Ed")
            }
            isFirst = false
        }
    }

    /// Adds the words of a paragraph, in lines of at most 78 columns. A sentence begins a line, as mdoc(7) wants it.
    private mutating func filled(_ words: String) {
        var line = ""
        for word in Self.escaped(words).split(separator: " ") {
            if !line.isEmpty, line.utf8.count + 1 + word.utf8.count > 78 {
                text += Self.line(line) + "\n"
                line = ""
            }
            line += line.isEmpty ? String(word) : " " + word
            if let end = word.last(where: { !")\"".contains($0) }), ".!?".contains(end) {
                text += Self.line(line) + "\n"
                line = ""
            }
        }
        if !line.isEmpty { text += Self.line(line) + "\n" }
    }

    /// A line that begins with a period or an apostrophe would be a macro.
    private static func line(_ text: String) -> String {
        text.hasPrefix(".") || text.hasPrefix("'") ? "\\&" + text : text
    }

    /// An argument of a macro, which is no macro itself even if it has the name of one.
    static func argument(_ text: String) -> String {
        let escaped = escaped(text).replacing("\"", with: "\\(dq")
        return escaped.contains(" ") || escaped.isEmpty ? "\"\(escaped)\"" : "\\&" + escaped
    }

    /// Text in ASCII with the escapes of roff, and `code` in bold.
    private static func escaped(_ text: String) -> String {
        var result = ""
        var isCode = false
        for scalar in text.unicodeScalars {
            switch scalar {
            case "`":
                isCode.toggle()
                result += isCode ? "\\fB" : "\\fR"
            case "\\": result += "\\e"
            case "-" where isCode: result += "\\-"
            case "~": result += "\\(ti"
            case "^": result += "\\(ha"
            case "'": result += "\\(aq"
            case _ where scalar.value > 0x7e:
                let digits = String(scalar.value, radix: 16, uppercase: true)
                result += "\\[u\(String(repeating: "0", count: max(0, 4 - digits.utf8.count)))\(digits)]"
            default: result.unicodeScalars.append(scalar)
            }
        }
        // A lone backtick must not make the rest of the page bold.
        if isCode { result += "\\fR" }
        return result
    }
}

/// A part of a comment or of a command's discussion.
enum ProseBlock: Equatable {
    case paragraph(String)
    case items([String])
    /// Lines that stand as they are: those that are indented by two spaces or more.
    case literal([String])

    static func blocks(of lines: [String]) -> [ProseBlock] {
        var blocks: [ProseBlock] = []
        var isOpen = false
        for line in lines {
            let words = String(line.drop { $0 == " " })
            if words.isEmpty {
                isOpen = false
                continue
            }
            if line.hasPrefix("- ") {
                let item = String(line.dropFirst(2))
                if case .items(let items) = blocks.last, isOpen {
                    blocks[blocks.count - 1] = .items(items + [item])
                } else {
                    blocks.append(.items([item]))
                }
            } else if line.hasPrefix("  ") {
                switch blocks.last {
                case .items(let items) where isOpen:
                    let longer = items[items.count - 1] + " " + words
                    blocks[blocks.count - 1] = .items(items.dropLast() + [longer])
                case .literal(let lines) where isOpen:
                    blocks[blocks.count - 1] = .literal(lines + [String(line.dropFirst(2))])
                default: blocks.append(.literal([String(line.dropFirst(2))]))
                }
            } else if case .paragraph(let begun) = blocks.last, isOpen, !words.hasPrefix("Default: ") {
                blocks[blocks.count - 1] = .paragraph(begun + " " + words)
            } else {
                blocks.append(.paragraph(words))
            }
            isOpen = true
        }
        return blocks
    }
}
