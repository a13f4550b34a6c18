import COpenSSL
import Primitives

/// One identity and the key that goes with it (RFC 4279).
public struct PresharedKey: Codable, Equatable, Sendable {
    /// 1 to ``PresharedKeys/maximumIdentityLength`` bytes other than NUL, UTF-8 as a rule (RFC 4279, section 5.1).
    public var identity: [UInt8]
    /// 1 to ``PresharedKeys/maximumKeyLength`` bytes.
    public var key: [UInt8]

    public init(identity: [UInt8], key: [UInt8]) {
        self.identity = identity
        self.key = key
    }

    /// Whether OpenSSL takes it; ``rule`` says what is right.
    public var isUsable: Bool {
        (1...PresharedKeys.maximumIdentityLength).contains(identity.count) && !identity.contains(0)
            && (1...PresharedKeys.maximumKeyLength).contains(key.count)
    }

    /// What an identity and a key have to be, for the text of an error.
    public static let rule =
        "an identity has 1 to \(PresharedKeys.maximumIdentityLength) bytes other than NUL, a key 1 to"
        + " \(PresharedKeys.maximumKeyLength)"
}

/// The keys that a server has in common with its clients, each under an identity.
public struct PresharedKeys: Equatable, Sendable {
    /// OpenSSL's PSK_MAX_IDENTITY_LEN, less the NUL.
    public static let maximumIdentityLength = 255
    /// OpenSSL's PSK_MAX_PSK_LEN; 256 before version 3.0.
    public static let maximumKeyLength = 512
    /// OpenSSL's limit for the hint is that of an identity.
    public static let maximumHintLength = maximumIdentityLength

    public var keys: [PresharedKey]
    /// The table that another process holds for this one, which asks it for the key of one identity at a time; ``keys`` is
    /// empty then.
    package var heldTable: KeyID?
    /// The hint in ServerKeyExchange by which clients may choose their identity (RFC 4279, section 5.2). It holds no
    /// NUL.
    public var hint: [UInt8]?

    public init(keys: [PresharedKey], hint: [UInt8]? = nil) {
        self.keys = keys
        self.hint = hint
    }
}

extension PresharedKeys {
    /// The first key counts of an identity that is there twice.
    var table: [[UInt8]: [UInt8]] {
        Dictionary(keys.map { ($0.identity, $0.key) }, uniquingKeysWith: { first, _ in first })
    }

    /// An identity as text, in the form in which key files have it (psktool, `PresharedKeyFile` of the daemon): as it
    /// is, or `#` and hexadecimal digits where it is not UTF-8. One that begins with `#` has that form too, so that no
    /// two identities have the same text.
    public static func text(of identity: [UInt8]) -> String {
        if identity.first != UInt8(ascii: "#"), let text = String(validating: identity, as: UTF8.self) { return text }
        return "#\(Hexadecimal.text(identity))"
    }
}

/// All keys are coded as one run of bytes, each part after its length in 4 bytes: a file may hold 300,000 of them, and
/// to decode as many values one by one would hold a worker up for most of a second.
extension PresharedKeys: Codable {
    private enum CodingKeys: CodingKey { case keys, heldTable, hint }

    public func encode(to encoder: any Encoder) throws {
        var run: [UInt8] = []
        for part in keys.lazy.flatMap({ [$0.identity, $0.key] }) {
            withUnsafeBytes(of: UInt32(truncatingIfNeeded: part.count).littleEndian) { run.append(contentsOf: $0) }
            run += part
        }
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(run, forKey: .keys)
        try container.encodeIfPresent(heldTable, forKey: .heldTable)
        try container.encodeIfPresent(hint, forKey: .hint)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        var run = try container.decode([UInt8].self, forKey: .keys)[...]
        func part() throws -> [UInt8] {
            let length = run.prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
            guard run.count >= 4, length <= run.count - 4 else {
                throw DecodingError.dataCorruptedError(
                    forKey: .keys, in: container, debugDescription: "a length beyond the end")
            }
            defer { run = run.dropFirst(4 + length) }
            return Array(run.dropFirst(4).prefix(length))
        }
        var keys: [PresharedKey] = []
        while !run.isEmpty { keys.append(PresharedKey(identity: try part(), key: try part())) }
        let heldTable = try container.decodeIfPresent(KeyID.self, forKey: .heldTable)
        self.init(keys: keys, hint: try container.decodeIfPresent([UInt8].self, forKey: .hint))
        self.heldTable = heldTable
    }
}

/// What is known of an identity.
enum PresharedKeyLookup: Equatable {
    case key([UInt8])
    case unknown
    /// The process that holds the keys cannot be asked; the text says why.
    case unavailable(String)
}

/// A server's keys as OpenSSL's callbacks look them up.
final class PresharedKeyTable {
    private enum Source {
        case own([[UInt8]: [UInt8]])
        case held(HeldTable)
    }
    private let source: Source
    /// The identity whose key another process was asked for last, and its note: a handshake needs both.
    private var latest: (identity: [UInt8], note: [UInt8])?

    init(_ settings: PresharedKeys, _ heldKeys: HeldKeys?) throws(CredentialsError) {
        guard let id = settings.heldTable else {
            source = .own(settings.table)
            return
        }
        guard let heldKeys else { throw .presharedKey("another process holds the keys, and there is no way to ask it") }
        source = .held(try heldKeys.table(id))
    }

    func lookUp(_ identity: [UInt8]) -> PresharedKeyLookup {
        switch source {
        case .own(let keys): return keys[identity].map(PresharedKeyLookup.key) ?? .unknown
        case .held(let table):
            let result = table.lookUp(identity)
            if case .key(let key) = result { latest = (identity, Self.note(of: identity, key)) }
            return result
        }
    }

    /// What a session says of the key that it was made with (``SessionNotes/key``): SHA-256 of identity and key (an identity has
    /// no NUL, so no other two give the same bytes), and the identity.
    /// - Returns: `nil` where the identity is unknown.
    func note(of identity: [UInt8]) -> [UInt8]? {
        if let latest, latest.identity == identity { return latest.note }
        guard case .key(let key) = lookUp(identity) else { return nil }
        return Self.note(of: identity, key)
    }

    private static func note(of identity: [UInt8], _ key: [UInt8]) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: digestLength)
        var bytes = identity + [0] + key
        EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha256(), nil)
        OPENSSL_cleanse(&bytes, bytes.count)
        return digest + identity
    }

    /// Whether the identity of a session still has the key that it had when the session was made.
    func isValid(note: [UInt8]) -> Bool { self.note(of: Array(note.dropFirst(Self.digestLength))) == note }

    private static let digestLength = 32
}

extension ServerContext {
    /// Lets clients prove themselves by the keys of `settings`.
    ///
    /// A session that was made with a key is resumed only while identity and key are still the same: it carries a digest of
    /// the two (``SessionNotes``), sealed like the rest.
    func use(_ settings: PresharedKeys) throws(CredentialsError) {
        exData.presharedKeys = try PresharedKeyTable(settings, heldKeys)
        if let hint = settings.hint {
            let text = hint.map { CChar(bitPattern: $0) } + [0]
            guard SSL_CTX_use_psk_identity_hint(pointer, text) == 1 else { throw .context("\(OpenSSLError.drain())") }
        }
        // 0 makes OpenSSL answer with the alert unknown_psk_identity (RFC 4279, section 2).
        SSL_CTX_set_psk_server_callback(pointer) { ssl, identity, buffer, size in
            guard let ssl, let identity, let buffer, let table = ContextExData.of(ssl)?.presharedKeys else { return 0 }
            let bytes = PresharedKeyCallbacks.bytes(identity)
            // One with a NUL: what OpenSSL has made of it is another client's, maybe.
            if HandshakeRefusal.reason(for: ssl) != nil { return 0 }
            let gate = AuthorizationGate.of(ssl)
            if let refusal = gate?.refusal {
                HandshakeRefusal.record(.unauthorized(refusal), for: ssl)
                return 0
            }
            switch gate.map({ $0.lookUp(bytes, table) }) ?? table.lookUp(bytes) {
            case .key(let key): return PresharedKeyCallbacks.copy(key, to: buffer, size)
            case .unknown: HandshakeRefusal.record(.unknownPresharedKeyIdentity(bytes), for: ssl)
            case .unavailable(let reason): HandshakeRefusal.record(.presharedKeyUnavailable(reason), for: ssl)
            }
            return 0
        }
        watchIdentities()
    }
}

extension ServerContext {
    /// Refuses identities with a NUL. OpenSSL gives its callback a C string, which ends at the NUL
    /// (tls_process_cke_psk_preamble: PACKET_strndup), so that one client could pass for another with the key that both
    /// have, in logs and for backends. RFC 4279, section 5.1, has UTF-8 texts, which hold no NUL as a rule.
    ///
    /// The whole identity stands only in the message. OpenSSL shows each message before it processes it, up to the
    /// client's Finished: from then on it would show every record, which costs time.
    private func watchIdentities() {
        SSL_CTX_set_msg_callback(pointer) { isWritten, _, contentType, bytes, count, ssl, _ in
            guard isWritten == 0, contentType == SSL3_RT_HANDSHAKE, let ssl, let bytes else { return }
            let message = UnsafeRawBufferPointer(start: bytes, count: count)
            switch Int32(message.first ?? 0) {
            case SSL3_MT_CLIENT_KEY_EXCHANGE:
                guard let identity = PresharedKeyCallbacks.identity(inClientKeyExchange: message, of: ssl),
                    identity.contains(0)
                else { return }
                HandshakeRefusal.record(.presharedKeyIdentityWithNUL(identity), for: ssl)
            case SSL3_MT_FINISHED:
                // A renegotiation brings another identity.
                if SSL_get_options(ssl) & CO_SSL_OP_ALLOW_CLIENT_RENEGOTIATION == 0 {
                    SSL_set_msg_callback(ssl, nil)
                }
            default: break
            }
        }
    }
}

extension ClientContext {
    /// Proves the client by a key.
    func use(_ settings: PresharedKey) throws(CredentialsError) {
        guard settings.isUsable else { throw .presharedKey(PresharedKey.rule) }
        try use(identity: settings.identity, PresharedKeys(keys: [settings]))
    }

    /// Proves the client by the key of an identity in a table that another process holds.
    func use(identity: [UInt8], heldTable: KeyID) throws(CredentialsError) {
        var table = PresharedKeys(keys: [])
        table.heldTable = heldTable
        try use(identity: identity, table)
    }

    private func use(identity: [UInt8], _ keys: PresharedKeys) throws(CredentialsError) {
        exData.ownPresharedKey = (identity, try PresharedKeyTable(keys, heldKeys))
        SSL_CTX_set_psk_client_callback(pointer) { ssl, _, identity, identitySize, buffer, size in
            guard let ssl, let identity, let buffer, let own = ContextExData.of(ssl)?.ownPresharedKey,
                own.identity.count < Int(identitySize)
            else { return 0 }
            let key: [UInt8]
            switch own.table.lookUp(own.identity) {
            case .key(let found): key = found
            case .unknown: return 0
            case .unavailable(let reason):
                co_raise_error(reason)
                return 0
            }
            for (index, byte) in own.identity.enumerated() { identity[index] = CChar(bitPattern: byte) }
            identity[own.identity.count] = 0
            return PresharedKeyCallbacks.copy(key, to: buffer, size)
        }
    }
}

enum PresharedKeyCallbacks {
    /// Gives OpenSSL a key.
    /// - Returns: its length; 0, which refuses the handshake, where there is not enough room.
    static func copy(_ key: [UInt8], to buffer: UnsafeMutablePointer<UInt8>, _ size: UInt32) -> UInt32 {
        guard key.count <= Int(size) else { return 0 }
        buffer.update(from: key, count: key.count)
        return UInt32(truncatingIfNeeded: key.count)
    }

    static func bytes(_ text: UnsafePointer<CChar>) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: text, count: strlen(text)))
    }

    /// The identity that a client names; `nil` where no suite with pre-shared keys was chosen, or there is none.
    /// - Parameter message: with its header of 12 bytes (RFC 6347, section 4.2.2), whole.
    static func identity(inClientKeyExchange message: UnsafeRawBufferPointer, of ssl: OpaquePointer) -> [UInt8]? {
        guard let suite = SSL_get_pending_cipher(ssl), Proof.isForKeys(suite), message.count >= 14 else { return nil }
        let count = Int(message[12]) << 8 | Int(message[13])
        return count <= message.count - 14 ? Array(message[14..<(14 + count)]) : nil
    }
}

extension OpenSSLConnection {
    /// An addition to the log line about a handshake that has timed out: the records of a client whose key is wrong
    /// cannot be read, so they are dropped without an alert (RFC 6347, section 4.1.2.7). It is empty for other
    /// handshakes.
    var presharedKeyRemark: String {
        guard SSL_is_init_finished(ssl) == 0, let identity = SSL_get_psk_identity(ssl),
            HandshakeRefusal.reason(for: ssl) == nil, ContextExData.of(ssl)?.presharedKeys != nil
        else { return "" }
        let bytes = PresharedKeyCallbacks.bytes(identity)
        let name = Printable.quoted(PresharedKeys.text(of: bytes), limit: 100)
        return "; the client has not proven that it has the key of PSK identity \(name)"
    }
}
