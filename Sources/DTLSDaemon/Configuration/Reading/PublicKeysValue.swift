import DTLSEngine
import Primitives

extension ValueType where Value == KnownPublicKeys {
    /// The size limit, which is enough for 100,000 devices and more.
    private static var maximumSize: Int { 16 * FileContents.maximumSize }

    /// A file of raw public keys (RFC 7250). It has one at least that can be used.
    static var publicKeys: Self {
        let name = ValueType<String>.string(
            "the path of a file of public keys, in PEM or as NAME sha256:DIGITS in each line")
        return Self(name.expected) { field in
            guard let name = name.read(field), let bytes = field.contents(name, maximumSize: maximumSize) else {
                return nil
            }
            let (keys, problems) = PublicKeyFile.parse(bytes)
            field.tell(of: problems, in: name, isUsable: !keys.isEmpty)
            if keys.isEmpty, problems.isEmpty {
                field.report("\(ReadContext.quoted(name)) has no key; expected one or more, as NAME sha256:DIGITS")
            }
            return keys.isEmpty ? nil : KnownPublicKeys(keys)
        }
    }
}
