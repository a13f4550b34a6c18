import COpenSSL
import Glibc
import Primitives

/// A key that the keys of sessions are derived from (``TicketKeyRing``), so that who has it opens all of their tickets.
public struct TicketKey: Sendable, Equatable {
    /// Bytes of a key, as many as nginx's have for AES-256. All of them count.
    public static let length = 80

    public let bytes: [UInt8]

    /// - Parameter bytes: ``length`` of them, at random; `nil` for any other number.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.length else { return nil }
        self.bytes = bytes
    }

    /// What other programs write into tickets as the name of the key. Two keys that have it in common are a mistake, or not
    /// random.
    public var name: ArraySlice<UInt8> { bytes[..<16] }
}

/// A key is coded as its bytes.
extension TicketKey: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let key = TicketKey(try container.decode([UInt8].self)) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "a ticket key has \(Self.length) bytes")
        }
        self = key
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(bytes)
    }
}

/// The active keys, shared by the contexts of a thread: those of new sessions are derived from the first one, and all of
/// them open. They can be replaced at any time, for all handshakes from then on. A ticket that a later key has opened is
/// renewed with the first.
///
/// A session's name is 4 bytes that name one of these keys, and a nonce of 12 bytes at random. Its own key is derived from
/// that as in RFC 8452, section 4: AES-256 blocks of a counter and the nonce, the first half of each. So who has the keys of
/// one session learns nothing of the others', and they cost less than a microsecond. The AES key is the first 32 bytes of the
/// SHA-512 of the ``TicketKey`` behind a text, and its name the 4 that follow.
public final class TicketKeyRing {
    public var keys: [TicketKey] {
        didSet { if keys != oldValue { masters = keys.compactMap { MasterKey($0) } } }
    }

    private var masters: [MasterKey]
    private var nonces = NonceSource()

    /// - Parameter keys: without any, sessions are neither sealed nor opened.
    public init(_ keys: [TicketKey] = []) {
        self.keys = keys
        masters = keys.compactMap { MasterKey($0) }
    }

    /// With a key of its own; without any where the kernel gives no random bytes.
    convenience init(randomKey: Void) {
        var bytes = [UInt8](repeating: 0, count: TicketKey.length)
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        self.init(getentropy(&bytes, bytes.count) == 0 ? [TicketKey(bytes)].compactMap(\.self) : [])
    }

    /// Which key a session was sealed under.
    enum Match {
        /// The one that new sessions are sealed under.
        case current
        case former
    }

    /// - Parameter memory: ``SessionKey/byteCount`` bytes, for a new session's key.
    /// - Returns: false where there is none.
    func writeNewKey(to memory: UnsafeMutableRawBufferPointer) -> Bool {
        guard let master = masters.first else { return false }
        memory.storeBytes(of: master.name, as: UInt32.self)
        let nonce = UnsafeMutableRawBufferPointer(rebasing: memory[4..<SessionName.byteCount])
        return nonces.writeNext(to: nonce) && Self.derive(in: memory, master)
    }

    /// - Parameters:
    ///   - name: ``SessionName/byteCount`` bytes or more, of which the first ones count.
    ///   - memory: ``SessionKey/byteCount`` bytes, for the key of that name.
    func writeKey(named name: UnsafeRawBufferPointer, to memory: UnsafeMutableRawBufferPointer) -> Match? {
        guard name.count >= SessionName.byteCount else { return nil }
        let number = name.loadUnaligned(as: UInt32.self)
        guard let index = masters.firstIndex(where: { $0.name == number }) else { return nil }
        memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: name[..<SessionName.byteCount]))
        guard Self.derive(in: memory, masters[index]) else { return nil }
        return index == 0 ? .current : .former
    }

    private static func derive(in memory: UnsafeMutableRawBufferPointer, _ master: MasterKey) -> Bool {
        master.derive(
            from: UnsafeRawBufferPointer(rebasing: memory[4..<SessionName.byteCount]),
            into: UnsafeMutableRawBufferPointer(rebasing: memory[SessionName.byteCount..<SessionKey.byteCount]))
    }

    /// Gives `body` the key of a new session, where there is one.
    func withNewKey<Result>(_ body: (SessionKey) -> Result) -> Result? {
        withUnsafeTemporaryAllocation(byteCount: SessionKey.byteCount, alignment: 8) { memory in
            defer { OPENSSL_cleanse(memory.baseAddress, memory.count) }
            return writeNewKey(to: memory) ? body(SessionKey(UnsafeRawBufferPointer(memory))) : nil
        }
    }

    /// As ``ResumptionKeys/withKey(named:for:_:)``.
    func withKey<Result>(
        named name: UnsafeRawBufferPointer, _ body: (SessionKey, _ renews: Bool) -> Result
    ) -> Result? {
        withUnsafeTemporaryAllocation(byteCount: SessionKey.byteCount, alignment: 8) { memory in
            defer { OPENSSL_cleanse(memory.baseAddress, memory.count) }
            guard let match = writeKey(named: name, to: memory) else { return nil }
            return body(SessionKey(UnsafeRawBufferPointer(memory)), match == .former)
        }
    }
}

/// What keys of sessions are derived with: a ``TicketKey``'s, as AES.
private final class MasterKey {
    /// The first bytes of its sessions' names.
    let name: UInt32
    private let context: OpaquePointer

    private static let purpose = "dtlsd sessions"
    private static let blockSize = 16
    /// Each gives half of it.
    private static let blocks = SessionKey.derivedByteCount / (blockSize / 2)

    /// - Returns: `nil` where OpenSSL has no memory.
    init?(_ key: TicketKey) {
        var input = Array(Self.purpose.utf8) + key.bytes
        var digest = [UInt8](repeating: 0, count: 64)
        defer {
            OPENSSL_cleanse(&input, input.count)
            OPENSSL_cleanse(&digest, digest.count)
        }
        guard EVP_Digest(input, input.count, &digest, nil, EVP_sha512(), nil) == 1,
            let context = EVP_CIPHER_CTX_new()
        else { return nil }
        self.context = context
        name = digest.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 32, as: UInt32.self) }
        guard EVP_CipherInit_ex(context, EVP_aes_256_ecb(), nil, digest, nil, 1) == 1,
            EVP_CIPHER_CTX_set_padding(context, 0) == 1
        else {
            OpenSSLError.clear()
            return nil
        }
    }

    deinit { EVP_CIPHER_CTX_free(context) }

    /// - Parameters:
    ///   - nonce: 12 bytes.
    ///   - key: ``SessionKey/derivedByteCount`` bytes.
    func derive(from nonce: UnsafeRawBufferPointer, into key: UnsafeMutableRawBufferPointer) -> Bool {
        let size = Self.blocks * Self.blockSize
        return withUnsafeTemporaryAllocation(byteCount: size, alignment: 16) { blocks in
            defer { OPENSSL_cleanse(blocks.baseAddress, blocks.count) }
            for index in 0..<Self.blocks {
                let block = UnsafeMutableRawBufferPointer(rebasing: blocks[(index * Self.blockSize)...])
                block.storeBytes(of: UInt32(truncatingIfNeeded: index).littleEndian, as: UInt32.self)
                UnsafeMutableRawBufferPointer(rebasing: block[4...]).copyMemory(from: nonce)
            }
            let bytes = blocks.baseAddress?.assumingMemoryBound(to: UInt8.self)
            guard EVP_Cipher(context, bytes, bytes, UInt32(size)) == Int32(size) else {
                OpenSSLError.clear()
                return false
            }
            for index in 0..<Self.blocks {
                let half = blocks.load(fromByteOffset: index * Self.blockSize, as: UInt64.self)
                key.storeBytes(of: half, toByteOffset: index * MemoryLayout<UInt64>.size, as: UInt64.self)
            }
            return true
        }
    }
}

/// Random bytes from the kernel, some at a time: a system call for each nonce would take as long as what is derived from it.
/// They are in the clear on the wire later, so that nobody has to forget them.
private struct NonceSource {
    private var bytes: [UInt8] = []
    private var used = 0

    /// The most that getentropy(3) gives, in whole nonces.
    private static let byteCount = 252

    mutating func writeNext(to nonce: UnsafeMutableRawBufferPointer) -> Bool {
        if bytes.count - used < nonce.count {
            bytes = [UInt8](repeating: 0, count: Self.byteCount)
            used = 0
            guard getentropy(&bytes, bytes.count) == 0 else {
                bytes = []
                return false
            }
        }
        nonce.copyBytes(from: bytes[used..<used + nonce.count])
        used += nonce.count
        return true
    }
}

/// How OpenSSL seals and opens tickets: AES-256-CBC and HMAC-SHA256 (RFC 5077, section 4), with keys of each ticket's own.
private enum TicketCallbacks {
    nonisolated(unsafe) private static let cipher = EVP_CIPHER_fetch(nil, "AES-256-CBC", nil)

    private static let initializationVectorLength = 16

    /// The result of the callback: see SSL_CTX_set_tlsext_ticket_key_cb(3).
    enum Answer: Int32 {
        case failed = -1
        /// No ticket is made; or no key opens this ticket, and a full handshake follows.
        case none = 0
        case success = 1
        /// The ticket is opened, and a new one is to be made.
        case renew = 2
    }

    static func seal(
        for ssl: OpaquePointer, name: UnsafeMutablePointer<UInt8>,
        initializationVector: UnsafeMutablePointer<UInt8>, _ cipher: OpaquePointer, _ mac: OpaquePointer
    ) -> Answer {
        let answer = ResumptionKeys.withNewKey(for: ssl) { key -> Answer in
            UnsafeMutableRawBufferPointer(start: name, count: SessionName.byteCount).copyMemory(from: key.name)
            guard RAND_bytes(initializationVector, Int32(Self.initializationVectorLength)) == 1,
                EVP_EncryptInit_ex(cipher, Self.cipher, nil, bytes(key.cipherKey), initializationVector) == 1,
                prepare(mac, key)
            else { return .failed }
            return .success
        }
        return answer ?? .none
    }

    static func open(
        for ssl: OpaquePointer, name: UnsafeMutablePointer<UInt8>,
        initializationVector: UnsafeMutablePointer<UInt8>, _ cipher: OpaquePointer, _ mac: OpaquePointer
    ) -> Answer {
        // Until the callback that is given the session (``SessionNotes``).
        FreedMemory.sessionBegins()
        let name = UnsafeRawBufferPointer(start: name, count: SessionName.byteCount)
        let answer = ResumptionKeys.withKey(named: name, for: ssl) { key, renews -> Answer in
            guard prepare(mac, key),
                EVP_DecryptInit_ex(cipher, Self.cipher, nil, bytes(key.cipherKey), initializationVector) == 1
            else { return .failed }
            return renews ? .renew : .success
        }
        return answer ?? .none
    }

    private static func bytes(_ memory: UnsafeRawBufferPointer) -> UnsafePointer<UInt8>? {
        memory.baseAddress?.assumingMemoryBound(to: UInt8.self)
    }

    private static func prepare(_ mac: OpaquePointer, _ key: SessionKey) -> Bool {
        var digest = Array("SHA256".utf8CString)
        return digest.withUnsafeMutableBufferPointer { digest in
            // The names must outlive the parameters: see KeyedHash.useSHA256.
            OSSL_MAC_PARAM_DIGEST.withCString { digestName in
                OSSL_MAC_PARAM_KEY.withCString { keyName in
                    let parameters = [
                        OSSL_PARAM_construct_octet_string(
                            keyName, UnsafeMutableRawPointer(mutating: key.macKey.baseAddress), key.macKey.count),
                        OSSL_PARAM_construct_utf8_string(digestName, digest.baseAddress, 0),
                        OSSL_PARAM_construct_end(),
                    ]
                    return EVP_MAC_CTX_set_params(mac, parameters) == 1
                }
            }
        }
    }
}

extension ServerContext {
    /// Seals and opens tickets with the ring's keys, or those that a connection has got (``ResumptionKeys``); without a
    /// ring, with a key of this context's own.
    func prepareTickets(_ settings: SessionSettings, ring: TicketKeyRing?) {
        SSL_CTX_set_timeout(pointer, settings.lifetime.seconds)
        if !settings.resumption || !settings.tickets { SSL_CTX_set_options(pointer, CO_SSL_OP_NO_TICKET) }
        exData.ticketKeys = ring ?? TicketKeyRing(randomKey: ())
        SSL_CTX_set_tlsext_ticket_key_evp_cb(pointer) { ssl, name, initializationVector, cipher, mac, isSealing in
            guard let ssl, let name, let initializationVector, let cipher, let mac else { return -1 }
            let answer =
                isSealing == 1
                ? TicketCallbacks.seal(
                    for: ssl, name: name, initializationVector: initializationVector, cipher, mac)
                : TicketCallbacks.open(
                    for: ssl, name: name, initializationVector: initializationVector, cipher, mac)
            return answer.rawValue
        }
    }
}
