import COpenSSL
import Glibc
import Primitives

/// What a certificate says, as text. All of it is the words of the party that has made the certificate: a reader who shows it
/// on a terminal escapes what is not printable.
public struct CertificateDetails: Sendable, Equatable {
    /// The subject as RFC 2253 writes it (`CN=sensor-7,O=Example`); may be empty.
    public let subject: String
    /// The issuer, likewise.
    public let issuer: String
    public let names: AlternativeNames
    /// When its validity begins and ends.
    public let notBefore: UnixTime
    public let notAfter: UnixTime
    /// The serial number, upper-case hexadecimal digits.
    public let serialNumber: String
    /// SHA-256 of the certificate, lower-case hexadecimal digits.
    public let fingerprint: String
    /// The key: `"RSA 2048"`, `"ECDSA P-256"`, or OpenSSL's name of its kind.
    public let key: String

    /// - Parameter der: a certificate in DER; `nil` where it cannot be read.
    public init?(der: [UInt8]) {
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        let certificate = der.withUnsafeBufferPointer { bytes in
            var position = bytes.baseAddress
            return d2i_X509(nil, &position, bytes.count)
        }
        guard let certificate else { return nil }
        defer { X509_free(certificate) }
        self.init(certificate)
    }

    /// - Parameter pem: a text whose first certificate is meant.
    public init?(pem: String) {
        guard let certificate = try? OwnCertificate(pem: pem) else { return nil }
        self.init(certificate.pointer)
    }

    private init?(_ certificate: OpaquePointer) {
        guard let start = Self.time(co_x509_not_before(certificate)),
            let end = Self.time(co_x509_not_after(certificate))
        else { return nil }
        notBefore = start
        notAfter = end
        subject = PeerName.text(X509_get_subject_name(certificate)) ?? ""
        issuer = PeerName.text(X509_get_issuer_name(certificate)) ?? ""
        names = AlternativeNames(of: certificate)
        fingerprint = PeerName.digest(certificate).map(Hexadecimal.text) ?? ""
        serialNumber = PeerName.printed { co_asn1_integer_print($0, co_x509_serial_number(certificate)) } ?? ""
        key = Self.key(of: certificate)
    }

    private static func time(_ time: UnsafeRawPointer?) -> UnixTime? {
        var parts = tm()
        guard let time, co_asn1_time_to_tm(time, &parts) == 1 else { return nil }
        return UnixTime(seconds: Int64(timegm(&parts)))
    }

    private static func key(of certificate: OpaquePointer) -> String {
        guard let key = X509_get0_pubkey(certificate) else { return "unknown" }
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: return "RSA \(EVP_PKEY_get_bits(key))"
        case EVP_PKEY_EC:
            var name = [CChar](repeating: 0, count: 64)
            var count = 0
            guard EVP_PKEY_get_group_name(key, &name, name.count, &count) == 1 else { return "ECDSA" }
            let curve = String(decoding: name.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
            return "ECDSA \(commonNames[curve] ?? curve)"
        case let other: return OBJ_nid2sn(other).map { String(cString: $0) } ?? "unknown"
        }
    }

    /// The names by which everybody but OpenSSL knows the curves.
    private static let commonNames = ["prime256v1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"]

    /// A certificate in DER.
    static func der(of certificate: OpaquePointer) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(max(0, i2d_X509(certificate, nil))))
        bytes.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            if position != nil { _ = i2d_X509(certificate, &position) }
        }
        return bytes
    }
}

/// The certificate of a server that a client has refused: OpenSSL forgets it with the handshake.
final class RefusedCertificate {
    private let der: [UInt8]

    private init(_ der: [UInt8]) { self.der = der }

    private static let slot = ExDataSlot<RefusedCertificate>(of: .connection)

    /// Notes the certificate that a check is about, which has found a fault.
    static func note(_ store: OpaquePointer) {
        guard let ssl = PeerVerifier.connection(of: store), let leaf = X509_STORE_CTX_get0_cert(store) else { return }
        slot.set(RefusedCertificate(CertificateDetails.der(of: leaf)), in: ssl)
    }

    static func der(for ssl: OpaquePointer) -> [UInt8]? { slot.value(in: ssl)?.der }
}

extension Engine {
    /// The certificate that a server has shown, DER, right after `.established` or after the handshake has failed for it;
    /// `nil` later. Of its client a server has no more than the ``SessionDetails/peerName`` then, as in a handshake that
    /// resumes a session.
    public var peerCertificate: [UInt8]? {
        guard let ssl else { return nil }
        if let certificate = SSL_get0_peer_certificate(ssl) { return CertificateDetails.der(of: certificate) }
        return RefusedCertificate.der(for: ssl)
    }
}
