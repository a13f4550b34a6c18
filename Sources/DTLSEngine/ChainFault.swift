import COpenSSL

/// What OpenSSL has found wrong with a chain of certificates.
struct ChainFault: Sendable, Equatable {
    /// X509_V_ERR_…
    let code: Int32
    /// The rest of a sentence whose subject is the client's certificate.
    let text: String

    /// Reads the fault from the X509_STORE_CTX of a check that has failed.
    init(_ store: OpaquePointer) {
        code = X509_STORE_CTX_get_error(store)
        guard let certificate = X509_STORE_CTX_get_current_cert(store) else {
            text = Self.words(code)
            return
        }
        let fault = Self.fault(code, certificate, store)
        guard X509_STORE_CTX_get_error_depth(store) > 0 else {
            text = fault
            return
        }
        text = "is not valid: the certificate \(Self.name(X509_get_subject_name(certificate))) above it \(fault)"
    }

    private static func words(_ code: Int32) -> String {
        "is not valid: \(X509_verify_cert_error_string(Int(code)).map { String(cString: $0) } ?? "error \(code)")"
    }

    private static func fault(_ code: Int32, _ certificate: OpaquePointer, _ store: OpaquePointer) -> String {
        var issuer: String { name(X509_get_issuer_name(certificate)) }
        let list = X509_STORE_CTX_get0_current_crl(store)
        switch code {
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return "expired on \(date(co_x509_not_after(certificate)))"
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return "is not valid before \(date(co_x509_not_before(certificate)))"
        case X509_V_ERR_CERT_REVOKED:
            return "was revoked\(revocation(of: certificate, by: list)) by \(issuer)"
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
            return "was issued by \(issuer), which is not among the trusted CAs and was not shown by the client"
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
            return "is signed by itself, and is not among the trusted CAs"
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
            return "has a signature that was not made with the key of its issuer \(issuer)"
        case X509_V_ERR_INVALID_PURPOSE:
            return "may not be used by a client: its key usage or extended key usage forbids it"
        case X509_V_ERR_UNABLE_TO_GET_CRL:
            return "cannot be checked: there is no revocation list (CRL) of its issuer \(issuer)"
        case X509_V_ERR_CRL_HAS_EXPIRED:
            let end = list.map { date(co_x509_crl_next_update($0)) } ?? "an unknown date"
            return
                "cannot be checked: the revocation list (CRL) of its issuer \(issuer) has been out of date since \(end)"
        case X509_V_ERR_CRL_NOT_YET_VALID:
            let start = list.map { date(co_x509_crl_last_update($0)) } ?? "an unknown date"
            return "cannot be checked: the revocation list (CRL) of its issuer \(issuer) is not valid before \(start)"
        case X509_V_ERR_CRL_SIGNATURE_FAILURE:
            return "cannot be checked: the revocation list (CRL) of its issuer \(issuer) was not signed with its key"
        default:
            return words(code)
        }
    }

    /// `" on DATE"`, where the list says when.
    private static func revocation(of certificate: OpaquePointer, by list: OpaquePointer?) -> String {
        var entry: OpaquePointer?
        guard let list, X509_CRL_get0_by_cert(list, &entry, certificate) != 0, let entry else { return "" }
        return " on \(date(co_x509_revocation_date(entry)))"
    }

    /// `2026-11-23 18:10:08Z`
    /// - Parameter time: an ASN1_TIME.
    static func date(_ time: UnsafeRawPointer?) -> String {
        guard let time else { return "an unknown date" }
        return PeerName.printed { co_asn1_time_print($0, time) } ?? "an unreadable date"
    }

    static func name(_ name: OpaquePointer?) -> String { quoted(name: PeerName.text(name) ?? "") }

    /// A name that X509_NAME_print_ex has made printable, in quotation marks. It is shortened, since a certificate's
    /// names can have any length.
    static func quoted(name text: String) -> String {
        text.utf8.count > 200 ? "\"\(text.prefix(200))…\"" : "\"\(text)\""
    }

    var alert: UInt8 {
        let description: Int32 =
            switch code {
            case X509_V_ERR_CERT_HAS_EXPIRED: SSL_AD_CERTIFICATE_EXPIRED
            case X509_V_ERR_CERT_REVOKED: SSL_AD_CERTIFICATE_REVOKED
            case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
                X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
                X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_INVALID_CA, X509_V_ERR_PATH_LENGTH_EXCEEDED,
                X509_V_ERR_CERT_CHAIN_TOO_LONG:
                SSL_AD_UNKNOWN_CA
            case X509_V_ERR_INVALID_PURPOSE: SSL_AD_UNSUPPORTED_CERTIFICATE
            case X509_V_ERR_OUT_OF_MEM, X509_V_ERR_STORE_LOOKUP, X509_V_ERR_INVALID_CALL: SSL_AD_INTERNAL_ERROR
            case X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER, X509_V_ERR_CRL_HAS_EXPIRED,
                X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_CRL_SIGNATURE_FAILURE, X509_V_ERR_DIFFERENT_CRL_SCOPE,
                X509_V_ERR_KEYUSAGE_NO_CRL_SIGN, X509_V_ERR_CRL_PATH_VALIDATION_ERROR:
                // Nothing is known to be wrong with the certificate.
                SSL_AD_CERTIFICATE_UNKNOWN
            default: SSL_AD_BAD_CERTIFICATE
            }
        return UInt8(truncatingIfNeeded: description)
    }
}
