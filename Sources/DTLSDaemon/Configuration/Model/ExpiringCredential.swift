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
