import COpenSSL

/// The keys of a connection's records (RFC 5246, section 6.3), from what OpenSSL tells of a handshake that is done.
enum KeyBlock {
    /// To look it up takes as long as half of the derivation.
    nonisolated(unsafe) static let function = EVP_KDF_fetch(nil, "TLS1-PRF", nil)

    /// Fills `block` with the beginning of the key block.
    /// - Parameter suite: the SSL's present cipher suite.
    /// - Returns: false where OpenSSL does not tell what is needed.
    static func derive(of ssl: OpaquePointer, _ suite: OpaquePointer, into block: inout [UInt8]) -> Bool {
        guard let session = SSL_get_session(ssl) else { return false }
        var secret = [UInt8](repeating: 0, count: 48)
        defer { OPENSSL_cleanse(&secret, secret.count) }
        guard SSL_SESSION_get_master_key(session, &secret, secret.count) == secret.count else { return false }
        var seed = Array("key expansion".utf8)
        var random = [UInt8](repeating: 0, count: 32)
        guard SSL_get_server_random(ssl, &random, random.count) == random.count else { return false }
        seed += random
        guard SSL_get_client_random(ssl, &random, random.count) == random.count else { return false }
        seed += random
        guard let name = pseudorandomDigest(of: ssl, suite) else { return false }
        return co_tls1_prf(function, name, secret, secret.count, seed, seed.count, &block, block.count) == 1
    }

    /// The hash function of the pseudorandom function. DTLS 1.0 has that of TLS 1.1; in DTLS 1.2 a suite that names
    /// none has SHA-256 (RFC 5246, section 5).
    static func pseudorandomDigest(of ssl: OpaquePointer, _ suite: OpaquePointer) -> UnsafePointer<CChar>? {
        guard let digest = SSL_CIPHER_get_handshake_digest(suite) else { return nil }
        let isOld = SSL_version(ssl) == Int32(ProtocolVersion.dtls10.rawValue)
        if isOld { return OBJ_nid2sn(NID_md5_sha1) }
        return EVP_MD_get_type(digest) == NID_md5_sha1 ? OBJ_nid2sn(NID_sha256) : EVP_MD_get0_name(digest)
    }
}

extension RecordState {
    /// Takes the keys out of an SSL whose handshake is done, and writes the state in which its records go on.
    /// - Parameters:
    ///   - written: what OpenSSL has sent with these keys.
    ///   - contentLimit: the bytes of the largest message that both sides have agreed on.
    ///   - negotiation: where connection IDs were offered.
    /// - Returns: false where the records have to stay with OpenSSL: AES-CBC, DTLS 1.0, and what later versions bring.
    static func export(
        from ssl: OpaquePointer, _ written: ProtectedWrites, contentLimit: Int,
        _ negotiation: ConnectionIDNegotiation?, to memory: UnsafeMutableRawPointer
    ) -> Bool {
        guard written.hasFinished, let keys = RecordKeys(of: ssl) else { return false }
        let terms = Terms(
            isServer: keys.isServer, algorithm: keys.algorithm, suite: keys.suite, contentLimit: contentLimit,
            noncePrefix: written.unusedNoncePrefix, connectionIDs: negotiation?.agreed,
            checksReturnRoutability: negotiation?.checksReturnRoutability ?? false)
        keys.withKeys { send, receive in
            write(terms, send: send, receive: receive, nextNumber: written.lastNumber + 1, to: memory)
        }
        return true
    }
}

/// The keys of the records of an AEAD suite, from when the master secret is known.
final class RecordKeys {
    let isServer: Bool
    let algorithm: RecordAlgorithm
    /// The number of the cipher suite on the wire.
    let suite: UInt16
    private var block: [UInt8]

    /// - Returns: `nil` for AES-CBC, DTLS 1.0, and what later versions bring, and before the secret is known.
    init?(of ssl: OpaquePointer) {
        guard let suite = Self.suite(of: ssl), let algorithm = RecordAlgorithm(suite: suite) else { return nil }
        isServer = SSL_is_server(ssl) == 1
        self.algorithm = algorithm
        self.suite = SSL_CIPHER_get_protocol_id(suite)
        block = [UInt8](repeating: 0, count: 2 * (algorithm.keySize + algorithm.fixedNonceSize))
        guard KeyBlock.derive(of: ssl, suite, into: &block) else {
            OpenSSLError.clear()
            return nil
        }
    }

    deinit { OPENSSL_cleanse(&block, block.count) }

    /// The suite that a connection has agreed on, or is about to, if its records can be protected outside OpenSSL.
    ///
    /// A server's session has none before the client's ChangeCipherSpec in a full handshake
    /// (ssl3_do_change_cipher_spec), so the pending one is asked for.
    static func suite(of ssl: OpaquePointer) -> OpaquePointer? {
        guard SSL_version(ssl) == Int32(ProtocolVersion.dtls12.rawValue),
            let suite = SSL_get_pending_cipher(ssl) ?? SSL_get_current_cipher(ssl),
            let algorithm = RecordAlgorithm(suite: suite), algorithm.cipher != nil
        else { return nil }
        return suite
    }

    /// This side's keys for sending, and for receiving.
    func withKeys(_ body: (_ send: RecordState.Keys, _ receive: RecordState.Keys) -> Void) {
        let (keySize, nonceSize) = (algorithm.keySize, algorithm.fixedNonceSize)
        block.withUnsafeBytes { block in
            // AEAD has no MAC keys. Of each pair the client's stands before the server's (RFC 5246, section 6.3).
            func part(_ size: Int, after start: Int, ofServer: Bool) -> UnsafeRawBufferPointer {
                let start = start + (ofServer ? size : 0)
                return UnsafeRawBufferPointer(rebasing: block[start..<(start + size)])
            }
            func keys(ofServer: Bool) -> RecordState.Keys {
                RecordState.Keys(
                    key: part(keySize, after: 0, ofServer: ofServer),
                    nonce: part(nonceSize, after: 2 * keySize, ofServer: ofServer))
            }
            body(keys(ofServer: isServer), keys(ofServer: !isServer))
        }
    }
}

/// What OpenSSL has written with the keys of epoch 1: its Finished, perhaps more than once.
struct ProtectedWrites {
    /// The greatest ``Record/number``; 0 where there was none.
    private(set) var lastNumber: UInt64 = 0
    /// The first 16 of the 64 bits that each begins with, of the first record and of the last one: AES-GCM's explicit
    /// nonce, which OpenSSL counts on from a random number.
    private var firstPrefix: UInt16 = 0
    private var lastPrefix: UInt16 = 0

    var hasFinished: Bool { lastNumber >> 48 == 1 }

    /// What explicit nonces can begin with that OpenSSL has not begun one with.
    var unusedNoncePrefix: UInt16 { (1...3).first { $0 != firstPrefix && $0 != lastPrefix } ?? 1 }

    /// Notes what OpenSSL has written into one datagram.
    @inline(__always)
    mutating func note(_ datagram: UnsafeRawBufferPointer) {
        for record in Records(of: datagram) where record.isProtected { note(record) }
    }

    private mutating func note(_ record: Record) {
        let fragment = record.fragment
        let prefix = fragment.count >= 2 ? fragment.loadUnaligned(as: UInt16.self).bigEndian : 0
        if lastNumber == 0 { firstPrefix = prefix }
        lastPrefix = prefix
        lastNumber = Swift.max(lastNumber, record.number)
    }

    /// Adds what was written after this.
    mutating func add(_ later: ProtectedWrites) {
        guard later.lastNumber > 0 else { return }
        if lastNumber == 0 { firstPrefix = later.firstPrefix }
        lastPrefix = later.lastPrefix
        lastNumber = Swift.max(lastNumber, later.lastNumber)
    }
}
