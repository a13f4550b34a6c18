import COpenSSL
import Primitives

/// What a server writes into a session of its own (SSL_SESSION_set1_ticket_appdata(3)), beside what OpenSSL writes: all
/// that is to be known of the client when the session is resumed, so that its certificate need not be in it.
struct SessionNotes: Equatable {
    /// What is known of the certificate that the client has shown; `nil` where it has shown none, or the session has it.
    var certificate: Certificate?
    /// The raw public key that the client has shown; `nil` where it has shown none.
    var publicKey: KnownPublicKey?
    /// ``PresharedKeyTable/note(of:)``; `nil` where no pre-shared key was used.
    var key: [UInt8]?

    struct Certificate: Equatable {
        /// For logs and handlers, with the fingerprint.
        var name: PeerName
        /// For rules: all of them, since a rule may refuse.
        var names: CertificateNames
    }

    private static let layout: UInt8 = 1

    private var isEmpty: Bool { certificate == nil && key == nil && publicKey == nil }

    init(certificate: Certificate? = nil, key: [UInt8]? = nil, publicKey: KnownPublicKey? = nil) {
        self.publicKey = publicKey
        self.certificate = certificate
        self.key = key
    }

    // MARK: Coding

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.integer(Self.layout)
        writer.optional(key) { $0.data($1) }
        writer.optional(certificate) { writer, certificate in
            certificate.name.encode(into: &writer)
            certificate.names.encode(into: &writer)
        }
        if let publicKey {
            writer.string(publicKey.name)
            writer.data(publicKey.fingerprint)
        }
        return writer.bytes
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard try reader.integer(UInt8.self) == Self.layout else { throw MalformedBytes() }
        key = try reader.optional { (reader) throws(MalformedBytes) in try reader.array() }
        certificate = try reader.optional { (reader) throws(MalformedBytes) in
            Certificate(name: try PeerName(decoding: &reader), names: try CertificateNames(decoding: &reader))
        }
        // Notes without a raw public key end here, as those of earlier versions do.
        if !reader.isAtEnd { publicKey = KnownPublicKey(name: try reader.string(), fingerprint: try reader.array()) }
    }

    // MARK: Sessions

    /// The notes in a session; empty ones where there are none.
    init(of session: OpaquePointer?) throws(MalformedBytes) {
        var data: UnsafeMutableRawPointer?
        var count = 0
        guard let session, SSL_SESSION_get0_ticket_appdata(session, &data, &count) == 1, let data, count > 0 else {
            self.init()
            return
        }
        try self.init(decoding: UnsafeRawBufferPointer(start: data, count: count))
    }

    /// Writes notes into the session of a server's connection whose client has proven itself, and takes the client's
    /// certificate out of it where they are shorter: before a ticket is made of the session, or it is put into a ``SessionCache``.
    /// - Returns: false where OpenSSL has no memory.
    static func write(for ssl: OpaquePointer) -> Bool {
        guard let session = SSL_get_session(ssl) else { return true }
        // Those of a session that is resumed, and gets a new ticket.
        var notes = (try? SessionNotes(of: session)) ?? SessionNotes()
        if let identity = SSL_get_psk_identity(ssl) {
            // Where the key was removed during the handshake, or somebody who was asked has given it, the session gets a note
            // that fits no key, and is never resumed.
            let isOfSettings = AuthorizationGate.of(ssl)?.hasOwnKey != true
            let keys = isOfSettings ? ContextExData.of(ssl)?.presharedKeys : nil
            notes.key = keys?.note(of: PresharedKeyCallbacks.bytes(identity)) ?? [0]
        }
        let certificate = SSL_SESSION_get0_peer(session)
        if let certificate {
            notes.certificate = Certificate(
                name: PeerName(certificate: certificate), names: CertificateNames(of: certificate))
        }
        var bytes = notes.encoded
        // A certificate of very many names stays where it is.
        let isShorter = certificate.map { bytes.count < Int(i2d_X509($0, nil)) } ?? false
        if certificate != nil, !isShorter {
            notes.certificate = nil
            bytes = notes.encoded
        }
        let publicKey = co_ssl_session_peer_raw_public_key(session)
        if let publicKey {
            guard let fingerprint = RawPublicKeys.fingerprint(of: publicKey) else { return false }
            // Where the key was removed during the handshake, the session gets a note that fits no key.
            let name = ContextExData.of(ssl)?.publicKeys?.name(of: fingerprint) ?? ""
            notes.publicKey = KnownPublicKey(name: name, fingerprint: fingerprint)
            bytes = notes.encoded
        }
        guard !notes.isEmpty else { return true }
        guard SSL_SESSION_set1_ticket_appdata(session, bytes, bytes.count) == 1 else { return false }
        return !isShorter && publicKey == nil || SessionBytes.dropPeerCertificate(of: session)
    }

    /// Whether a session may be resumed on a connection, as far as its notes say: one that was made with a pre-shared key
    /// only while identity and key are still the same, one of a client with a raw public key only while that is known by the
    /// same name, and none whose notes cannot be read.
    static func allowResumption(of session: OpaquePointer?, on ssl: OpaquePointer?) -> Bool {
        guard let ssl, let session, let notes = try? SessionNotes(of: session) else { return false }
        if let publicKey = notes.publicKey {
            return ContextExData.of(ssl)?.publicKeys?.name(of: publicKey.fingerprint) == publicKey.name
        }
        guard let key = notes.key else { return true }
        return ContextExData.of(ssl)?.presharedKeys?.isValid(note: key) ?? false
    }
}

extension ServerContext {
    /// Writes ``SessionNotes`` into each ticket, and asks them when one comes back.
    func noteSessions() {
        SSL_CTX_set_session_ticket_cb(
            pointer,
            { ssl, _ in
                guard let ssl else { return 0 }
                let isWritten = SessionNotes.write(for: ssl)
                // Until the step of the handshake is done.
                FreedMemory.sessionBegins()
                return isWritten ? 1 : 0
            },
            { ssl, session, _, _, status, _ in
                FreedMemory.sessionEnds()
                switch status {
                case SSL_TICKET_EMPTY, SSL_TICKET_NO_DECRYPT: return SSL_TICKET_RETURN_IGNORE_RENEW
                case SSL_TICKET_SUCCESS, SSL_TICKET_SUCCESS_RENEW:
                    guard SessionNotes.allowResumption(of: session, on: ssl) else {
                        return SSL_TICKET_RETURN_IGNORE_RENEW
                    }
                    return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW
                default: return SSL_TICKET_RETURN_IGNORE
                }
            }, nil)
    }
}

/// How the client's certificate or raw public key leaves a session. OpenSSL has no call for that (`SSL_SESSION_set_peer`), but
/// it decodes into a session that is there, and both are optional (SSL_SESSION_ASN1 in ssl/ssl_asn1.c, read in 3.0 to 4.1).
extension SessionBytes {
    /// Takes the certificate or raw public key of the peer out of a session that no other connection has. All else stays.
    /// - Returns: false where the session could not be decoded again, and is of no more use.
    static func dropPeerCertificate(of session: OpaquePointer) -> Bool {
        var bytes = encoded(session)
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        guard var rest = withoutPeer(bytes) else { return true }
        defer { OPENSSL_cleanse(&rest, rest.count) }
        // What cannot be decoded as a session of its own leaves the present one as it is.
        guard let other = decode(rest) else { return true }
        defer { SSL_SESSION_free(other) }
        guard SSL_SESSION_get0_peer(other) == nil, co_ssl_session_peer_raw_public_key(other) == nil else { return true }
        FreedMemory.sessionBegins()
        defer { FreedMemory.sessionEnds() }
        let decoded = rest.withUnsafeBufferPointer { buffer in
            var target: OpaquePointer? = session
            var position = buffer.baseAddress
            return d2i_SSL_SESSION(&target, &position, buffer.count)
        }
        guard decoded == session else {
            OpenSSLError.clear()
            return false
        }
        return true
    }

    /// The encoding of a session without the certificate of its peer, `peer [3] X509 OPTIONAL`, and without its raw public key,
    /// `peer_rpk [20] OCTET STRING OPTIONAL`.
    /// - Returns: `nil` for what is not the encoding of a session.
    static func withoutPeer(_ bytes: [UInt8]) -> [UInt8]? {
        bytes.withUnsafeBufferPointer { buffer in
            ERR_set_mark()
            defer { ERR_pop_to_mark() }
            guard let start = buffer.baseAddress, let whole = Element(at: start, buffer.count),
                whole.tag == V_ASN1_SEQUENCE, whole.size == buffer.count
            else { return nil }
            var body: [UInt8] = []
            // What has become too small would be freed as it is.
            body.reserveCapacity(buffer.count)
            var position = start + whole.headerSize
            let end = start + whole.size
            while position < end {
                guard let element = Element(at: position, end - position) else { return nil }
                if ![3, 20].contains(element.tag) || element.tagClass != V_ASN1_CONTEXT_SPECIFIC {
                    body += UnsafeBufferPointer(start: position, count: element.size)
                }
                position += element.size
            }
            defer { OPENSSL_cleanse(&body, body.count) }
            return header(ofSequence: body.count) + body
        }
    }

    private struct Element {
        let tag: Int32
        let tagClass: Int32
        let headerSize: Int
        /// With the header.
        let size: Int

        /// - Returns: `nil` where none begins at `start` that has at most `count` bytes.
        init?(at start: UnsafePointer<UInt8>, _ count: Int) {
            var position: UnsafePointer<UInt8>? = start
            var (length, tag, tagClass) = (0, Int32(0), Int32(0))
            let result = ASN1_get_object(&position, &length, &tag, &tagClass, count)
            guard result & 0x80 == 0, result & 1 == 0, let position, length >= 0 else { return nil }
            headerSize = position - start
            size = headerSize + length
            guard size <= count else { return nil }
            self.tag = tag
            self.tagClass = tagClass
        }
    }

    private static func header(ofSequence count: Int) -> [UInt8] {
        let tag = UInt8(V_ASN1_SEQUENCE | V_ASN1_CONSTRUCTED)
        guard count >= 0x80 else { return [tag, UInt8(count)] }
        let digits = withUnsafeBytes(of: UInt32(truncatingIfNeeded: count).bigEndian) { Array($0.drop { $0 == 0 }) }
        return [tag, 0x80 | UInt8(digits.count)] + digits
    }
}
