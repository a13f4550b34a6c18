import COpenSSL
import Primitives

/// The private keys that another process holds for this one, which signs with them by asking that process. OpenSSL does not
/// notice: see ``HeldKeyProvider``.
///
/// It is used by one thread, like the contexts that have its keys.
public final class HeldKeys {
    /// Sends a request, waits for its answer where it has one, and returns that; `nil` where nobody answers.
    package typealias Asking = (_ request: [UInt8], _ isAnswered: Bool) -> [UInt8]?
    private var ask: Asking?
    /// How many contexts have each key.
    private var counts: [KeyID: Int] = [:]

    public init() {}

    /// Asks by this from now on: there is another process that holds the keys, or another channel to it.
    package func connect(_ ask: @escaping Asking) {
        self.ask = ask
        for id in counts.keys { _ = request(.hold(id)) }
    }

    /// Nobody holds the keys at the moment.
    package func disconnect() { ask = nil }

    package var isConnected: Bool { ask != nil }

    /// - Parameter publicKey: SubjectPublicKeyInfo, DER.
    func key(_ publicKey: [UInt8]) throws(CredentialsError) -> HeldKey {
        ERR_clear_error()
        let found = publicKey.withUnsafeBufferPointer { buffer in
            var position = buffer.baseAddress
            return d2i_PUBKEY(nil, &position, buffer.count)
        }
        guard let pointer = found else { throw .privateKey("its public key is none: \(OpenSSLError.drain())") }
        guard let id = KeyID(of: pointer) else {
            EVP_PKEY_free(pointer)
            throw .privateKey("its public key cannot be encoded: \(OpenSSLError.drain())")
        }
        let key = HeldKey(id, pointer, self)
        counts[id, default: 0] += 1
        // Where nobody answers now, the key is asked for again as soon as somebody does.
        guard counts[id] == 1, ask != nil, let answer = request(.hold(id)) else { return key }
        guard case .done = answer else { throw .privateKey("the key process \(answer.reason)") }
        return key
    }

    /// A table of pre-shared keys.
    func table(_ id: KeyID) throws(CredentialsError) -> HeldTable {
        let table = HeldTable(id, self)
        counts[id, default: 0] += 1
        guard counts[id] == 1, ask != nil, let answer = request(.hold(id)) else { return table }
        guard case .done = answer else { throw .presharedKey("the key process \(answer.reason)") }
        return table
    }

    fileprivate func forget(_ id: KeyID) {
        counts[id, default: 0] -= 1
        guard counts[id, default: 0] <= 0 else { return }
        counts[id] = nil
        _ = ask?(KeyRequest.release(id).bytes, false)
    }

    func request(_ request: KeyRequest) -> KeyAnswer? {
        ask?(request.bytes, true).flatMap { KeyAnswer(decoding: $0) }
    }
}

/// A private key that another process holds, in this one: what OpenSSL's callbacks have of it.
final class HeldKey {
    let id: KeyID
    /// An EVP_PKEY with the public key alone, of OpenSSL's own provider.
    let publicKey: OpaquePointer
    private let keys: HeldKeys

    fileprivate init(_ id: KeyID, _ publicKey: OpaquePointer, _ keys: HeldKeys) {
        (self.id, self.publicKey, self.keys) = (id, publicKey, keys)
    }

    deinit {
        EVP_PKEY_free(publicKey)
        keys.forget(id)
    }

    /// The most bytes that a signature has.
    var maximumSignatureLength: Int { Int(max(0, EVP_PKEY_get_size(publicKey))) }

    /// - Returns: the signature, or `nil` with the reason in OpenSSL's error queue.
    func sign(_ content: UnsafeRawBufferPointer, _ form: SignatureForm) -> [UInt8]? {
        bytes(of: keys.request(.sign(id, form, content: content)))
    }

    /// - Returns: the premaster secret, or `nil` with the reason in OpenSSL's error queue.
    func decrypt(_ secret: UnsafeRawBufferPointer, version: UInt16) -> [UInt8]? {
        bytes(of: keys.request(.decrypt(id, version: version, secret: secret)))
    }

    private func bytes(of answer: KeyAnswer?) -> [UInt8]? {
        if case .done(let bytes) = answer { return bytes }
        let reason = answer?.reason ?? "does not answer"
        co_raise_error("the key process \(reason)")
        return nil
    }
}

/// A table of pre-shared keys that another process holds.
final class HeldTable {
    private let id: KeyID
    private let keys: HeldKeys

    fileprivate init(_ id: KeyID, _ keys: HeldKeys) { (self.id, self.keys) = (id, keys) }

    deinit { keys.forget(id) }

    func lookUp(_ identity: [UInt8]) -> PresharedKeyLookup {
        let answer = identity.withUnsafeBytes { keys.request(.presharedKey(table: id, identity: $0)) }
        switch answer {
        case .done(let key): return .key(key)
        case .unknownIdentity: return .unknown
        default: return .unavailable("the key process \(answer?.reason ?? "does not answer")")
        }
    }
}
