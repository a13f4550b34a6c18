import COpenSSL

/// Makes connection IDs that tell who knows the key which server and which connection a record is for, and tell everybody
/// else nothing: as QUIC-LB does (draft-ietf-quic-load-balancers-21, section 5), so that a balancer in front can route by
/// them.
///
/// The first byte holds the number of the key in three bits and the number of the bytes behind it in five; these are the
/// server ID and a nonce, encrypted. There is no check value: every bytes decrypt to something.
///
/// An object belongs to one thread.
public final class ConnectionIDCipher {
    /// Bytes of a key, which is one of AES-128.
    public static let keyLength = 16
    /// The numbers of keys. 7 stands for a connection ID that nobody can route by.
    public static let configurations: ClosedRange<UInt8> = 0...6
    /// The bytes that a server ID and a nonce can have together: half of them in one block of AES, with two bytes beside.
    public static let plaintextLengths = 5...19
    /// The fewest bytes that a nonce may have.
    public static let shortestNonce = 4

    private struct Key {
        let configuration: UInt8
        /// Two EVP_CIPHER_CTX that the cipher owns.
        let encryption: OpaquePointer
        let decryption: OpaquePointer
    }

    public let serverIDLength: Int
    /// The first one makes new connection IDs.
    private var keys: [Key] = []

    /// - Parameters:
    ///   - keys: each with its number, which is one of ``configurations`` and in the list once, and ``keyLength`` bytes.
    ///     New connection IDs are made with the first one.
    ///   - serverIDLength: 1 to 15 bytes.
    /// - Returns: `nil` for a list that is empty or not as said, and where OpenSSL has no memory.
    public init?(keys: [(configuration: UInt8, key: [UInt8])], serverIDLength: Int) {
        guard (1...(Self.plaintextLengths.upperBound - Self.shortestNonce)).contains(serverIDLength), !keys.isEmpty,
            Set(keys.map(\.configuration)).count == keys.count
        else { return nil }
        self.serverIDLength = serverIDLength
        for (configuration, key) in keys {
            guard Self.configurations.contains(configuration), key.count == Self.keyLength,
                let encryption = Self.makeContext(key, direction: 1)
            else { return nil }
            guard let decryption = Self.makeContext(key, direction: 0) else {
                EVP_CIPHER_CTX_free(encryption)
                return nil
            }
            self.keys.append(Key(configuration: configuration, encryption: encryption, decryption: decryption))
        }
    }

    deinit {
        for key in keys {
            EVP_CIPHER_CTX_free(key.encryption)
            EVP_CIPHER_CTX_free(key.decryption)
        }
    }

    private static func makeContext(_ key: [UInt8], direction: Int32) -> OpaquePointer? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        guard EVP_CipherInit_ex(context, EVP_aes_128_ecb(), nil, key, nil, direction) == 1,
            EVP_CIPHER_CTX_set_padding(context, 0) == 1
        else {
            OpenSSLError.clear()
            EVP_CIPHER_CTX_free(context)
            return nil
        }
        return context
    }

    /// A connection ID for a connection, made with the first key.
    /// - Parameters:
    ///   - serverID: ``serverIDLength`` bytes.
    ///   - nonce: at least ``shortestNonce`` bytes, and with the server ID as many as ``plaintextLengths`` has. It is not
    ///     to be used twice with the same key.
    /// - Returns: `nil` for other numbers of bytes.
    public func encrypt(serverID: [UInt8], nonce: [UInt8]) -> ConnectionID? {
        let count = serverID.count + nonce.count
        guard serverID.count == serverIDLength, nonce.count >= Self.shortestNonce,
            Self.plaintextLengths.contains(count), let key = keys.first
        else { return nil }
        return withUnsafeTemporaryAllocation(byteCount: 1 + count, alignment: 1) { bytes -> ConnectionID? in
            bytes[0] = key.configuration << 5 | UInt8(truncatingIfNeeded: count)
            let text = UnsafeMutableRawBufferPointer(rebasing: bytes[1...])
            text.copyBytes(from: serverID)
            UnsafeMutableRawBufferPointer(rebasing: text[serverID.count...]).copyBytes(from: nonce)
            let isDone =
                if count == Self.blockSize { Self.runBlock(text, key.encryption) } else {
                    Self.runRounds(1...4, over: text, key.encryption)
                }
            return isDone ? ConnectionID(UnsafeRawBufferPointer(bytes)) : nil
        }
    }

    /// What a connection ID says, if its first byte names one of the keys and tells its length. Bytes that somebody has
    /// made up say something too.
    public func decrypt(_ id: ConnectionID) -> (serverID: [UInt8], nonce: [UInt8])? {
        withPlaintext(of: id) { text in ([UInt8](text[..<serverIDLength]), [UInt8](text[serverIDLength...])) }
    }

    /// What a connection ID says whose nonce begins with a number of eight bytes, most significant first, as
    /// ``decrypt(_:)`` returns it, without memory of its own: a flood of records asks this of each.
    /// - Returns: whether the server ID is this one, and the number; `nil` as for ``decrypt(_:)``, and for a shorter nonce.
    public func decryptNumber(_ id: ConnectionID, of serverID: [UInt8]) -> (isOfServer: Bool, number: UInt64)? {
        withPlaintext(of: id) { text -> (isOfServer: Bool, number: UInt64)? in
            guard text.count - serverIDLength >= MemoryLayout<UInt64>.size else { return nil }
            let number = UInt64(
                bigEndian: UnsafeRawBufferPointer(text).loadUnaligned(fromByteOffset: serverIDLength, as: UInt64.self))
            return (text[..<serverIDLength].elementsEqual(serverID), number)
        }
    }

    private func withPlaintext<Result>(
        of id: ConnectionID, _ body: (UnsafeMutableRawBufferPointer) -> Result?
    ) -> Result? {
        id.withUnsafeBytes { bytes in
            guard let first = bytes.first, Int(first & 0x1f) == bytes.count - 1,
                let key = keys.first(where: { $0.configuration == first >> 5 }),
                Self.plaintextLengths.contains(bytes.count - 1), bytes.count - 1 - serverIDLength >= Self.shortestNonce
            else { return nil }
            return withUnsafeTemporaryAllocation(byteCount: bytes.count - 1, alignment: 1) { text -> Result? in
                text.copyBytes(from: bytes.dropFirst())
                let isDone =
                    if text.count == Self.blockSize { Self.runBlock(text, key.decryption) } else {
                        Self.runRounds((1...4).reversed(), over: text, key.encryption)
                    }
                return isDone ? body(text) : nil
            }
        }
    }

    // MARK: Encryption

    private static let blockSize = 16

    /// Encrypts or decrypts a text that is one block.
    private static func runBlock(_ text: UnsafeMutableRawBufferPointer, _ context: OpaquePointer) -> Bool {
        guard text.count == blockSize, let bytes = text.baseAddress else { return false }
        return run(bytes, context)
    }

    /// Encrypts or decrypts one block where it is.
    @inline(__always)
    private static func run(_ block: UnsafeMutableRawPointer, _ context: OpaquePointer) -> Bool {
        let bytes = block.assumingMemoryBound(to: UInt8.self)
        // It does without what EVP_CipherUpdate does for data that come in parts.
        guard EVP_Cipher(context, bytes, bytes, UInt32(blockSize)) == Int32(blockSize) else {
            OpenSSLError.clear()
            return false
        }
        return true
    }

    /// Runs rounds of a Feistel network, where the text is not one block (section 5.4.2). An odd number of bytes is
    /// split in the middle of a byte.
    ///
    /// Each round changes one half by the other one: the rounds 1 and 3 change the right one. So the same rounds in the
    /// opposite order undo it. The halves are numbers here, and so is the block, whose first bytes a half is.
    private static func runRounds(
        _ rounds: some Sequence<Int>, over text: UnsafeMutableRawBufferPointer, _ context: OpaquePointer
    ) -> Bool {
        let half = (text.count + 1) / 2
        let start = text.count - half
        // Where the number of bytes is odd, both halves have their part of the byte in the middle.
        let shared: UInt128 = text.count.isMultiple(of: 2) ? 0 : 4
        let padding = UInt128(truncatingIfNeeded: 8 * (blockSize - half))
        let mask = (UInt128(1) << UInt128(truncatingIfNeeded: 4 * text.count)) &- 1
        var left: UInt128 = 0
        var right: UInt128 = 0
        for index in 0..<half {
            left = left << 8 | UInt128(truncatingIfNeeded: text[index])
            right = right << 8 | UInt128(truncatingIfNeeded: text[start + index])
        }
        left >>= shared
        right &= mask
        let isDone = withUnsafeTemporaryAllocation(byteCount: blockSize, alignment: 16) { block in
            guard let bytes = block.baseAddress else { return false }
            for round in rounds {
                let changesRight = !round.isMultiple(of: 2)
                let other = changesRight ? left << shared : right
                let input = other << padding | UInt128(truncatingIfNeeded: text.count << 8 | round)
                bytes.storeBytes(of: input.bigEndian, as: UInt128.self)
                guard run(bytes, context) else { return false }
                let output = bytes.load(as: UInt128.self).bigEndian >> padding
                if changesRight { right ^= output & mask } else { left ^= output >> shared }
            }
            return true
        }
        guard isDone else { return false }
        left <<= shared
        for index in (0..<half).reversed() {
            text[start + index] = UInt8(truncatingIfNeeded: right)
            right >>= 8
        }
        // The byte in the middle has its lower half already.
        if shared != 0 { left |= UInt128(truncatingIfNeeded: text[half - 1] & 0x0f) }
        for index in (0..<half).reversed() {
            text[index] = UInt8(truncatingIfNeeded: left)
            left >>= 8
        }
        return true
    }
}
