import Primitives

/// A file of the public keys that peers may show (RFC 7250), each with a name.
///
/// A key is
/// - a line `NAME sha256:DIGITS`, with the SHA-256 of its SubjectPublicKeyInfo, or
/// - a line `NAME`, and below it the key in PEM ("PUBLIC KEY"). A key in PEM without such a line is called by its SHA-256.
///
/// A name has 1 to ``KnownPublicKey/maximumNameLength`` bytes of UTF-8, and neither spaces nor control characters in it.
/// Several keys may have the same name, as those of a device that gets a new one. Empty lines, and lines that begin with `#`,
/// are ignored.
package enum PublicKeyFile {
    /// An error in a line.
    package typealias Problem = PresharedKeyFile.Problem

    /// - Returns: the keys in the order of the file, and the errors in other lines.
    package static func parse(_ bytes: [UInt8]) -> (keys: [KnownPublicKey], problems: [Problem]) {
        var reader = Reader()
        let text = bytes.starts(with: [0xef, 0xbb, 0xbf]) ? bytes.dropFirst(3) : bytes[...]
        for (index, line) in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            reader.read(line, number: index + 1)
        }
        reader.finish()
        return (reader.keys, reader.problems)
    }

    private struct Reader {
        private(set) var keys: [KnownPublicKey] = []
        private(set) var problems: [Problem] = []
        private var lines: [[UInt8]: Int] = [:]
        /// A name whose key is to follow, and its line.
        private var name: (text: String, line: Int)?
        /// The key in PEM that has begun, and its first line.
        private var block: (text: String, line: Int)?

        private static let expected = "expected NAME sha256:DIGITS, or NAME and a PEM public key below it"

        mutating func read(_ bytes: ArraySlice<UInt8>, number: Int) {
            guard let line = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else {
                return fail(number, "not text; \(Self.expected)")
            }
            let words = line.split { $0 == " " || $0 == "\t" || $0 == "\r" }
            let plain = words.joined(separator: " ")
            if block != nil { return readBlock(plain, number) }
            if plain.isEmpty || plain.hasPrefix("#") { return }
            if plain.hasPrefix("-----BEGIN ") { return begin(plain, number) }
            finish()
            guard words.count <= 2, let first = words.first else {
                return fail(number, "more than two words; \(Self.expected)")
            }
            guard first.utf8.count <= KnownPublicKey.maximumNameLength else {
                return fail(
                    number,
                    "a name of \(first.utf8.count) bytes; expected 1 to \(KnownPublicKey.maximumNameLength) bytes")
            }
            guard first.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f }) else {
                return fail(number, "a control character in the name; \(Self.expected)")
            }
            guard words.count == 2 else {
                name = (String(first), number)
                return
            }
            let prefix = "sha256:"
            guard words[1].lowercased().hasPrefix(prefix),
                let fingerprint = Hexadecimal.fingerprint(Array(words[1].utf8.dropFirst(prefix.utf8.count)))
            else {
                return fail(
                    number,
                    "expected \"sha256:\" and 64 hexadecimal digits after the name, with or without a colon between each"
                        + " two of them")
            }
            add(String(first), fingerprint, number)
        }

        private mutating func begin(_ line: String, _ number: Int) {
            guard line == "-----BEGIN PUBLIC KEY-----" else {
                name = nil
                let advice =
                    line.contains("CERTIFICATE")
                    ? "openssl x509 -noout -pubkey prints that of a certificate"
                    : "openssl pkey -pubout prints that of a private key"
                fail(number, "\(Printable.quoted(line)); expected a PUBLIC KEY (\(advice))")
                // The rest of it is not looked at.
                block = ("", 0)
                return
            }
            block = (line, number)
        }

        private mutating func readBlock(_ line: String, _ number: Int) {
            guard let (text, first) = block else { return }
            guard line.hasPrefix("-----END ") else {
                block = ("\(text)\n\(line)", first)
                return
            }
            block = nil
            guard first > 0 else { return }
            defer { name = nil }
            do throws(OpenSSLError) {
                let fingerprint = try RawPublicKeys.fingerprint(ofPublicKey: "\(text)\n\(line)\n")
                add(name?.text ?? Hexadecimal.text(fingerprint), fingerprint, first)
            } catch { fail(first, "not a valid PEM public key (\(error))") }
        }

        private mutating func add(_ name: String, _ fingerprint: [UInt8], _ line: Int) {
            if let other = lines[fingerprint] {
                return fail(line, "the same key as in line \(other); expected it once")
            }
            lines[fingerprint] = line
            keys.append(KnownPublicKey(name: name, fingerprint: fingerprint))
        }

        private mutating func fail(_ line: Int, _ message: String) {
            problems.append(Problem(line: line, message: message))
        }

        /// Reports a name without a key, or a key without an end.
        mutating func finish() {
            if let block, block.line > 0 {
                fail(block.line, "no line \"-----END PUBLIC KEY-----\" ends this key")
            } else if let name {
                fail(name.line, "no key after the name \(Printable.quoted(name.text)); \(Self.expected)")
            }
            (name, block) = (nil, nil)
        }
    }
}
