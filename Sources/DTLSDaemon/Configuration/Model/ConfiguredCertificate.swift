import DTLSEngine
import Primitives

/// A certificate of a service or client, as far as an operator is told of it.
struct ConfiguredCertificate: Codable, Hashable, Sendable {
    var kind: Kind
    /// Of the service or client.
    var owner: String
    /// The server name (SNI) that it is for; `nil`: it is the service's own, or the client's.
    var host: String?
    /// The file as the configuration names it.
    var file: String
    /// The certificate's subject, as RFC 2253 writes it.
    var subject: String
    /// It is not valid from then on.
    var notAfter: UnixTime

    enum Kind: String, Codable, Sendable {
        case service
        case client
    }

    /// Whole days that it is still valid; negative once it has expired.
    func daysLeft(at now: UnixTime) -> Int {
        let seconds = notAfter.seconds.subtractingReportingOverflow(now.seconds).partialValue
        // Rounded down, which division is not for negative numbers.
        return Int(clamping: seconds >= 0 ? seconds / 86_400 : -1 - (-1 - seconds) / 86_400)
    }
}

extension Field {
    /// Notes a certificate that can be used, for what an operator is told of it.
    /// - Parameters:
    ///   - text: PEM, the certificate first.
    ///   - name: the file's; `nil`: the value of this key.
    func noteCertificate(in text: String, named name: String? = nil) {
        // service.NAME.certificate, service.NAME.name.HOST.certificate, or client.NAME.certificate.
        guard path.count >= 3, let kind = ConfiguredCertificate.Kind(rawValue: path[0]),
            let certificate = try? OwnCertificate(pem: text), let notAfter = certificate.notAfter
        else { return }
        context.certificates.append(
            ConfiguredCertificate(
                kind: kind, owner: path[1], host: path.count > 4 ? path[3] : nil, file: name ?? string ?? "",
                subject: certificate.subject, notAfter: notAfter))
    }
}
