import COpenSSL

/// Why a client was refused for the certificate that it has shown.
public struct PeerRejection: Sendable, Equatable, CustomStringConvertible {
    enum Reason: Sendable, Equatable {
        case chain(ChainFault)
        case rule(RuleFault)
    }

    enum RuleFault: Sendable, Equatable {
        case denied(String)
        case notAllowed
        /// A name that cannot be read, or that holds a NUL.
        case unreadable
    }

    /// Who the client claims to be. Nothing of it is proven.
    public let client: PeerName
    let reason: Reason

    /// A sentence for the operator: which certificate, and what is wrong with it.
    public var description: String {
        let fault =
            switch reason {
            case .chain(let fault): fault.text
            case .rule(.denied(let rule)): "matches \(ChainFault.quoted(rule)) of the deny list"
            case .rule(.notAllowed): "matches nothing of the allow list"
            case .rule(.unreadable):
                "has names that cannot be compared with the rules: one is malformed or has a NUL in it"
            }
        return "client certificate \(ChainFault.quoted(client.subject ?? "")) \(fault)"
    }

    /// The alert that says so (RFC 5246, section 7.2.2).
    ///
    /// OpenSSL derives one from the error of the check (ssl_x509err2alert), with access_denied for none of them, and
    /// for some another one than the RFC.
    var alert: UInt8 {
        switch reason {
        case .rule: UInt8(SSL_AD_ACCESS_DENIED)
        case .chain(let fault): fault.alert
        }
    }

    /// Puts ``alert`` in the place of the one that OpenSSL has just written. That is in the clear: in a first handshake
    /// the server has no keys in use yet when it sees the client's certificate.
    func correctAlert(in outbox: Outbox) {
        let alert = alert
        outbox.withDatagrams { bytes, sizes in
            guard let size = sizes.last else { return }
            MutableRecord.replaceFatalAlert(
                in: UnsafeMutableRawBufferPointer(rebasing: bytes.suffix(size)), by: alert)
        }
    }
}

/// What OpenSSL has found wrong with a chain of certificates.
struct ChainFault: Sendable, Equatable {
    /// X509_V_ERR_…
    let code: Int32
    /// What is wrong, as the rest of a sentence that begins with the client's certificate.
    let text: String

    /// Reads it from the context of a check that has failed.
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
        text = "is not good: the certificate \(Self.name(X509_get_subject_name(certificate))) above it \(fault)"
    }

    private static func words(_ code: Int32) -> String {
        "is not good: \(X509_verify_cert_error_string(Int(code)).map { String(cString: $0) } ?? "error \(code)")"
    }

    private static func fault(_ code: Int32, _ certificate: OpaquePointer, _ store: OpaquePointer) -> String {
        var issuer: String { name(X509_get_issuer_name(certificate)) }
        let list = X509_STORE_CTX_get0_current_crl(store)
        switch code {
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return "expired on \(date(X509_get0_notAfter(certificate)))"
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return "is not valid before \(date(X509_get0_notBefore(certificate)))"
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
            let end = list.map { date(X509_CRL_get0_nextUpdate($0)) } ?? "an unknown date"
            return
                "cannot be checked: the revocation list (CRL) of its issuer \(issuer) has been out of date since \(end)"
        case X509_V_ERR_CRL_NOT_YET_VALID:
            let start = list.map { date(X509_CRL_get0_lastUpdate($0)) } ?? "an unknown date"
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
        return " on \(date(X509_REVOKED_get0_revocationDate(entry)))"
    }

    /// `2026-11-23 18:10:08Z`
    static func date(_ time: UnsafePointer<ASN1_TIME>?) -> String {
        guard let time else { return "an unknown date" }
        return PeerName.printed { ASN1_TIME_print_ex($0, time, UInt(ASN1_DTFLGS_ISO8601)) } ?? "an unreadable date"
    }

    static func name(_ name: OpaquePointer?) -> String { quoted(PeerName.text(name) ?? "") }

    /// Shortened: a certificate's names can be as long as it likes.
    static func quoted(_ text: String) -> String {
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
