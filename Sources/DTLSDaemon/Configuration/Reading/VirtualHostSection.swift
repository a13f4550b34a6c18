import DTLSEngine
import LinuxSystem
import Primitives

/// The table `[service.NAME.name."HOST"]`: the certificates for clients that ask for a server name (SNI).
struct VirtualHostSection {
    var files = CertificateFiles()

    static let schema = Schema<Self> {
        Key(
            "certificate", \.files.certificates, .files(CertificateFiles.Expected.certificate),
            isRequired: { _ in true }, doc: "The certificate for the name with its chain, or several.")
        Key(
            "private_key", \.files.privateKeys, .files(CertificateFiles.Expected.privateKey),
            isRequired: { _ in true }, doc: "The certificate's private key, or that of each certificate.")
        Key(
            "passphrase_file", \.files.passphrases, .files(CertificateFiles.Expected.passphrase), default: "none",
            doc: "The passphrase of the private key.")
        Key(
            "ocsp_staple", \.files.staples, .files(CertificateFiles.Expected.staple), default: "none",
            doc: "The OCSP response about the certificate.")
    }
}

/// The values of the key `unknown_name`.
enum UnknownName: String, CaseIterable {
    /// The client gets the service's own certificate.
    case `default`
    case refuse
}

/// Reads the tables `[service.NAME.name."HOST"]` of a service.
struct VirtualHostsReader {
    let tables: [NamedTable<VirtualHostSection>]
    let service: String

    func read(into settings: inout ServerSettings) {
        var policy = settings
        (policy.certifiedKeys, policy.bareKeys) = ([], [])
        policy.clients = PeerVerification()
        policy.presharedKeys = nil
        var seen: [String: String] = [:]
        for host in tables {
            var section = VirtualHostSection()
            VirtualHostSection.schema.read(host.table, into: &section)
            // An IPv6 address can be written in several ways.
            let name = SocketAddress(host: host.name, port: 0)?.host ?? host.name.lowercased()
            guard check(host, settings.choosesByAddress) else { continue }
            if let other = seen[name] {
                host.table.context.report(
                    host.table.path,
                    "the same name as \(ReadContext.quoted(other)): case does not matter; "
                        + "expected one table for each name")
                continue
            }
            seen[name] = host.name
            let reader = CertificatesReader(
                files: section.files,
                fields: CertificateFields(
                    table: host.table.path, certificate: host.table.field(\.files.certificates),
                    privateKey: host.table.field(\.files.privateKeys),
                    passphrase: host.table.field(\.files.passphrases), staple: host.table.field(\.files.staples)),
                policy: policy)
            guard let found = reader.read(service: service, host: name) else { continue }
            warnOfOthers(found, host)
            settings.names.append(VirtualHost(name: name, certifiedKeys: found.map(\.key)))
        }
    }

    private func check(_ host: NamedTable<VirtualHostSection>, _ choosesByAddress: Bool) -> Bool {
        let table = host.table
        if Self.isAddress(host.name) {
            if choosesByAddress { return true }
            table.context.report(
                table.path,
                "clients never ask for an address; expected by_address = true in the service, or a host name")
            return false
        }
        if Self.isHostNameOrPattern(host.name) { return true }
        table.context.report(
            table.path,
            "not a name that clients can ask for; expected a host name in ASCII (\"b.example.org\", international "
                + "names as \"xn--…\"), or one with \"*\" for its whole first label (\"*.example.org\")")
        return false
    }

    private static func isAddress(_ text: String) -> Bool { SocketAddress(host: text, port: 0)?.scope == 0 }

    private static func isHostNameOrPattern(_ text: String) -> Bool {
        HostName.isValid(text.hasPrefix("*.") ? text.dropFirst(2) : text[...])
    }

    /// Warns about a certificate that is not valid for the name. This is not an error, since a client that does not
    /// verify names, or that expects exactly this certificate, can still connect.
    private func warnOfOthers(_ found: [CertificatesReader.Found], _ host: NamedTable<VirtualHostSection>) {
        for item in found {
            guard let certificate = try? OwnCertificate(pem: item.key.certificate) else { continue }
            let covers =
                Self.isAddress(host.name)
                ? certificate.covers(addressText: host.name) : certificate.covers(name: host.name)
            if covers { continue }
            host.table.warn(
                \.files.certificates, element: item.element,
                "\(ReadContext.quoted(item.file)) is not for \(ReadContext.quoted(host.name)): clients that "
                    + "check the name will refuse it")
        }
    }
}
