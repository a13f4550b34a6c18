import DTLSEngine
import LinuxSystem

/// `[service.NAME]`: its values as the file has them. Keys that stand for themselves are read into the model at once;
/// the others are what ``configuration(_:name:)`` makes the rest of the model of.
struct ServiceSection {
    var model = ServiceConfiguration(
        name: "", listen: [], tls: ServerSettings(certifiedKeys: []), socket: SocketOptions(fragmentation: false))
    var listen: [Element<SocketAddress>] = []
    var files = CertificateFiles()
    var hosts: [NamedTable<VirtualHostSection>] = []
    var unknownName = UnknownName.default
    var authorities: String?
    var clientCertificate: PeerVerification.Mode?
    var revocationLists: [RevocationListFile] = []
    var clients = ClientRulesSection()
    var presharedKeys = PresharedKeys(keys: [])
    /// `nil`: the policy's.
    var minimumVersion: ProtocolVersion?
    var handler: HandlerName?
    var forward = ForwardConfiguration(backends: [])
    var exec = ExecConfiguration(command: [])
    var log = LogSection()
    var limits = LimitsSection()

    static let schema = Schema<Self> {
        Key(
            "listen", \.listen, .listenAddresses, default: "none; systemd passes the sockets in",
            doc: "The addresses and ports that the service listens on.")
        Key(
            "certificate", \.files.certificates, .files(CertificateFiles.Expected.certificate),
            isRequired: { !$0.hasPresharedKeysAlone },
            doc: "The server's certificate and the chain above it, or several.")
        Key(
            "private_key", \.files.privateKeys, .files(CertificateFiles.Expected.privateKey),
            isRequired: { !$0.hasPresharedKeysAlone },
            doc: "The certificate's private key, or that of each certificate.")
        Key(
            "passphrase_file", \.files.passphrases, .files(CertificateFiles.Expected.passphrase),
            default: "none; the private key is not encrypted", doc: "The passphrase of the private key.")
        Key(
            "ocsp_staple", \.files.staples, .files(CertificateFiles.Expected.staple),
            default: "none; nothing is stapled", doc: "The OCSP response about the certificate.")
        Key(
            tables: "name", \.hosts, "\"HOST\"", VirtualHostSection.schema, initial: { VirtualHostSection() },
            doc: "The certificates for clients that ask for a name (SNI).")
        Key(
            "unknown_name", \.unknownName, .word,
            doc: "What a client gets that asks for a name without a table.")
        Key(
            "by_address", \.model.tls.choosesByAddress, .flag,
            doc: "Whether a client without a name gets the certificate for the address that it has come to.")
        Key(
            "ca", \.authorities,
            .pem("the path of a PEM file with the CA certificates that clients are checked against"),
            default: "none; clients are not asked for a certificate",
            doc: "The CAs that sign the certificates of clients.")
        Key(
            "client_certificate", \.clientCertificate, .word,
            default: "\"required\" with ca or a table clients, else \"none\"",
            doc: "Whether clients show a certificate.")
        Key(
            "crl", \.revocationLists, .revocationLists, default: "none; nothing is revoked",
            doc: "The certificate revocation lists of the CAs.")
        Key(
            table: "clients", \.clients, ClientRulesSection.schema,
            doc: "Which clients are let in, by what their certificates say.")
        Key(
            "handshake_timeout", \.model.handshakeTimeout, .seconds(2...120),
            doc: "How long a client may take for the handshake.")
        Key(
            "idle_timeout", \.model.idleTimeout, .seconds(0...86_400),
            doc: "How long a client may be silent before its connection is closed; 0 is for ever.")
        Key(
            "policy", \.model.tls.policy, .word,
            doc: "The versions and cipher suites that are used where no other key says so.")
        Key(
            "ciphers", \.model.tls.ciphers, .ciphers, default: "those of the policy",
            doc: "The cipher suites of DTLS 1.2 and below, as an OpenSSL cipher list.")
        Key(
            "minimum_version", \.minimumVersion, .version, default: "\"1.2\"; with policy = \"legacy\", \"1.0\"",
            doc: "The oldest version of DTLS that is spoken.")
        Key(
            "maximum_version", \.model.tls.maximumVersion, .version, default: "the newest that OpenSSL knows",
            doc: "The newest version of DTLS that is spoken.")
        Key(
            "alpn", \.model.tls.applicationProtocols, .applicationProtocols, default: "none; offers are ignored",
            doc: "The application protocols (ALPN) that the service speaks, best first.")
        Key("renegotiation", \.model.tls.allowsRenegotiation, .flag, doc: "Whether clients may renegotiate.")
        Key(
            "mtu", \.model.mtu, .integer(256...9_000, "an integer of bytes"),
            doc: "The largest IP packet that a handshake sends.")
        Key(
            "handler", \.handler, .word, isRequired: { _ in true },
            doc: "What becomes of a client's datagrams.")
        Key(table: "forward", \.forward, ForwardConfiguration.schema, doc: "The settings of handler \"forward\".")
        Key(table: "exec", \.exec, ExecConfiguration.schema, doc: "The settings of handler \"exec\".")
        Key(table: "log", \.log, LogSection.schema, doc: "The settings of handler \"log\".")
        Key(
            table: "socket", \.model.socket, SocketOptions.schema,
            doc: "The service's sockets, the listening ones and those of its connections.")
        Key(table: "limits", \.limits, LimitsSection.schema, doc: "The limits of the service.")
        Key(
            table: "psk", \.presharedKeys, PresharedKeys.schema,
            doc: "Pre-shared keys, with which clients may prove themselves instead of a certificate.")
        Key(
            "resumption", \.model.tls.sessions.resumption, .flag,
            doc: "Whether clients get session tickets and can resume their sessions.")
    }

    /// Makes the service's configuration. What is wrong is reported, and something else takes its place, so that the
    /// rest is checked too.
    func configuration(
        _ table: TableReader<Self>, name: String, limits outer: LimitsConfiguration, tickets: TicketConfiguration
    ) -> ServiceConfiguration {
        ReadContext.check(name: name, at: table.path, of: "service", table.context)
        model.socket.check(
            table.table(\.model.socket, SocketOptions.schema), against: listen.map(\.value.family), of: "service")
        var service = model
        service.name = name
        service.listen = listen.map(\.value)
        service.tls.minimumVersion = minimumVersion ?? service.tls.policy.minimumVersion
        ServerCredentialsReader(section: self, table: table, service: name).read(into: &service.tls)
        service.tls.sessions.lifetime = tickets.lifetime
        service.handler = handler(table)
        service.limits = limits.within(outer, table.table(\.limits, LimitsSection.schema))
        return service
    }
}

extension TableReader<ServiceSection> {
    /// Whether clients can prove themselves with keys, and the service has no certificate.
    var hasPresharedKeysAlone: Bool {
        has(\.presharedKeys) && !has(\.files.certificates) && !has(\.files.privateKeys)
    }
}

/// Reads what a service proves itself with, and tries all of its TLS settings out: makes the engine's context of them
/// once.
private struct ServerCredentialsReader {
    let section: ServiceSection
    let table: TableReader<ServiceSection>
    let service: String

    func read(into settings: inout ServerSettings) {
        if settings.policy == .legacy {
            table.warn(
                \.model.tls.policy,
                "\"legacy\" lets clients use DTLS 1.0, AES-CBC and key exchange without forward secrecy; "
                    + "expected \"modern\" wherever all clients support DTLS 1.2")
        }
        settings.certifiedKeys = certifiedKeys(settings)
        settings.clients = ClientAuthReader(section: section, table: table).read()
        if !section.presharedKeys.keys.isEmpty { settings.presharedKeys = section.presharedKeys }
        settings.refusesUnknownNames = section.unknownName == .refuse
        if settings.choosesByAddress, section.hosts.isEmpty {
            table.report(
                \.model.tls.choosesByAddress,
                "there is only one certificate to choose from; expected tables [service.NAME.name.\"HOST\"] beside")
        }
        VirtualHostsReader(tables: section.hosts, service: service).read(into: &settings)
        tryOut(settings)
    }

    /// - Returns: none where they cannot be used, or the service has pre-shared keys alone.
    private func certifiedKeys(_ policy: ServerSettings) -> [CertifiedKey] {
        guard table.hasPresharedKeysAlone else {
            let reader = CertificatesReader(
                files: section.files,
                fields: CertificateFields(
                    table: table.path, certificate: table.field(\.files.certificates),
                    privateKey: table.field(\.files.privateKeys), passphrase: table.field(\.files.passphrases),
                    staple: table.field(\.files.staples)),
                policy: policy)
            return reader.read(service: service)?.map(\.key) ?? []
        }
        let authentication: [PartialKeyPath<ServiceSection>] = [\.authorities, \.revocationLists, \.clients]
        for property in authentication where table.has(property) {
            table.report(
                property,
                "a service with only pre-shared keys asks no client for a certificate; expected certificate and"
                    + " private_key beside it, or no \(ServiceSection.schema.name(of: property))")
        }
        if table.has(\.files.staples) {
            table.report(
                \.files.staples, "there is no certificate that it could be about; expected certificate beside it")
        }
        if table.has(\.files.passphrases) {
            table.report(
                \.files.passphrases, "there is no private key that it could be for; expected private_key beside it")
        }
        return []
    }

    /// The engine stops at the first fault; what can be left out is left out then, so that the next one is found too.
    /// Certificates and keys that cannot be used are reported already, and the rest is tried out without them.
    private func tryOut(_ settings: ServerSettings) {
        var settings = settings
        // The cipher list has to fit them all the same.
        if table.has(\.presharedKeys), settings.presharedKeys == nil {
            settings.presharedKeys = PresharedKeys(keys: [])
        }
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
            let field = table.field(\.authorities)
            field.report("\(field.quotedName()): \(reason); expected \(field.expected)")
        case .ciphers(let reason):
            let field = table.field(\.model.tls.ciphers)
            field.report("\(reason); expected \(field.expected)")
        case .version(let reason):
            table.report(
                table.has(\.model.tls.maximumVersion) ? \.model.tls.maximumVersion : \.minimumVersion,
                "\(reason); expected a version that this OpenSSL supports, not below minimum_version")
        case .certificate, .privateKey, .passphrase, .mismatch, .presharedKey, .context:
            // Each certificate has been tried out on its own.
            table.context.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
