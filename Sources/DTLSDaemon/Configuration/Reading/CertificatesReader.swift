import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// The file names in a table with certificates, which is a service or one of its server names.
struct CertificateFiles {
    var certificates: [Element<String>] = []
    var privateKeys: [Element<String>] = []
    var passphrases: [Element<String>] = []
    var staples: [Element<String>] = []

    /// What each key expects, for messages and the manual.
    enum Expected {
        static let certificate = "the path of a PEM file with the certificate and the chain above it"
        static let privateKey = "the path of a PEM file with the certificate's private key"
        static let passphrase = "the path of a file with the private key's passphrase in its first line"
        static let staple = "the path of a file with an OCSP response, as `openssl ocsp -respout` writes it"
    }
}

/// The keys of a table with certificates, and their places in the file.
struct CertificateFields {
    let table: [String]
    let certificate: Field
    let privateKey: Field
    let passphrase: Field
    let staple: Field
}

extension ValueType where Value == [Element<String>] {
    /// The name of a file, or an array of several.
    static func files(_ expected: String) -> Self {
        Self(expected) { field in
            field.strings.filter { name in
                if name.value.isEmpty { field.reportMismatch(element: name.number, found: "") }
                return !name.value.isEmpty
            }
        }
    }
}

/// Reads the certificates and private keys of one table, and tests each pair by creating the engine's context with it.
struct CertificatesReader {
    let files: CertificateFiles
    let fields: CertificateFields
    /// The versions and cipher suites. They determine OpenSSL's security level, which applies to certificates too.
    let policy: ServerSettings

    /// A certificate that can be used, and its place in the file.
    struct Found {
        var element: Int
        var file: String
        var key: CertifiedKey
    }

    private var context: ReadContext { fields.certificate.context }

    /// - Parameters:
    ///   - service: the name of the service.
    ///   - host: the server name (SNI) of the table.
    /// - Returns: the certificates of the table in their order; `nil` when one of them cannot be used. Missing keys of
    ///   the table are not reported.
    func read(service: String, host: String? = nil) -> [Found]? {
        let (certificates, keys) = (files.certificates, files.privateKeys)
        let passphrases = passphrases(for: certificates.count)
        checkCount()
        var found: [Found] = []
        let count = max(certificates.count, keys.count)
        for index in 0..<count {
            let certificate = certificates.dropFirst(index).first
            let key = keys.dropFirst(index).first
            let certificateText = certificate.flatMap { fields.certificate.pem($0.value, element: $0.number) }
            let keyText = key.flatMap {
                fields.privateKey.pem($0.value, element: $0.number, isSecret: true)
            }
            guard let certificate, let key, let certificateText, let keyText, let passphrases else { continue }
            let certified = CertifiedKey(
                certificate: certificateText, privateKey: keyText, passphrase: passphrases[index])
            let passphrase =
                files.passphrases.count == 1 ? files.passphrases[0] : files.passphrases.dropFirst(index).first
            if tryOut(certified, certificate, key, passphrase) {
                found.append(Found(element: certificate.number, file: certificate.value, key: certified))
            }
        }
        let isComplete = !found.isEmpty && found.count == count
        // The responses are read before the first return, so that all errors are reported.
        readStaples(into: &found, service, host)
        guard checkKinds(found), isComplete else { return nil }
        for item in found {
            fields.certificate.noteCertificate(in: item.key.certificate, named: item.file)
            fields.certificate.warnOfDates(
                in: item.key.certificate, element: item.element, named: item.file,
                "clients that check it will refuse it")
            fields.certificate.warnOfKey(
                in: item.key.certificate, element: item.element, named: item.file,
                "most clients cannot connect, or refuse it")
        }
        return found
    }

    private func checkCount() {
        let counts = (keys: files.privateKeys.count, certificates: files.certificates.count)
        guard counts.keys > 0, counts.certificates > 0, counts.keys != counts.certificates else { return }
        fields.privateKey.report(
            "\(counted(counts.keys, "private key")) for \(counted(counts.certificates, "certificate")); "
                + "expected the key of each certificate, in the same order")
    }

    /// The private keys of a table without certificates, for raw public keys (RFC 7250).
    /// - Returns: those that can be used. Missing keys of the table are not reported.
    func readBareKeys() -> [BareKey] {
        let names = files.privateKeys
        let passphrases = passphrases(for: names.count, "private key")
        var kinds: [String: String] = [:]
        return names.enumerated().compactMap { index, name in
            guard let text = fields.privateKey.pem(name.value, element: name.number, isSecret: true), let passphrases
            else { return nil }
            let file = ReadContext.quoted(name.value)
            func report(_ reason: String, _ expected: String? = nil) {
                fields.privateKey.report(
                    element: name.number, "\(file): \(reason); expected \(expected ?? Self.expectedBareKey)")
            }
            let key = BareKey(privateKey: text, passphrase: passphrases[index])
            do throws(CredentialsError) {
                let kind = try RawPublicKeys.kind(of: key)
                guard let other = kinds.updateValue(name.value, forKey: kind) else { return key }
                report("an \(kind) key, as in \(ReadContext.quoted(other))", "one of each kind (RSA, ECDSA)")
            } catch {
                switch error {
                case .passphrase(let reason) where fields.passphrase.value != nil:
                    fields.passphrase.report("\(reason) of \(file); expected \(fields.passphrase.expected)")
                case .passphrase(let reason): report(reason, "a passphrase_file beside it")
                case .privateKey(let reason): report(reason)
                default: report(error.description)
                }
            }
            return nil
        }
    }

    private static let expectedBareKey = "the path of a PEM file with a private key, RSA or ECDSA"

    /// The passphrase of each certificate, or a single one for all; `nil` when there is an error.
    private func passphrases(for count: Int, _ thing: String = "certificate") -> [String?]? {
        guard fields.passphrase.value != nil else { return Array(repeating: nil, count: count) }
        let texts = files.passphrases.map { fields.passphrase.secretLine($0.value, element: $0.number) }
        guard !texts.isEmpty, texts.allSatisfy({ $0 != nil }) else { return nil }
        if texts.count == 1 { return Array(repeating: texts[0], count: count) }
        guard texts.count == count else {
            fields.passphrase.report(
                "\(counted(texts.count, "passphrase file")) for \(counted(count, thing)); expected one for all keys, or one for each"
            )
            return nil
        }
        return texts
    }

    /// - Returns: whether the certificate and its private key can be used.
    private func tryOut(
        _ key: CertifiedKey, _ certificate: Element<String>, _ privateKey: Element<String>,
        _ passphrase: Element<String>?
    ) -> Bool {
        func report(_ field: Field, _ name: Element<String>?, _ reason: String, _ expected: String? = nil) {
            let file = name.map { ReadContext.quoted($0.value) } ?? "the file"
            field.report(element: name?.number, "\(file): \(reason); expected \(expected ?? field.expected)")
        }
        do throws(CredentialsError) {
            try tryOut(key)
            return true
        } catch {
            switch error {
            case .certificate(let reason): report(fields.certificate, certificate, reason)
            case .passphrase(let reason) where fields.passphrase.value != nil:
                report(fields.passphrase, passphrase, reason)
            case .passphrase(let reason):
                report(fields.privateKey, privateKey, reason, "a passphrase_file beside it")
            case .mismatch(let reason):
                let file = ReadContext.quoted(certificate.value)
                report(
                    fields.privateKey, privateKey, reason,
                    "the key that the first certificate in \(file) was made for")
            case .privateKey(let reason): report(fields.privateKey, privateKey, reason)
            case .authorities, .presharedKey, .ciphers, .signatures, .version, .rawPublicKeys, .context:
                context.report(fields.table, "no TLS context can be made: \(error)")
            }
            return false
        }
    }

    private func tryOut(_ key: CertifiedKey) throws(CredentialsError) {
        var settings = policy
        settings.certifiedKeys = [key]
        // Whether there are raw public keys at all is asked when the whole service is tested.
        settings.offersRawPublicKeys = false
        do throws(CredentialsError) {
            _ = try ServerContext(settings)
        } catch {
            switch error {
            // Errors in these are reported when the whole service is tested.
            case .ciphers, .signatures, .version:
                (settings.ciphers, settings.signatureAlgorithms) = (nil, nil)
                (settings.minimumVersion, settings.maximumVersion) = (settings.policy.minimumVersion, nil)
                _ = try ServerContext(settings)
            default: throw error
            }
        }
    }

    /// Checks that there is one certificate for each type of key, since OpenSSL supports no more for one server name.
    private func checkKinds(_ found: [Found]) -> Bool {
        var kinds: [String: String] = [:]
        var areDifferent = true
        for item in found {
            guard let kind = try? OwnCertificate(pem: item.key.certificate).keyKind else { continue }
            if let other = kinds[kind] {
                fields.certificate.report(
                    element: item.element,
                    "\(ReadContext.quoted(item.file)) has an \(kind) key, and so has "
                        + "\(ReadContext.quoted(other)); expected one certificate of each kind of key "
                        + "(RSA, ECDSA), and other names in tables [service.NAME.name.\"HOST\"]")
                areDifferent = false
            }
            kinds[kind] = item.file
        }
        return areDifferent
    }

    // MARK: OCSP

    private func readStaples(into found: inout [Found], _ service: String, _ host: String?) {
        let field = fields.staple
        for name in files.staples {
            if !NamedFiles.isCredential(name.value) {
                let path = context.files.path(of: name.value)
                let key = ReadContext.text(of: field.path) ?? ""
                watch(StapleFile(service: service, host: host, path: path, key: key), name)
            }
            guard let response = field.contents(name.value, element: name.number, isWatched: false) else { continue }
            let file = ReadContext.quoted(name.value)
            switch StapleOutcome.of(response, for: found.map(\.key.certificate)) {
            case .staples(let index, let staple):
                if found[index].key.staple != nil {
                    field.report(
                        element: name.number,
                        "\(file) is about the same certificate as another; expected one file for each")
                }
                found[index].key.staple = staple
            case .unused(let reason):
                field.warn(
                    element: name.number, "\(file): \(reason); nothing is stapled until the file has changed")
            case .unusable(let reason):
                field.report(element: name.number, "\(file): \(reason); expected \(field.expected)")
            }
        }
    }

    private func watch(_ staple: StapleFile, _ name: Element<String>) {
        var staple = staple
        do throws(SystemError) {
            try staple.watch(with: context.watcher)
        } catch {
            fields.staple.warn(
                element: name.number,
                "\(ReadContext.quoted(name.value)) cannot be watched (\(error)); "
                    + "it is read again every \(StapleFile.interval.seconds) s instead")
        }
        context.staples.append(staple)
    }
}
