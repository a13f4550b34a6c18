import COpenSSL
import Primitives

/// A private key in the process that holds it. OpenSSL's keys can be used by several threads at once, as long as nobody
/// changes them.
package final class VaultKey: @unchecked Sendable {
    /// An EVP_PKEY that this object owns. OpenSSL overwrites its secret numbers when it frees them.
    private let pointer: OpaquePointer
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
        _ = [1].withUnsafeBytes { key?.sign($0, SignatureForm(hash: .sha256)) }
    }

    /// - Returns: `nil` where the key has no such signatures.
    fileprivate func sign(_ content: UnsafeRawBufferPointer, _ form: SignatureForm) -> [UInt8]? {
        defer { OpenSSLError.clear() }
        guard let context = EVP_MD_CTX_new() else { return nil }
        defer { EVP_MD_CTX_free(context) }
        var algorithm: OpaquePointer?
        guard EVP_DigestSignInit_ex(context, &algorithm, form.hash.name, nil, nil, pointer, nil) == 1 else {
            return nil
        }
        if form.isPSS {
            guard EVP_PKEY_CTX_set_rsa_padding(algorithm, RSA_PKCS1_PSS_PADDING) > 0,
                EVP_PKEY_CTX_set_rsa_pss_saltlen(algorithm, RSA_PSS_SALTLEN_DIGEST) > 0
            else { return nil }
        }
        var count = Int(max(0, EVP_PKEY_get_size(pointer)))
        var signature = [UInt8](repeating: 0, count: count)
        let bytes = content.assumingMemoryBound(to: UInt8.self)
        guard EVP_DigestSign(context, &signature, &count, bytes.baseAddress, bytes.count) == 1,
            count <= signature.count
        else { return nil }
        signature.removeLast(signature.count - count)
        return signature
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

    package init() {}

    /// - Parameters:
    ///   - find: a key for these uses, of a configuration that is in use.
    ///   - mayUse: whether the handshakes of this process explain one more use of a key. It is asked once for each.
    package mutating func receive(
        _ message: UnsafeRawBufferPointer, find: (KeyID, KeyUses) -> VaultKey?, mayUse: () -> Bool
    ) -> Outcome {
        guard let request = try? KeyRequest(decoding: message) else {
            return .violation("a request that is malformed, of \(message.count) bytes")
        }
        switch request {
        case .hold(let id):
            guard held[id] == nil else { return .answer(.done([])) }
            guard let key = find(id, []) else { return .answer(.unknownKey) }
            held[id] = [key]
            return .answer(.done([]))
        case .release(let id):
            held[id] = nil
            return .nothing
        case .sign(let id, let form, let content):
            guard let kind = SignedContent(content) else {
                return .violation("a signature of something that no handshake signs, of \(content.count) bytes")
            }
            guard held[id] != nil else { return .answer(.unknownKey) }
            guard let key = key(id, kind.use, find) else {
                return .violation("a signature of a kind that its key is not used for")
            }
            guard mayUse() else { return .answer(.tooMany) }
            return .answer(key.sign(content, form).map(KeyAnswer.done) ?? .failed)
        case .decrypt(let id, let version, let secret):
            guard held[id] != nil else { return .answer(.unknownKey) }
            guard let key = key(id, .keyTransport, find) else {
                return .violation("to decrypt with a key whose service has no cipher suites for that")
            }
            guard mayUse() else { return .answer(.tooMany) }
            return .answer(key.decrypt(secret, version: version).map(KeyAnswer.done) ?? .failed)
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
