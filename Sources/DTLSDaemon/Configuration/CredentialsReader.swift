import DTLSEngine

/// Reads what a service proves itself with, and tries it out: makes the engine's context of it once.
struct CredentialsReader {
    let table: TableReader<ServiceKey>

    func read() -> ServerSettings {
        let certificate = table.pem(.certificate, Expected.certificate)
        let privateKey = table.pem(.privateKey, Expected.privateKey, secrecy: .ownerAndGroup)
        let passphrase = table.secretLine(.passphraseFile, Expected.passphrase)
        let hasKeysAlone = table.has(.presharedKeys) && !table.has(.certificate) && !table.has(.privateKey)
        if hasKeysAlone {
            refuseAuthorities()
        } else {
            table.require(.certificate, Expected.certificate)
            table.require(.privateKey, Expected.privateKey)
        }
        var settings = ServerSettings(
            certificate: certificate ?? "", privateKey: privateKey ?? "", passphrase: passphrase,
            certificateAuthorities: table.pem(.authorities, Expected.authorities),
            ciphers: table.string(.ciphers, Expected.ciphers), minimumVersion: version(.minimumVersion) ?? .dtls12,
            maximumVersion: version(.maximumVersion))
        settings.presharedKeys = PresharedKeysReader.read(table)
        if hasKeysAlone {
            settings.certifiedKeys = []
            if settings.presharedKeys != nil { tryOut(settings) }
            return settings
        }
        let hasPassphrase = passphrase != nil || !table.has(.passphraseFile)
        if certificate != nil, privateKey != nil, hasPassphrase { tryOut(settings) }
        return settings
    }

    private func refuseAuthorities() {
        guard table.has(.authorities) else { return }
        table.report(
            .authorities,
            "a service with pre-shared keys alone asks no client for a certificate; expected certificate and private_key"
                + " beside it, or no ca")
    }

    private enum Expected {
        static let certificate = "the path of a PEM file with the certificate and the chain above it"
        static let privateKey = "the path of a PEM file with the certificate's private key"
        static let passphrase = "the path of a file with the private key's passphrase in its first line"
        static let authorities = "the path of a PEM file with the CA certificates that clients are checked against"
        static let ciphers = "an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
    }

    private func version(_ key: ServiceKey) -> ProtocolVersion? {
        table.choice(key, of: ProtocolVersion.allCases.map(\.name), ProtocolVersion.init(name:))
    }

    /// The engine stops at the first fault; what can be left out is left out then, so that the next one is found too.
    private func tryOut(_ settings: ServerSettings) {
        var settings = settings
        // Three items can be left out, so the fourth attempt is the last.
        for _ in 0..<4 {
            do throws(CredentialsError) {
                _ = try ServerContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .authorities: settings.clients = ClientVerification()
                case .version: (settings.minimumVersion, settings.maximumVersion) = (.dtls12, nil)
                case .certificate, .privateKey, .passphrase, .mismatch, .presharedKey, .context: return
                }
            }
        }
    }

    /// What is wrong with a file that a key names.
    private func report(_ key: ServiceKey, _ reason: String, _ expected: String) {
        table.report(key, "\(table.named(key)): \(reason); expected \(expected)")
    }

    private func report(_ error: CredentialsError) {
        switch error {
        case .certificate(let reason): report(.certificate, reason, Expected.certificate)
        case .privateKey(let reason): report(.privateKey, reason, Expected.privateKey)
        case .passphrase(let reason):
            let key = table.has(.passphraseFile) ? ServiceKey.passphraseFile : .privateKey
            let expected = key == .passphraseFile ? Expected.passphrase : "a passphrase_file beside it"
            report(key, reason, expected)
        case .mismatch(let reason):
            report(
                .privateKey, reason, "the key that the first certificate in \(table.named(.certificate)) was made for")
        case .authorities(let reason): report(.authorities, reason, Expected.authorities)
        case .ciphers(let reason): table.report(.ciphers, "\(reason); expected \(Expected.ciphers)")
        case .version(let reason):
            let key = table.has(.maximumVersion) ? ServiceKey.maximumVersion : .minimumVersion
            table.report(key, "\(reason); expected a version from the minimum on that this OpenSSL knows")
        case .presharedKey(let reason), .context(let reason):
            table.reading.report(table.path, "no TLS context can be made: \(reason)")
        }
    }
}
