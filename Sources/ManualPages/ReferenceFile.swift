/// What config/dtlsd.toml says about each table and key. A test of the daemon compares that file with the schema.
struct ReferenceFile {
    /// The explanation of one key, or of several keys that follow one another.
    struct Explanation: Equatable {
        /// The line of the file in which it begins: what tells it from the others.
        var line: Int
        var text: [String]
        /// The setting as the file has it, without the `#` that comments it out.
        var example: String
    }

    /// The explanation of the file itself.
    private(set) var header: [String] = []
    /// The explanation of each table, by the path in the schema (`service.NAME.socket`).
    private(set) var tables: [String: [String]] = [:]
    private(set) var keys: [String: [String: Explanation]] = [:]

    init(_ text: String) {
        var table = ""
        var comment: (line: Int, text: [String]) = (0, [])
        var isAfterSetting = false
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            if line.hasPrefix("# ") || line == "#" {
                if isAfterSetting || comment.text.isEmpty { comment = (number, []) }
                comment.text.append(String(line.dropFirst(2)))
                isAfterSetting = false
                continue
            }
            let setting = line.hasPrefix("#") ? line.dropFirst() : line[...]
            if setting.hasPrefix("[") {
                table = Self.path(setting)
                if tables[table] == nil { tables[table] = comment.text }
                comment.text = []
            } else if let end = setting.firstRange(of: " = ") {
                let name = String(setting[..<end.lowerBound])
                if keys[table]?[name] == nil, !comment.text.isEmpty {
                    keys[table, default: [:]][name] = Explanation(
                        line: comment.line, text: comment.text, example: String(setting))
                }
                isAfterSetting = true
            } else {
                if header.isEmpty { header = comment.text }
                comment.text = []
                isAfterSetting = false
            }
        }
    }

    /// The path of a table in the schema: `[service."a.b".name."*.example.org"]` is `service.NAME.name."HOST"`.
    private static func path(_ line: Substring) -> String {
        let parts = line.dropFirst().prefix { $0 != "]" }.replacing("\"*.example.org\"", with: "\"HOST\"")
            .split(separator: ".").map(String.init)
        guard parts.count > 1 else { return parts.first ?? "" }
        return ([parts[0], "NAME"] + parts.dropFirst(2)).joined(separator: ".")
    }
}
