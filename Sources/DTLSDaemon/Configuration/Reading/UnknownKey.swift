/// The message about a key that is unknown in its table.
enum UnknownKey {
    /// - Parameters:
    ///   - known: the known keys of the table that contains `key`.
    ///   - path: the path of the table.
    static func message(_ key: String, known: [String], in path: [String]) -> String {
        // A key of another table is mistaken for a mistyped one of this table only where a letter is wrong.
        if let name = nearest(key, of: known, within: 1) { return "unknown key; did you mean \"\(name)\"?" }
        if let place = otherPlace(of: key.lowercased(), than: path) { return "unknown key here; it \(place)" }
        if let name = nearest(key, of: known) { return "unknown key; did you mean \"\(name)\"?" }
        return "unknown key; expected one of \(known.joined(separator: ", "))"
    }

    /// The known key that is closest to a mistyped one.
    /// - Parameter most: the most letters that may be wrong; `nil`: a third of them.
    static func nearest(_ key: String, of known: [String], within most: Int? = nil) -> String? {
        let key = key.lowercased()
        let near = known.map { (name: $0, distance: editDistance(key, $0)) }.min { $0.distance < $1.distance }
        return near.flatMap { $0.distance <= most ?? max(1, $0.name.utf8.count / 3) ? $0.name : nil }
    }

    /// The tables in which the key is known. A key of a service is looked up in the tables of services first, and one
    /// of a client in the tables of clients, and then in all tables.
    private static func otherPlace(of key: String, than path: [String]) -> String? {
        let sections = MainSection.schema.description(of: MainSection()).filter { section in
            section.keys.contains { $0.name == key }
        }
        func isNear(_ section: SectionDescription) -> Bool {
            section.path.count == 1 || !path.isEmpty && section.path.first == path.first
        }
        // The innermost first.
        let near = sections.filter(isNear).sorted { one, other in one.path.count > other.path.count }
        let found = near.isEmpty ? sections : near
        guard let first = found.first else { return nil }
        guard first.keys.contains(where: { $0.name == key && $0.isTable }) else {
            if first.path.isEmpty { return "belongs before the first [table]" }
            return "belongs in \(found.map(\.title).joined(separator: " or "))"
        }
        let names = first.path + [key] + (first.path.isEmpty && ["service", "client"].contains(key) ? ["NAME"] : [])
        return "is a table of its own, [\(names.joined(separator: "."))]"
    }

    /// The Levenshtein distance of two keys. It is not computed for long keys, to save time.
    private static func editDistance(_ one: String, _ other: String) -> Int {
        let one = Array(one.utf8.prefix(64))
        let other = Array(other.utf8)
        var row = Array(0...other.count)
        for (index, letter) in one.enumerated() {
            var diagonal = row[0]
            row[0] = index + 1
            for column in other.indices {
                let replaced = diagonal + (letter == other[column] ? 0 : 1)
                diagonal = row[column + 1]
                row[column + 1] = min(replaced, row[column] + 1, diagonal + 1)
            }
        }
        return row[other.count]
    }
}
