/// The keys of one kind of table: a section of the configuration file, such as `[service.NAME.socket]`. It is the one
/// description of these keys: reading them, the words for a key that is unknown, and the manual come from it.
///
/// A new key is a line in its section's schema and the property of the model that the line names.
struct Schema<Section>: Sendable {
    let keys: [Key<Section>]
    private let check: @Sendable (TableReader<Section>, inout Section) -> Void

    /// - Parameters:
    ///   - keys: in the order in which the manual lists them.
    ///   - check: looks at values that have to fit together, after all of them have been read.
    init(
        @KeyList<Section> _ keys: () -> [Key<Section>],
        check: @escaping @Sendable (TableReader<Section>, inout Section) -> Void = { _, _ in }
    ) {
        self.keys = keys()
        self.check = check
    }

    var names: [String] { keys.map(\.name) }

    func key(of property: PartialKeyPath<Section>) -> Key<Section>? {
        keys.first { ($0.property as PartialKeyPath<Section>) == property }
    }

    /// The spelling of the key that sets a property; empty where none does.
    func name(of property: PartialKeyPath<Section>) -> String { key(of: property)?.name ?? "" }

    /// Reads what `table` holds into `section`, whose values stay where there is no key, or one that is wrong. Reports
    /// unknown keys, wrong values, missing keys, and what does not fit together.
    func read(_ table: TableReader<Section>, into section: inout Section) {
        table.reportUnknownKeys()
        for key in keys {
            if key.isRequired(table) { table.require(key.property) }
            if table.has(key.property) { key.read(&section, table.field(key.property)) }
        }
        check(table, &section)
    }
}

@resultBuilder enum KeyList<Section> {
    static func buildExpression(_ key: Key<Section>) -> Key<Section> { key }
    static func buildBlock(_ keys: Key<Section>...) -> [Key<Section>] { keys }
}

/// One key of a section.
struct Key<Section>: Sendable {
    /// Its spelling in the file.
    let name: String
    /// The property of the section that it sets. Checks name the key by it.
    let property: any PartialKeyPath<Section> & Sendable
    /// What the value has to be, as the end of a sentence that begins with "expected": type and range.
    let expected: String
    /// One line for the manual.
    let documentation: String
    fileprivate let isRequired: @Sendable (TableReader<Section>) -> Bool
    fileprivate let read: @Sendable (inout Section, Field) -> Void
    /// What holds without the key, in the spelling of the file; `nil`: nothing does.
    fileprivate let defaultText: @Sendable (Section) -> String?
    /// The sections of a key that is a table.
    fileprivate let subsections: (@Sendable (Section, [String]) -> [SectionDescription])?

    /// A key whose default is the value that the property has in a new section.
    init<Value>(
        _ name: String, _ property: any WritableKeyPath<Section, Value> & Sendable, _ type: ValueType<Value>,
        isRequired: @escaping @Sendable (TableReader<Section>) -> Bool = { _ in false }, default text: String? = nil,
        doc: String
    ) {
        self.name = name
        self.property = property
        expected = type.expected
        documentation = doc
        self.isRequired = isRequired
        read = { section, field in
            if let value = type.read(field) { section[keyPath: property] = value }
        }
        defaultText = { text ?? type.text($0[keyPath: property]) }
        subsections = nil
    }

    /// A key without which the property is `nil`.
    /// - Parameter text: what that means.
    init<Value>(
        _ name: String, _ property: any WritableKeyPath<Section, Value?> & Sendable, _ type: ValueType<Value>,
        isRequired: @escaping @Sendable (TableReader<Section>) -> Bool = { _ in false }, default text: String = "none",
        doc: String
    ) {
        self.name = name
        self.property = property
        expected = type.expected
        documentation = doc
        self.isRequired = isRequired
        read = { section, field in
            if let value = type.read(field) { section[keyPath: property] = value }
        }
        defaultText = { $0[keyPath: property].flatMap(type.text) ?? text }
        subsections = nil
    }

    /// A table inside the section's table.
    init<Inner>(
        table name: String, _ property: any WritableKeyPath<Section, Inner> & Sendable, _ schema: Schema<Inner>,
        doc: String
    ) {
        self.name = name
        self.property = property
        expected = ValueType<Inner>.expectedTable
        documentation = doc
        isRequired = { _ in false }
        read = { section, field in
            guard let table = TableReader(field, schema) else { return }
            schema.read(table, into: &section[keyPath: property])
        }
        defaultText = { _ in nil }
        subsections = { section, path in schema.description(of: section[keyPath: property], at: path + [name]) }
    }

    /// Tables with names that the operator chooses, `[service.NAME]`. They are found here, and read by whoever has what
    /// they need besides.
    /// - Parameters:
    ///   - placeholder: what stands for a name in the manual.
    ///   - initial: a section without any key, for the manual.
    init<Inner>(
        tables name: String, _ property: any WritableKeyPath<Section, [NamedTable<Inner>]> & Sendable,
        _ placeholder: String, _ schema: Schema<Inner>, initial: @escaping @Sendable () -> Inner, doc: String
    ) {
        self.name = name
        self.property = property
        expected = ValueType<Inner>.expectedTable
        documentation = doc
        isRequired = { _ in false }
        read = { section, field in section[keyPath: property] = field.namedTables(schema) }
        defaultText = { _ in nil }
        subsections = { _, path in schema.description(of: initial(), at: path + [name, placeholder]) }
    }
}

// MARK: The manual

/// A section for the manual.
struct SectionDescription: Equatable {
    /// Empty for the keys before the first table.
    var path: [String]
    var keys: [KeyDescription]

    /// `[service.NAME.socket]`
    var title: String { "[\(path.joined(separator: "."))]" }
}

/// A key for the manual.
struct KeyDescription: Equatable {
    var name: String
    /// Type and range.
    var type: String
    /// As the file writes it, or in words; `nil` where there is none, and for a table.
    var defaultText: String?
    var documentation: String
    /// Whether it is a table, which has a description of its own.
    var isTable: Bool
}

extension Schema {
    /// The section and those in it, with the values of `initial` for their defaults.
    func description(of initial: Section, at path: [String] = []) -> [SectionDescription] {
        let own = SectionDescription(
            path: path,
            keys: keys.map { key in
                KeyDescription(
                    name: key.name, type: key.expected, defaultText: key.defaultText(initial),
                    documentation: key.documentation, isTable: key.subsections != nil)
            })
        return [own] + keys.flatMap { $0.subsections?(initial, path) ?? [] }
    }
}
