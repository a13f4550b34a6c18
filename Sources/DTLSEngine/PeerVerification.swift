import COpenSSL
import Primitives

/// What a server wants to know of its clients.
public struct PeerVerification: Codable, Equatable, Sendable {
    public enum Mode: String, Codable, Sendable, CaseIterable {
        /// Clients are not asked for a certificate.
        case none
        /// Clients are asked; one that shows no certificate is served, one that shows a bad one is not.
        case requested
        /// Clients must show a good certificate.
        case required
    }

    public var mode: Mode
    /// Trusted CAs, PEM. `nil`: the fingerprints of `allow` are all that is trusted, and a certificate that has one of
    /// them is good whoever signed it, and whatever its dates.
    public var authorities: String?
    /// Revocation lists, PEM. Where there are any, each CA below the trusted one needs a list that is in force.
    public var revocationLists: [String]
    /// Where it is not empty, a client's certificate must match one of these.
    public var allow: [PeerRule]
    /// No client's certificate may match one of these.
    public var deny: [PeerRule]

    public init(
        mode: Mode = .none, authorities: String? = nil, revocationLists: [String] = [], allow: [PeerRule] = [],
        deny: [PeerRule] = []
    ) {
        self.mode = mode
        self.authorities = authorities
        self.revocationLists = revocationLists
        self.allow = allow
        self.deny = deny
    }

    /// What tells sessions that were begun under this policy from those under another: a session stands for the
    /// certificate that its client has shown, and OpenSSL does not look at that again when it resumes one.
    var sessionMark: String {
        guard mode != .none else { return "" }
        let parts = [[mode.rawValue, authorities ?? ""], revocationLists, allow.map(\.text), deny.map(\.text)]
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
                let flags = X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL
                X509_STORE_set_flags(SSL_CTX_get_cert_store(pointer), UInt(flags))
            }
            for text in clients.revocationLists { try revoke(text) }
        } else if clients.allow.isEmpty || !clients.allow.allSatisfy(\.isFingerprint) {
            throw .authorities("none, and no list of fingerprints alone in their place")
        }
        try PeerVerifier(clients).install(in: pointer)
    }

    private func revoke(_ text: String) throws(CredentialsError) {
        do throws(OpenSSLError) {
            try RevocationLists(pem: text).add(to: SSL_CTX_get_cert_store(pointer))
        } catch {
            throw .authorities("revocation list: \(error)")
        }
    }
}

/// The certificate revocation lists of a PEM text.
public final class RevocationLists {
    /// Owned; at least one.
    private let pointers: [OpaquePointer]

    /// - Throws: when the text holds none, or one that is broken.
    public init(pem text: String) throws(OpenSSLError) {
        guard let source = PEMSource(text) else { throw OpenSSLError.drain() }
        var lists: [OpaquePointer] = []
        ERR_clear_error()
        while let list = PEM_read_bio_X509_CRL(source.bio, nil, nil, nil) { lists.append(list) }
        pointers = lists
        let end = ERR_peek_last_error()
        let atEnd = co_err_get_lib(end) == ERR_LIB_PEM && co_err_get_reason(end) == PEM_R_NO_START_LINE
        guard atEnd, !lists.isEmpty else { throw OpenSSLError.drain() }
        ERR_clear_error()
    }

    deinit { for list in pointers { X509_CRL_free(list) } }

    public var count: Int { pointers.count }

    /// For each list that should have been replaced before now: whose it is, and since when, as part of a sentence.
    public var outOfDate: [String] {
        pointers.compactMap { list in
            // Without such a date a list is for ever.
            guard let end = X509_CRL_get0_nextUpdate(list), X509_cmp_current_time(end) < 0 else { return nil }
            let issuer = ChainFault.name(X509_CRL_get_issuer(list))
            return "the list of \(issuer) has been out of date since \(ChainFault.date(end))"
        }
    }

    /// Whether one of them was issued under this name.
    func hasList(of issuer: OpaquePointer?) -> Bool {
        pointers.contains { X509_NAME_cmp(X509_CRL_get_issuer($0), issuer) == 0 }
    }

    /// The store takes references of its own.
    func add(to store: OpaquePointer?) throws(OpenSSLError) {
        for list in pointers where X509_STORE_add_crl(store, list) != 1 { throw OpenSSLError.drain() }
    }
}
