import TOMLKit

/// Reads one table by its known keys. Whatever is wrong is reported, and then counts as absent.
///
/// TOMLKit's Decodable path is not used: it traps the process on a number that does not fit, and calls a wrong type a
/// missing key.
struct TableReader<Key: RawRepresentable & CaseIterable> where Key.RawValue == String {
    let path: [String]
    let reading: ReadContext
    private let table: TOMLTable
    /// Whether there is nothing in it but a table that it is the first part of the name of.
    private let isPartOfName: Bool

    /// Reports the keys that are not known.
    init(_ table: TOMLTable, at path: [String], _ reading: ReadContext) {
        self.table = table
        self.path = path
        self.reading = reading
        let known = Key.allCases.map(\.rawValue)
        let unknown = table.keys.filter { !known.contains($0) }
        var isPartOfName = false
        for key in unknown {
            if let name = Self.nameWithDots(path, key, table[key]?.table, known) {
                reading.report(path + [key], "unknown table; if it is a name with dots, it is quoted: [\(name)]")
                isPartOfName = unknown.count == table.count
            } else {
                reading.report(path + [key], UnknownKey.message(key, known: known))
            }
        }
        self.isPartOfName = isPartOfName
    }

    /// The table's name with quotes, where it may be that these were left out: each dot then begins a table in a table.
    private static func nameWithDots(_ path: [String], _ key: String, _ inner: TOMLTable?, _ known: [String]) -> String?
    {
        guard let outer = path.last, let rest = inner.flatMap({ restOfName($0, known) }) else { return nil }
        // "names" instead of "name", with tables in it as that has.
        if !rest.isEmpty, UnknownKey.nearest(key, of: known) != nil { return nil }
        return ReadContext.text(of: path.dropLast() + [([outer, key] + rest).joined(separator: ".")])
    }

    /// The keys on the way to a table that has known keys.
    private static func restOfName(_ table: TOMLTable, _ known: [String]) -> [String]? {
        if table.keys.contains(where: known.contains) { return [] }
        for key in table.keys {
            if let inner = table[key]?.table, let rest = restOfName(inner, known) { return [key] + rest }
        }
        return nil
    }

    func path(_ key: Key) -> [String] { path + [key.rawValue] }

    func has(_ key: Key) -> Bool { table[key.rawValue] != nil }

    func report(_ key: Key, element: Int? = nil, _ message: String, isTransient: Bool = false) {
        reading.report(path(key), element: element, message, isTransient: isTransient)
    }

    func warn(_ key: Key, element: Int? = nil, _ message: String) {
        reading.warn(path(key), element: element, message)
    }

    /// Reports the key as missing, if it is.
    func require(_ key: Key, _ expected: String) {
        if !has(key), !isPartOfName { report(key, "missing; expected \(expected)") }
    }

    /// - Parameter kind: what it is, for the message.
    func integer(_ key: Key, _ range: ClosedRange<Int>, _ kind: String = "an integer") -> Int? {
        read(key, "\(kind), \(range.lowerBound) to \(range.upperBound)") { value in
            value.int.flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// A number of seconds, whole or not, to the millisecond. What is not 0 does not become 0.
    func duration(_ key: Key, seconds range: ClosedRange<Int>) -> Duration? {
        thousandths(key, range, "a number of seconds").map { .milliseconds($0) }
    }

    /// A number, whole or not, in thousandths. What is not 0 does not become 0.
    func thousandths(_ key: Key, _ range: ClosedRange<Int>, _ kind: String) -> Int? {
        read(key, "\(kind), \(range.lowerBound) to \(range.upperBound)") { value in
            guard let number = value.int.map(Double.init) ?? value.double, number.isFinite,
                number >= Double(range.lowerBound), number <= Double(range.upperBound)
            else { return nil }
            return number > 0 ? max(1, Int((number * 1_000).rounded())) : 0
        }
    }

    func bool(_ key: Key) -> Bool? {
        read(key, "true or false") { $0.bool }
    }

    /// A string that is not empty.
    func string(_ key: Key, _ expected: String) -> String? {
        read(key, expected) { value in value.string.flatMap { $0.isEmpty ? nil : $0 } }
    }

    /// One of a few strings.
    func choice<Value>(_ key: Key, of names: [String], _ make: (String) -> Value?) -> Value? {
        read(key, ReadContext.alternatives(names)) { $0.string.flatMap(make) }
    }

    /// The strings of an array, or the only one. An empty array is reported: it would say the same as no key, or switch
    /// something off in silence.
    func strings(_ key: Key, _ expected: String) -> [(element: Int, text: String)] {
        guard let value = table[key.rawValue] else { return [] }
        if let text = value.string { return [(0, text)] }
        guard let array = value.array else {
            report(key, "expected \(expected), found \(Self.name(of: value))")
            return []
        }
        if array.isEmpty { report(key, "expected \(expected), found an empty array") }
        var result: [(Int, String)] = []
        for index in 0..<array.count {
            if let text = array[index].string {
                result.append((index, text))
            } else {
                report(key, element: index, "expected \(expected), found \(Self.name(of: array[index]))")
            }
        }
        return result
    }

    func table<Inner>(_ key: Key, _: Inner.Type) -> TableReader<Inner>? {
        guard let inner = tomlTable(key) else { return nil }
        return TableReader<Inner>(inner, at: path(key), reading)
    }

    /// The tables of a table by their names, in the order of the file; `nil` where there is something else instead.
    func tables<Inner>(_ key: Key, _: Inner.Type) -> [(name: String, table: TableReader<Inner>)]? {
        guard has(key) else { return [] }
        guard let outer = tomlTable(key) else { return nil }
        var result: [(String, TableReader<Inner>)] = []
        for name in outer.keys {
            guard let value = outer[name] else { continue }
            let path = path(key) + [name]
            if let inner = value.table {
                result.append((name, TableReader<Inner>(inner, at: path, reading)))
            } else {
                reading.report(path, "expected a table, found \(Self.name(of: value))")
            }
        }
        if result.isEmpty, !outer.isEmpty { return nil }
        return result.sorted { (reading.line(of: $0.1.path) ?? 0) < (reading.line(of: $1.1.path) ?? 0) }
    }

    private func tomlTable(_ key: Key) -> TOMLTable? {
        read(key, "a table") { $0.table }
    }

    private func read<Value>(_ key: Key, _ expected: String, _ convert: (any TOMLValueConvertible) -> Value?) -> Value?
    {
        guard let value = table[key.rawValue] else { return nil }
        if let result = convert(value) { return result }
        report(key, "expected \(expected), found \(Self.name(of: value))")
        return nil
    }

    private static func name(of value: any TOMLValueConvertible) -> String {
        switch value.type {
        case .table: "a table"
        case .array: "an array"
        case .string: "the string \(ReadContext.quoted(value.string ?? ""))"
        case .int: "\(value.int ?? 0)"
        case .double: "\(value.double ?? 0)"
        case .bool: "\(value.bool ?? false)"
        case .date, .time, .dateTime: "a date or time"
        }
    }
}
