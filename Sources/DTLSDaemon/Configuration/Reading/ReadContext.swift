import LinuxSystem

/// What one reading of a configuration has at hand everywhere, and what it has found wrong so far.
final class ReadContext {
    /// The configuration file, as it was named.
    let file: String
    /// How the files that it names are found.
    let files: NamedFiles
    let environment: [String: String]
    private let lines: KeyLines
    private var problems: [ConfigurationProblem] = []
    /// What was found that is not wrong, and still worth knowing.
    private(set) var warnings: [ConfigurationProblem] = []
    /// Watches the files that are taken up again when they change, from before they are read.
    let watcher: FileWatcher?
    var staples: [StapleFile] = []

    init(file: String, environment: [String: String], lines: KeyLines, watcher: FileWatcher? = nil) {
        self.file = file
        self.watcher = watcher
        self.environment = environment
        files = NamedFiles(beside: file, environment: environment)
        self.lines = lines
    }

    func report(_ path: [String], element: Int? = nil, _ message: String, isTransient: Bool = false) {
        problems.append(problem(path, element: element, message, isTransient: isTransient))
    }

    /// Reports something that a configuration may have, and that its operator should know of.
    func warn(_ path: [String], element: Int? = nil, _ message: String) {
        warnings.append(problem(path, element: element, message))
    }

    /// What is wrong with a key, and where it stands.
    func problem(
        _ path: [String], element: Int? = nil, _ message: String, isTransient: Bool = false
    ) -> ConfigurationProblem {
        ConfigurationProblem(
            file: file, line: lines.line(of: path, element: element), key: Self.text(of: path), message: message,
            isTransient: isTransient)
    }

    func line(of path: [String], element: Int? = nil) -> Int? { lines.line(of: path, element: element) }

    /// - Throws: what was reported, in the order of the lines, when anything was.
    func finish() throws(ConfigurationProblems) {
        guard !problems.isEmpty else { return }
        let sorted = problems.enumerated().sorted { one, other in
            (one.element.line ?? 0, one.offset) < (other.element.line ?? 0, other.offset)
        }
        throw ConfigurationProblems(problems: sorted.map(\.element))
    }

    /// Reports a name of a service or a client that logs and systemd could not show.
    static func check(name: String, at path: [String], of kind: String, _ context: ReadContext) {
        let isPlain = name.utf8.allSatisfy { $0.isLetterOrDigit || [0x2d, 0x5f, 0x2e].contains($0) }
        if name.isEmpty || !isPlain {
            context.report(
                path, "not a name for a \(kind); expected ASCII letters, digits and the characters - _ .")
        }
    }

    /// A key path as TOML writes it: parts that are no bare keys are quoted.
    static func text(of path: [String]) -> String? {
        guard !path.isEmpty else { return nil }
        return path.map { part in
            // What is long is shortened, too.
            let isBare =
                (1...100).contains(part.utf8.count)
                && part.utf8.allSatisfy { $0.isLetterOrDigit || $0 == 0x2d || $0 == 0x5f }
            return isBare ? part : quoted(part)
        }.joined(separator: ".")
    }

    /// `"a" or "b"`; `one of "a", "b", "c"`.
    static func alternatives(_ names: [String]) -> String {
        let list = names.map { "\"\($0)\"" }
        return list.count > 2 ? "one of \(list.joined(separator: ", "))" : list.joined(separator: " or ")
    }

    /// A value from the file inside a message: one line of printable characters, not too long.
    static func quoted(_ text: String) -> String {
        let short = text.count > 100 ? text.prefix(100) + "…" : text[...]
        let printable = short.unicodeScalars.map { scalar in
            scalar.properties.generalCategory == .control ? "\\u{\(String(scalar.value, radix: 16))}" : String(scalar)
        }
        return "\"\(printable.joined())\""
    }
}

extension UInt8 {
    /// Whether it is a letter or a digit of ASCII.
    var isLetterOrDigit: Bool {
        switch self {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
        default: false
        }
    }
}
