import COpenSSL
import Primitives

/// Where a private key of this side is.
public enum PrivateKeySource: Codable, Equatable, Sendable {
    /// Here: a PEM text, which may be encrypted with a passphrase.
    case pem(String)
    /// In another process, which signs for this one; see ``HeldKeys``. The SubjectPublicKeyInfo (DER) names it.
    case held(publicKey: [UInt8])

    var isHeld: Bool {
        if case .held = self { true } else { false }
    }
}

/// Names a private key, wherever it is, by SHA-256 of its SubjectPublicKeyInfo; or a table of pre-shared keys.
package struct KeyID: Hashable, Codable, Sendable {
    package static let length = 32
    package let bytes: [UInt8]

    /// - Parameter bytes: ``length`` of them.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.length else { return nil }
        self.bytes = Array(bytes)
    }

    /// A name for what has no public key. It is drawn at random, so that it tells nothing of the secret.
    package static func random() throws(CredentialsError) -> KeyID {
        var bytes = [UInt8](repeating: 0, count: length)
        guard RAND_bytes(&bytes, Int32(length)) == 1, let id = bytes.withUnsafeBytes({ KeyID($0) }) else {
            throw .context("\(OpenSSLError.drain())")
        }
        return id
    }

    /// - Parameter key: an EVP_PKEY with a public key.
    init?(of key: OpaquePointer) {
        guard let bytes = RawPublicKeys.fingerprint(of: key) else { return nil }
        self.bytes = bytes
    }
}

/// What a private key is used for. The process that holds it uses it for nothing else.
public struct KeyUses: OptionSet, Codable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// To sign a server's ServerKeyExchange (RFC 5246, section 7.4.3).
    public static let serverKeyExchange = KeyUses(rawValue: 1)
    /// To sign a client's CertificateVerify (RFC 5246, section 7.4.8).
    public static let certificateVerify = KeyUses(rawValue: 2)
    /// To decrypt what clients of suites without forward secrecy send (RFC 5246, section 7.4.7.1).
    public static let keyTransport = KeyUses(rawValue: 4)
}

/// A private key on its way to the process that is to hold it.
public struct PrivateKeyMaterial: Codable, Equatable, Sendable {
    /// The private key, DER, not encrypted.
    public let privateKey: [UInt8]
    public var uses: KeyUses
}

/// A server's or client's pre-shared keys on their way to the process that is to hold them.
public struct PresharedKeyMaterial: Codable, Equatable, Sendable {
    package let table: KeyID
    package let keys: PresharedKeys
}

/// All keys of a configuration, on their way to the process that is to hold them.
public struct KeyMaterial: Codable, Equatable, Sendable {
    public var privateKeys: [PrivateKeyMaterial] = []
    public var presharedKeys: [PresharedKeyMaterial] = []

    public init() {}

    public var isEmpty: Bool { privateKeys.isEmpty && presharedKeys.isEmpty }
}

extension PrivateKeySource {
    /// Takes the private key out.
    /// - Returns: what is to stay in its place, and the key; `nil` where it is held elsewhere already.
    /// - Throws: for a text that is no key that OpenSSL can read.
    func separated(
        passphrase: String?, uses: KeyUses
    ) throws(CredentialsError) -> (source: PrivateKeySource, material: PrivateKeyMaterial)? {
        guard case .pem(let text) = self else { return nil }
        let key = try OwnKey(pem: text, passphrase: passphrase)
        guard let publicKey = DER.bytes(of: key.pointer, i2d_PUBKEY),
            let privateKey = DER.bytes(of: key.pointer, i2d_PrivateKey)
        else { throw .privateKey("it cannot be encoded again (\(OpenSSLError.drain()))") }
        return (.held(publicKey: publicKey), PrivateKeyMaterial(privateKey: privateKey, uses: uses))
    }
}

extension ServerSettings {
    /// Takes all private keys out, so that another process can hold them.
    public mutating func separatePrivateKeys() throws(CredentialsError) -> [PrivateKeyMaterial] {
        let uses: KeyUses =
            CipherPolicy.hasKeyTransport(cipherList) ? [.serverKeyExchange, .keyTransport] : .serverKeyExchange
        var all: [PrivateKeyMaterial] = []
        for index in certifiedKeys.indices { all += try certifiedKeys[index].separatePrivateKey(uses) }
        for index in names.indices {
            for key in names[index].certifiedKeys.indices {
                all += try names[index].certifiedKeys[key].separatePrivateKey(uses)
            }
        }
        for index in bareKeys.indices {
            guard
                let separated = try bareKeys[index].privateKey.separated(
                    passphrase: bareKeys[index].passphrase, uses: uses)
            else { continue }
            bareKeys[index] = BareKey(privateKey: separated.source, passphrase: nil)
            all.append(separated.material)
        }
        return all
    }
}

extension ServerSettings {
    /// Takes the pre-shared keys out, so that another process can hold them.
    /// - Returns: `nil` where there are none, or they are held elsewhere already.
    public mutating func separatePresharedKeys() throws(CredentialsError) -> PresharedKeyMaterial? {
        guard let keys = presharedKeys, keys.heldTable == nil, !keys.keys.isEmpty else { return nil }
        let table = try KeyID.random()
        presharedKeys?.keys = []
        presharedKeys?.heldTable = table
        return PresharedKeyMaterial(table: table, keys: PresharedKeys(keys: keys.keys))
    }
}

extension CertifiedKey {
    fileprivate mutating func separatePrivateKey(_ uses: KeyUses) throws(CredentialsError) -> [PrivateKeyMaterial] {
        guard let separated = try privateKey.separated(passphrase: passphrase, uses: uses) else { return [] }
        (privateKey, passphrase) = (separated.source, nil)
        return [separated.material]
    }
}

extension ClientSettings {
    /// Takes the private key out, so that another process can hold it.
    public mutating func separatePrivateKeys() throws(CredentialsError) -> [PrivateKeyMaterial] {
        guard let separated = try key?.separated(passphrase: passphrase, uses: .certificateVerify) else { return [] }
        (key, passphrase) = (separated.source, nil)
        return [separated.material]
    }
}

extension ClientSettings {
    /// Takes the pre-shared key out, so that another process can hold it.
    /// - Returns: `nil` where there is none, or it is held elsewhere already.
    public mutating func separatePresharedKey() throws(CredentialsError) -> PresharedKeyMaterial? {
        guard let key = presharedKey, heldPresharedKeyTable == nil else { return nil }
        let table = try KeyID.random()
        presharedKey?.key = []
        heldPresharedKeyTable = table
        return PresharedKeyMaterial(table: table, keys: PresharedKeys(keys: [key]))
    }
}

enum DER {
    static func bytes(
        of key: OpaquePointer,
        _ encode: (OpaquePointer?, UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>?) -> Int32
    ) -> [UInt8]? {
        ERR_clear_error()
        var bytes = [UInt8](repeating: 0, count: Int(max(0, encode(key, nil))))
        let count = bytes.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            return position == nil ? 0 : encode(key, &position)
        }
        return count > 0 && Int(count) == bytes.count ? bytes : nil
    }
}
