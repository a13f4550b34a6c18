import DTLSEngine

/// The table `[service.NAME.clients]`: rules for the certificates of clients.
struct ClientRulesSection {
    fileprivate var allow: [Element<PeerRule>] = []
    fileprivate var deny: [Element<PeerRule>] = []

    static let schema = Schema<Self> {
        Key(
            "allow", \.allow, .peerRules, default: "none; every certificate that is valid",
            doc: "The rules for accepted clients, one of which a client's certificate must match.")
        Key("deny", \.deny, .peerRules, default: "none", doc: "The rules for rejected clients.")
    }
}

extension ValueType where Value == [Element<PeerRule>] {
    static var peerRules: Self {
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

/// A file with the certificate revocation lists of CAs.
struct RevocationListFile {
    fileprivate let text: String
    fileprivate let lists: RevocationLists
}

extension ValueType where Value == [RevocationListFile] {
    /// The size limit. A CA that has revoked a hundred thousand certificates has a list of 4 MB in PEM.
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
                                + " a new list is loaded (SIGHUP)")
                    }
                    field.note(lists, named: name.value)
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

/// Combines the keys `client_certificate`, `ca`, `client_public_keys` and `crl` and the table `clients`, which together say how a service
/// verifies the certificates of its clients.
struct ClientAuthReader {
    let section: ServiceSection
    let table: TableReader<ServiceSection>

    /// - Returns: the verification; none if the keys contradict one another, which is reported.
    func read() -> PeerVerification {
        let mode =
            section.clientCertificate ?? (Self.proofs.contains { table.has($0) } ? .required : .none)
        if let authorities = section.authorities, mode != .none { warn(of: authorities) }
        let fits = check(mode)
        guard fits, mode != .none, section.authorities != nil || !table.has(\.authorities),
            // Where they are wrong, what is wrong with the CA certificates is still to be said.
            section.publicKeys != nil || section.authorities != nil || !table.has(\.publicKeys)
        else {
            return PeerVerification()
        }
        return PeerVerification(
            mode: mode, authorities: section.authorities, revocationLists: section.revocationLists.map(\.text),
            revocationCheck: section.revocationCheck, purpose: section.clientPurpose,
            allow: section.clients.allow.map(\.value), deny: section.clients.deny.map(\.value),
            publicKeys: section.publicKeys)
    }

    /// Warns about expired CA certificates and missing revocation lists, which make the service reject valid clients.
    private func warn(of authorities: String) {
        table.field(\.authorities).warnOfDates(in: authorities, "the clients of this CA are refused")
        // Of a CA that has issued no client's certificate itself, nobody looks for a list then; which ones these are is
        // not known.
        guard section.revocationCheck == .chain else { return }
        guard !section.revocationLists.isEmpty, let certificates = try? CertificateList(pem: authorities) else {
            return
        }
        for name in certificates.withoutList(in: section.revocationLists.map(\.lists)) {
            table.warn(
                \.revocationLists,
                "no list of \(name), a CA in \(table.field(\.authorities).quotedName()): its clients are refused until"
                    + " there is one (SIGHUP loads it)")
        }
    }

    /// Whether the keys fit together. Without `ca`, clients can be identified by fingerprints only.
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
        if table.has(\.revocationCheck), !table.has(\.revocationLists) {
            table.report(\.revocationCheck, "there is no list to check with; expected crl beside it")
        }
        guard !table.has(\.authorities) else { return true }
        if table.has(\.clientPurpose) {
            table.report(
                \.clientPurpose, "it has no effect without ca, as fingerprints count whatever a certificate is for")
        }
        if table.has(\.revocationLists) {
            table.report(
                \.revocationLists, "it has no effect without ca; expected ca with the CAs that issued these lists")
        }
        guard let rules = table.table(\.clients, ClientRulesSection.schema), rules.has(\.allow) else {
            if table.has(\.publicKeys) {
                guard table.has(\.clients) else { return true }
                table.report(
                    \.clients,
                    "its rules are about certificates, and nothing says which are valid; expected ca beside it, or an"
                        + " allow list of \"sha256:\" fingerprints")
                return false
            }
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

    /// The keys with which clients have to prove who they are.
    private static var proofs: [PartialKeyPath<ServiceSection>] { [\.authorities, \.clients, \.publicKeys] }

    /// The keys that have no effect when clients are not asked for certificates, and what else they need.
    private static var properties: [(PartialKeyPath<ServiceSection>, String)] {
        [
            (\.authorities, ""), (\.revocationLists, " and ca"), (\.clients, ""), (\.clientPurpose, " and ca"),
            (\.revocationCheck, " and ca"), (\.publicKeys, ""),
        ]
    }
}
