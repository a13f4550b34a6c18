import DTLSEngine
import DTLSTransport
import Primitives

/// The keys of `[service.NAME.psk]`.
enum PresharedKeysKey: String, CaseIterable {
    case file, hint
}

/// Reads `[service.NAME.psk]`: the keys that a service's clients may prove themselves with.
enum PresharedKeysReader {
    static func read(_ service: TableReader<ServiceKey>) -> PresharedKeys? {
        guard let table = service.table(.presharedKeys, PresharedKeysKey.self) else { return nil }
        let hint = hint(table)
        guard let keys = table.presharedKeys(.file) else { return nil }
        return PresharedKeys(keys: keys, hint: hint)
    }

    private static func hint(_ table: TableReader<PresharedKeysKey>) -> [UInt8]? {
        let expected = "a text of 1 to \(PresharedKeys.maximumHintLength) bytes"
        guard let hint = table.string(.hint, expected).map({ Array($0.utf8) }) else { return nil }
        if hint.count > PresharedKeys.maximumHintLength {
            table.report(.hint, "expected \(expected), found \(hint.count) bytes")
        }
        return hint
    }
}

extension TableReader {
    /// The identities and keys of a file that others than its owner must not read; at least one.
    func presharedKeys(_ key: Key) -> [PresharedKey]? {
        let expected = "the path of a file of identities and keys, as psktool writes it"
        require(key, expected)
        guard let bytes = contents(key, expected, secrecy: .owner, maximumSize: Self.maximumSize) else { return nil }
        let (keys, problems) = PresharedKeyFile.parse(bytes)
        for problem in problems.prefix(Self.problemsShown) {
            report(key, "\(named(key)), line \(problem.line): \(problem.message)")
        }
        if problems.count > Self.problemsShown {
            report(key, "\(named(key)): \(problems.count - Self.problemsShown) more lines like these")
        }
        if keys.isEmpty, problems.isEmpty {
            report(key, "\(named(key)) has no line IDENTITY:KEY; expected one or more")
        }
        return keys.isEmpty ? nil : keys
    }

    private static var problemsShown: Int { 10 }

    /// Some 300,000 devices.
    private static var maximumSize: Int { 16 * FileContents.maximumSize }
}
