import DTLSEngine

/// Reads what a client trusts and proves itself with, and tries it out: makes the engine's context of it once.
struct ClientCredentialsReader {
    let table: TableReader<ClientKey>

    private enum Expected {
        static let authorities = "the path of a PEM file with the CA certificates that the server is checked against"
        static let certificate = "the path of a PEM file with the client's certificate and the chain above it"
        static let privateKey = "the path of a PEM file with the certificate's private key"
        static let passphrase = "the path of a file with the private key's passphrase in its first line"
    }

    func read() -> ClientSettings {
        if table.has(.presharedKey) { return readPresharedKey() }
        let verifies = table.bool(.verify) ?? true
        if !verifies {
            table.reading.warn(
                table.path(.verify),
                "false: whoever answers in the server's place is taken for it, and reads and writes everything")
        }
        let certificate = table.pem(.certificate, Expected.certificate)
        let privateKey = table.pem(.privateKey, Expected.privateKey, secrecy: .ownerAndGroup)
        let passphrase = table.secretLine(.passphraseFile, Expected.passphrase)
        if table.has(.passphraseFile), !table.has(.certificate), !table.has(.privateKey) {
            table.report(
                .passphraseFile, "there is no private key that it could be for; expected private_key beside it")
        }
        if table.has(.certificate) { table.require(.privateKey, Expected.privateKey) }
        if table.has(.privateKey) { table.require(.certificate, Expected.certificate) }
        var settings = ClientSettings(
            rejectUnauthorized: verifies, certificateAuthorities: verifies ? authorities() : nil,
            passphrase: passphrase, ciphers: PolicyReader.ciphers(table, .ciphers),
            minimumVersion: version(.minimumVersion) ?? .dtls12, maximumVersion: version(.maximumVersion))
        settings.applicationProtocols = PolicyReader.applicationProtocols(table, .applicationProtocols)
        if !verifies, table.has(.authorities) {
            table.report(.authorities, "it has no effect with verify = false; expected only one of the two")
        }
        if certificate != nil, privateKey != nil, passphrase != nil || !table.has(.passphraseFile) {
            settings.certificate = certificate
            settings.privateKey = privateKey
        }
        if let certificate { table.warnOfDates(in: certificate, .certificate, "servers that check it will refuse it") }
        tryOut(settings)
        return settings
    }

    /// With a key that both have, the server needs no certificate, and the client neither.
    private func readPresharedKey() -> ClientSettings {
        for key in [ClientKey.verify, .authorities, .certificate, .privateKey, .passphraseFile] where table.has(key) {
            table.report(
                key,
                "it has no effect with [client.NAME.psk], whose key proves both sides; expected only one of the two")
        }
        var settings = ClientSettings(
            presharedKey: presharedKey(), ciphers: PolicyReader.ciphers(table, .ciphers),
            minimumVersion: version(.minimumVersion) ?? .dtls12, maximumVersion: version(.maximumVersion))
        settings.applicationProtocols = PolicyReader.applicationProtocols(table, .applicationProtocols)
        var trial = settings
        // The rest is tried out also where the key cannot be used, with another in its place.
        trial.presharedKey = settings.presharedKey ?? PresharedKey(identity: [0x78], key: [0])
        tryOut(trial)
        return settings
    }

    private func presharedKey() -> PresharedKey? {
        guard let psk = table.table(.presharedKey, ClientPresharedKeyKey.self) else { return nil }
        // Read before the file can be missing, so that all that is wrong is reported.
        let name = psk.string(.identity, "one of the identities in the file")
        guard let keys = psk.presharedKeys(.file) else { return nil }
        let expected = "one of the identities in \(psk.named(.file))"
        guard let identity = name else {
            if keys.count > 1, !psk.has(.identity) { psk.report(.identity, "missing; expected \(expected)") }
            return keys.first
        }
        if let key = keys.first(where: { $0.identity == Array(identity.utf8) }) { return key }
        psk.report(.identity, "expected \(expected), found the string \(ReadContext.quoted(identity))")
        return nil
    }

    /// Those of the file, or the system's: workers open no files, so what the system trusts goes to them as text.
    private func authorities() -> String? {
        if table.has(.authorities) {
            let text = table.pem(.authorities, Expected.authorities)
            if let text {
                table.warnOfDates(in: text, .authorities, "servers with a certificate of this CA are refused")
            }
            return text
        }
        let named = table.reading.environment["SSL_CERT_FILE"] ?? ""
        let file = named.isEmpty ? SystemAuthorities.file : named
        do throws(UnreadableFile) {
            return String(decoding: try FileContents(of: file).bytes, as: UTF8.self)
        } catch {
            table.report(
                .authorities,
                "missing, and the system's CA certificates are not there: \(error.message); expected"
                    + " \(Expected.authorities), or the system's (Debian's package ca-certificates has them)")
            return nil
        }
    }

    private func version(_ key: ClientKey) -> ProtocolVersion? {
        table.choice(key, of: ProtocolVersion.allCases.map(\.name), ProtocolVersion.init(name:))
    }

    /// The engine stops at the first fault; what can be left out is left out then, so that the next one is found too.
    private func tryOut(_ settings: ClientSettings) {
        var settings = settings
        // Four items can be left out, so the fifth attempt is the last.
        for _ in 0..<5 {
            do throws(CredentialsError) {
                _ = try ClientContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .authorities: settings.certificateAuthorities = nil
                case .version: (settings.minimumVersion, settings.maximumVersion) = (.dtls12, nil)
                case .presharedKey, .context: return
                case .certificate, .privateKey, .passphrase, .mismatch: settings.certificate = nil
                }
            }
        }
    }

    /// What is wrong with a file that a key names.
    private func report(_ key: ClientKey, _ reason: String, _ expected: String) {
        let name = table.has(key) ? table.named(key) : "the system's"
        table.report(key, "\(name): \(reason); expected \(expected)")
    }

    private func report(_ error: CredentialsError) {
        switch error {
        case .certificate(let reason): report(.certificate, reason, Expected.certificate)
        case .privateKey(let reason): report(.privateKey, reason, Expected.privateKey)
        case .passphrase(let reason):
            let key = table.has(.passphraseFile) ? ClientKey.passphraseFile : .privateKey
            report(key, reason, key == .passphraseFile ? Expected.passphrase : "a passphrase_file beside it")
        case .mismatch(let reason):
            report(
                .privateKey, reason, "the key that the first certificate in \(table.named(.certificate)) was made for")
        case .authorities(let reason): report(.authorities, reason, Expected.authorities)
        case .ciphers(let reason): table.report(.ciphers, "\(reason); expected \(PolicyReader.expectedCiphers)")
        case .version(let reason):
            let key = table.has(.maximumVersion) ? ClientKey.maximumVersion : .minimumVersion
            table.report(key, "\(reason); expected a version from the minimum on that this OpenSSL knows")
        default: table.reading.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
