import COpenSSL
import Glibc
import Primitives

extension OwnCertificate {
    /// The subject as RFC 2253 writes it; empty where it has none.
    public var subject: String { PeerName.text(X509_get_subject_name(pointer)) ?? "" }

    /// The last second of its validity; `nil` for a time that OpenSSL cannot read.
    public var notAfter: UnixTime? {
        var time = tm()
        guard ASN1_TIME_to_tm(X509_get0_notAfter(pointer), &time) == 1 else { return nil }
        return UnixTime(seconds: Int64(timegm(&time)))
    }
}
