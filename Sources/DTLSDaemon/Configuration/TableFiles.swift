import DTLSEngine
import Glibc

/// Who may have access to a file that holds a secret.
enum Secrecy {
    /// Its owner and its group.
    case ownerAndGroup
    /// Its owner alone.
    case owner

    /// systemd gives a credential to a dynamic user with an ACL, whose mask shows as the group's permission.
    fileprivate func forbidden(_ name: String) -> mode_t {
        self == .ownerAndGroup || NamedFiles.isCredential(name) ? 0o007 : 0o077
    }

    fileprivate var complaint: String { self == .ownerAndGroup ? "every user" : "others than its owner" }
    fileprivate var expected: String { self == .ownerAndGroup ? "mode 600 or 640" : "mode 600" }
}

/// The files that a table's keys name. What is wrong with one is reported, and then it counts as absent.
extension TableReader {
    /// A file's bytes.
    /// - Parameters:
    ///   - expected: what the file is, for messages.
    ///   - secrecy: `nil` where everybody may read it.
    func contents(
        _ key: Key, _ expected: String, secrecy: Secrecy? = nil, maximumSize: Int = FileContents.maximumSize
    ) -> [UInt8]? {
        guard let name = string(key, expected) else { return nil }
        return contents(key, named: name, expected, secrecy: secrecy, maximumSize: maximumSize)
    }

    /// The bytes of one of the files that a key names.
    func contents(
        _ key: Key, element: Int? = nil, named name: String, _ expected: String, secrecy: Secrecy? = nil,
        maximumSize: Int = FileContents.maximumSize
    ) -> [UInt8]? {
        do throws(UnreadableFile) {
            let file = try reading.files.read(name, maximumSize: maximumSize)
            if let secrecy, file.permissions & secrecy.forbidden(name) != 0 {
                let mode = String(file.permissions, radix: 8)
                report(
                    key, element: element,
                    "\(secrecy.complaint) may use \(ReadContext.quoted(name)) (mode \(mode)); "
                        + "expected \(secrecy.expected): chmod 600")
            }
            return file.bytes
        } catch {
            report(key, element: element, "\(error.message); expected \(expected)")
            return nil
        }
    }

    /// A PEM file's text.
    func pem(_ key: Key, _ expected: String, secrecy: Secrecy? = nil) -> String? {
        guard let name = string(key, expected) else { return nil }
        return pem(key, named: name, expected, secrecy: secrecy)
    }

    /// The text of one of the PEM files that a key names.
    func pem(
        _ key: Key, element: Int? = nil, named name: String, _ expected: String, secrecy: Secrecy? = nil,
        maximumSize: Int = FileContents.maximumSize
    ) -> String? {
        guard
            let bytes = contents(
                key, element: element, named: name, expected, secrecy: secrecy, maximumSize: maximumSize)
        else { return nil }
        guard let text = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else {
            report(
                key, element: element,
                "\(ReadContext.quoted(name)) is not text; expected \(expected)"
                    + " (`openssl x509` or `pkey` make it of DER)")
            return nil
        }
        return text
    }

    /// The first line of a file that holds a secret.
    func secretLine(_ key: Key, _ expected: String) -> String? {
        guard let name = string(key, expected) else { return nil }
        return secretLine(key, named: name, expected)
    }

    /// The first line of one of the files that a key names.
    func secretLine(_ key: Key, element: Int? = nil, named name: String, _ expected: String) -> String? {
        guard let bytes = contents(key, element: element, named: name, expected, secrecy: .ownerAndGroup) else {
            return nil
        }
        let line = bytes.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        guard !line.isEmpty, !line.contains(0), let text = String(validating: line, as: UTF8.self) else {
            report(
                key, element: element,
                "the first line of \(ReadContext.quoted(name)) is empty or not text; expected \(expected)")
            return nil
        }
        return text
    }

    /// The file that a key names, as the configuration has it.
    func named(_ key: Key) -> String { ReadContext.quoted(string(key, "") ?? "the file") }

    /// Warns of the certificates of a PEM text that are not valid now.
    /// - Parameter consequence: what comes of it.
    func warnOfDates(
        in text: String, _ key: Key, element: Int? = nil, named name: String? = nil, _ consequence: String
    ) {
        guard let certificates = try? CertificateList(pem: text) else { return }
        let file = name.map(ReadContext.quoted) ?? named(key)
        for complaint in certificates.outOfDate {
            warn(key, element: element, "\(file): \(complaint); \(consequence)")
        }
    }
}
