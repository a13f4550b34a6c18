import DTLSEngine
import LinuxSystem

/// Reads the tables `[service.NAME.name."HOST"]`: the certificates for clients that ask for a name (SNI).
struct NamesReader {
    let table: TableReader<ServiceKey>
    let service: String

    /// What the tables hold, and how clients are told apart that ask for none of them.
    func read(into settings: inout ServerSettings) {
        settings.choosesByAddress = table.bool(.byAddress) ?? false
        settings.refusesUnknownNames =
            table.choice(.unknownName, of: ["default", "refuse"]) {
                $0 == "refuse" ? true : $0 == "default" ? false : nil
            }
            ?? false
        let tables = table.has(.name) ? table.tables(.name, NameKey.self) ?? [] : []
        if settings.choosesByAddress, tables.isEmpty {
            table.report(
                .byAddress, "there is one identity to choose only; expected tables [service.NAME.name.\"HOST\"] beside")
        }
        var policy = settings
        policy.certifiedKeys = []
        policy.clients = PeerVerification()
        policy.presharedKeys = nil
        var seen: [String: String] = [:]
        for (host, inner) in tables {
            // An IPv6 address can be written in several ways.
            let name = SocketAddress(host: host, port: 0)?.host ?? host.lowercased()
            guard check(host, settings.choosesByAddress, inner) else { continue }
            if let other = seen[name] {
                inner.reading.report(
                    inner.path,
                    "the same name as \(ReadContext.quoted(other)): case does not matter; "
                        + "expected one table for each name")
                continue
            }
            seen[name] = host
            inner.require(.certificate, CertificateExpectation.certificate)
            inner.require(.privateKey, CertificateExpectation.privateKey)
            let reader = CertificatesReader(table: inner, policy: policy)
            guard let found = reader.read(service: service, host: name) else { continue }
            warnOfOthers(found, host, inner)
            settings.names.append(VirtualHost(name: name, certifiedKeys: found.map(\.key)))
        }
    }

    private func check(_ host: String, _ choosesByAddress: Bool, _ inner: TableReader<NameKey>) -> Bool {
        if Self.isAddress(host) {
            if choosesByAddress { return true }
            inner.reading.report(
                inner.path,
                "clients never ask for an address; expected by_address = true in the service, or a host name")
            return false
        }
        if Self.isHostName(host) { return true }
        inner.reading.report(
            inner.path,
            "not a name that clients can ask for; expected a host name in ASCII (\"b.example.org\", international "
                + "names as \"xn--…\"), or one with \"*\" for its whole first label (\"*.example.org\")")
        return false
    }

    private static func isAddress(_ text: String) -> Bool {
        SocketAddress(host: text, port: 0)?.scope == 0
    }

    /// RFC 1123, section 2.1; an underscore is let through, since there are such names.
    static func isHostName(_ text: String) -> Bool {
        let name = text.hasPrefix("*.") ? text.dropFirst(2) : text[...]
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        return text.utf8.count <= 253
            && labels.allSatisfy { label in
                (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
                    && label.utf8.allSatisfy {
                        $0.isLetterOrDigit || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
                    }
            }
    }

    /// A client that checks names would go away. One that does not, or that expects this very certificate, is served:
    /// so this is no error.
    private func warnOfOthers(
        _ found: [CertificatesReader<NameKey>.Found], _ host: String, _ inner: TableReader<NameKey>
    ) {
        for item in found {
            guard let certificate = try? OwnCertificate(pem: item.key.certificate) else { continue }
            let covers =
                Self.isAddress(host) ? certificate.covers(addressText: host) : certificate.covers(name: host)
            if covers { continue }
            inner.warn(
                .certificate, element: item.element,
                "\(ReadContext.quoted(item.file)) is not for \(ReadContext.quoted(host)): clients that "
                    + "check the name will refuse it")
        }
    }
}
