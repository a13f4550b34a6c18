import Foundation

/// A configuration file as lines, in which settings are put in others' places.
struct ConfigurationText {
    private var lines: [String]

    init(_ text: String) { lines = text.components(separatedBy: "\n") }

    var text: String { lines.joined(separator: "\n") }

    /// The tables' names in the order of the file; "" is what stands before the first.
    var tables: [String] { [""] + lines.compactMap(Self.table) }

    /// Puts a setting in the place of the table's one with this key, or at the table's beginning.
    mutating func set(_ key: String, to value: String, in table: String) {
        let setting = "\(key) = \(value)"
        if let line = line(of: key, in: table) {
            lines[line - 1] = setting
        } else {
            lines.insert(setting, at: keys(of: table).lowerBound)
        }
    }

    /// The number, from 1, of the line where a table has a key.
    func line(of key: String, in table: String) -> Int? {
        keys(of: table).first { lines[$0].hasPrefix("\(key) = ") }.map { $0 + 1 }
    }

    /// The lines below a table's name, up to the next one.
    private func keys(of table: String) -> Range<Int> {
        let start = table.isEmpty ? 0 : (lines.firstIndex(of: "[\(table)]") ?? lines.count - 1) + 1
        return start..<(lines[start...].firstIndex { $0.hasPrefix("[") } ?? lines.count)
    }

    private static func table(_ line: String) -> String? {
        line.hasPrefix("[") && line.hasSuffix("]") ? String(line.dropFirst().dropLast()) : nil
    }
}

/// A key of the configuration, and the kind of table that it belongs in: "service", "service.limits", "client.psk".
struct ConfigurationKey: Hashable, CustomStringConvertible {
    var kind: String
    var key: String

    /// - Parameter table: a table's name, such as `service.echo.name."b.example.org"`.
    init(_ key: String, in table: String) {
        self.key = key
        kind = table.firstMatch(of: /^(service|client)\.[^.]+(\.\w+)?/).map { "\($0.1)\($0.2 ?? "")" } ?? table
    }

    var description: String { "[\(kind)] \(key)" }

    /// Every key in config/dtlsd.toml, those that are switched off included.
    static func documented() throws -> Set<ConfigurationKey> {
        let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../..")
        let reference = try String(contentsOf: root.appending(path: "config/dtlsd.toml"), encoding: .utf8)
        var table = ""
        var keys: Set<ConfigurationKey> = []
        for line in reference.split(separator: "\n") where !line.hasPrefix("# ") {
            let setting = line.drop { $0 == "#" }
            if let name = setting.wholeMatch(of: /\[(.+)\]/) { table = String(name.1) }
            if let key = setting.firstMatch(of: /^(\w+) =/) { keys.insert(.init(String(key.1), in: table)) }
        }
        return keys
    }
}
