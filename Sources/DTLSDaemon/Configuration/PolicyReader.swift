import DTLSEngine

/// Reads what a service agrees to in a handshake: versions, cipher suites, application protocols, renegotiation.
struct PolicyReader {
    let table: TableReader<ServiceKey>

    static let ciphers = "an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
    private static let applicationProtocol = "names of application protocols, each of 1 to 255 bytes (\"coap\")"

    func read(into settings: inout ServerSettings) {
        let policy = table.choice(
            .policy, of: CipherPolicy.allCases.map(\.rawValue), CipherPolicy.init(rawValue:))
        settings.policy = policy ?? .modern
        settings.ciphers = table.string(.ciphers, Self.ciphers)
        settings.minimumVersion = version(.minimumVersion) ?? settings.policy.minimumVersion
        settings.maximumVersion = version(.maximumVersion)
        settings.applicationProtocols = applicationProtocols()
        settings.allowsRenegotiation = table.bool(.renegotiation) ?? false
        if settings.policy == .legacy {
            table.warn(
                .policy,
                "\"legacy\" lets clients use DTLS 1.0, AES-CBC and key exchange without forward secrecy; "
                    + "expected \"modern\" wherever all clients can do DTLS 1.2")
        }
    }

    private func version(_ key: ServiceKey) -> ProtocolVersion? {
        table.choice(key, of: ProtocolVersion.allCases.map(\.name), ProtocolVersion.init(name:))
    }

    private func applicationProtocols() -> [String] {
        var list: [String] = []
        for name in table.strings(.applicationProtocols, Self.applicationProtocol) {
            if list.contains(name.text) {
                table.report(
                    .applicationProtocols, element: name.element,
                    "\(ConfigurationReading.quoted(name.text)) is there twice; expected each protocol once")
            } else if (1...255).contains(name.text.utf8.count) {
                list.append(name.text)
            } else {
                table.report(
                    .applicationProtocols, element: name.element,
                    "expected \(Self.applicationProtocol), found the string \(ConfigurationReading.quoted(name.text))")
            }
        }
        return list
    }
}
