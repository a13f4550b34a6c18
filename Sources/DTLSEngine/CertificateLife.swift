import COpenSSL
import Glibc
import Primitives

extension OwnCertificate {
    /// The subject as RFC 2253 writes it; empty where it has none.
    public var subject: String { PeerName.text(X509_get_subject_name(pointer)) ?? "" }

    /// The last second of its validity; `nil` for a time that OpenSSL cannot read.
    public var notAfter: UnixTime? { co_x509_not_after(pointer).flatMap(UnixTime.init(asn1:)) }
}

extension RevocationLists {
    /// How long a list is in force.
    public struct Life: Equatable, Sendable {
        /// The issuer of the list as RFC 2253 writes it; empty where it has no name.
        public var issuer: String
        /// When it was issued (thisUpdate); `nil` for a time that OpenSSL cannot read.
        public var thisUpdate: UnixTime?
        /// When the next one is due (nextUpdate, RFC 5280, section 5.1.2.5). From then on this one is out of date.
        public var nextUpdate: UnixTime
    }

    /// The lives of the lists that end, in the order of the lists.
    public var lives: [Life] {
        pointers.compactMap { list in
            guard let end = co_x509_crl_next_update(list).flatMap(UnixTime.init(asn1:)) else { return nil }
            return Life(
                issuer: PeerName.text(X509_CRL_get_issuer(list)) ?? "",
                thisUpdate: co_x509_crl_last_update(list).flatMap(UnixTime.init(asn1:)), nextUpdate: end)
        }
    }
}

extension UnixTime {
    /// - Parameter time: an ASN1_TIME. One that OpenSSL cannot read makes no time.
    init?(asn1 time: UnsafeRawPointer) {
        var parts = tm()
        guard co_asn1_time_to_tm(time, &parts) == 1 else { return nil }
        self.init(seconds: Int64(timegm(&parts)))
    }
}
