import COpenSSL

/// What a server wants to know of its clients.
public struct ClientVerification: Sendable, Equatable {
    public enum Mode: String, Sendable, CaseIterable {
        /// Clients are not asked for a certificate.
        case none
        /// Clients are asked; one that shows no certificate is served, one that shows a bad one is not.
        case requested
        /// Clients must show a good certificate.
        case required
    }

    public var mode: Mode
    /// Trusted CAs, PEM.
    public var authorities: String?

    public init(mode: Mode = .none, authorities: String? = nil) {
        self.mode = mode
        self.authorities = authorities
    }
}

extension ServerContext {
    /// Asks clients for certificates, and checks what they show, as `clients` has it.
    func verify(_ clients: ClientVerification) throws(CredentialsError) {
        if let authorities = clients.authorities { try trust(authorities: authorities, announce: true) }
        let mode =
            switch clients.mode {
            case .none: SSL_VERIFY_NONE
            case .requested: SSL_VERIFY_PEER
            case .required: SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
            }
        SSL_CTX_set_verify(pointer, mode, nil)
    }
}
