/// The words for a key that is not known in its table.
enum UnknownKey {
    /// - Parameters:
    ///   - known: the keys of the table that `key` stands in.
    ///   - path: the table's.
    static func message(_ key: String, known: [String], in path: [String]) -> String {
        if let name = nearest(key, of: known) { return "unknown key; did you mean \"\(name)\"?" }
        if let place = otherPlace(of: key.lowercased(), than: path) { return "unknown key here; it \(place)" }
        return "unknown key; expected one of \(known.joined(separator: ", "))"
    }

    /// The known key that a mistyped one may have been meant for.
    static func nearest(_ key: String, of known: [String]) -> String? {
        let key = key.lowercased()
        let near = known.map { (name: $0, distance: editDistance(key, $0)) }.min { $0.distance < $1.distance }
        return near.flatMap { $0.distance <= max(1, $0.name.utf8.count / 3) ? $0.name : nil }
    }

    /// Where the key would be known. In a service it is looked for in what services have, in a client in what clients
    /// have, and then everywhere.
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

    /// Letters to insert, delete or replace until `one` is `other` (Levenshtein). Long keys are not worth the time.
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
