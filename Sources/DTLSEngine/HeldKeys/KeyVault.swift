import COpenSSL
import Primitives

/// A private key in the process that holds it. OpenSSL's keys can be used by several threads at once, as long as nobody
/// changes them.
package final class VaultKey: @unchecked Sendable {
    /// An EVP_PKEY that this object owns. OpenSSL overwrites its secret numbers when it frees them.
    fileprivate let pointer: OpaquePointer
    package let id: KeyID
    package let uses: KeyUses

    package init(_ material: PrivateKeyMaterial) throws(CredentialsError) {
        ERR_clear_error()
        let found = material.privateKey.withUnsafeBufferPointer { buffer in
            var position = buffer.baseAddress
            return d2i_AutoPrivateKey(nil, &position, buffer.count)
        }
        guard let key = found else { throw .privateKey("\(OpenSSLError.drain())") }
        guard let id = KeyID(of: key) else {
            EVP_PKEY_free(key)
            throw .privateKey("\(OpenSSLError.drain())")
        }
        (pointer, self.id, uses) = (key, id, material.uses)
    }

    deinit { EVP_PKEY_free(pointer) }

    /// Has OpenSSL read and open what it needs for all that keys are used for, for a process that cannot later.
    package static func prepareOpenSSL() {
        let made = IssuedCertificate.makeKey(.ec)
        defer {
            EVP_PKEY_free(made)
            ERR_clear_error()
        }
        guard let made, let der = DER.bytes(of: made, i2d_PrivateKey) else { return }
        let key = try? VaultKey(PrivateKeyMaterial(privateKey: der, uses: []))
        let signer = key.flatMap { Signer($0, SignatureForm(hash: .sha256)) }
        _ = [1].withUnsafeBytes { signer?.sign($0) }
    }

    /// The length of a premaster secret (SSL_MAX_MASTER_KEY_LENGTH).
    private static let secretLength = 48

    /// - Returns: `nil` for what is publicly wrong, its length for example.
    fileprivate func decrypt(_ secret: UnsafeRawBufferPointer, version: UInt16) -> [UInt8]? {
        defer { OpenSSLError.clear() }
        guard let context = EVP_PKEY_CTX_new_from_pkey(nil, pointer, nil) else { return nil }
        defer { EVP_PKEY_CTX_free(context) }
        guard EVP_PKEY_decrypt_init(context) == 1,
            EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_WITH_TLS_PADDING) > 0
        else { return nil }
        var clientVersion = UInt32(version)
        let isSet = withUnsafeMutablePointer(to: &clientVersion) { clientVersion in
            var parameters = [
                OSSL_PARAM_construct_uint(ProviderParameter.tlsClientVersion, clientVersion),
                OSSL_PARAM_construct_end(),
            ]
            return EVP_PKEY_CTX_set_params(context, &parameters)
        }
        var plain = [UInt8](repeating: 0, count: Self.secretLength)
        var count = plain.count
        let bytes = secret.assumingMemoryBound(to: UInt8.self)
        guard isSet == 1, EVP_PKEY_decrypt(context, &plain, &count, bytes.baseAddress, bytes.count) == 1,
            count == plain.count
        else { return nil }
        return plain
    }
}

/// A table of pre-shared keys in the process that holds them.
package final class PresharedKeyVault: Sendable {
    package let id: KeyID
    private let keys: [[UInt8]: [UInt8]]

    package init(_ material: PresharedKeyMaterial) {
        (id, keys) = (material.table, material.keys.table)
    }

    fileprivate func key(of identity: [UInt8]) -> [UInt8]? { keys[identity] }
}

/// A key, ready for signatures of one form: OpenSSL looks up names and implementations once, and not for each signature. It is
/// used by one thread.
private final class Signer {
    private let form: SignatureForm
    private let key: VaultKey
    /// An EVP_PKEY_CTX that signs hashes; `nil` where the algorithm hashes by itself.
    private let context: OpaquePointer?
    /// An EVP_MD and an EVP_MD_CTX
    private let hash: OpaquePointer?
    private let hashing: OpaquePointer?

    /// - Returns: `nil` where the key has no such signatures.
    init?(_ key: VaultKey, _ form: SignatureForm) {
        defer { OpenSSLError.clear() }
        (self.key, self.form) = (key, form)
        guard let name = form.hash.name else {
            (context, hash, hashing) = (nil, nil, nil)
            return
        }
        (context, hash) = (EVP_PKEY_CTX_new_from_pkey(nil, key.pointer, nil), EVP_MD_fetch(nil, name, nil))
        hashing = EVP_MD_CTX_new()
        guard let context, let hash, hashing != nil, EVP_PKEY_sign_init(context) == 1,
            EVP_PKEY_CTX_set_signature_md(context, hash) > 0
        else { return nil }
        guard form.isPSS else { return }
        guard EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) > 0,
            EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) > 0
        else { return nil }
    }

    deinit {
        EVP_PKEY_CTX_free(context)
        EVP_MD_free(hash)
        EVP_MD_CTX_free(hashing)
    }

    func sign(_ content: UnsafeRawBufferPointer) -> [UInt8]? {
        defer { OpenSSLError.clear() }
        let bytes = content.assumingMemoryBound(to: UInt8.self)
        guard let context, let hash, let hashing else { return signIntrinsically(bytes) }
        return withTemporaryBytes(Int(EVP_MAX_MD_SIZE), alignment: 16) { digest in
            let digest = digest.assumingMemoryBound(to: UInt8.self)
            var length: UInt32 = 0
            guard EVP_DigestInit_ex2(hashing, hash, nil) == 1,
                EVP_DigestUpdate(hashing, bytes.baseAddress, bytes.count) == 1,
                EVP_DigestFinal_ex(hashing, digest.baseAddress, &length) == 1
            else { return nil }
            return signature { EVP_PKEY_sign(context, $0, &$1, digest.baseAddress, Int(length)) }
        }
    }

    private func signIntrinsically(_ bytes: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        guard let context = EVP_MD_CTX_new() else { return nil }
        defer { EVP_MD_CTX_free(context) }
        guard EVP_DigestSignInit_ex(context, nil, nil, nil, nil, key.pointer, nil) == 1 else { return nil }
        return signature { EVP_DigestSign(context, $0, &$1, bytes.baseAddress, bytes.count) }
    }

    private func signature(_ sign: (UnsafeMutablePointer<UInt8>?, inout Int) -> Int32) -> [UInt8]? {
        let capacity = Int(max(0, EVP_PKEY_get_size(key.pointer)))
        var isSigned = false
        let bytes = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            count = capacity
            isSigned = sign(buffer.baseAddress, &count) == 1 && count <= capacity
            if !isSigned { count = 0 }
        }
        return isSigned ? bytes : nil
    }
}

/// What the process that holds the keys does for one other process: that one's keys, and its requests, without I/O.
package struct KeyUser {
    /// What becomes of a request.
    package enum Outcome: Equatable, Sendable {
        case answer(KeyAnswer)
        case nothing
        /// No worker asks so: this one is defective, or somebody else controls it. The text is the end of a sentence about
        /// the worker.
        case violation(String)
    }

    /// The keys that it holds, which are of this configuration or of an earlier one: the same key for several uses, where a
    /// reload has brought others.
    private var held: [KeyID: [VaultKey]] = [:]
    /// Of keys that it holds. A key has no more than there are forms.
    private var signers: [KeyID: [SignatureForm: Signer]] = [:]
    /// The tables of pre-shared keys that it holds.
    private var tables: [KeyID: PresharedKeyVault] = [:]
    /// What the last signature was made with.
    private var latest: (id: KeyID, form: SignatureForm, use: KeyUses, signer: Signer)?

    package init() {}

    /// - Parameters:
    ///   - find: a key for these uses, of a configuration that is in use.
    ///   - findTable: a table of pre-shared keys of a configuration that is in use.
    ///   - mayUse: whether the handshakes of this process explain one more use of a key. It is asked once for each.
    package mutating func receive(
        _ message: UnsafeRawBufferPointer, find: (KeyID, KeyUses) -> VaultKey?,
        findTable: (KeyID) -> PresharedKeyVault? = { _ in nil }, mayUse: () -> Bool
    ) -> Outcome {
        guard let request = try? KeyRequest(decoding: message) else {
            return .violation("a request that is malformed, of \(message.count) bytes")
        }
        switch request {
        case .hold(let id):
            guard held[id] == nil, tables[id] == nil else { return .answer(.done([])) }
            if let key = find(id, []) {
                held[id] = [key]
            } else if let table = findTable(id) {
                tables[id] = table
            } else {
                return .answer(.unknownKey)
            }
            return .answer(.done([]))
        case .release(let id):
            (held[id], signers[id], tables[id]) = (nil, nil, nil)
            if latest?.id == id { latest = nil }
            return .nothing
        case .sign(let id, let form, let content):
            guard let kind = SignedContent(content) else {
                return .violation("a signature of something that no handshake signs, of \(content.count) bytes")
            }
            if latest?.id != id || latest?.form != form || latest?.use != kind.use {
                guard held[id] != nil else { return .answer(.unknownKey) }
                guard let key = key(id, kind.use, find) else {
                    return .violation("a signature of a kind that its key is not used for")
                }
                guard let signer = signers[id]?[form] ?? Signer(key, form) else {
                    return .answer(mayUse() ? .failed : .tooMany)
                }
                signers[id, default: [:]][form] = signer
                latest = (id, form, kind.use, signer)
            }
            guard mayUse() else { return .answer(.tooMany) }
            return .answer(latest?.signer.sign(content).map(KeyAnswer.done) ?? .failed)
        case .decrypt(let id, let version, let secret):
            guard held[id] != nil else { return .answer(.unknownKey) }
            guard let key = key(id, .keyTransport, find) else {
                return .violation("to decrypt with a key whose service has no cipher suites for that")
            }
            guard mayUse() else { return .answer(.tooMany) }
            return .answer(key.decrypt(secret, version: version).map(KeyAnswer.done) ?? .failed)
        case .presharedKey(let id, let identity):
            guard (1...PresharedKeys.maximumIdentityLength).contains(identity.count) else {
                return .violation("the key of an identity that no client has, of \(identity.count) bytes")
            }
            guard let table = tables[id] else { return .answer(.unknownKey) }
            guard mayUse() else { return .answer(.tooMany) }
            return .answer(table.key(of: Array(identity)).map(KeyAnswer.done) ?? .unknownIdentity)
        }
    }

    /// A key that it holds, for this use.
    private mutating func key(_ id: KeyID, _ use: KeyUses, _ find: (KeyID, KeyUses) -> VaultKey?) -> VaultKey? {
        if let key = held[id]?.first(where: { $0.uses.contains(use) }) { return key }
        // The same key is used for more since a reload.
        guard let key = find(id, use) else { return nil }
        held[id, default: []].append(key)
        return key
    }
}
