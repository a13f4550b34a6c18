import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// The keys of a table that holds certificates: a service's, or a name's.
protocol CertificateTableKey: RawRepresentable<String>, CaseIterable {
    static var certificate: Self { get }
    static var privateKey: Self { get }
    static var passphraseFile: Self { get }
    static var staple: Self { get }
}

extension ServiceKey: CertificateTableKey {}
extension NameKey: CertificateTableKey {}

/// Reads the certificates of one table with their keys, and tries each out: makes the engine's context of it once.
struct CertificatesReader<Key: CertificateTableKey> {
    let table: TableReader<Key>
    /// Versions and cipher suites, with which comes OpenSSL's security level: it judges certificates too.
    let policy: ServerSettings

    /// A certificate that is good, and where it stands.
    struct Found {
        var element: Int
        var file: String
        var key: CertifiedKey
    }

    private typealias Name = (element: Int, text: String)

    /// - Parameters:
    ///   - service: the service's name.
    ///   - host: the name (SNI) that the table is for.
    /// - Returns: the certificates of the table in their order, or `nil` when one of them cannot be used. What is not
    ///   there at all is not reported.
    func read(service: String, host: String? = nil) -> [Found]? {
        let certificates = names(.certificate, CertificateExpectation.certificate)
        let keys = names(.privateKey, CertificateExpectation.privateKey)
        let passphraseFiles = names(.passphraseFile, CertificateExpectation.passphrase)
        let passphrases = passphrases(in: passphraseFiles, for: certificates.count)
        checkCount(of: keys, for: certificates)
        var found: [Found] = []
        for index in 0..<max(certificates.count, keys.count) {
            let certificate = certificates.dropFirst(index).first
            let key = keys.dropFirst(index).first
            let texts = (
                certificate: certificate.flatMap { read(.certificate, $0, CertificateExpectation.certificate) },
                key: key.flatMap { read(.privateKey, $0, CertificateExpectation.privateKey, secrecy: .ownerAndGroup) }
            )
            guard let certificate, let key, let certificateText = texts.certificate, let keyText = texts.key,
                let passphrases
            else { continue }
            let certified = CertifiedKey(
                certificate: certificateText, privateKey: keyText, passphrase: passphrases[index])
            let passphraseFile =
                passphraseFiles.count == 1 ? passphraseFiles[0] : passphraseFiles.dropFirst(index).first
            if tryOut(certified, certificate, key, passphraseFile) {
                found.append(Found(element: certificate.element, file: certificate.text, key: certified))
            }
        }
        let isWhole = !found.isEmpty && found.count == max(certificates.count, keys.count)
        // Before anything else is given up, so that all that is wrong is reported.
        readStaples(into: &found, service, host)
        guard checkKinds(found), isWhole else { return nil }
        for item in found {
            table.warnOfDates(
                in: item.key.certificate, .certificate, element: item.element, named: item.file,
                "clients that check it will refuse it")
        }
        return found
    }

    /// The files that a key names: one, or several in an array.
    private func names(_ key: Key, _ expected: String) -> [Name] {
        let names = table.strings(key, expected)
        for name in names where name.text.isEmpty {
            table.report(key, element: name.element, "expected \(expected), found the string \"\"")
        }
        return names.filter { !$0.text.isEmpty }
    }

    private func read(_ key: Key, _ name: Name, _ expected: String, secrecy: Secrecy? = nil) -> String? {
        table.pem(key, element: name.element, named: name.text, expected, secrecy: secrecy)
    }

    private func checkCount(of keys: [Name], for certificates: [Name]) {
        guard !keys.isEmpty, !certificates.isEmpty, keys.count != certificates.count else { return }
        table.report(
            .privateKey,
            "\(keys.count) private keys for \(certificates.count) certificates; "
                + "expected the key of each certificate, in the same order")
    }

    /// A passphrase for each certificate, or the only one for all; `nil` when there is something wrong.
    private func passphrases(in files: [Name], for count: Int) -> [String?]? {
        guard table.has(.passphraseFile) else { return Array(repeating: nil, count: count) }
        let texts = files.map { name in
            table.secretLine(
                .passphraseFile, element: name.element, named: name.text, CertificateExpectation.passphrase)
        }
        guard !texts.isEmpty, texts.allSatisfy({ $0 != nil }) else { return nil }
        if texts.count == 1 { return Array(repeating: texts[0], count: count) }
        guard texts.count == count else {
            table.report(
                .passphraseFile,
                "\(texts.count) passphrase files for \(count) certificates; expected one for all keys, or one for each")
            return nil
        }
        return texts
    }

    /// - Returns: whether certificate and key can be used.
    private func tryOut(
        _ key: CertifiedKey, _ certificate: Name, _ privateKey: Name, _ passphraseFile: Name?
    ) -> Bool {
        func report(_ place: Key, _ name: Name?, _ reason: String, _ expected: String) {
            let file = name.map { ReadContext.quoted($0.text) } ?? "the file"
            table.report(place, element: name?.element, "\(file): \(reason); expected \(expected)")
        }
        do throws(CredentialsError) {
            try tryOut(key)
            return true
        } catch {
            switch error {
            case .certificate(let reason):
                report(.certificate, certificate, reason, CertificateExpectation.certificate)
            case .passphrase(let reason) where table.has(.passphraseFile):
                report(.passphraseFile, passphraseFile, reason, CertificateExpectation.passphrase)
            case .passphrase(let reason):
                report(.privateKey, privateKey, reason, "a passphrase_file beside it")
            case .mismatch(let reason):
                let file = ReadContext.quoted(certificate.text)
                report(.privateKey, privateKey, reason, "the key that the first certificate in \(file) was made for")
            case .privateKey(let reason):
                report(.privateKey, privateKey, reason, CertificateExpectation.privateKey)
            case .authorities, .presharedKey, .ciphers, .version, .context:
                table.reading.report(table.path, "no TLS context can be made: \(error)")
            }
            return false
        }
    }

    private func tryOut(_ key: CertifiedKey) throws(CredentialsError) {
        var settings = policy
        settings.certifiedKeys = [key]
        do throws(CredentialsError) {
            _ = try ServerContext(settings)
        } catch {
            switch error {
            // What is wrong with these is told when the whole service is tried out.
            case .ciphers, .version:
                settings.ciphers = nil
                (settings.minimumVersion, settings.maximumVersion) = (settings.policy.minimumVersion, nil)
                _ = try ServerContext(settings)
            default: throw error
            }
        }
    }

    /// A name has one certificate of each kind of key: OpenSSL has no place for more.
    private func checkKinds(_ found: [Found]) -> Bool {
        var kinds: [String: String] = [:]
        var isGood = true
        for item in found {
            guard let kind = try? OwnCertificate(pem: item.key.certificate).keyKind else { continue }
            if let other = kinds[kind] {
                table.report(
                    .certificate, element: item.element,
                    "\(ReadContext.quoted(item.file)) has an \(kind) key, and so has "
                        + "\(ReadContext.quoted(other)); expected one certificate of each kind of key "
                        + "(RSA, ECDSA), and other names in tables [service.NAME.name.\"HOST\"]")
                isGood = false
            }
            kinds[kind] = item.file
        }
        return isGood
    }

    // MARK: OCSP

    private func readStaples(into found: inout [Found], _ service: String, _ host: String?) {
        for name in names(.staple, CertificateExpectation.staple) {
            if !NamedFiles.isCredential(name.text) {
                let path = table.reading.files.path(of: name.text)
                let key = ReadContext.text(of: table.path(.staple)) ?? ""
                watch(StapleFile(service: service, host: host, path: path, key: key), name)
            }
            let response = table.contents(
                .staple, element: name.element, named: name.text, CertificateExpectation.staple)
            guard let response else { continue }
            let file = ReadContext.quoted(name.text)
            switch StapleOutcome.of(response, for: found.map(\.key.certificate)) {
            case .staples(let index, let staple):
                if found[index].key.staple != nil {
                    table.report(
                        .staple, element: name.element,
                        "\(file) is about the same certificate as another; expected one file for each")
                }
                found[index].key.staple = staple
            case .unused(let reason):
                table.warn(
                    .staple, element: name.element,
                    "\(file): \(reason); nothing is stapled until the file has changed")
            case .unusable(let reason):
                table.report(
                    .staple, element: name.element, "\(file): \(reason); expected \(CertificateExpectation.staple)")
            }
        }
    }

    private func watch(_ staple: StapleFile, _ name: Name) {
        var staple = staple
        do throws(SystemError) {
            try staple.watch(with: table.reading.watcher)
        } catch {
            table.warn(
                .staple, element: name.element,
                "\(ReadContext.quoted(name.text)) cannot be watched (\(error)); "
                    + "it is read again every \(StapleFile.interval.seconds) s instead")
        }
        table.reading.staples.append(staple)
    }
}

/// What the files are, for messages.
enum CertificateExpectation {
    static let certificate = "the path of a PEM file with the certificate and the chain above it"
    static let privateKey = "the path of a PEM file with the certificate's private key"
    static let passphrase = "the path of a file with the private key's passphrase in its first line"
    static let staple = "the path of a file with an OCSP response, as `openssl ocsp -respout` writes it"
}
