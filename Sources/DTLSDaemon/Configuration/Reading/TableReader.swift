import TOMLKit

/// One table of the file, read as a section that ``Schema`` describes. A key is named by the property that it sets.
///
/// It does not use TOMLKit's Decodable support, which traps the process on a number that does not fit, and reports a
/// wrong type as a missing key.
struct TableReader<Section> {
    let path: [String]
    let context: ReadContext
    private let schema: Schema<Section>
    private let table: TOMLTable

    init(_ table: TOMLTable, _ schema: Schema<Section>, at path: [String], _ context: ReadContext) {
        self.table = table
        self.schema = schema
        self.path = path
        self.context = context
    }

    /// - Returns: `nil` if the field is not a table, which is reported.
    init?(_ field: Field, _ schema: Schema<Section>) {
        guard let table = field.value?.table else {
            field.reportMismatch()
            return nil
        }
        self.init(table, schema, at: field.path, field.context)
    }

    /// The field of the key that sets a property, whether it is in the file or not.
    func field(_ property: PartialKeyPath<Section>) -> Field {
        let key = schema.key(of: property)
        let name = key?.name ?? ""
        return Field(value: table[name], path: path + [name], expected: key?.expected ?? "", context: context)
    }

    func has(_ property: PartialKeyPath<Section>) -> Bool { field(property).value != nil }

    /// An existing table in this table. Its errors were reported when it was read.
    func table<Inner>(_ property: KeyPath<Section, Inner>, _ schema: Schema<Inner>) -> TableReader<Inner>? {
        let field = field(property)
        return field.value?.table.map { TableReader<Inner>($0, schema, at: field.path, context) }
    }

    func report(
        _ property: PartialKeyPath<Section>, element: Int? = nil, _ message: String, isTransient: Bool = false
    ) {
        field(property).report(element: element, message, isTransient: isTransient)
    }

    func warn(_ property: PartialKeyPath<Section>, element: Int? = nil, _ message: String) {
        field(property).warn(element: element, message)
    }

    /// Reports the key if it is missing.
    func require(_ property: PartialKeyPath<Section>) {
        let field = field(property)
        if field.value == nil, !isPartOfName { field.report("missing; expected \(field.expected)") }
    }

    // MARK: Unknown keys

    private var unknownKeys: [String] {
        let known = schema.names
        return table.keys.filter { !known.contains($0) }
    }

    func reportUnknownKeys() {
        let known = schema.names
        for key in unknownKeys {
            if let name = nameWithDots(key) {
                context.report(path + [key], "unknown table; a name with dots needs quotes: [\(name)]")
            } else {
                context.report(path + [key], UnknownKey.message(key, known: known, in: path))
            }
        }
    }

    /// Whether the table contains nothing but tables, so that it is only the first part of their names.
    private var isPartOfName: Bool {
        let unknown = unknownKeys
        return !unknown.isEmpty && unknown.count == table.count && unknown.contains { nameWithDots($0) != nil }
    }

    /// The name of the table with quotes, if they may have been omitted: each dot then begins a nested table.
    private func nameWithDots(_ key: String) -> String? {
        guard let outer = path.last, let rest = table[key]?.table.flatMap(restOfName) else { return nil }
        // This is "names" instead of "name", for example, with the tables that belong in the latter.
        if !rest.isEmpty, UnknownKey.nearest(key, of: schema.names) != nil { return nil }
        return ReadContext.text(of: path.dropLast() + [([outer, key] + rest).joined(separator: ".")])
    }

    /// The keys that lead to a table with known keys.
    private func restOfName(_ table: TOMLTable) -> [String]? {
        if table.keys.contains(where: schema.names.contains) { return [] }
        for key in table.keys {
            if let inner = table[key]?.table, let rest = restOfName(inner) { return [key] + rest }
        }
        return nil
    }
}

/// A table whose name the operator has chosen.
struct NamedTable<Section> {
    let name: String
    let table: TableReader<Section>
}

/// An element of an array, or the only value where an array is allowed.
struct Element<Value> {
    /// The number of the element, from 0, by which its line is found.
    let number: Int
    let value: Value

    func map<Other>(_ convert: (Value) -> Other) -> Element<Other> { .init(number: number, value: convert(value)) }
}

/// One key of a table with its value. An error in the value is reported, and it then counts as absent.
struct Field {
    /// The value; `nil` if the key is not in the file.
    let value: (any TOMLValueConvertible)?
    let path: [String]
    /// The type and range of the value, as the end of a sentence that begins with "expected".
    let expected: String
    let context: ReadContext

    func report(element: Int? = nil, _ message: String, isTransient: Bool = false) {
        context.report(path, element: element, message, isTransient: isTransient)
    }

    func warn(element: Int? = nil, _ message: String) { context.warn(path, element: element, message) }

    /// Reports what was found instead of what was expected.
    func reportMismatch(element: Int? = nil, found: String? = nil) {
        let found = found.map { "the string \(ReadContext.quoted($0))" } ?? value.map(Self.name) ?? "nothing"
        report(element: element, "expected \(expected), found \(found)")
    }

    /// The value as a string that is not empty.
    var string: String? { value?.string.flatMap { $0.isEmpty ? nil : $0 } }

    /// Whether the value is true, and not missing, false or of another type.
    var isTrue: Bool { value?.bool == true }

    /// The strings of an array, or the only one. An empty array is reported, since it would have the effect of a
    /// missing key, or silently deactivate something.
    var strings: [Element<String>] {
        guard let value else { return [] }
        if let text = value.string { return [Element(number: 0, value: text)] }
        guard let array = value.array else {
            reportMismatch()
            return []
        }
        if array.isEmpty { report("expected \(expected), found an empty array") }
        return (0..<array.count).compactMap { number in
            if let text = array[number].string { return Element(number: number, value: text) }
            report(element: number, "expected \(expected), found \(Self.name(of: array[number]))")
            return nil
        }
    }

    /// The tables in a table by their names, in the order of the file. Any other value is reported.
    func namedTables<Section>(_ schema: Schema<Section>) -> [NamedTable<Section>] {
        guard let outer = value?.table else {
            reportMismatch()
            return []
        }
        var tables: [NamedTable<Section>] = []
        for name in outer.keys {
            guard let value = outer[name] else { continue }
            if let inner = value.table {
                tables.append(
                    NamedTable(name: name, table: TableReader(inner, schema, at: path + [name], context)))
            } else {
                context.report(path + [name], "expected a table, found \(Self.name(of: value))")
            }
        }
        return tables.sorted { (context.line(of: $0.table.path) ?? 0) < (context.line(of: $1.table.path) ?? 0) }
    }

    /// Whether the value is missing, or an empty table, as a lone `[service]` is.
    var isEmpty: Bool { value.map { $0.table?.isEmpty ?? false } ?? true }

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
