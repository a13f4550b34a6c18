import COpenSSL

/// What OpenSSL's check of a peer's certificate has found, by the number that a session keeps of it
/// (``SessionDetails/verificationResult``).
public struct VerificationFault: Sendable, Equatable, CustomStringConvertible {
    public enum Kind: Sendable {
        case untrusted, expired, notYetValid, revoked, revocationUnknown, wrongName, wrongPurpose, badSignature
        /// By this side's rules, or a raw public key that is not known.
        case notAllowed
        case other
    }

    /// X509_V_ERR_…
    public let code: Int

    /// - Returns: `nil` for X509_V_OK.
    public init?(code: Int) {
        guard code != Int(X509_V_OK) else { return nil }
        self.code = code
    }

    /// OpenSSL's words.
    public var description: String {
        if kind == .notAllowed { return "it is not among those that the rules allow" }
        return X509_verify_cert_error_string(code).map { String(cString: $0) } ?? "error \(code)"
    }

    public var kind: Kind {
        switch Int32(truncatingIfNeeded: code) {
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
            X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_CERT_UNTRUSTED, X509_V_ERR_CERT_CHAIN_TOO_LONG,
            X509_V_ERR_INVALID_CA, X509_V_ERR_PATH_LENGTH_EXCEEDED, X509_V_ERR_CERT_REJECTED:
            .untrusted
        case X509_V_ERR_CERT_HAS_EXPIRED: .expired
        case X509_V_ERR_CERT_NOT_YET_VALID: .notYetValid
        case X509_V_ERR_CERT_REVOKED: .revoked
        case X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER, X509_V_ERR_CRL_HAS_EXPIRED,
            X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_CRL_SIGNATURE_FAILURE, X509_V_ERR_DIFFERENT_CRL_SCOPE,
            X509_V_ERR_KEYUSAGE_NO_CRL_SIGN, X509_V_ERR_CRL_PATH_VALIDATION_ERROR,
            X509_V_ERR_UNABLE_TO_DECRYPT_CRL_SIGNATURE:
            .revocationUnknown
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH, X509_V_ERR_EMAIL_MISMATCH: .wrongName
        case X509_V_ERR_INVALID_PURPOSE: .wrongPurpose
        case X509_V_ERR_CERT_SIGNATURE_FAILURE, X509_V_ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE,
            X509_V_ERR_EE_KEY_TOO_SMALL, X509_V_ERR_CA_KEY_TOO_SMALL, X509_V_ERR_CA_MD_TOO_WEAK:
            .badSignature
        case X509_V_ERR_APPLICATION_VERIFICATION: .notAllowed
        default: .other
        }
    }
}
