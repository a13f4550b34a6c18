import COpenSSL
import Primitives

/// What a handshake has agreed on, and whom with: for logs, handlers and programs. It is a value of its own, which does
/// not need the connection.
public struct SessionDetails: Sendable, Equatable {
    /// `"DTLSv1.2"`
    public var version = "none"
    /// OpenSSL's name of the cipher suite (`"ECDHE-ECDSA-AES128-GCM-SHA256"`).
    public var cipher = "none"
    /// The group that the keys were exchanged in, by OpenSSL's name (`"x25519"`, `"secp256r1"`); `nil` where none was: in a
    /// resumed handshake, and with a pre-shared key alone. It is not among what is encoded.
    public var group: String?
    /// Whether the handshake resumed an earlier session.
    public var isResumed = false
    /// The name that the client has asked for (SNI), or `nil`.
    public var serverName: String?
    /// The application protocol that was agreed on (ALPN, RFC 7301), or `nil`.
    public var applicationProtocol: String?
    /// Who the peer has shown to be, by its certificate or key; `nil` where it was not asked.
    public var peerName: PeerName?
    /// All names of the peer's certificate, for rules. They are not among what is encoded, since there can be many.
    var certificateNames: CertificateNames?
    /// The identity of a pre-shared key as the client has sent it, or `nil` without such a key.
    public var presharedKeyIdentity: [UInt8]?
    /// The result of the check of the peer's certificate, X509_V_OK (0) or another number of
    /// openssl-verification-options(1). It is 0 for a peer without a certificate, too.
    public var verificationResult = 0
    /// What the client is called by who has let it in (``AuthorizationAnswer``), or `nil`.
    public var label: String?
    /// The connection IDs that were agreed on (RFC 9146); `nil` where none were. They are not among what is encoded: the
    /// ``RecordState`` has them.
    public var connectionIDs: ConnectionIDs?
    /// Whether return routability checks were agreed on (RFC 9853). It is not among what is encoded either.
    public var checksReturnRoutability = false
    /// The number of the SRTP profile that was agreed on (use_srtp, RFC 5764); `nil` where none was. It is not among what is
    /// encoded.
    public var srtpProfile: UInt16?

    /// What is known where no handshake is done.
    public init() {}

    /// What an SSL has agreed on, as far as it has got.
    init(_ ssl: OpaquePointer) {
        version = String(cString: SSL_get_version(ssl))
        cipher = CipherNames.name(of: SSL_get_current_cipher(ssl))
        isResumed = SSL_session_reused(ssl) == 1
        group = isResumed ? nil : Self.group(ssl)
        serverName = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name).map { String(cString: $0) }
        applicationProtocol = Self.applicationProtocol(ssl)
        presharedKeyIdentity = SSL_get_psk_identity(ssl).map(PresharedKeyCallbacks.bytes)
        srtpProfile = SSL_get_selected_srtp_profile(ssl).map { UInt16(truncatingIfNeeded: $0.pointee.id) }
        let notes = try? SessionNotes(of: SSL_get_session(ssl))
        if let key = co_ssl_peer_raw_public_key(ssl) {
            let fingerprint = RawPublicKeys.fingerprint(of: key) ?? []
            let name = ContextExData.of(ssl)?.publicKeys?.name(of: fingerprint) ?? ""
            peerName = PeerName(KnownPublicKey(name: name, fingerprint: fingerprint))
        } else if let key = notes?.publicKey {
            peerName = PeerName(key)
        } else if let certificate = SSL_get0_peer_certificate(ssl) {
            peerName = PeerName(certificate: certificate)
            certificateNames = CertificateNames(of: certificate)
        } else if let noted = notes?.certificate {
            // A server has its client's certificate no more once it has given a ticket.
            peerName = noted.name
            certificateNames = noted.names
        } else {
            peerName = presharedKeyIdentity.map { PeerName(presharedKeyIdentity: PresharedKeys.text(of: $0)) }
        }
        verificationResult = SSL_get_verify_result(ssl)
    }

    private static func group(_ ssl: OpaquePointer) -> String? {
        // OpenSSL looks into the session, which is not there yet where a handshake has failed early (ssl3_ctrl,
        // SSL_CTRL_GET_NEGOTIATED_GROUP; seen with 3.0.19).
        guard SSL_get_session(ssl) != nil else { return nil }
        let group = co_ssl_get_negotiated_group(ssl)
        guard group != 0 else { return nil }
        return SSL_group_to_name(ssl, Int32(truncatingIfNeeded: group)).map { String(cString: $0) }
    }

    /// Why the check of the peer's certificate has failed, in OpenSSL's words; `nil` where it has not, or there was none.
    public var verificationFault: String? {
        guard verificationResult != Int(X509_V_OK) else { return nil }
        return X509_verify_cert_error_string(verificationResult).map { String(cString: $0) }
    }

    /// The alternative names of the peer's certificate, as far as they are known: they are not kept beside a connection's
    /// state.
    public var alternativeNames: AlternativeNames {
        certificateNames.map { AlternativeNames($0) } ?? AlternativeNames()
    }

    private static func applicationProtocol(_ ssl: OpaquePointer) -> String? {
        var start: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &start, &count)
        guard let start, count > 0 else { return nil }
        return String(decoding: UnsafeBufferPointer(start: start, count: Int(count)), as: UTF8.self)
    }
}

/// The names of cipher suites as strings that all connections of a process share: most are longer than what a string
/// holds without memory of its own.
private enum CipherNames {
    private static let names: [UInt16: String] = {
        guard let context = SSL_CTX_new(DTLS_method()) else { return [:] }
        defer { SSL_CTX_free(context) }
        SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0")
        OpenSSLError.clear()
        guard let suites = SSL_CTX_get_ciphers(context) else { return [:] }
        var names: [UInt16: String] = [:]
        for index in 0..<co_sk_ssl_cipher_num(suites) {
            guard let suite = co_sk_ssl_cipher_value(suites, index), let name = SSL_CIPHER_get_name(suite) else {
                continue
            }
            names[SSL_CIPHER_get_protocol_id(suite)] = String(cString: name)
        }
        return names
    }()

    static func name(of suite: OpaquePointer?) -> String {
        guard let suite else { return "none" }
        return names[SSL_CIPHER_get_protocol_id(suite)] ?? SSL_CIPHER_get_name(suite).map { String(cString: $0) }
            ?? "none"
    }
}

/// How it is kept beside a connection's state, for another process.
extension SessionDetails {
    package func encode(into writer: inout ByteWriter) {
        writer.string(version)
        writer.string(cipher)
        writer.bool(isResumed)
        writer.optional(serverName) { $0.string($1) }
        writer.optional(applicationProtocol) { $0.string($1) }
        writer.optional(presharedKeyIdentity) { $0.data($1) }
        writer.optional(peerName) { $1.encode(into: &$0) }
        writer.integer(Int32(truncatingIfNeeded: verificationResult))
        writer.optional(label) { $0.string($1) }
        writer.optional(peerName?.publicKeyName) { $0.string($1) }
    }

    package init(decoding reader: inout ByteReader) throws(MalformedBytes) {
        version = try reader.string()
        cipher = try reader.string()
        isResumed = try reader.bool()
        serverName = try reader.optionalString()
        applicationProtocol = try reader.optionalString()
        presharedKeyIdentity = try reader.optional { (reader) throws(MalformedBytes) in try reader.array() }
        peerName = try reader.optional { (reader) throws(MalformedBytes) in try PeerName(decoding: &reader) }
        verificationResult = Int(try reader.integer(Int32.self))
        // A program without labels has written no more.
        label = reader.isAtEnd ? nil : try reader.optionalString()
        // Nor has one without raw public keys. It is read where there is no peer's name, too: others have more behind it.
        let publicKeyName = reader.isAtEnd ? nil : try reader.optionalString()
        peerName?.publicKeyName = publicKeyName
    }

    /// The encoding in at most `limit` bytes, for a place that has no more: names that peers have chosen are left out as
    /// a whole where they are too long, since a part of a name can be somebody else's. The certificate's whole subject
    /// is the first to go.
    package func encoded(inAtMost limit: Int) -> [UInt8] {
        var details = self
        let omissions: [(inout SessionDetails) -> Void] = [
            { _ in },
            { $0.peerName?.subject = nil },
            { $0.peerName?.commonName = nil },
            { $0.serverName = nil },
            { $0.applicationProtocol = nil },
        ]
        for omit in omissions {
            omit(&details)
            var writer = ByteWriter()
            details.encode(into: &writer)
            if writer.bytes.count <= limit { return writer.bytes }
        }
        return []
    }
}
