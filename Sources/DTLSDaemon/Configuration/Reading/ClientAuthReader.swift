import DTLSEngine

/// `[service.NAME.clients]`: rules for the certificates of clients.
struct ClientRulesSection {
    fileprivate var allow: [Element<PeerRule>] = []
    fileprivate var deny: [Element<PeerRule>] = []

    static let schema = Schema<Self> {
        Key(
            "allow", \.allow, .peerRules, default: "none; every certificate that is valid",
            doc: "Rules of which a client's certificate must match one.")
        Key("deny", \.deny, .peerRules, default: "none", doc: "Rules of which no client's certificate may match any.")
    }
}

extension ValueType where Value == [Element<PeerRule>] {
    fileprivate static var peerRules: Self {
        Self("a rule such as \"cn:*.example.org\", or an array of rules") { field in
            field.strings.compactMap { text in
                do throws(PeerRuleError) {
                    return Element(number: text.number, value: try PeerRule(text.value))
                } catch {
                    field.report(element: text.number, "\(ReadContext.quoted(text.value)): \(error)")
                    return nil
                }
            }
        }
    }
}

/// A file with the revocation lists of CAs.
struct RevocationListFile {
    fileprivate let text: String
    fileprivate let lists: RevocationLists
}

extension ValueType where Value == [RevocationListFile] {
    /// A CA of a hundred thousand devices can have revoked as many: 4 MB of PEM.
    private static var maximumSize: Int { 16 * FileContents.maximumSize }

    static var revocationLists: Self {
        Self(
            "the path of a PEM file with the CAs' revocation lists (`openssl crl -inform DER` converts DER to PEM), or"
                + " an array of such paths"
        ) { field in
            field.strings.compactMap { name in
                guard let text = field.pem(name.value, element: name.number, maximumSize: maximumSize) else {
                    return nil
                }
                do {
                    let lists = try RevocationLists(pem: text)
                    for complaint in lists.outOfDate {
                        field.warn(
                            element: name.number,
                            "\(ReadContext.quoted(name.value)): \(complaint); the clients of this CA are refused until"
                                + " there is a new one and dtlsd is reloaded")
                    }
                    return RevocationListFile(text: text, lists: lists)
                } catch {
                    let reason =
                        text.contains("-----BEGIN X509 CRL-----") ? "not valid PEM (\(error))" : "no PEM CRL in it"
                    field.report(
                        element: name.number,
                        "\(ReadContext.quoted(name.value)): \(reason); expected \(field.expected)")
                    return nil
                }
            }
        }
    }
}

/// How a service checks the certificates of its clients: the keys `client_certificate`, `ca` and `crl` and the table
/// `clients` as one.
struct ClientAuthReader {
    let section: ServiceSection
    let table: TableReader<ServiceSection>

    /// - Returns: no verification at all where the keys do not fit together, which is reported.
    func read() -> PeerVerification {
        let mode =
            section.clientCertificate ?? (table.has(\.authorities) || table.has(\.clients) ? .required : .none)
        if let authorities = section.authorities, mode != .none { warn(of: authorities) }
        let fits = check(mode)
        guard fits, mode != .none, section.authorities != nil || !table.has(\.authorities) else {
            return PeerVerification()
        }
        return PeerVerification(
            mode: mode, authorities: section.authorities, revocationLists: section.revocationLists.map(\.text),
            allow: section.clients.allow.map(\.value), deny: section.clients.deny.map(\.value))
    }

    /// Warns of what makes the service refuse clients that nothing is wrong with.
    private func warn(of authorities: String) {
        table.field(\.authorities).warnOfDates(in: authorities, "the clients of this CA are refused")
        guard !section.revocationLists.isEmpty, let certificates = try? CertificateList(pem: authorities) else {
            return
        }
        for name in certificates.withoutList(in: section.revocationLists.map(\.lists)) {
            table.warn(
                \.revocationLists,
                "no list of \(name), a CA in \(table.field(\.authorities).quotedName()): its clients are refused until"
                    + " there is one and dtlsd is reloaded")
        }
    }

    /// Whether the keys fit together. Without `ca`, fingerprints are all that clients can be known by.
    private func check(_ mode: PeerVerification.Mode) -> Bool {
        if mode == .none {
            for (property, more) in Self.properties where table.has(property) {
                table.report(
                    property,
                    "it has no effect, since clients are not asked for certificates; expected client_certificate = "
                        + "\"requested\" or \"required\"\(more)")
            }
            return true
        }
        guard !table.has(\.authorities) else { return true }
        if table.has(\.revocationLists) {
            table.report(
                \.revocationLists, "it has no effect without ca; expected ca with the CAs that issued these lists")
        }
        guard let rules = table.table(\.clients, ClientRulesSection.schema), rules.has(\.allow) else {
            table.report(
                table.has(\.clientCertificate) ? \.clientCertificate : \.clients,
                "nothing says which certificates are valid; expected ca beside it, or an allow list of \"sha256:\" "
                    + "fingerprints in [service.NAME.clients]")
            return false
        }
        for rule in section.clients.allow where !rule.value.isFingerprint {
            rules.report(
                \.allow, element: rule.number,
                "\(ReadContext.quoted(rule.value.text)) proves nothing without ca; expected ca in [service.NAME], or "
                    + "\"sha256:\" fingerprints alone")
        }
        return !section.clients.allow.isEmpty && section.clients.allow.allSatisfy(\.value.isFingerprint)
    }

    /// The keys that mean nothing where clients are not asked for certificates, and what they need besides.
    private static var properties: [(PartialKeyPath<ServiceSection>, String)] {
        [(\.authorities, ""), (\.revocationLists, " and ca"), (\.clients, "")]
    }
}
