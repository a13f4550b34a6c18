import DTLSEngine

/// Reads what a service proves itself with and what it agrees to, and tries it out: makes the engine's context of it
/// once.
struct CredentialsReader {
    let table: TableReader<ServiceKey>
    let service: String

    func read() -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [])
        PolicyReader(table: table).read(into: &settings)
        settings.certifiedKeys = certifiedKeys(settings)
        settings.clients = ClientsReader(table: table).read()
        settings.presharedKeys = PresharedKeysReader.read(table)
        settings.sessions.resumption = table.bool(.resumption) ?? true
        NamesReader(table: table, service: service).read(into: &settings)
        tryOut(settings)
        return settings
    }

    /// - Returns: none where they cannot be used, or the service has pre-shared keys alone.
    private func certifiedKeys(_ policy: ServerSettings) -> [CertifiedKey] {
        if table.has(.presharedKeys), !table.has(.certificate), !table.has(.privateKey) {
            for key in [ServiceKey.authorities, .revocationLists, .clients] where table.has(key) {
                table.report(
                    key,
                    "a service with pre-shared keys alone asks no client for a certificate; expected certificate and"
                        + " private_key beside it, or no \(key.rawValue)")
            }
            if table.has(.staple) {
                table.report(.staple, "there is no certificate that it could be about; expected certificate beside it")
            }
            if table.has(.passphraseFile) {
                table.report(
                    .passphraseFile, "there is no private key that it could be for; expected private_key beside it")
            }
            return []
        }
        table.require(.certificate, CertificateExpectation.certificate)
        table.require(.privateKey, CertificateExpectation.privateKey)
        return CertificatesReader(table: table, policy: policy).read(service: service)?.map(\.key) ?? []
    }

    /// The engine stops at the first fault; what can be left out is left out then, so that the next one is found too.
    /// Certificates and keys that cannot be used are reported already, and the rest is tried out without them.
    private func tryOut(_ settings: ServerSettings) {
        var settings = settings
        // The cipher list has to fit them all the same.
        if table.has(.presharedKeys), settings.presharedKeys == nil { settings.presharedKeys = PresharedKeys(keys: []) }
        // Three items can be left out, so the fourth attempt is the last.
        for _ in 0..<4 {
            do throws(CredentialsError) {
                _ = try ServerContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .authorities: settings.clients = PeerVerification()
                case .version: (settings.minimumVersion, settings.maximumVersion) = (.dtls12, nil)
                case .certificate, .privateKey, .passphrase, .mismatch, .presharedKey, .context: return
                }
            }
        }
    }

    private func report(_ error: CredentialsError) {
        switch error {
        case .authorities(let reason):
            table.report(
                .authorities, "\(table.named(.authorities)): \(reason); expected \(ClientsReader.expectedAuthorities)")
        case .ciphers(let reason): table.report(.ciphers, "\(reason); expected \(PolicyReader.expectedCiphers)")
        case .version(let reason):
            let key = table.has(.maximumVersion) ? ServiceKey.maximumVersion : .minimumVersion
            table.report(key, "\(reason); expected a version from the minimum on that this OpenSSL knows")
        case .certificate, .privateKey, .passphrase, .mismatch, .presharedKey, .context:
            // Each certificate has been tried out by itself.
            table.reading.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
