import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Which files with secrets are refused: those that every user of the machine may use. A group may, as that of a container
/// (Kubernetes gives a file of a Secret to root, and lets a container of another user read it as a member of the group
/// `fsGroup` alone), and that of a service which systemd lets read a credential by an ACL, whose mask appears as the
/// permission of the group.
private enum SecretFile {
    /// The permissions that the file may not have.
    static let forbidden: mode_t = 0o007
}

/// The files that a key names. An error in a file is reported, and the file then counts as absent.
extension Field {
    /// The quoted name of one of the files, or of the only one, for messages.
    func quotedName(_ name: String? = nil) -> String { ReadContext.quoted(name ?? string ?? "the file") }

    /// The contents of a file.
    /// - Parameters:
    ///   - isSecret: whether a file that every user of the machine may use is refused.
    ///   - isWatched: false for a file that is looked after otherwise.
    func contents(
        _ name: String, element: Int? = nil, isSecret: Bool = false, isWatched: Bool = true,
        maximumSize: Int = FileContents.maximumSize
    ) -> [UInt8]? {
        // Before it is read, so that no change is missed.
        if isWatched { watch(name, element: element) }
        do throws(UnreadableFile) {
            let file = try context.files.read(name, maximumSize: maximumSize)
            if !NamedFiles.isCredential(name) {
                context.filesRead.append((context.files.path(of: name), path, element))
            }
            if isSecret, file.permissions & SecretFile.forbidden != 0 {
                let fault =
                    "every user may use \(ReadContext.quoted(name)) (mode \(String(file.permissions, radix: 8)))"
                if context.allowsWorldReadableSecrets {
                    warn(element: element, "\(fault), and allow_world_readable_secrets = true lets that be")
                } else {
                    report(element: element, "\(fault); expected mode 600 or 640: chmod 600")
                }
            }
            return file.bytes
        } catch {
            report(element: element, "\(error.message); expected \(expected)")
            return nil
        }
    }

    /// Has the file's changes reported, where the configuration says so. Credentials of systemd are copies, which only
    /// `systemctl reload` changes.
    private func watch(_ name: String, element: Int?) {
        guard context.watchesCredentials, let watcher = context.credentialWatcher, !NamedFiles.isCredential(name) else {
            return
        }
        do throws(SystemError) { try watcher.add(context.files.path(of: name)) } catch {
            warn(
                element: element,
                "\(ReadContext.quoted(name)) cannot be watched (\(error)); it is read again with the next reload alone")
        }
    }

    /// The text of a PEM file.
    func pem(
        _ name: String, element: Int? = nil, isSecret: Bool = false, maximumSize: Int = FileContents.maximumSize
    ) -> String? {
        guard let bytes = contents(name, element: element, isSecret: isSecret, maximumSize: maximumSize) else {
            return nil
        }
        guard let text = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else {
            report(
                element: element,
                "\(ReadContext.quoted(name)) is not text; expected \(expected)"
                    + " (`openssl x509` or `pkey` convert DER to PEM)")
            return nil
        }
        return text
    }

    /// The first line of a file that holds a secret.
    func secretLine(_ name: String, element: Int? = nil) -> String? {
        guard let bytes = contents(name, element: element, isSecret: true) else { return nil }
        // The byte order mark that some editors write at the start of a text is no part of the passphrase.
        let text = bytes.starts(with: [0xef, 0xbb, 0xbf]) ? bytes.dropFirst(3) : bytes[...]
        let line = text.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        guard !line.isEmpty, !line.contains(0), let text = String(validating: line, as: UTF8.self) else {
            report(
                element: element,
                "the first line of \(ReadContext.quoted(name)) is empty or not text; expected \(expected)")
            return nil
        }
        return text
    }

    /// Warns about a certificate whose key next to no peer takes.
    /// - Parameter text: PEM, the certificate first.
    func warnOfKey(in text: String, element: Int? = nil, named name: String? = nil, _ consequence: String) {
        guard let fault = (try? OwnCertificate(pem: text))?.rareKey else { return }
        warn(element: element, "\(quotedName(name)): the certificate \(fault); \(consequence)")
    }

    /// Warns about certificates of a PEM text that have expired or are not valid yet.
    /// - Parameter consequence: what happens because of that, for the message.
    func warnOfDates(in text: String, element: Int? = nil, named name: String? = nil, _ consequence: String) {
        guard let certificates = try? CertificateList(pem: text) else { return }
        for complaint in certificates.outOfDate {
            warn(element: element, "\(quotedName(name)): \(complaint); \(consequence)")
        }
    }
}

extension ValueType where Value == String {
    /// The text of a PEM file.
    static func pem(_ expected: String, isSecret: Bool = false) -> Self {
        let name = string(expected)
        return Self(expected) { field in name.read(field).flatMap { field.pem($0, isSecret: isSecret) } }
    }

    /// The first line of a file that holds a secret.
    static func secretLine(_ expected: String) -> Self {
        let name = string(expected)
        return Self(expected) { field in name.read(field).flatMap { field.secretLine($0) } }
    }
}

extension ValueType where Value == [UInt8] {
    /// The bytes of a file with a secret.
    static func secretFile(_ expected: String, ofSize sizes: ClosedRange<Int>) -> Self {
        let name = ValueType<String>.string(expected)
        return Self(expected) { field in
            guard let bytes = name.read(field).flatMap({ field.contents($0, isSecret: true) }) else { return nil }
            if sizes.contains(bytes.count) { return bytes }
            field.report("expected \(expected), found \(counted(bytes.count, "byte"))")
            return nil
        }
    }
}
