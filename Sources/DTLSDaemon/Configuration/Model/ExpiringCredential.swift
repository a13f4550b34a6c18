import DTLSEngine
import Primitives

/// A certificate, revocation list or OCSP response of a service or client, as far as an operator is told of its end.
struct ExpiringCredential: Codable, Hashable, Sendable {
    enum Content: String, Codable, Sendable {
        case certificate
        case revocationList
        case ocspResponse
    }

    enum Kind: String, Codable, Sendable {
        case service
        case client
    }

    var content = Content.certificate
    var kind: Kind
    /// Of the service or client.
    var owner: String
    /// The server name (SNI) that it is for; `nil`: it is the service's own, or the client's.
    var host: String?
    /// The file as the configuration names it; empty where it is not known.
    var file: String
    /// As RFC 2253 writes it: the subject of the certificate, or of the one that an OCSP response is about; the issuer of
    /// a revocation list.
    var subject: String
    /// When a revocation list or an OCSP response was issued; `nil`: for a certificate, or it is not known.
    var issuedAt: UnixTime?
    /// It is not valid from then on.
    var notAfter: UnixTime

    /// Whole days that it is still valid; negative once it has expired.
    func daysLeft(at now: UnixTime) -> Int {
        let seconds = notAfter.seconds.subtractingReportingOverflow(now.seconds).partialValue
        // Rounded down, which division is not for negative numbers.
        return Int(clamping: seconds >= 0 ? seconds / 86_400 : -1 - (-1 - seconds) / 86_400)
    }
}

extension Configuration {
    /// Everything of the configuration that expires: certificates, revocation lists, and the OCSP responses that are
    /// stapled now.
    var expiring: [ExpiringCredential] { credentials + services.flatMap(\.expiringStaples) }
}

extension ServiceConfiguration {
    fileprivate var expiringStaples: [ExpiringCredential] {
        let own = tls.certifiedKeys.map { (host: String?.none, key: $0) }
        let others = tls.names.flatMap { host in host.certifiedKeys.map { (host: Optional(host.name), key: $0) } }
        return (own + others).compactMap { host, key in
            guard let staple = key.staple, let expiry = staple.expiry else { return nil }
            return ExpiringCredential(
                content: .ocspResponse, kind: .service, owner: name, host: host, file: "",
                subject: (try? OwnCertificate(pem: key.certificate))?.subject ?? "", issuedAt: staple.start,
                notAfter: expiry)
        }
    }
}

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
