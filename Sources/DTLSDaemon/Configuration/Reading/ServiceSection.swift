import DTLSEngine
import LinuxSystem
import Primitives

/// The values of a table `[service.NAME]`. Keys that depend on no other are read directly into the model;
/// ``configuration(_:name:)`` derives the rest of the model from the others.
struct ServiceSection {
    var model = ServiceConfiguration(
        name: "", listen: [], tls: ServerSettings(certifiedKeys: []), socket: SocketOptions(fragmentation: false))
    var listen: [Element<SocketAddress>] = []
    var files = CertificateFiles()
    var hosts: [NamedTable<VirtualHostSection>] = []
    var unknownName = UnknownName.default
    var authorities: String?
    var publicKeys: KnownPublicKeys?
    var clientCertificate: PeerVerification.Mode?
    var clientPurpose = PeerVerification.Purpose.client
    var revocationLists: [RevocationListFile] = []
    var revocationCheck = PeerVerification.RevocationCheck.chain
    var clients = ClientRulesSection()
    var presharedKeys = PresharedKeysSection()
    var authorize = AuthorizeSection()
    /// The oldest version; `nil`: that of the policy.
    var minimumVersion: ProtocolVersion?
    var handler: HandlerName?
    var forward = ForwardSection()
    var exec = ExecSection()
    var log = LogSection()
    var limits = LimitsSection()

    static let schema = Schema<Self> {
        Key(
            "listen", \.listen, .listenAddresses, default: "none; systemd passes the sockets in",
            doc: "The addresses and ports that the service listens on.")
        Key(
            "certificate", \.files.certificates, .files(CertificateFiles.Expected.certificate),
            isRequired: { !$0.hasPresharedKeysAlone && !$0.hasBareKeysAlone },
            doc: "The server's certificate with its chain, or several.")
        Key(
            "private_key", \.files.privateKeys, .files(CertificateFiles.Expected.privateKey),
            isRequired: { !$0.hasPresharedKeysAlone },
            doc: "The certificate's private key, or that of each certificate.")
        Key(
            "passphrase_file", \.files.passphrases, .files(CertificateFiles.Expected.passphrase),
            default: "none; the private key is not encrypted", doc: "The passphrase of the private key.")
        Key(
            "raw_public_key", \.model.tls.offersRawPublicKeys, .flag,
            doc: "Whether clients that ask for it get the bare public key (RFC 7250), and not the certificate.")
        Key(
            "ocsp_staple", \.files.staples, .files(CertificateFiles.Expected.staple),
            default: "none; nothing is stapled", doc: "The OCSP response about the certificate.")
        Key(
            tables: "name", \.hosts, "\"HOST\"", VirtualHostSection.schema, initial: { VirtualHostSection() },
            doc: "The certificates for clients that ask for a name (SNI).")
        Key(
            "unknown_name", \.unknownName, .word,
            doc: "What happens if a client asks for a server name that has no table.")
        Key(
            "by_address", \.model.tls.choosesByAddress, .flag,
            doc: "Whether a client that asks for no server name gets the certificate for the local address.")
        Key(
            "ca", \.authorities,
            .pem("the path of a PEM file with the CA certificates that clients are checked against"),
            default: "none; clients are not asked for a certificate",
            doc: "The CAs that sign the certificates of clients.")
        Key(
            "client_public_keys", \.publicKeys, .publicKeys, default: "none; clients show no raw public keys",
            doc: "The file of the raw public keys (RFC 7250) that clients may show in the place of certificates.")
        Key(
            "client_certificate", \.clientCertificate, .word,
            default: "\"required\" with ca or a table clients, else \"none\"",
            doc: "Whether clients are asked for a certificate.")
        Key(
            "crl", \.revocationLists, .revocationLists, default: "none; no certificate is treated as revoked",
            doc: "The certificate revocation lists of the CAs.")
        Key(
            "crl_check", \.revocationCheck, .word,
            doc: "Whether all certificates of a client's chain are looked up in the revocation lists.")
        Key(
            "client_purpose", \.clientPurpose, .word,
            doc: "What clients' certificates must have been issued for.")
        Key(
            table: "clients", \.clients, ClientRulesSection.schema,
            doc: "The rules that accept or reject clients by their certificates.")
        Key(
            "handshake_timeout", \.model.handshakeTimeout, .seconds(2...120),
            doc: "How long a client may take for the handshake.")
        Key(
            "retransmission", \.model.retransmission, .seconds(1...60),
            default: "three round trips, as the exchange of the cookie has measured them; 0.25 to 1",
            doc: "How long a flight of the handshake waits for an answer before it is sent again for the first time.")
        Key(
            "idle_timeout", \.model.idleTimeout, .idleTime(0),
            doc: "How long a client may send nothing before its connection is closed; 0 means no limit.")
        Key(
            "park_after", \.model.parkAfter, .time(1...86_400, off: .zero),
            doc: "How long nothing may pass in either direction before a connection gives its socket up.")
        Key(
            "policy", \.model.tls.policy, .word,
            doc: "The default protocol versions and cipher suites.")
        Key(
            "ciphers", \.model.tls.ciphers, .ciphers, default: "those of the policy",
            doc: "The cipher suites of DTLS 1.2 and earlier, as an OpenSSL cipher list.")
        Key(
            "groups", \.model.tls.groups, .groups, default: "\"X25519:P-256:P-384:P-521\"",
            doc: "The groups for the key exchange (ECDHE), and for clients' ECDSA certificates.")
        Key(
            "signature_algorithms", \.model.tls.signatureAlgorithms, .signatureAlgorithms, default: "OpenSSL's",
            doc: "The signature algorithms of DTLS 1.2.")
        Key(
            "minimum_version", \.minimumVersion, .version, default: "\"1.2\"; with policy = \"legacy\", \"1.0\"",
            doc: "The oldest DTLS version that is accepted.")
        Key(
            "maximum_version", \.model.tls.maximumVersion, .version,
            default: "the newest version that OpenSSL supports",
            doc: "The newest DTLS version that is accepted.")
        Key(
            "alpn", \.model.tls.applicationProtocols, .applicationProtocols, default: "none; offers are ignored",
            doc: "The application protocols (ALPN) of the service in order of preference.")
        Key("renegotiation", \.model.tls.allowsRenegotiation, .flag, doc: "Whether clients may renegotiate.")
        Key(
            "mtu", \.model.mtu, .integer(256...9_000, "an integer of bytes"),
            doc: "The largest IP packet that is sent during a handshake.")
        Key(
            "record_mtu", \.model.recordMTU, .recordMTU, default: "none; what the kernel knows of the path",
            doc: "The largest IP packet that is sent over a connection; \"handshake\" is what its handshake found out.")
        Key(
            "connection_id", \.model.connectionIDLength,
            .connectionIDLength(
                ConnectionIDConfiguration.minimumLength(serverIDLength: 1)...ConnectionIDConfiguration.maximumLength),
            doc: "The length of the connection IDs (RFC 9146) by which clients keep their connections at new addresses."
        )
        Key(
            "handler", \.handler, .word, isRequired: { _ in true },
            doc: "What the service does with a client's datagrams.")
        Key(table: "forward", \.forward, ForwardSection.schema, doc: "The settings of handler \"forward\".")
        Key(table: "exec", \.exec, ExecSection.schema, doc: "The settings of handler \"exec\".")
        Key(table: "log", \.log, LogSection.schema, doc: "The settings of handler \"log\".")
        Key(
            table: "socket", \.model.socket, SocketOptions.schema,
            doc: "The options of the service's sockets.")
        Key(table: "limits", \.limits, LimitsSection.schema, doc: "The limits of the service.")
        Key(
            table: "psk", \.presharedKeys, PresharedKeysSection.schema,
            doc: "Pre-shared keys, by which clients can authenticate instead of by a certificate.")
        Key(
            table: "authorize", \.authorize, AuthorizeSection.schema, orOnly: \.path, .authorizer,
            doc: "Who is asked in each handshake whether the client may come in; a string stands for server alone.")
        Key(
            "resumption", \.model.tls.sessions.resumption, .flag,
            doc: "Whether clients can resume their sessions, with tickets or by session IDs.")
        Key(
            "session_tickets", \.model.tls.sessions.tickets, .flag,
            doc: "Whether clients get session tickets; without them, they resume by session IDs alone.")
    }

    /// Makes the configuration of the service. Each error is reported, and a placeholder takes the place of the wrong
    /// value, so that the rest is checked too.
    /// - Parameter hasSessionCache: whether there is memory for the sessions of clients without tickets.
    func configuration(
        _ table: TableReader<Self>, name: String, limits outer: LimitsConfiguration, tickets: TicketConfiguration,
        hasSessionCache: Bool, connectionIDs: ConnectionIDConfiguration
    ) -> ServiceConfiguration {
        ReadContext.check(name: name, at: table.path, of: "service", table.context)
        model.socket.check(
            table.table(\.model.socket, SocketOptions.schema), against: listen.map(\.value.family), of: "service")
        var service = model
        service.name = name
        service.listen = listen.map(\.value)
        service.tls.connectionIDs = service.connectionIDLength != nil
        service.tls.minimumVersion = minimumVersion ?? service.tls.policy.minimumVersion
        service.authorize = authorize.configuration(minimumKeyLength: presharedKeys.minimumLength)
        if service.authorize != nil { service.tls.authorization = .all }
        checkAuthorize(table)
        ServerCredentialsReader(section: self, table: table, service: name).read(into: &service.tls)
        service.tls.sessions.lifetime = tickets.lifetime
        checkTickets(table, hasSessionCache: hasSessionCache)
        service.handler = handler(table)
        checkConnectionID(table, connectionIDs)
        table.checkRetransmission(
            \.model.retransmission, model.retransmission, within: model.handshakeTimeout)
        service.limits = limits.within(outer, table.table(\.limits, LimitsSection.schema))
        return service
    }

    private func checkAuthorize(_ table: TableReader<Self>) {
        guard table.has(\.authorize) else {
            table.table(\.presharedKeys, PresharedKeysSection.schema)?.requireFile()
            return
        }
        if model.tls.allowsRenegotiation {
            table.report(
                \.authorize,
                "nobody is asked in a renegotiation, which renegotiation = true allows; expected only one of the two")
        }
    }

    private func checkTickets(_ table: TableReader<Self>, hasSessionCache: Bool) {
        let sessions = model.tls.sessions
        guard table.has(\.model.tls.sessions.tickets) else { return }
        if !sessions.resumption {
            table.warn(\.model.tls.sessions.tickets, "it has no effect with resumption = false")
        } else if !sessions.tickets, !hasSessionCache {
            table.warn(
                \.model.tls.sessions.tickets,
                "without tickets clients resume by session IDs, for which session_cache = 0 leaves no memory: each"
                    + " connection begins with a full handshake")
        }
    }

    private func checkConnectionID(_ table: TableReader<Self>, _ connectionIDs: ConnectionIDConfiguration) {
        guard let length = model.connectionIDLength else { return }
        let serverID = connectionIDs.serverID.count
        let minimum = ConnectionIDConfiguration.minimumLength(serverIDLength: serverID)
        if length < minimum {
            table.report(
                \.model.connectionIDLength,
                "\(counted(length, "byte has", "bytes have")) no room for a server_id of \(serverID); expected \(minimum) or more"
            )
        }
        if model.tls.allowsRenegotiation {
            table.report(
                \.model.connectionIDLength,
                "it has no effect with renegotiation = true, whose records are OpenSSL's; expected only one of the two")
        }
        if let newest = model.tls.maximumVersion, newest < .dtls12 {
            table.report(
                \.model.connectionIDLength,
                "connection IDs need DTLS 1.2; expected a maximum_version that is not below it, or \"off\"")
        }
    }
}

extension TableReader<ServiceSection> {
    /// Whether clients can authenticate by pre-shared keys, and the service has no certificate.
    var hasPresharedKeysAlone: Bool {
        has(\.presharedKeys) && !has(\.files.certificates) && !has(\.files.privateKeys) && !hasBareKeysAlone
    }

    /// Whether the service shows raw public keys, and has no certificate.
    var hasBareKeysAlone: Bool {
        field(\.model.tls.offersRawPublicKeys).isTrue && !has(\.files.certificates)
    }
}

/// Reads the certificates of a service, and tests all of its TLS settings by creating the engine's context with them.
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
        if table.hasBareKeysAlone { settings.bareKeys = bareKeys(settings) }
        let presharedKeys = section.presharedKeys.settings
        // With an authorizer, the answers have the keys that are in no file.
        let hasAnsweredKeys = table.has(\.presharedKeys) && settings.authorization != .none
        if !presharedKeys.keys.isEmpty || hasAnsweredKeys { settings.presharedKeys = presharedKeys }
        settings.refusesUnknownNames = section.unknownName == .refuse
        if settings.choosesByAddress, section.hosts.isEmpty {
            table.report(
                \.model.tls.choosesByAddress,
                "there is only one certificate to choose from; expected tables [service.NAME.name.\"HOST\"] beside")
        }
        VirtualHostsReader(tables: section.hosts, service: service).read(into: &settings)
        tryOut(settings)
    }

    /// - Returns: the certificates; none if they cannot be used, or the service has only pre-shared keys.
    private func certifiedKeys(_ policy: ServerSettings) -> [CertifiedKey] {
        if table.hasBareKeysAlone { return [] }
        guard table.hasPresharedKeysAlone else {
            return reader(policy).read(service: service)?.map(\.key) ?? []
        }
        let authentication: [PartialKeyPath<ServiceSection>] = [
            \.authorities, \.revocationLists, \.clients, \.clientPurpose, \.revocationCheck, \.publicKeys,
        ]
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

    private func reader(_ policy: ServerSettings) -> CertificatesReader {
        CertificatesReader(
            files: section.files,
            fields: CertificateFields(
                table: table.path, certificate: table.field(\.files.certificates),
                privateKey: table.field(\.files.privateKeys), passphrase: table.field(\.files.passphrases),
                staple: table.field(\.files.staples)),
            policy: policy)
    }

    /// - Returns: the private keys without certificates that can be used.
    private func bareKeys(_ policy: ServerSettings) -> [BareKey] {
        if table.has(\.files.staples) {
            table.report(
                \.files.staples, "there is no certificate that it could be about; expected certificate beside it")
        }
        return reader(policy).readBareKeys()
    }

    /// The engine stops at the first error. Each wrong item that is optional is then left out, so that the next error
    /// is found too. Certificates and keys that cannot be used were reported before, and the rest is tested without
    /// them.
    private func tryOut(_ settings: ServerSettings) {
        var settings = settings
        // The cipher list still has to contain cipher suites for them.
        if table.has(\.presharedKeys), settings.presharedKeys == nil {
            settings.presharedKeys = PresharedKeys(keys: [])
        }
        // Five items can be left out, so the sixth attempt is the last.
        for _ in 0..<6 {
            do throws(CredentialsError) {
                _ = try ServerContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .signatures: settings.signatureAlgorithms = nil
                case .authorities: settings.clients = PeerVerification()
                case .rawPublicKeys:
                    (settings.offersRawPublicKeys, settings.bareKeys) = (false, [])
                    settings.clients.publicKeys = nil
                    if !settings.clients.takesCertificates { settings.clients = PeerVerification() }
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
        case .signatures(let reason):
            let field = table.field(\.model.tls.signatureAlgorithms)
            field.report("\(reason); expected \(field.expected)")
        case .version(let reason):
            table.report(
                table.has(\.model.tls.maximumVersion) ? \.model.tls.maximumVersion : \.minimumVersion,
                "\(reason); expected a version that this OpenSSL supports, not below minimum_version")
        case .rawPublicKeys(let reason):
            if table.field(\.model.tls.offersRawPublicKeys).isTrue {
                table.report(\.model.tls.offersRawPublicKeys, "\(reason); expected false")
            }
            if table.has(\.publicKeys) { table.report(\.publicKeys, "\(reason); expected no client_public_keys") }
        case .certificate, .privateKey, .passphrase, .mismatch, .presharedKey, .context:
            // Each certificate has been tested separately before.
            table.context.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
