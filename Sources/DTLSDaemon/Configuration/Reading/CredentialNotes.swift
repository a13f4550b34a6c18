import DTLSEngine
import Primitives

extension Field {
    /// Notes a certificate that can be used, for what an operator is told of it.
    /// - Parameters:
    ///   - text: PEM, the certificate first.
    ///   - name: the file's; `nil`: the value of this key.
    func noteCertificate(in text: String, named name: String? = nil) {
        guard let certificate = try? OwnCertificate(pem: text), let notAfter = certificate.notAfter else { return }
        note(.certificate, named: name ?? string ?? "", certificate.subject, notAfter)
    }

    /// Notes revocation lists, for what an operator is told of them.
    /// - Parameter name: the file's.
    func note(_ lists: RevocationLists, named name: String) {
        for life in lists.lives {
            note(.revocationList, named: name, life.issuer, life.nextUpdate, issuedAt: life.thisUpdate)
        }
    }

    private func note(
        _ content: ExpiringCredential.Content, named name: String, _ subject: String, _ notAfter: UnixTime,
        issuedAt: UnixTime? = nil
    ) {
        // service.NAME.certificate, service.NAME.name.HOST.certificate, service.NAME.crl, or client.NAME.certificate.
        guard path.count >= 3, let kind = ExpiringCredential.Kind(rawValue: path[0]) else { return }
        context.credentials.append(
            ExpiringCredential(
                content: content, kind: kind, owner: path[1], host: path.count > 4 ? path[3] : nil, file: name,
                subject: subject, issuedAt: issuedAt, notAfter: notAfter))
    }
}
