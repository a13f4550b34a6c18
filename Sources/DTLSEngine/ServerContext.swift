import COpenSSL

/// A server's SSL_CTX, made from ``ServerSettings``: its certificates, its policy, and its virtual hosts.
///
/// It serves any number of connections of one thread. To change it, make a new one and use that for new handshakes.
public final class ServerContext: TLSContext {
    /// The size in bytes of the key that session tickets are sealed with.
    public static let ticketKeyLength = TicketKey.length

    /// Tells this context's sessions from those of another (SSL_CTX_set_session_id_context(3)).
    let sessionIDContext: [UInt8]
    /// The virtual hosts by the lower-case name that they serve; see ``add(_:for:)``.
    var virtualHosts: [String: ServerContext] = [:]
    /// The names of the virtual hosts in the order in which they were added.
    var names: [String] = []
    /// The virtual hosts whose name is an IP address, by its bytes.
    var addresses: [[UInt8]: ServerContext] = [:]
    var choosesByAddress = false
    let refusesUnknownNames: Bool
    /// The handshakes that wait for an answer.
    let authorization: AuthorizationScope

    /// - Parameters:
    ///   - tickets: the keys that tickets are sealed with, the same in every process that shall resume the others'
    ///     sessions; `nil`: a key of this context's own.
    ///   - sessionIDContext: tells this service's sessions from those of another service with the same keys.
    public convenience init(
        _ settings: ServerSettings, tickets: TicketKeyRing?, sessionIDContext: String = "dtls"
    ) throws(CredentialsError) {
        try self.init(
            settings, tickets: tickets, sessions: nil, heldKeys: nil, sessionIDContext: sessionIDContext, trustOf: nil)
    }

    /// - Parameters:
    ///   - sessions: where the sessions of clients without tickets are kept; `nil`: they cannot resume theirs.
    ///   - heldKeys: who is asked to use private keys that another process holds.
    package convenience init(
        _ settings: ServerSettings, tickets: TicketKeyRing?, sessions: SessionCache?, heldKeys: HeldKeys? = nil,
        sessionIDContext: String = "dtls"
    ) throws(CredentialsError) {
        try self.init(
            settings, tickets: tickets, sessions: sessions, heldKeys: heldKeys, sessionIDContext: sessionIDContext,
            trustOf: nil)
    }

    /// The most bytes of a client's certificate and the chain above it, in DER.
    private static let maximumClientChain = 32 * 1_024

    /// - Parameter service: one with the same trust, whose CAs and revocation lists it shares: they can be many
    ///   megabytes.
    init(
        _ settings: ServerSettings, tickets: TicketKeyRing?, sessions: SessionCache?, heldKeys: HeldKeys?,
        sessionIDContext: String, trustOf service: ServerContext?
    ) throws(CredentialsError) {
        self.sessionIDContext = Self.shorten(Array("\(settings.sessionIDContext)\0\(sessionIDContext)".utf8))
        refusesUnknownNames = settings.refusesUnknownNames
        authorization = settings.authorization
        try super.init(
            method: DTLS_server_method(), ciphers: settings.cipherList, groups: settings.groups,
            signatureAlgorithms: settings.signatureAlgorithms, minimumVersion: settings.minimumVersion,
            maximumVersion: settings.newestVersion, allowsRenegotiation: settings.allowsRenegotiation,
            heldKeys: heldKeys)
        for key in settings.certifiedKeys { try use(key) }
        let bareKinds = try useBareKeys(settings)
        exData.keepsPeerCertificates = settings.keepsPeerCertificates
        try verify(settings.clients, trustOf: service)
        // In DTLS it bounds each message, and a client can have ten of them half sent
        // (dtls1_max_handshake_message_len). Never less than a record; OpenSSL's own is 100 KiB.
        _ = co_ssl_ctx_set_max_cert_list(pointer, settings.clients.mode == .none ? 0 : Self.maximumClientChain)
        if let keys = settings.presharedKeys { try use(keys) }
        try checkSuites(settings, bareKinds)
        try prepareSessions(settings.sessions, tickets, sessions)
        SSL_CTX_set_options(pointer, CO_SSL_OP_CIPHER_SERVER_PREFERENCE)
        // For suites with DHE: a group of RFC 3526, as strong as the certificate's key.
        _ = co_ssl_ctx_set_dh_auto(pointer, 1)
        // An engine is made from a VerifiedHello only, so the cookie has been verified already.
        SSL_CTX_set_cookie_verify_cb(pointer) { _, _, _ in 1 }
        // The cookies of an exchange that is repeated are never sent: see Engine.accept.
        SSL_CTX_set_cookie_generate_cb(pointer) { _, _, length in
            length?.pointee = 0
            return 1
        }
        // So that sessions know which name they were made for, and a resumed connection has it too.
        _ = co_ssl_ctx_set_servername_callback(pointer) { _, _, _ in SSL_TLSEXT_ERR_OK }
        choose(ofApplicationProtocols: settings.applicationProtocols)
        try negotiate(srtpProfiles: settings.srtpProfiles)
        stapleWhenAsked()
        if settings.connectionIDs { try negotiateConnectionIDs() }
        enableChoice()
        try addNames(of: settings, tickets: tickets, sessions: sessions, sessionIDContext: sessionIDContext)
    }

    private func use(_ key: CertifiedKey) throws(CredentialsError) {
        let certificate = try use(
            certificate: key.certificate, privateKey: key.privateKey, passphrase: key.passphrase)
        // OpenSSL has one place for each kind, and the later one takes it.
        guard !exData.certificates.contains(where: { $0.certificate.keyKind == certificate.keyKind }) else {
            throw .certificate("there is a second one with an \(certificate.keyKind) key")
        }
        exData.certificates.append((certificate, certificate.isSelfSigned ? nil : key.staple))
    }

    /// Uses the private keys without certificates, and has the types of certificates negotiated.
    /// - Returns: the kinds of these keys, and the authentication of the suites for each.
    private func useBareKeys(
        _ settings: ServerSettings
    ) throws(CredentialsError) -> [(kind: String, authentication: Int32?)] {
        var kinds: [(kind: String, authentication: Int32?)] = []
        for bare in settings.bareKeys {
            let key = try use(bare)
            let kind = KeyKind.name(of: key.pointer)
            guard !kinds.contains(where: { $0.kind == kind }) else {
                throw .privateKey("there is a second one of the kind \(kind)")
            }
            kinds.append((kind, KeyKind.authentication(of: key.pointer)))
        }
        exData.hasBareKeysAlone = !settings.bareKeys.isEmpty && settings.certifiedKeys.isEmpty
        let mayShow: CertificateTypes? =
            exData.hasBareKeysAlone ? .rawPublicKeysAlone : settings.offersRawPublicKeys ? .both : nil
        var mayTake: CertificateTypes?
        if settings.clients.mode != .none, settings.clients.publicKeys != nil {
            mayTake = settings.clients.takesCertificates ? .both : .rawPublicKeysAlone
        }
        try negotiateRawPublicKeys(server: mayShow, client: mayTake)
        return kinds
    }

    /// Checks that the cipher list has a suite for each certificate or key and for the pre-shared keys, which would never be
    /// used otherwise.
    private func checkSuites(
        _ settings: ServerSettings, _ bareKinds: [(kind: String, authentication: Int32?)]
    ) throws(CredentialsError) {
        for (kind, authentication) in exData.certificates.map({
            ($0.certificate.keyKind, $0.certificate.authentication)
        })
            + bareKinds
        {
            guard let authentication else {
                throw .certificate("OpenSSL has no cipher suites of DTLS for servers with \(kind) keys")
            }
            try checkSignatures(ofKind: kind, in: settings.signatureAlgorithms)
            guard let fault = suiteFault(for: .certificate(keyKind: kind, authentication: authentication)) else {
                continue
            }
            // Of a policy's own list, only the kind of the key can be the cause.
            if settings.ciphers == nil { throw .certificate("no policy has cipher suites for \(kind) keys") }
            throw .ciphers(fault)
        }
        if settings.presharedKeys != nil, let fault = suiteFault(for: .presharedKey) { throw .ciphers(fault) }
    }

    /// - Parameter ticketKeys: ``ticketKeyLength`` bytes; `nil`: a key of this context's own.
    public convenience init(
        _ settings: ServerSettings, ticketKeys: [UInt8]? = nil, sessionIDContext: String = "dtls"
    ) throws(CredentialsError) {
        var ring: TicketKeyRing?
        if let ticketKeys {
            guard let key = TicketKey(ticketKeys) else {
                throw .context("session ticket keys must be \(Self.ticketKeyLength) bytes")
            }
            ring = TicketKeyRing([key])
        }
        try self.init(settings, tickets: ring, sessionIDContext: sessionIDContext)
    }

    /// OpenSSL takes 32 bytes (SSL_MAX_SID_CTX_LENGTH): what is longer goes in as its SHA-256.
    static func shorten(_ bytes: [UInt8]) -> [UInt8] {
        guard bytes.count > 32 else { return bytes }
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha256(), nil)
        return digest
    }

    private func prepareSessions(
        _ settings: SessionSettings, _ tickets: TicketKeyRing?, _ sessions: SessionCache?
    ) throws(CredentialsError) {
        // A cache in one process would be of no use to the others.
        _ = co_ssl_ctx_set_session_cache_mode(pointer, Int(SSL_SESS_CACHE_OFF))
        guard
            SSL_CTX_set_session_id_context(
                pointer, sessionIDContext, UInt32(truncatingIfNeeded: sessionIDContext.count))
                == 1
        else {
            throw .context("\(OpenSSLError.drain())")
        }
        prepareTickets(settings, ring: tickets)
        noteSessions()
        if let sessions, settings.resumption { keepSessions(in: sessions) }
    }
}
