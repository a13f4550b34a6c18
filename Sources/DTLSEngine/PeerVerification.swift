import COpenSSL
import Primitives

/// The certificates that a server demands of its clients.
public struct PeerVerification: Codable, Equatable, Sendable {
    public enum Mode: String, Codable, Sendable, CaseIterable {
        /// Clients are not asked for a certificate.
        case none
        /// Clients are asked for a certificate. A client without one is served; a client with an invalid one is not.
        case requested
        /// Clients must show a valid certificate.
        case required
    }

    /// What a client's certificate must have been issued for.
    public enum Purpose: String, Codable, Sendable, CaseIterable {
        /// It may have no extended key usage, or one that names TLS clients (RFC 5280, section 4.2.1.12).
        case client
        /// Any: public CAs issue certificates for servers alone.
        case any
    }

    /// The certificates whose revocation is looked up in ``revocationLists``.
    public enum RevocationCheck: String, Codable, Sendable, CaseIterable {
        /// All of a chain but the trusted one.
        case chain
        /// The client's own alone.
        case leaf
    }

    public var mode: Mode
    /// Trusted CAs, PEM. Where it is `nil`, only the fingerprints of `allow` are trusted, and a certificate that has
    /// one of them is accepted whatever its issuer and its dates are.
    public var authorities: String?
    /// The raw public keys (RFC 7250) of which a client may show one in the place of a certificate; `nil`: it may not. `allow`
    /// and `deny` are not about these.
    public var publicKeys: KnownPublicKeys?
    /// Revocation lists, PEM. Where there are any, each issuer of a certificate that ``revocationCheck`` means needs a
    /// list that is in force.
    public var revocationLists: [String]
    public var revocationCheck: RevocationCheck
    public var purpose: Purpose
    /// Where it is not empty, a client's certificate must match one of these.
    public var allow: [PeerRule]
    /// No client's certificate may match one of these.
    public var deny: [PeerRule]
    /// Whether a certificate that does not pass keeps a client out. Where it does not, the client's handshake goes on with
    /// what was found (``SessionDetails/verificationResult``), and somebody else is to judge it.
    public var isEnforced = true

    public init(
        mode: Mode = .none, authorities: String? = nil, revocationLists: [String] = [],
        revocationCheck: RevocationCheck = .chain, purpose: Purpose = .client, allow: [PeerRule] = [],
        deny: [PeerRule] = [], publicKeys: KnownPublicKeys? = nil
    ) {
        self.publicKeys = publicKeys
        self.revocationCheck = revocationCheck
        self.purpose = purpose
        self.mode = mode
        self.authorities = authorities
        self.revocationLists = revocationLists
        self.allow = allow
        self.deny = deny
    }

    /// Whether there are certificates that a client may show.
    package var takesCertificates: Bool { authorities != nil || !allow.isEmpty || !isEnforced }

    /// Tells sessions that were begun under this policy from those under another: a session stands for the certificate
    /// that its client has shown, and OpenSSL does not check that again when it resumes one.
    var sessionIDContext: String {
        guard mode != .none else { return "" }
        var parts = [[mode.rawValue, authorities ?? ""], revocationLists, allow.map(\.text), deny.map(\.text)]
        if (revocationCheck, purpose) != (.chain, .client) {
            parts.append([revocationCheck.rawValue, purpose.rawValue])
        }
        if !isEnforced { parts.append(["not enforced"]) }
        // Which keys these are is asked of each session (SessionNotes), so that a new one does not end the others' sessions.
        if publicKeys != nil { parts.append(["raw public keys"]) }
        var text: [UInt8] = []
        for part in parts {
            // With their lengths, so that no two policies give the same bytes.
            text += Array("\(part.count):".utf8)
            for piece in part { text += Array("\(piece.utf8.count):\(piece)".utf8) }
        }
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_Digest(text, text.count, &digest, nil, EVP_sha256(), nil)
        return Hexadecimal.text(digest)
    }
}

extension ServerContext {
    /// Asks clients for certificates, and checks what they show, as `clients` has it.
    /// - Parameter service: has the same CAs and lists, ready for use; `nil`: they are read.
    func verify(_ clients: PeerVerification, trustOf service: ServerContext?) throws(CredentialsError) {
        let mode =
            switch clients.mode {
            case .none: SSL_VERIFY_NONE
            case .requested: SSL_VERIFY_PEER
            case .required: SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
            }
        SSL_CTX_set_verify(pointer, mode, nil)
        guard clients.mode != .none else { return }
        if let service {
            SSL_CTX_set1_cert_store(pointer, SSL_CTX_get_cert_store(service.pointer))
            SSL_CTX_set_client_CA_list(pointer, SSL_dup_CA_list(SSL_CTX_get_client_CA_list(service.pointer)))
        } else if let authorities = clients.authorities {
            try trust(authorities: authorities, announce: true)
            if !clients.revocationLists.isEmpty {
                var flags = X509_V_FLAG_CRL_CHECK
                if clients.revocationCheck == .chain { flags |= X509_V_FLAG_CRL_CHECK_ALL }
                X509_STORE_set_flags(SSL_CTX_get_cert_store(pointer), UInt(flags))
            }
            for text in clients.revocationLists { try revoke(text) }
        } else if !clients.isEnforced {
            // All certificates are taken, and none is valid.
        } else if clients.publicKeys != nil, clients.allow.isEmpty {
            // Raw public keys are all that clients may show.
        } else if clients.allow.isEmpty || !clients.allow.allSatisfy(\.isFingerprint) {
            throw .authorities("there are none, and the allow list does not consist of fingerprints only")
        }
        // It is OpenSSL's default for a server's clients that this overrides (ssl_verify_cert_chain). Which certificates
        // are CAs is checked all the same.
        if clients.purpose == .any { X509_VERIFY_PARAM_set_purpose(SSL_CTX_get0_param(pointer), X509_PURPOSE_ANY) }
        exData.verifier = PeerVerifier(clients)
        exData.publicKeys = service?.exData.publicKeys ?? clients.publicKeys.map(PublicKeyTable.init)
        SSL_CTX_set_cert_verify_callback(
            pointer,
            { store, _ in
                guard let store, let ssl = PeerVerifier.connection(of: store) else { return 0 }
                return ContextExData.of(ssl)?.verifier?.verify(store, for: ssl) ?? 0
            }, nil)
    }

    private func revoke(_ text: String) throws(CredentialsError) {
        do throws(OpenSSLError) {
            try RevocationLists(pem: text).add(to: SSL_CTX_get_cert_store(pointer))
        } catch {
            throw .authorities("revocation list: \(error)")
        }
    }
}

/// Checks the certificates that clients show during their handshakes: what OpenSSL calls instead of its own check.
///
/// It belongs to an SSL_CTX and ends with it (``ContextExData``), since an SSL can outlive the ``ServerContext`` that
/// it was made from (when the certificate of a name is replaced).
final class PeerVerifier {
    private let allow: PeerRules
    private let deny: PeerRules
    /// Whether a certificate must have been signed by a trusted CA: otherwise its fingerprint is what counts.
    private let checksChain: Bool
    private let takesCertificates: Bool
    /// See ``PeerVerification/isEnforced``.
    private let isEnforced: Bool

    init(_ clients: PeerVerification) {
        isEnforced = clients.isEnforced
        allow = PeerRules(clients.allow)
        deny = PeerRules(clients.deny)
        checksChain = clients.authorities != nil || !clients.isEnforced && clients.allow.isEmpty
        takesCertificates = clients.takesCertificates
    }

    /// The connection whose peer's certificate a check is about.
    static func connection(of store: OpaquePointer) -> OpaquePointer? {
        X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()).map(OpaquePointer.init)
    }

    /// The handshake goes on with a certificate that has a fault where nothing is enforced: the error of the check stays in
    /// the session.
    private var verdictOnFault: Int32 { isEnforced ? 0 : 1 }

    /// - Returns: 1 where the handshake goes on, 0 where it does not.
    fileprivate func verify(_ store: OpaquePointer, for ssl: OpaquePointer) -> Int32 {
        ShownCertificates.note(store, for: ssl)
        if let key = co_x509_store_ctx_raw_public_key(store) { return verify(key, store, for: ssl) }
        guard let leaf = X509_STORE_CTX_get0_cert(store) else { return 0 }
        guard takesCertificates else {
            X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
            Self.refuse(.rule(.notAKey), store, for: ssl)
            return verdictOnFault
        }
        if checksChain, !Self.checkChain(store, for: ssl) { return verdictOnFault }
        if let fault = fault(of: leaf) {
            X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
            Self.refuse(.rule(fault), store, for: ssl)
            return verdictOnFault
        }
        // X509_verify_cert, which would have said so, is not called where fingerprints are all that counts.
        X509_STORE_CTX_set_error(store, X509_V_OK)
        return 1
    }

    /// OpenSSL checks later that the client has the private key (CertificateVerify).
    private func verify(_ key: OpaquePointer, _ store: OpaquePointer, for ssl: OpaquePointer) -> Int32 {
        let fingerprint = RawPublicKeys.fingerprint(of: key)
        if let fingerprint, ContextExData.of(ssl)?.publicKeys?.name(of: fingerprint) != nil {
            X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
        guard isEnforced else { return verdictOnFault }
        let client = PeerName(fingerprint: fingerprint.map(Hexadecimal.text))
        HandshakeRefusal.record(.certificate(PeerRejection(client: client, reason: .rule(.unknownKey))), for: ssl)
        return 0
    }

    private static func checkChain(_ store: OpaquePointer, for ssl: OpaquePointer) -> Bool {
        X509_STORE_CTX_set_verify_cb(store) { isValid, store in
            guard isValid == 0, let store else { return isValid }
            guard PeerVerifier.excusesTrustedCertificate(store) || TLSContext.toleratesSHA1(store) else {
                // Now, since the revocation list in question is known only during the call.
                if let ssl = PeerVerifier.connection(of: store) {
                    PeerVerifier.refuse(.chain(ChainFault(store)), store, for: ssl)
                }
                return 0
            }
            X509_STORE_CTX_set_error(store, X509_V_OK)
            return 1
        }
        if X509_verify_cert(store) == 1 { return true }
        // Where OpenSSL could not even begin, it has not called back.
        refuse(.chain(ChainFault(store)), store, for: ssl)
        return false
    }

    /// A trust anchor needs no revocation list above it (RFC 5280, section 6.1); but a list that revokes it counts. It
    /// is the last certificate of the chain, which is complete when OpenSSL looks at the lists.
    private static func excusesTrustedCertificate(_ store: OpaquePointer) -> Bool {
        guard let chain = X509_STORE_CTX_get0_chain(store),
            X509_STORE_CTX_get_error_depth(store) == OPENSSL_sk_num(chain) - 1
        else { return false }
        switch X509_STORE_CTX_get_error(store) {
        case X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER, X509_V_ERR_CRL_SIGNATURE_FAILURE,
            X509_V_ERR_CRL_HAS_EXPIRED, X509_V_ERR_CRL_NOT_YET_VALID, X509_V_ERR_DIFFERENT_CRL_SCOPE,
            X509_V_ERR_KEYUSAGE_NO_CRL_SIGN, X509_V_ERR_CRL_PATH_VALIDATION_ERROR:
            return true
        default:
            return false
        }
    }

    /// The reason why the rules, or the names themselves, refuse a certificate; `nil` where they do not.
    private func fault(of leaf: OpaquePointer) -> PeerRejection.RuleFault? {
        let names = CertificateNames(of: leaf)
        if names.hasNUL { return .nul }
        if allow.isEmpty, deny.isEmpty { return nil }
        guard let fingerprint = PeerName.digest(leaf) else { return .unreadable }
        // A name that cannot be read might be one that a deny rule means.
        if allow.concernNames || deny.concernNames, !names.isComplete { return .unreadable }
        if let rule = deny.match(fingerprint: fingerprint, names) { return .denied(rule.text) }
        if !allow.isEmpty, allow.match(fingerprint: fingerprint, names) == nil { return .notAllowed }
        return nil
    }

    /// Records why the peer's certificate is refused, where it is.
    private static func refuse(
        _ reason: @autoclosure () -> PeerRejection.Reason, _ store: OpaquePointer, for ssl: OpaquePointer
    ) {
        guard ContextExData.of(ssl)?.verifier?.isEnforced != false else { return }
        guard let leaf = X509_STORE_CTX_get0_cert(store) else { return }
        HandshakeRefusal.record(
            .certificate(PeerRejection(client: PeerName(certificate: leaf), reason: reason())), for: ssl)
    }
}
