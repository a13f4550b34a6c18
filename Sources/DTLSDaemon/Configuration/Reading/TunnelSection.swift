import DTLSEngine
import LinuxSystem
import Primitives

/// The values of a table `[client.NAME]`. Keys that depend on no other are read directly into the model;
/// ``configuration(_:name:)`` derives the rest of the model from the others.
struct TunnelSection {
    /// The model. Its server is a placeholder until one has been read.
    var model = ClientConfiguration(
        name: "", listen: [], server: .address(.anyAddress(.ipv4, port: 9)), serverName: "localhost",
        tls: ClientSettings(),
        socket: SocketOptions(fragmentation: false))
    var listen: [Element<SocketAddress>] = []
    var server: NamedAddress?
    var sources: [Element<LocalSource>] = []
    var serverName: String?
    var authorities: String?
    var publicKeys: KnownPublicKeys?
    var certificate: String?
    var privateKey: String?
    var presharedKey = TunnelPresharedKeySection()

    static let schema = Schema<Self> {
        Key(
            "listen", \.listen, .listenAddresses, default: "none; systemd passes the sockets in",
            doc: "The addresses and ports at which plain datagrams arrive.")
        Key(
            "connect", \.server, .server, isRequired: { _ in true },
            doc: "The host and port of the DTLS server.")
        Key(
            "source", \.sources, .sources, default: "none; the kernel chooses the address",
            doc: "The addresses and ports of this machine from which the server is sent to, which take turns.")
        Key(
            "interface", \.model.interface, .outgoingInterface, default: "none; the routes decide",
            doc: "The only network interface over which the server is sent to (SO_BINDTODEVICE).")
        Key(
            "server_name", \.serverName, .serverName, default: "the host of connect",
            doc: "The name that is sent to the server (SNI), and for which it must present a certificate.")
        Key(
            "verify", \.model.tls.rejectUnauthorized, .flag,
            doc: "Whether the server must present a certificate of a trusted CA that is valid for server_name.")
        Key(
            "ca", \.authorities,
            .pem("the path of a PEM file with the CA certificates that the server is checked against"),
            default: "the CA certificates of the system",
            doc: "The trusted CA certificates, or the server's own certificate.")
        Key(
            "server_public_keys", \.publicKeys, .publicKeys, default: "none; the server must show a certificate",
            doc: "The file of the raw public keys (RFC 7250) of which the server must show one.")
        Key(
            "certificate", \.certificate,
            .pem("the path of a PEM file with the client's certificate and the chain above it"),
            isRequired: { $0.has(\.privateKey) && !$0.has(\.presharedKey) && !$0.showsRawPublicKey }, default: "none",
            doc: "The client's own certificate with its chain.")
        Key(
            "private_key", \.privateKey,
            .pem("the path of a PEM file with the certificate's private key", isSecret: true),
            isRequired: { ($0.has(\.certificate) || $0.showsRawPublicKey) && !$0.has(\.presharedKey) },
            default: "none", doc: "The certificate's private key.")
        Key(
            "raw_public_key", \.model.tls.offersRawPublicKey, .flag,
            doc: "Whether servers that take it get the bare public key (RFC 7250) of private_key.")
        Key(
            "passphrase_file", \.model.tls.passphrase,
            .secretLine("the path of a file with the private key's passphrase in its first line"),
            default: "none; the private key is not encrypted", doc: "The passphrase of the private key.")
        Key(
            "ciphers", \.model.tls.ciphers, .ciphers,
            default: "those with forward secrecy and authenticated encryption",
            doc: "The cipher suites of DTLS 1.2 and earlier, as an OpenSSL cipher list.")
        Key(
            "groups", \.model.tls.groups, .groups, default: "\"X25519:P-256:P-384:P-521\"",
            doc: "The groups for the key exchange (ECDHE), and for the server's ECDSA certificate.")
        Key(
            "signature_algorithms", \.model.tls.signatureAlgorithms, .signatureAlgorithms, default: "OpenSSL's",
            doc: "The signature algorithms of DTLS 1.2.")
        Key(
            "legacy_server", \.model.tls.allowsLegacyServer, .flag,
            doc: "Whether the server may do without secure renegotiation (RFC 5746).")
        Key(
            "minimum_version", \.model.tls.minimumVersion, .version,
            doc: "The oldest DTLS version that is used.")
        Key(
            "maximum_version", \.model.tls.maximumVersion, .version,
            default: "the newest version that OpenSSL supports",
            doc: "The newest DTLS version that is used.")
        Key(
            "alpn", \.model.tls.applicationProtocols, .applicationProtocols, default: "none",
            doc: "The application protocols (ALPN) that are offered to the server in order of preference.")
        Key(
            "mtu", \.model.mtu, .integer(256...9_000, "an integer of bytes"),
            doc: "The largest IP packet that is sent during a handshake.")
        Key(
            "record_mtu", \.model.recordMTU, .recordMTU, default: "none; what the kernel knows of the path",
            doc: "The largest IP packet that is sent over a connection; \"handshake\" is what its handshake found out.")
        Key(
            "connection_id", \.model.connectionIDLength,
            .connectionIDLength(0...ConnectionIDConfiguration.maximumLength),
            doc: "The length of the connection ID (RFC 9146) that the server is to send; 0 is for its own alone.")
        Key(
            "handshake_timeout", \.model.handshakeTimeout, .seconds(2...120),
            doc: "How long the server may take for the handshake.")
        Key(
            "retransmission", \.model.retransmission, .seconds(1...60),
            default: "three round trips, as the exchange of the cookie has measured them; 0.25 to 1",
            doc: "How long a flight of the handshake waits for an answer before it is sent again for the first time.")
        Key(
            // The acceptor's memory of a sender must not outlive the connection of the sender
            // (`RecentFlows.lifetime`).
            "idle_timeout", \.model.idleTimeout, .idleTime(2),
            doc: "How long no datagram may pass before a sender's connection is closed; 0 means no limit.")
        Key(
            // A shorter time would establish a new connection for every datagram.
            "answer_timeout", \.model.answerTimeout, .seconds(1...86_400, orZero: ()),
            doc: "How long datagrams may be sent unanswered before a new connection is established; 0 means never.")
        Key(
            "resumption", \.model.resumes, .flag,
            doc: "Whether a new connection resumes the session of an earlier one.")
        Key(table: "socket", \.model.socket, SocketOptions.schema, doc: "The options of the client's sockets.")
        Key(
            table: "psk", \.presharedKey, TunnelPresharedKeySection.schema,
            doc: "A key that the client shares with the server, instead of certificates.")
    }

    /// Makes the configuration of the client. Each error is reported, and a placeholder takes the place of the wrong
    /// value, so that the rest is checked too.
    func configuration(_ table: TableReader<Self>, name: String) -> ClientConfiguration {
        ReadContext.check(name: name, at: table.path, of: "client", table.context)
        checkLoop(table)
        checkSources(table)
        model.socket.check(
            table.table(\.model.socket, SocketOptions.schema),
            against: listen.map(\.value.family) + (server?.families ?? []), of: "client")
        table.checkRetransmission(
            \.model.retransmission, model.retransmission, within: model.handshakeTimeout)
        var client = model
        client.name = name
        client.listen = listen.map(\.value)
        client.sources = sources.map(\.value)
        if let server { client.server = server.address }
        client.serverName = serverName ?? server?.name ?? client.serverName
        client.tls.connectionIDs = client.connectionIDLength != nil
        TunnelCredentialsReader(section: self, table: table).read(into: &client.tls)
        return client
    }

    /// Reports sources from which the server cannot be sent to.
    private func checkSources(_ table: TableReader<Self>) {
        var address: SocketAddress?
        if case .address(let known)? = server?.address { address = known }
        table.check(sources, \.sources, against: [address].compactMap(\.self), mayHaveOthers: address == nil, "server")
    }

    /// Reports a client that is its own server: it would receive what it sends, each time from a new sender.
    private func checkLoop(_ table: TableReader<Self>) {
        guard case .address(let server)? = server?.address else { return }
        for address in listen.map(\.value) where address.port == server.port {
            guard address == server || address.isWildcard && server.isLoopback else { continue }
            table.report(\.server, "\(server) is where this client listens; expected the address of a DTLS server")
        }
    }
}

extension TableReader<TunnelSection> {
    /// Whether the client shows its raw public key.
    fileprivate var showsRawPublicKey: Bool { field(\.model.tls.offersRawPublicKey).isTrue }
}

/// Where the server is, and its host as written in the file.
struct NamedAddress {
    let address: HostAddress
    let name: String

    /// The families that its addresses may have.
    var families: [SocketAddress.Family] {
        switch address {
        case .address(let address): [address.family]
        case .name: [.ipv4, .ipv6]
        }
    }
}

extension ValueType where Value == NamedAddress {
    fileprivate static var server: Self {
        let text = ValueType<String>.string("\"HOST:PORT\" or \"[IPv6 ADDRESS]:PORT\"")
        return Self(text.expected) { field in
            guard let text = text.read(field) else { return nil }
            guard let named = HostAndPort(text) else {
                field.report(
                    "expected \(field.expected), the port 1 to 65535, found the string \(ReadContext.quoted(text))")
                return nil
            }
            do throws(HostAndPort.Mistake) {
                return NamedAddress(address: try named.checked(field), name: named.certificateName)
            } catch {
                field.report(error.message)
                return nil
            }
        }
    }
}

extension ValueType where Value == String {
    fileprivate static var serverName: Self {
        let text = string("a host name or an IP address, without a port")
        return Self(text.expected) { field in
            guard let name = text.read(field) else { return nil }
            let isAddress = SocketAddress(host: name, port: 0)?.scope == 0
            if isAddress || HostName.isValid(name) { return name }
            field.reportMismatch(found: name)
            return nil
        }
    }
}

/// Reads the trusted CAs and the certificate of a client, and tests them by creating the engine's context with them.
private struct TunnelCredentialsReader {
    let section: TunnelSection
    let table: TableReader<TunnelSection>

    func read(into settings: inout ClientSettings) {
        if settings.allowsLegacyServer {
            table.warn(
                \.model.tls.allowsLegacyServer,
                "true: where the server does without secure renegotiation (RFC 5746), somebody on the way can put data of"
                    + " their own in front of this client's; expected false once the server has been updated")
        }
        var trial: ClientSettings
        if table.has(\.presharedKey) {
            usePresharedKey(in: &settings)
            trial = settings
            // If the key cannot be used, a placeholder takes its place, so that the rest is tested too.
            if trial.presharedKey == nil { trial.presharedKey = PresharedKey(identity: [0x78], key: [0]) }
        } else {
            useCertificates(in: &settings)
            trial = settings
        }
        tryOut(trial)
    }

    private func useCertificates(in settings: inout ClientSettings) {
        if settings.rejectUnauthorized {
            settings.serverPublicKeys = section.publicKeys
            // With known keys, the system's CAs are no reason to take a certificate.
            if table.has(\.authorities) || !table.has(\.publicKeys) {
                settings.certificateAuthorities = authorities()
            }
        } else {
            table.warn(
                \.model.tls.rejectUnauthorized,
                "false: anybody who answers in place of the server is accepted, and can read and write everything")
            for property: PartialKeyPath<TunnelSection> in [\.authorities, \.publicKeys] where table.has(property) {
                table.report(property, "it has no effect with verify = false; expected only one of the two")
            }
        }
        if table.has(\.model.tls.passphrase), !table.has(\.certificate), !table.has(\.privateKey) {
            table.report(
                \.model.tls.passphrase,
                "there is no private key that it could be for; expected private_key beside it")
        }
        let hasPassphrase = settings.passphrase != nil || !table.has(\.model.tls.passphrase)
        if section.certificate != nil, section.privateKey != nil, hasPassphrase {
            settings.certificate = section.certificate
            settings.privateKey = section.privateKey
        }
        if table.showsRawPublicKey, section.certificate == nil {
            if hasPassphrase { settings.privateKey = section.privateKey }
            // The missing key, or what is wrong with it, was reported.
            if settings.privateKey == nil { settings.offersRawPublicKey = false }
        }
        if let certificate = section.certificate {
            table.field(\.certificate).noteCertificate(in: certificate)
            table.field(\.certificate).warnOfDates(in: certificate, "servers that check it will refuse it")
            table.field(\.certificate).warnOfKey(in: certificate, "most servers refuse it")
        }
    }

    /// Reports the keys about certificates, which neither side needs with a pre-shared key.
    private func usePresharedKey(in settings: inout ClientSettings) {
        let others: [PartialKeyPath<TunnelSection>] = [
            \.model.tls.rejectUnauthorized, \.authorities, \.publicKeys, \.certificate, \.privateKey,
            \.model.tls.passphrase, \.model.tls.offersRawPublicKey,
        ]
        for property in others where table.has(property) {
            table.report(
                property,
                "it has no effect with [client.NAME.psk], whose key proves both sides; expected only one of the two")
        }
        settings.rejectUnauthorized = true
        (settings.passphrase, settings.offersRawPublicKey) = (nil, false)
        if let psk = table.table(\.presharedKey, TunnelPresharedKeySection.schema) {
            settings.presharedKey = section.presharedKey.key(psk)
        }
    }

    /// The trusted CAs of the file, or of the system. Workers open no files, so they get both as text.
    private func authorities() -> String? {
        let field = table.field(\.authorities)
        if field.value != nil {
            if let text = section.authorities {
                field.warnOfDates(in: text, "servers with a certificate of this CA are refused")
            }
            return section.authorities
        }
        do throws(SystemBundle.Missing) {
            return try SystemBundle(environment: table.context.environment).read()
        } catch {
            field.report(
                "missing, and the system's CA certificates are not there: \(error.tried.joined(separator: "; "));"
                    + " expected \(field.expected), or the system's (the package ca-certificates has them)")
            return nil
        }
    }

    /// The engine stops at the first error. Each wrong item is then left out, so that the next error is found too.
    private func tryOut(_ settings: ClientSettings) {
        var settings = settings
        // Six items can be left out, so the seventh attempt is the last.
        for _ in 0..<7 {
            do throws(CredentialsError) {
                _ = try ClientContext(settings)
                return
            } catch {
                report(error)
                switch error {
                case .ciphers: settings.ciphers = nil
                case .signatures: settings.signatureAlgorithms = nil
                case .authorities: settings.certificateAuthorities = nil
                case .version: (settings.minimumVersion, settings.maximumVersion) = (.dtls12, nil)
                case .presharedKey, .context: return
                case .rawPublicKeys: (settings.serverPublicKeys, settings.offersRawPublicKey) = (nil, false)
                case .certificate, .privateKey, .passphrase, .mismatch:
                    (settings.certificate, settings.offersRawPublicKey) = (nil, false)
                }
            }
        }
    }

    private func report(_ error: CredentialsError) {
        func report(_ property: PartialKeyPath<TunnelSection>, _ reason: String, expected: String? = nil) {
            let field = table.field(property)
            let name = field.value == nil ? "the system's" : field.quotedName()
            field.report("\(name): \(reason); expected \(expected ?? field.expected)")
        }
        switch error {
        case .certificate(let reason): report(\.certificate, reason)
        case .privateKey(let reason): report(\.privateKey, reason)
        case .passphrase(let reason):
            if table.has(\.model.tls.passphrase) {
                report(\.model.tls.passphrase, reason)
            } else {
                report(\.privateKey, reason, expected: "a passphrase_file beside it")
            }
        case .mismatch(let reason):
            let certificate = table.field(\.certificate).quotedName()
            report(
                \.privateKey, reason, expected: "the key that the first certificate in \(certificate) was made for")
        case .authorities(let reason): report(\.authorities, reason)
        case .ciphers(let reason):
            let field = table.field(\.model.tls.ciphers)
            field.report("\(reason); expected \(field.expected)")
        case .signatures(let reason):
            let field = table.field(\.model.tls.signatureAlgorithms)
            field.report("\(reason); expected \(field.expected)")
        case .version(let reason):
            table.report(
                table.has(\.model.tls.maximumVersion) ? \.model.tls.maximumVersion : \.model.tls.minimumVersion,
                "\(reason); expected a version that this OpenSSL supports, not below minimum_version")
        case .rawPublicKeys(let reason):
            if table.showsRawPublicKey { table.report(\.model.tls.offersRawPublicKey, "\(reason); expected false") }
            if table.has(\.publicKeys) { table.report(\.publicKeys, "\(reason); expected no server_public_keys") }
        case .presharedKey, .context: table.context.report(table.path, "no TLS context can be made: \(error)")
        }
    }
}
