import COpenSSL
import Primitives

/// A public key that a peer may show in the place of a certificate (RFC 7250), and what the peer is called then.
public struct KnownPublicKey: Codable, Equatable, Sendable {
    /// The most bytes of a name.
    public static let maximumNameLength = 64

    /// What the peer is called in logs and rules: 1 to ``maximumNameLength`` bytes. Several keys may have the same name.
    public var name: String
    /// SHA-256 of the key's SubjectPublicKeyInfo: 32 bytes.
    public var fingerprint: [UInt8]

    public init(name: String, fingerprint: [UInt8]) {
        self.name = name
        self.fingerprint = fingerprint
    }
}

/// All public keys that a server takes of its clients, or a client of its server. No two have the same fingerprint.
public struct KnownPublicKeys: Equatable, Sendable {
    public var keys: [KnownPublicKey]

    public init(_ keys: [KnownPublicKey]) { self.keys = keys }
}

/// All keys are coded as one run of bytes: of each its fingerprint, the length of its name in a byte, and the name. As with
/// ``PresharedKeys``, to decode many values one by one would hold a worker up.
extension KnownPublicKeys: Codable {
    private static let fingerprintLength = 32

    public func encode(to encoder: any Encoder) throws {
        var run: [UInt8] = []
        for key in keys {
            let name = key.name.utf8.prefix(KnownPublicKey.maximumNameLength)
            run += key.fingerprint
            run.append(UInt8(truncatingIfNeeded: name.count))
            run += name
        }
        var container = encoder.singleValueContainer()
        try container.encode(run)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        var run = try container.decode([UInt8].self)[...]
        func part(_ count: Int) throws -> [UInt8] {
            guard count <= run.count else {
                throw DecodingError.dataCorruptedError(in: container, debugDescription: "a length beyond the end")
            }
            defer { run = run.dropFirst(count) }
            return Array(run.prefix(count))
        }
        var keys: [KnownPublicKey] = []
        while !run.isEmpty {
            let fingerprint = try part(Self.fingerprintLength)
            let length = try part(1)
            let name = try part(Int(length.first ?? 0))
            keys.append(KnownPublicKey(name: String(decoding: name, as: UTF8.self), fingerprint: fingerprint))
        }
        self.init(keys)
    }
}

/// A private key without a certificate, whose public key is shown bare.
public struct BareKey: Codable, Equatable, Sendable {
    public var privateKey: PrivateKeySource
    /// What `privateKey` is encrypted with.
    public var passphrase: String?

    public init(privateKey: String, passphrase: String? = nil) {
        self.init(privateKey: .pem(privateKey), passphrase: passphrase)
    }

    init(privateKey: PrivateKeySource, passphrase: String?) {
        self.privateKey = privateKey
        self.passphrase = passphrase
    }
}

/// What there is of raw public keys in this program.
public enum RawPublicKeys {
    /// Why there are none, as a sentence for the operator; `nil` where there are.
    public static var missing: String? {
        guard co_has_raw_public_keys() == 0 else { return nil }
        return "raw public keys (RFC 7250) need OpenSSL 3.2 or later, and this program was built for"
            + " \(OpenSSLVersion.ofHeaders) and runs with \(OpenSSLVersion.text)"
    }

    /// The types of RFC 7250, section 3, and RFC 6091, section 3.1 (TLSEXT_cert_type_rpk, TLSEXT_cert_type_x509).
    static let type: UInt8 = 2
    static let certificateType: UInt8 = 0
    /// The number of the extension server_certificate_type (TLSEXT_TYPE_server_cert_type).
    static let serverTypeExtension: UInt32 = 20

    /// SHA-256 of a key's SubjectPublicKeyInfo.
    /// - Parameter key: an EVP_PKEY.
    static func fingerprint(of key: OpaquePointer) -> [UInt8]? {
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        var bytes = [UInt8](repeating: 0, count: Int(max(0, i2d_PUBKEY(key, nil))))
        let count = bytes.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            return position == nil ? 0 : i2d_PUBKEY(key, &position)
        }
        guard count > 0, Int(count) == bytes.count else { return nil }
        var digest = [UInt8](repeating: 0, count: 32)
        guard EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha256(), nil) == 1 else { return nil }
        return digest
    }

    /// The kind of a private key, see ``KeyKind/name(of:)``, where a server can show its public key.
    package static func kind(of bare: BareKey) throws(CredentialsError) -> String {
        let key = try OwnKey(bare.privateKey, passphrase: bare.passphrase, nil)
        let kind = KeyKind.name(of: key.pointer)
        guard KeyKind.authentication(of: key.pointer) != nil else {
            throw .privateKey("OpenSSL has no cipher suites of DTLS for servers with \(kind) keys")
        }
        return kind
    }

    /// The public key of a private key, as ``KnownPublicKey/fingerprint`` has it.
    /// - Parameter privateKey: PEM, with its passphrase where it is encrypted.
    public static func fingerprint(ofPrivateKey privateKey: String, passphrase: String? = nil) -> [UInt8]? {
        guard let key = try? OwnKey(pem: privateKey, passphrase: passphrase) else { return nil }
        return fingerprint(of: key.pointer)
    }

    /// The public key in a PEM text ("PUBLIC KEY"), as ``KnownPublicKey/fingerprint`` has it.
    /// - Throws: what is wrong with the text.
    package static func fingerprint(ofPublicKey text: String) throws(OpenSSLError) -> [UInt8] {
        guard let source = PEMSource(text) else { throw OpenSSLError("too large") }
        ERR_clear_error()
        guard let key = PEM_read_bio_PUBKEY(source.bio, nil, nil, nil) else { throw OpenSSLError.drain() }
        defer { EVP_PKEY_free(key) }
        guard let fingerprint = fingerprint(of: key) else { throw OpenSSLError("it cannot be encoded again") }
        return fingerprint
    }
}

/// The keys that a context knows, as OpenSSL's callbacks look them up.
final class PublicKeyTable {
    private let names: [[UInt8]: String]

    init(_ known: KnownPublicKeys) {
        names = Dictionary(known.keys.map { ($0.fingerprint, $0.name) }, uniquingKeysWith: { first, _ in first })
    }

    /// What the peer with this key is called; `nil` where nobody knows the key.
    func name(of fingerprint: [UInt8]) -> String? { names[fingerprint] }
}

extension TLSContext {
    /// The kinds of certificates of one side, best first, as the extensions of RFC 7250 list them.
    enum CertificateTypes {
        /// Raw public keys, and certificates for peers that do not know such keys.
        case both
        case rawPublicKeysAlone

        fileprivate var bytes: [UInt8] {
            switch self {
            case .both: [RawPublicKeys.type, RawPublicKeys.certificateType]
            case .rawPublicKeysAlone: [RawPublicKeys.type]
            }
        }
    }

    /// Has raw public keys negotiated. What is `nil` stays with certificates.
    /// - Parameters:
    ///   - server: what the server may show.
    ///   - client: what the client may show.
    func negotiateRawPublicKeys(server: CertificateTypes?, client: CertificateTypes?) throws(CredentialsError) {
        guard server != nil || client != nil else { return }
        if let missing = RawPublicKeys.missing { throw .rawPublicKeys(missing) }
        // The signatures of DTLS 1.0 are not negotiated, and OpenSSL uses keys without certificates from 1.2 on alone.
        if maximumVersion == .dtls10 { throw .rawPublicKeys("DTLS 1.0 has none, and no newer version is allowed") }
        ERR_clear_error()
        if let types = server?.bytes, co_ssl_ctx_set_server_cert_type(pointer, types, types.count) != 1 {
            throw .rawPublicKeys("\(OpenSSLError.drain())")
        }
        if let types = client?.bytes, co_ssl_ctx_set_client_cert_type(pointer, types, types.count) != 1 {
            throw .rawPublicKeys("\(OpenSSLError.drain())")
        }
    }

    /// Uses a key without a certificate.
    @discardableResult
    func use(_ bare: BareKey) throws(CredentialsError) -> OwnKey {
        let key = try OwnKey(bare.privateKey, passphrase: bare.passphrase, heldKeys)
        // OpenSSL before 3.2 takes the key, and never uses it.
        if let missing = RawPublicKeys.missing { throw .rawPublicKeys(missing) }
        ERR_clear_error()
        guard SSL_CTX_use_PrivateKey(pointer, key.pointer) == 1 else { throw .privateKey("\(OpenSSLError.drain())") }
        return key
    }
}

/// The kind of a key, and which suites it is for.
enum KeyKind {
    /// `"RSA"`, `"ECDSA"`, or OpenSSL's name (`"ED25519"`).
    /// - Parameter key: an EVP_PKEY.
    static func name(of key: OpaquePointer) -> String {
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: "RSA"
        case EVP_PKEY_EC: "ECDSA"
        case let other: OBJ_nid2sn(other).map { String(cString: $0) } ?? "unknown"
        }
    }

    /// The authentication (NID_auth_…) of the cipher suites that a server with such a key can use. It is `nil` for keys
    /// that no suite of DTLS can use: OpenSSL uses Ed25519, Ed448 and RSA-PSS keys of servers in TLS alone
    /// (ssl_set_masks: "TLS1_get_version(s) == TLS1_2_VERSION"; seen with 3.0.19, issue 20122 of openssl/openssl).
    static func authentication(of key: OpaquePointer) -> Int32? {
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: NID_auth_rsa
        case EVP_PKEY_EC: NID_auth_ecdsa
        case EVP_PKEY_DSA: NID_auth_dss
        default: nil
        }
    }
}

/// A private key of this side.
final class OwnKey {
    /// An EVP_PKEY that this object owns a reference to.
    let pointer: OpaquePointer

    /// - Parameters:
    ///   - text: PEM.
    ///   - passphrase: what it is encrypted with.
    init(pem text: String, passphrase: String?) throws(CredentialsError) {
        var found = try Self.read(text, passphrase ?? "")
        // OpenSSL's tools take a byte order mark at the beginning of a passphrase file for a part of the passphrase;
        // those who read it as a text do not.
        if found == nil, let passphrase { found = try Self.read(text, "\u{feff}" + passphrase) }
        guard let key = found else {
            let error = OpenSSLError.drain()
            if text.contains("ENCRYPTED") {
                throw .passphrase(
                    passphrase == nil
                        ? "the private key is encrypted and no passphrase is given"
                        : "it does not decrypt the private key")
            }
            throw .privateKey("not a valid PEM private key (\(error))")
        }
        pointer = key
    }

    /// - Parameter keys: who is asked to use a key that another process holds; `nil`: nobody can be.
    convenience init(
        _ source: PrivateKeySource, passphrase: String?, _ keys: HeldKeys?
    ) throws(CredentialsError) {
        switch source {
        case .pem(let text): try self.init(pem: text, passphrase: passphrase)
        case .held(let publicKey):
            guard let keys else { throw .privateKey("another process holds it, which nobody here can ask") }
            guard let key = HeldKeyProvider.makeKey(try keys.key(publicKey)) else {
                throw .privateKey("it cannot be used from another process (\(OpenSSLError.drain()))")
            }
            self.init(owning: key)
        }
    }

    private init(owning key: OpaquePointer) { pointer = key }

    deinit { EVP_PKEY_free(pointer) }

    /// - Returns: a reference that the caller owns, or `nil` with OpenSSL's errors in its queue.
    private static func read(_ text: String, _ passphrase: String) throws(CredentialsError) -> OpaquePointer? {
        guard let source = PEMSource(text) else { throw .privateKey("too large") }
        ERR_clear_error()
        // With a null callback, PEM_def_callback takes its last argument as the passphrase; an empty one keeps it from
        // asking on the terminal.
        return passphrase.withCString {
            PEM_read_bio_PrivateKey(source.bio, nil, nil, UnsafeMutableRawPointer(mutating: $0))
        }
    }
}
