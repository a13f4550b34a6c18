import DTLSEngine

/// Reads what a service agrees to in a handshake: versions, cipher suites, application protocols, renegotiation.
struct PolicyReader {
    let table: TableReader<ServiceKey>

    static let expectedCiphers = "an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
    private static let applicationProtocol = "names of application protocols, each of 1 to 255 bytes (\"coap\")"

    func read(into settings: inout ServerSettings) {
        let policy = table.choice(
            .policy, of: CipherPolicy.allCases.map(\.rawValue), CipherPolicy.init(rawValue:))
        settings.policy = policy ?? .modern
        settings.ciphers = Self.ciphers(table, .ciphers)
        settings.minimumVersion = version(.minimumVersion) ?? settings.policy.minimumVersion
        settings.maximumVersion = version(.maximumVersion)
        settings.applicationProtocols = Self.applicationProtocols(table, .applicationProtocols)
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

    /// A key `ciphers`. OpenSSL passes over what it does not know in it, as long as it knows something.
    static func ciphers<Key>(_ table: TableReader<Key>, _ key: Key) -> String? {
        let list = table.string(key, expectedCiphers)
        let words = list.map(CipherPolicy.wordsWithoutSuite) ?? []
        if !words.isEmpty {
            let names = words.map(ReadContext.quoted).joined(separator: ", ")
            table.warn(
                key, "no effect: \(names); OpenSSL knows no suite of \(words.count == 1 ? "this name" : "these names")")
        }
        return list
    }

    /// The names of a key `alpn`, best first; a client offers such a list too. None where they cannot be offered.
    static func applicationProtocols<Key>(_ table: TableReader<Key>, _ key: Key) -> [String] {
        var list: [String] = []
        for name in table.strings(key, applicationProtocol) {
            if list.contains(name.text) {
                table.report(
                    key, element: name.element,
                    "\(ReadContext.quoted(name.text)) is there twice; expected each protocol once")
            } else if (1...255).contains(name.text.utf8.count) {
                list.append(name.text)
            } else {
                table.report(
                    key, element: name.element,
                    "expected \(applicationProtocol), found the string \(ReadContext.quoted(name.text))")
            }
        }
        let length = ApplicationProtocols.encodedLength(of: list)
        guard length <= ApplicationProtocols.maximumLength else {
            table.report(
                key,
                "\(length) bytes, with one of length before each name; expected at most "
                    + "\(ApplicationProtocols.maximumLength), as many as a ClientHello has room for")
            return []
        }
        return list
    }
}
