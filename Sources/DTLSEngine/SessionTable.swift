import COpenSSL
import Glibc
import Primitives

/// Sessions of clients without tickets (RFC 5246, section 7.3), in memory that several processes share: what one of them
/// has put in, all of them find.
///
/// The memory is cut into buckets, and a session's key (``SessionKey``) says which one it is in. A bucket holds its sessions one behind the other, the oldest first; the oldest make room for a new one, and are wiped.
///
/// A session is sealed with its key, which is derived from the name in its ID by who has the ``TicketKey``s, and kept no
/// longer than the handshake: who reads the memory learns nothing of it. Who can write to the memory can take sessions out.
///
/// Any process may die, or be stopped, at any instruction. A bucket is locked while it is written, and a lock that is held
/// for longer than any writing takes is broken: the bucket is wiped then, as nobody knows what is in it. Who reads a
/// bucket never waits for a lock, and takes nothing that cannot be opened.
package final class SessionTable: @unchecked Sendable {
    /// The bytes of a bucket.
    package static let bucketByteCount = 4_096
    /// The bytes before the first bucket: the layout, and nothing else.
    package static let headerByteCount = 64
    /// The most bytes of a session.
    package static let maximumSize = bucketByteCount - Offset.entries - entryHeader - SessionLocator.overhead
    /// What memory with this layout begins with. Another layout has another number.
    private static let layout: UInt64 = 0x6474_6c73_7365_7302

    private let base: UnsafeMutableRawPointer
    private let bucketCount: Int
    /// Keeps the memory.
    private let owner: AnyObject

    /// Where things are in a bucket.
    private enum Offset {
        /// When it was locked, and by whom: see ``LockToken``; 0: it is not.
        static let lock = 0
        /// Goes up by one before and after each change, so that it is odd meanwhile.
        static let sequence = 8
        /// Bytes of the entries.
        static let used = 16
        static let entries = 24
    }

    /// The name that the session is found by, and the bytes of what is sealed, which follows. An entry ends with up to
    /// seven bytes of nothing.
    private static let entryHeader = 24

    /// How long a bucket may be locked, which takes a microsecond or two, before its owner is taken for dead.
    private static let longestLock = Duration.seconds(1)
    /// How often a reader begins again whose bucket has changed meanwhile.
    private static let maximumTries = 8

    /// - Parameters:
    ///   - memory: aligned to 8 bytes, and all zero when the first process gets it.
    ///   - owner: is kept for as long as the table is.
    /// - Returns: `nil` where the memory has no room for a bucket, or was written by a program that has another layout.
    package init?(_ memory: UnsafeMutableRawBufferPointer, owner: AnyObject) {
        guard let start = memory.baseAddress, memory.count >= Self.headerByteCount + Self.bucketByteCount else {
            return nil
        }
        guard SharedWord.exchange(0, Self.layout, in: start) || SharedWord.load(start) == Self.layout else {
            return nil
        }
        base = start + Self.headerByteCount
        bucketCount = (memory.count - Self.headerByteCount) / Self.bucketByteCount
        self.owner = owner
    }

    /// A table in memory of this process alone.
    /// - Returns: `nil` where there is no memory, or no room for a bucket.
    package convenience init?(byteCount: Int) {
        guard let memory = AnonymousMemory(byteCount: byteCount) else { return nil }
        self.init(memory.bytes, owner: memory)
    }

    private func bucket(of locator: SessionLocator) -> UnsafeMutableRawPointer {
        base + Int(locator.bucket % UInt64(bucketCount)) * Self.bucketByteCount
    }

    // MARK: Writing

    /// What has become of a session that was to be put in.
    package enum Insertion: Equatable {
        /// It is in. So many older ones have made room for it.
        case stored(replaced: Int)
        /// Another process writes to the same bucket at this moment.
        case busy
        case tooLarge
        /// It could not be sealed.
        case failed
    }

    /// Puts a session in. The client of one that is left out does a full handshake.
    func insert(_ session: [UInt8], key: SessionKey, now: Instant) -> Insertion {
        guard session.count <= Self.maximumSize else { return .tooLarge }
        let locator = SessionLocator(key)
        guard let sealed = locator.seal(session) else { return .failed }
        let size = Self.size(sealedCount: sealed.count)
        let bucket = bucket(of: locator)
        guard let token = lock(bucket, now) else { return .busy }
        defer { unlock(bucket, token) }
        // What cannot be walked through would hide all that is put in behind it.
        if !Self.isWhole(bucket) { OPENSSL_cleanse(bucket + Offset.used, Self.bucketByteCount - Offset.used) }
        remove(locator.name, from: bucket)
        var used = Self.used(bucket)
        var dropped = 0
        var replaced = 0
        while used - dropped + size > Self.bucketByteCount - Offset.entries {
            guard let first = Self.entry(at: dropped, in: bucket, used) else {
                dropped = used
                break
            }
            dropped += first.size
            replaced += 1
        }
        cut(dropped, at: 0, from: bucket, &used)
        let place = bucket + Offset.entries + used
        place.storeBytes(of: locator.name.0, as: UInt64.self)
        place.storeBytes(of: locator.name.1, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: UInt64(sealed.count), toByteOffset: 16, as: UInt64.self)
        (place + Self.entryHeader).copyMemory(from: sealed, byteCount: sealed.count)
        bucket.storeBytes(of: UInt64(truncatingIfNeeded: used + size), toByteOffset: Offset.used, as: UInt64.self)
        return .stored(replaced: replaced)
    }

    private func remove(_ name: (UInt64, UInt64), from bucket: UnsafeMutableRawPointer) {
        var used = Self.used(bucket)
        var offset = 0
        while let entry = Self.entry(at: offset, in: bucket, used) {
            if entry.name == name { return cut(entry.size, at: offset, from: bucket, &used) }
            offset += entry.size
        }
    }

    /// Moves what follows up, and wipes the end.
    private func cut(_ count: Int, at offset: Int, from bucket: UnsafeMutableRawPointer, _ used: inout Int) {
        guard count > 0 else { return }
        let start = bucket + Offset.entries + offset
        memmove(start, start + count, used - offset - count)
        OPENSSL_cleanse(bucket + Offset.entries + used - count, count)
        used -= count
        bucket.storeBytes(of: UInt64(truncatingIfNeeded: used), toByteOffset: Offset.used, as: UInt64.self)
    }

    // MARK: Locks

    /// When a lock was taken, in milliseconds, and 24 random bits by which its owner knows it again.
    private struct LockToken {
        let word: UInt64

        init(word: UInt64) { self.word = word }

        init(_ now: Instant) {
            word = (now.nanoseconds / 1_000_000) << 24 | UInt64.random(in: 1..<1 << 24)
        }

        func age(at now: Instant) -> Duration {
            let age = (now.nanoseconds / 1_000_000) &- (word >> 24)
            return .milliseconds(Int64(truncatingIfNeeded: age & (1 << 40 - 1)))
        }
    }

    /// - Returns: `nil` while another process has the lock.
    private func lock(_ bucket: UnsafeMutableRawPointer, _ now: Instant) -> LockToken? {
        let token = LockToken(now)
        let former = SharedWord.load(bucket + Offset.lock)
        guard former == 0 || LockToken(word: former).age(at: now) >= Self.longestLock,
            SharedWord.exchange(former, token.word, in: bucket + Offset.lock)
        else { return nil }
        // Odd, whatever it was: the former owner of a broken lock has left it odd, or is about to.
        let sequence = SharedWord.load(bucket + Offset.sequence)
        SharedWord.store((sequence | 1) &+ (sequence & 1) &* 2, bucket + Offset.sequence)
        SharedWord.fence()
        if former != 0 {
            OPENSSL_cleanse(bucket + Offset.used, Self.bucketByteCount - Offset.used)
        }
        return token
    }

    private func unlock(_ bucket: UnsafeMutableRawPointer, _ token: LockToken) {
        SharedWord.fence()
        let sequence = SharedWord.load(bucket + Offset.sequence)
        SharedWord.store(sequence &+ 1, bucket + Offset.sequence)
        // It is another's by now where this process was stopped meanwhile.
        _ = SharedWord.exchange(token.word, 0, in: bucket + Offset.lock)
    }

    // MARK: Reading

    /// The session with a key, or `nil`.
    func session(_ key: SessionKey) -> [UInt8]? {
        let locator = SessionLocator(key)
        let bucket = bucket(of: locator)
        for _ in 0..<Self.maximumTries {
            let before = SharedWord.load(bucket + Offset.sequence)
            let found = find(locator, in: bucket)
            SharedWord.fence()
            if let found { return found }
            if before & 1 == 0, SharedWord.load(bucket + Offset.sequence) == before { return nil }
        }
        return nil
    }

    private func find(_ locator: SessionLocator, in bucket: UnsafeMutableRawPointer) -> [UInt8]? {
        let used = Self.used(bucket)
        var offset = 0
        while let entry = Self.entry(at: offset, in: bucket, used) {
            if entry.name == locator.name {
                // A copy, which nobody changes while it is opened.
                let start = bucket + Offset.entries + offset + Self.entryHeader
                return locator.open(Array(UnsafeRawBufferPointer(start: start, count: entry.sealedCount)))
            }
            offset += entry.size
        }
        return nil
    }

    // MARK: Entries

    private struct Entry {
        var name: (UInt64, UInt64)
        var sealedCount: Int
        var size: Int
    }

    /// Bytes of the entries, as many as a bucket has room for at most, whatever the memory holds.
    private static func used(_ bucket: UnsafeMutableRawPointer) -> Int {
        let used = bucket.load(fromByteOffset: Offset.used, as: UInt64.self)
        return Int(min(used, UInt64(bucketByteCount - Offset.entries)))
    }

    /// The entry that begins at an offset; `nil` where none does that ends within the bucket.
    private static func entry(at offset: Int, in bucket: UnsafeMutableRawPointer, _ used: Int) -> Entry? {
        guard offset + entryHeader <= used else { return nil }
        let place = bucket + Offset.entries + offset
        let sealedCount = place.load(fromByteOffset: 16, as: UInt64.self)
        guard sealedCount <= UInt64(used) else { return nil }
        let size = size(sealedCount: Int(sealedCount))
        guard offset + size <= used else { return nil }
        return Entry(
            name: (place.load(as: UInt64.self), place.load(fromByteOffset: 8, as: UInt64.self)),
            sealedCount: Int(sealedCount), size: size)
    }

    /// Whether the entries end where the bucket says that they do.
    private static func isWhole(_ bucket: UnsafeMutableRawPointer) -> Bool {
        let used = used(bucket)
        var offset = 0
        while let entry = entry(at: offset, in: bucket, used) { offset += entry.size }
        return offset == used
    }

    /// A multiple of 8, so that all entries are aligned.
    private static func size(sealedCount: Int) -> Int { (entryHeader + sealedCount + 7) & ~7 }
}

/// Zeroed memory of this process, which takes memory as it is used and is left out of core dumps.
private final class AnonymousMemory {
    let bytes: UnsafeMutableRawBufferPointer

    init?(byteCount: Int) {
        guard byteCount > 0,
            let start = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED
        else { return nil }
        madvise(start, byteCount, MADV_DONTDUMP)
        bytes = UnsafeMutableRawBufferPointer(start: start, count: byteCount)
    }

    deinit {
        OPENSSL_cleanse(bytes.baseAddress, bytes.count)
        munmap(bytes.baseAddress, bytes.count)
    }
}

/// What a session's key says: where the session is, what it is found by, and what it is sealed with (AES-256-GCM). It is valid
/// as long as the key.
struct SessionLocator {
    let bucket: UInt64
    let name: (UInt64, UInt64)
    private let cipherKey: UnsafePointer<UInt8>?

    /// Bytes that sealing adds: a nonce before, and a tag behind.
    static let overhead = nonceLength + tagLength
    private static let nonceLength = 12
    private static let tagLength = 16
    private static let keyLength = 32

    nonisolated(unsafe) private static let cipher = EVP_CIPHER_fetch(nil, "AES-256-GCM", nil)

    init(_ key: SessionKey) {
        func word(_ index: Int) -> UInt64 {
            key.derived.loadUnaligned(fromByteOffset: Self.keyLength + 8 * index, as: UInt64.self)
        }
        name = (word(0), word(1))
        bucket = word(2)
        cipherKey = key.derived.baseAddress?.assumingMemoryBound(to: UInt8.self)
    }

    /// - Returns: `nil` where OpenSSL fails, without memory for example.
    func seal(_ text: [UInt8]) -> [UInt8]? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        defer { EVP_CIPHER_CTX_free(context) }
        var nonce = [UInt8](repeating: 0, count: Self.nonceLength)
        var sealed = [UInt8](repeating: 0, count: text.count)
        var tag = [UInt8](repeating: 0, count: Self.tagLength)
        var (count, last) = (Int32(0), Int32(0))
        guard RAND_bytes(&nonce, Int32(nonce.count)) == 1,
            EVP_EncryptInit_ex(context, Self.cipher, nil, cipherKey, nonce) == 1,
            EVP_EncryptUpdate(context, &sealed, &count, text, Int32(text.count)) == 1,
            EVP_EncryptFinal_ex(context, &tag, &last) == 1,
            EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, Int32(tag.count), &tag) == 1
        else {
            OpenSSLError.clear()
            return nil
        }
        return nonce + sealed + tag
    }

    /// - Returns: `nil` for what was not sealed with the same key, and for what has changed since.
    func open(_ sealed: [UInt8]) -> [UInt8]? {
        guard sealed.count >= Self.overhead, let context = EVP_CIPHER_CTX_new() else { return nil }
        defer { EVP_CIPHER_CTX_free(context) }
        var tag = Array(sealed.suffix(Self.tagLength))
        let body = Array(sealed[Self.nonceLength..<(sealed.count - Self.tagLength)])
        var text = [UInt8](repeating: 0, count: body.count)
        var end = [UInt8](repeating: 0, count: Self.tagLength)
        var (count, last) = (Int32(0), Int32(0))
        guard EVP_DecryptInit_ex(context, Self.cipher, nil, cipherKey, Array(sealed.prefix(Self.nonceLength))) == 1,
            EVP_DecryptUpdate(context, &text, &count, body, Int32(body.count)) == 1,
            EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(tag.count), &tag) == 1,
            EVP_DecryptFinal_ex(context, &end, &last) == 1
        else {
            OPENSSL_cleanse(&text, text.count)
            OpenSSLError.clear()
            return nil
        }
        return text
    }
}
