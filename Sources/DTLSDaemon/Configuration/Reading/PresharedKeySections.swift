import DTLSEngine
import Primitives

/// The table `[service.NAME.psk]`: the keys by which clients can authenticate.
struct PresharedKeysSection {
    private(set) var settings = PresharedKeys(keys: [])
    fileprivate var file: PresharedKeyText?
    private(set) var minimumLength = PresharedKeyFile.minimumKeyLength

    static let schema = Schema<Self> {
        Key(
            "file", \.file, .presharedKeys, default: "none; with authorize, the answers have the keys",
            doc: "The file of identities and keys, one IDENTITY:KEY in each line.")
        Key(
            "hint", \.settings.hint, .hint,
            doc: "The PSK identity hint, which clients get before they choose their identity.")
        Key(
            "minimum_key_bytes", \.minimumLength, .minimumKeyBytes,
            doc: "The bytes of the shortest key that is accepted.")
    } check: { table, section in
        section.settings.keys = section.file?.keys(atLeast: section.minimumLength, table.field(\.file)) ?? []
    }
}

extension TableReader<PresharedKeysSection> {
    /// Reports that there are no keys, where nobody can be asked for them.
    func requireFile() { require(\.file) }
}

/// The table `[client.NAME.psk]`: the key that a client shares with its server.
struct TunnelPresharedKeySection {
    fileprivate var keys: [PresharedKey] = []
    fileprivate var file: PresharedKeyText?
    fileprivate var identity: String?
    fileprivate var minimumLength = PresharedKeyFile.minimumKeyLength

    static let schema = Schema<Self> {
        Key(
            "file", \.file, .presharedKeys, isRequired: { _ in true },
            doc: "The file of identities and keys, in the format of [service.NAME.psk].")
        Key(
            "identity", \.identity, .string("one of the identities in the file"),
            default: "none; the file contains only one", doc: "The identity in the file that the client uses.")
        Key(
            "minimum_key_bytes", \.minimumLength, .minimumKeyBytes,
            doc: "The bytes of the shortest key that is accepted.")
    } check: { table, section in
        section.keys = section.file?.keys(atLeast: section.minimumLength, table.field(\.file)) ?? []
    }

    func key(_ table: TableReader<Self>) -> PresharedKey? {
        guard !keys.isEmpty else { return nil }
        let expected = "one of the identities in \(table.field(\.file).quotedName())"
        guard let identity else {
            if keys.count > 1, !table.has(\.identity) { table.report(\.identity, "missing; expected \(expected)") }
            return keys.first
        }
        if let key = keys.first(where: { $0.identity == Array(identity.utf8) }) { return key }
        // One that is not UTF-8 is written as the file has it.
        let hexadecimal = identity.lowercased()
        if identity.hasPrefix("#"), let key = keys.first(where: { PresharedKeys.text(of: $0.identity) == hexadecimal })
        {
            return key
        }
        table.report(\.identity, "expected \(expected), found the string \(ReadContext.quoted(identity))")
        return nil
    }
}

/// A file of identities and keys that has been read and not parsed yet, since another key says how short a key may be.
private struct PresharedKeyText: Sendable {
    let name: String
    let bytes: [UInt8]

    /// The keys of the file; none where the file has none that can be used, which is reported.
    func keys(atLeast minimumLength: Int, _ field: Field) -> [PresharedKey] {
        let (keys, problems) = PresharedKeyFile.parse(bytes, minimumKeyLength: minimumLength)
        let file = ReadContext.quoted(name)
        field.tell(of: problems, in: name, isUsable: !keys.isEmpty)
        if keys.isEmpty, problems.isEmpty {
            field.report("\(file) has no line IDENTITY:KEY; expected one or more")
        }
        warnOfShortKeys(keys, file, field)
        return keys
    }

    private func warnOfShortKeys(_ keys: [PresharedKey], _ file: String, _ field: Field) {
        let recommended = PresharedKeyFile.minimumKeyLength
        let short = keys.count { $0.key.count < recommended }
        guard short > 0 else { return }
        field.warn(
            "\(file): \(counted(short, "key has", "keys have")) fewer than \(recommended) bytes, as minimum_key_bytes allows;"
                + " expected \(recommended) or more, since who has recorded a handshake can try all short keys")
    }
}

extension Field {
    private static let problemsShown = 10

    /// Reports what is wrong with lines of a file of keys.
    ///
    /// A line that is wrong is skipped, with a warning, where others can be used: it must not keep the devices of all other
    /// lines out.
    func tell(of problems: [PresharedKeyFile.Problem], in name: String, isUsable: Bool) {
        let file = ReadContext.quoted(name)
        func tell(_ message: String) { if isUsable { warn(message) } else { report(message) } }
        let consequence = isUsable ? "; the line is skipped" : ""
        for problem in problems.prefix(Self.problemsShown) {
            tell("\(file), line \(problem.line): \(problem.message)\(consequence)")
        }
        if problems.count > Self.problemsShown {
            let others = counted(problems.count - Self.problemsShown, "more line like this", "more lines like these")
            tell("\(file): \(others)")
        }
    }
}

extension ValueType where Value == PresharedKeyText {
    /// The size limit, which is enough for about 300,000 devices.
    private static var maximumSize: Int { 16 * FileContents.maximumSize }

    fileprivate static var presharedKeys: Self {
        let name = ValueType<String>.string("the path of a file of identities and keys, as psktool writes it")
        return Self(name.expected) { field in
            guard let name = name.read(field),
                let bytes = field.contents(name, isSecret: true, maximumSize: maximumSize)
            else { return nil }
            return PresharedKeyText(name: name, bytes: bytes)
        }
    }
}

extension ValueType where Value == Int {
    /// A longer minimum than the recommended one is for those whose policy asks for it.
    fileprivate static var minimumKeyBytes: Self { .integer(1...64, "an integer of bytes") }
}

extension ValueType where Value == [UInt8] {
    fileprivate static var hint: Self {
        let text = ValueType<String>.string("a text of 1 to \(PresharedKeys.maximumHintLength) bytes")
        return Self(text.expected) { field in
            guard let hint = text.read(field).map({ Array($0.utf8) }) else { return nil }
            if hint.count > PresharedKeys.maximumHintLength {
                field.report("expected \(text.expected), found \(counted(hint.count, "byte"))")
            }
            return hint
        }
    }
}
