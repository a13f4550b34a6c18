import LinuxSystem
import Primitives

/// The shared state of reading one configuration, including the errors that have been found so far.
final class ReadContext {
    /// The name of the configuration file, as it was passed to the reader.
    let file: String
    /// Finds the files that the configuration names.
    let files: NamedFiles
    let environment: [String: String]
    private let lines: KeyLines
    private var problems: [ConfigurationProblem] = []
    /// The warnings so far, which are not errors.
    private(set) var warnings: [ConfigurationProblem] = []
    /// Watches the files that are read again when they change. It gets each file before it is read.
    let watcher: FileWatcher?
    /// Watches the other files, where ``watchesCredentials`` says so. It gets each file before it is read.
    let credentialWatcher: FileWatcher?
    /// Whether files with certificates, keys and lists are taken up when they change. It is known before the first of them is
    /// read.
    var watchesCredentials = false
    /// The files that were read, with the keys that name them.
    var filesRead: [(path: String, key: [String], element: Int?)] = []
    /// Whether files with secrets may have any permissions. It is known before the first of them is read.
    var allowsWorldReadableSecrets = false
    var staples: [StapleFile] = []
    /// The certificates and revocation lists that can be used.
    var credentials: [ExpiringCredential] = []
    /// The host names of backends and servers.
    var names: [ConfiguredName] = []

    init(
        file: String, environment: [String: String], lines: KeyLines, watcher: FileWatcher? = nil,
        credentialWatcher: FileWatcher? = nil
    ) {
        self.file = file
        self.watcher = watcher
        self.credentialWatcher = credentialWatcher
        self.environment = environment
        files = NamedFiles(beside: file, environment: environment)
        self.lines = lines
    }

    func report(_ path: [String], element: Int? = nil, _ message: String, isTransient: Bool = false) {
        problems.append(problem(path, element: element, message, isTransient: isTransient))
    }

    /// Reports something that is valid, but that the operator should know.
    func warn(_ path: [String], element: Int? = nil, _ message: String) {
        warnings.append(problem(path, element: element, message))
    }

    /// A problem with a key, at the line of the key.
    func problem(
        _ path: [String], element: Int? = nil, _ message: String, isTransient: Bool = false
    ) -> ConfigurationProblem {
        ConfigurationProblem(
            file: file, line: lines.line(of: path, element: element), key: Self.text(of: path), message: message,
            isTransient: isTransient)
    }

    func line(of path: [String], element: Int? = nil) -> Int? { lines.line(of: path, element: element) }

    /// - Throws: the reported problems in the order of their lines, if there are any.
    func finish() throws(ConfigurationProblems) {
        guard !problems.isEmpty else { return }
        let sorted = problems.enumerated().sorted { one, other in
            (one.element.line ?? 0, one.offset) < (other.element.line ?? 0, other.offset)
        }
        throw ConfigurationProblems(problems: sorted.map(\.element))
    }

    /// Reports a name of a service or a client that is not valid in logs and systemd units.
    static func check(name: String, at path: [String], of kind: String, _ context: ReadContext) {
        let isPlain = name.utf8.allSatisfy { $0.isLetterOrDigit || [0x2d, 0x5f, 0x2e].contains($0) }
        if name.isEmpty || !isPlain {
            context.report(
                path, "not a name for a \(kind); expected ASCII letters, digits and the characters - _ .")
        }
    }

    /// A key path in TOML, where parts that are not bare keys are quoted.
    static func text(of path: [String]) -> String? {
        guard !path.isEmpty else { return nil }
        return path.map { part in
            // Quoting also shortens long parts.
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

    /// A value from the file for a message, as one short line of printable characters.
    static func quoted(_ text: String) -> String { Printable.quoted(text) }
}

extension UInt8 {
    /// Whether the byte is an ASCII letter or digit.
    var isLetterOrDigit: Bool {
        switch self {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
        default: false
        }
    }
}
