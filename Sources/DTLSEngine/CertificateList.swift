import COpenSSL

/// The certificates of a PEM text, as far as an operator should know of them what the handshakes will say later.
public final class CertificateList {
    /// Owned.
    private let pointers: [OpaquePointer]

    public init(pem text: String) throws(OpenSSLError) {
        guard let source = PEMSource(text) else { throw OpenSSLError.drain() }
        pointers = try source.certificates()
    }

    deinit { for certificate in pointers { X509_free(certificate) } }

    /// For each that is not valid now: whose it is, and since or until when, as a part of a sentence.
    public var outOfDate: [String] {
        pointers.compactMap { certificate in
            let name = ChainFault.name(X509_get_subject_name(certificate))
            let (start, end) = (X509_get0_notBefore(certificate), X509_get0_notAfter(certificate))
            if X509_cmp_current_time(end) < 0 {
                return "the certificate of \(name) expired on \(ChainFault.date(end))"
            }
            return X509_cmp_current_time(start) > 0
                ? "the certificate of \(name) is not valid before \(ChainFault.date(start))" : nil
        }
    }

    /// The names of those that have issued none of these lists.
    public func withoutList(in lists: [RevocationLists]) -> [String] {
        pointers.compactMap { certificate in
            let name = X509_get_subject_name(certificate)
            return lists.contains { $0.hasList(of: name) } ? nil : ChainFault.name(name)
        }
    }
}
