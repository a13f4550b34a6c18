import DTLSEngine

/// The keys of `[service.NAME.clients]`.
enum ClientsKey: String, CaseIterable {
    case allow, deny
}

/// Reads what a service wants to know of its clients: the keys `client_certificate`, `ca` and `crl` and the table
/// `clients`. What is wrong is reported, and left out of what is returned.
struct ClientsReader {
    static let expectedAuthorities =
        "the path of a PEM file with the CA certificates that clients are checked against"
    private static let expectedLists =
        "the path of a PEM file with the CAs' revocation lists (`openssl crl -inform DER` makes it of DER), or an array "
        + "of such paths"
    /// A CA of a hundred thousand devices can have revoked as many: 4 MB of PEM.
    private static let maximumListSize = 16 * FileContents.maximumSize

    let table: TableReader<ServiceKey>

    func read() -> PeerVerification {
        let authorities = table.pem(.authorities, Self.expectedAuthorities)
        let lists = revocationLists()
        let rules = table.table(.clients, ClientsKey.self)
        let allow = Self.rules(rules, .allow)
        let deny = Self.rules(rules, .deny)
        let mode = mode()
        if let authorities, mode != .none { warn(of: authorities, lists.map(\.lists)) }
        let isWhole = check(mode, rules, allow)
        guard isWhole, mode != .none, authorities != nil || !table.has(.authorities) else {
            return PeerVerification()
        }
        return PeerVerification(
            mode: mode, authorities: authorities, revocationLists: lists.map(\.text), allow: allow.map(\.rule),
            deny: deny.map(\.rule))
    }

    private func mode() -> PeerVerification.Mode {
        let names = PeerVerification.Mode.allCases.map(\.rawValue)
        return table.choice(.clientCertificate, of: names, PeerVerification.Mode.init(rawValue:))
            ?? (table.has(.authorities) || table.has(.clients) ? .required : .none)
    }

    /// What refuses clients that nothing is wrong with.
    private func warn(of authorities: String, _ lists: [RevocationLists]) {
        table.warnOfDates(in: authorities, .authorities, "the clients of this CA are refused")
        guard !lists.isEmpty, let certificates = try? CertificateList(pem: authorities) else { return }
        for name in certificates.withoutList(in: lists) {
            table.warn(
                .revocationLists,
                "no list of \(name), a CA in \(table.named(.authorities)): its clients are refused until there is one, and "
                    + "a reload")
        }
    }

    private func revocationLists() -> [(text: String, lists: RevocationLists)] {
        table.strings(.revocationLists, Self.expectedLists).compactMap { element, name in
            guard
                let text = table.pem(
                    .revocationLists, element: element, named: name, Self.expectedLists,
                    maximumSize: Self.maximumListSize)
            else { return nil }
            do {
                let lists = try RevocationLists(pem: text)
                for complaint in lists.outOfDate {
                    table.warn(
                        .revocationLists, element: element,
                        "\(ReadContext.quoted(name)): \(complaint); the clients of this CA are refused until "
                            + "there is a new one, and a reload")
                }
                return (text, lists)
            } catch {
                let reason = text.contains("-----BEGIN X509 CRL-----") ? "not valid PEM (\(error))" : "no PEM CRL in it"
                table.report(
                    .revocationLists, element: element,
                    "\(ReadContext.quoted(name)): \(reason); expected \(Self.expectedLists)")
                return nil
            }
        }
    }

    private typealias Rule = (element: Int, rule: PeerRule)

    private static func rules(_ table: TableReader<ClientsKey>?, _ key: ClientsKey) -> [Rule] {
        guard let table else { return [] }
        return table.strings(key, "a rule such as \"cn:*.example.org\", or an array of rules").compactMap {
            element, text in
            do throws(PeerRuleError) {
                return (element, try PeerRule(text))
            } catch {
                table.report(key, element: element, "\(ReadContext.quoted(text)): \(error)")
                return nil
            }
        }
    }

    /// Whether the keys fit together. Without `ca`, fingerprints are all that clients can be known by.
    private func check(_ mode: PeerVerification.Mode, _ rules: TableReader<ClientsKey>?, _ allow: [Rule]) -> Bool {
        if mode == .none {
            for key in [ServiceKey.authorities, .revocationLists, .clients] where table.has(key) {
                table.report(
                    key,
                    "no effect, since clients are not asked for certificates; expected client_certificate = "
                        + "\"requested\" or \"required\"" + (key == .revocationLists ? " and ca" : ""))
            }
            return true
        }
        guard !table.has(.authorities) else { return true }
        if table.has(.revocationLists) {
            table.report(.revocationLists, "no effect without ca; expected ca with the CAs that these are the lists of")
        }
        guard let rules, rules.has(.allow) else {
            let key = table.has(.clientCertificate) ? ServiceKey.clientCertificate : .clients
            table.report(
                key,
                "nothing says which certificates are good; expected ca beside it, or an allow list of \"sha256:\" "
                    + "fingerprints in [service.NAME.clients]")
            return false
        }
        for (element, rule) in allow where !rule.isFingerprint {
            rules.report(
                .allow, element: element,
                "\(ReadContext.quoted(rule.text)) proves nothing without ca; expected ca in [service.NAME], or "
                    + "\"sha256:\" fingerprints alone")
        }
        return !allow.isEmpty && allow.allSatisfy(\.rule.isFingerprint)
    }
}
