import TOMLKit

/// The keys of one kind of table: a section of the configuration file, such as `[service.NAME.socket]`. It is the only
/// description of these keys. Reading them, the messages about unknown keys, and the manual are derived from it.
///
/// A new key is a line in its section's schema and the property of the model that the line names.
struct Schema<Section>: Sendable {
    let keys: [Key<Section>]
    private let check: @Sendable (TableReader<Section>, inout Section) -> Void

    /// - Parameters:
    ///   - keys: in the order in which the manual lists them.
    ///   - check: checks values that depend on one another, after all of them have been read.
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

    /// The name of the key that sets a property; empty if there is none.
    func name(of property: PartialKeyPath<Section>) -> String { key(of: property)?.name ?? "" }

    /// Reads `table` into `section`. A value of the section stays as it is if its key is absent or has an error.
    /// Reports unknown keys, wrong values, missing keys, and values that contradict one another.
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
    /// The name of the key in the file.
    let name: String
    /// The property of the section that the key sets. Checks refer to the key by it.
    let property: any PartialKeyPath<Section> & Sendable
    /// The type and range of the value, as the end of a sentence that begins with "expected".
    let expected: String
    /// The description of the key in the manual, one sentence.
    let documentation: String
    fileprivate let isRequired: @Sendable (TableReader<Section>) -> Bool
    fileprivate let read: @Sendable (inout Section, Field) -> Void
    /// The default as the file would write it, or in words; `nil`: there is none.
    fileprivate let defaultText: @Sendable (Section) -> String?
    /// The sections below a key that is a table.
    fileprivate let subsections: (@Sendable (Section, [String]) -> [SectionDescription])?

    private init(
        _ name: String, _ property: any PartialKeyPath<Section> & Sendable, expected: String, doc: String,
        isRequired: @escaping @Sendable (TableReader<Section>) -> Bool = { _ in false },
        default text: @escaping @Sendable (Section) -> String? = { _ in nil },
        subsections: (@Sendable (Section, [String]) -> [SectionDescription])? = nil,
        read: @escaping @Sendable (inout Section, Field) -> Void
    ) {
        self.name = name
        self.property = property
        self.expected = expected
        documentation = doc
        self.isRequired = isRequired
        self.read = read
        defaultText = text
        self.subsections = subsections
    }

    /// Describes a key whose default is the value of its property in a new section.
    init<Value>(
        _ name: String, _ property: any WritableKeyPath<Section, Value> & Sendable, _ type: ValueType<Value>,
        isRequired: @escaping @Sendable (TableReader<Section>) -> Bool = { _ in false }, default text: String? = nil,
        doc: String
    ) {
        self.init(
            name, property, expected: type.expected, doc: doc, isRequired: isRequired,
            default: { text ?? type.text($0[keyPath: property]) },
            read: { section, field in
                if let value = type.read(field) { section[keyPath: property] = value }
            })
    }

    /// Describes a key without which its property is `nil`.
    /// - Parameter text: the meaning of that, for the manual.
    init<Value>(
        _ name: String, _ property: any WritableKeyPath<Section, Value?> & Sendable, _ type: ValueType<Value>,
        isRequired: @escaping @Sendable (TableReader<Section>) -> Bool = { _ in false }, default text: String = "none",
        doc: String
    ) {
        let optional = ValueType<Value?>(
            type.expected, text: { $0.flatMap(type.text) ?? text }, read: { type.read($0).map(Optional.some) })
        self.init(name, property, optional, isRequired: isRequired, doc: doc)
    }

    /// Describes a table inside the section's table.
    init<Inner>(
        table name: String, _ property: any WritableKeyPath<Section, Inner> & Sendable, _ schema: Schema<Inner>,
        doc: String
    ) {
        self.init(
            name, property, expected: ValueType<Inner>.expectedTable, doc: doc,
            subsections: { section, path in schema.description(of: section[keyPath: property], at: path + [name]) },
            read: { section, field in
                guard let table = TableReader(field, schema) else { return }
                schema.read(table, into: &section[keyPath: property])
            })
    }

    /// Describes a table inside the section's table for which a string may stand: the value of one of its keys, where the
    /// others have their defaults.
    init<Inner, Value>(
        table name: String, _ property: any WritableKeyPath<Section, Inner> & Sendable, _ schema: Schema<Inner>,
        orOnly inner: any WritableKeyPath<Inner, Value?> & Sendable, _ type: ValueType<Value>, doc: String
    ) {
        self.init(
            name, property, expected: "\(type.expected), or \(ValueType<Inner>.expectedTable)", doc: doc,
            subsections: { section, path in schema.description(of: section[keyPath: property], at: path + [name]) },
            read: { section, field in
                if field.value?.table == nil {
                    if let value = type.read(field) { section[keyPath: property][keyPath: inner] = value }
                } else if let table = TableReader(field, schema) {
                    schema.read(table, into: &section[keyPath: property])
                }
            })
    }

    /// Describes tables whose names the operator chooses, such as `[service.NAME]`. This key only finds them; the
    /// caller, which has the other values that they need, reads them.
    /// - Parameters:
    ///   - placeholder: the placeholder for a name in the manual.
    ///   - initial: a section without any key, for the manual.
    init<Inner>(
        tables name: String, _ property: any WritableKeyPath<Section, [NamedTable<Inner>]> & Sendable,
        _ placeholder: String, _ schema: Schema<Inner>, initial: @escaping @Sendable () -> Inner, doc: String
    ) {
        self.init(
            name, property, expected: ValueType<Inner>.expectedTable, doc: doc,
            subsections: { _, path in schema.description(of: initial(), at: path + [name, placeholder]) },
            read: { section, field in section[keyPath: property] = field.namedTables(schema) })
    }
}

// MARK: The manual

/// What the man page dtlsd.toml(5) is made from.
package enum ConfigurationManual {
    /// All sections of the configuration file, in the order of the page.
    package static let sections = MainSection.schema.description(of: MainSection())
}

/// The description of a section in the manual.
package struct SectionDescription: Equatable, Sendable {
    /// The path of the table; empty for the keys before the first table.
    package var path: [String]
    package var keys: [KeyDescription]

    /// `[service.NAME.socket]`
    package var title: String { "[\(path.joined(separator: "."))]" }
}

/// The description of a key in the manual.
package struct KeyDescription: Equatable, Sendable {
    package var name: String
    /// The type and range of the value.
    package var type: String
    /// The default as the file would write it, or in words; `nil` if there is none, and for a table.
    package var defaultText: String?
    package var documentation: String
    /// Whether the key is a table, which has its own description.
    package var isTable: Bool
}

extension Schema {
    /// The section and the sections in it, with the values of `initial` as their defaults.
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
