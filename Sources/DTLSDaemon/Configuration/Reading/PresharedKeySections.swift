import DTLSEngine
import Primitives

/// The table `[service.NAME.psk]`: the keys by which clients can authenticate.
extension PresharedKeys {
    static let schema = Schema<Self> {
        Key(
            "file", \.keys, .presharedKeys, isRequired: { _ in true },
            doc: "The file of identities and keys, one IDENTITY:KEY in each line.")
        Key("hint", \.hint, .hint, doc: "The PSK identity hint, which clients get before they choose their identity.")
    }
}

/// The table `[client.NAME.psk]`: the key that a client shares with its server.
struct TunnelPresharedKeySection {
    fileprivate var keys: [PresharedKey] = []
    fileprivate var identity: String?

    static let schema = Schema<Self> {
        Key(
            "file", \.keys, .presharedKeys, isRequired: { _ in true },
            doc: "The file of identities and keys, in the format of [service.NAME.psk].")
        Key(
            "identity", \.identity, .string("one of the identities in the file"),
            default: "none; the file contains only one", doc: "The identity in the file that the client uses.")
    }

    func key(_ table: TableReader<Self>) -> PresharedKey? {
        guard !keys.isEmpty else { return nil }
        let expected = "one of the identities in \(table.field(\.keys).quotedName())"
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

extension ValueType where Value == [PresharedKey] {
    private static var problemsShown: Int { 10 }

    /// The size limit, which is enough for about 300,000 devices.
    private static var maximumSize: Int { 16 * FileContents.maximumSize }

    /// The identities and keys of a file with secrets; at least one.
    fileprivate static var presharedKeys: Self {
        let name = ValueType<String>.string("the path of a file of identities and keys, as psktool writes it")
        return Self(name.expected) { field in
            guard let name = name.read(field),
                let bytes = field.contents(name, isSecret: true, maximumSize: maximumSize)
            else { return nil }
            let (keys, problems) = PresharedKeyFile.parse(bytes)
            let file = ReadContext.quoted(name)
            for problem in problems.prefix(problemsShown) {
                field.report("\(file), line \(problem.line): \(problem.message)")
            }
            if problems.count > problemsShown {
                field.report(
                    "\(file): \(counted(problems.count - problemsShown, "more line like this", "more lines like these"))"
                )
            }
            if keys.isEmpty, problems.isEmpty {
                field.report("\(file) has no line IDENTITY:KEY; expected one or more")
            }
            return keys.isEmpty ? nil : keys
        }
    }
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
