import COpenSSL
import Glibc
import Primitives

/// Sessions of clients without tickets (RFC 5246, section 7.3), in memory that several processes share: what one of them
/// has put in, all of them find.
///
/// The memory is cut into buckets, and a session's ID, which the server has drawn at random, says which one it is in. A
/// bucket holds its sessions one behind the other, the oldest first; the oldest make room for a new one, and are wiped.
///
/// Any process may die, or be stopped, at any instruction. A bucket is locked while it is written, and a lock that is held
/// for longer than any writing takes is broken: the bucket is wiped then, as nobody knows what is in it. Who reads a
/// bucket never waits for a lock, and takes nothing that does not have the checksum that it was put in with.
package final class SessionTable {
    /// The bytes of a bucket. Memory has a multiple of it.
    package static let bucketByteCount = 4_096
    /// The most bytes of a session with its ID.
    package static let maximumSize = bucketByteCount - Offset.entries - entryHeader

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

    /// The checksum of the rest, and the lengths of ID and session, 4 bytes each. ID and session follow, and an entry ends
    /// with up to seven bytes of nothing.
    private static let entryHeader = 16

    /// How long a bucket may be locked, which takes a microsecond or two, before its owner is taken for dead.
    private static let longestLock = Duration.seconds(1)
    /// How often a reader begins anew whose bucket has changed meanwhile.
    private static let maximumTries = 8

    /// - Parameters:
    ///   - memory: aligned to 8 bytes, and all zero when the first process gets it.
    ///   - owner: is kept for as long as the table is.
    /// - Returns: `nil` where the memory has no room for a bucket.
    package init?(_ memory: UnsafeMutableRawBufferPointer, owner: AnyObject) {
        guard let base = memory.baseAddress, memory.count >= Self.bucketByteCount else { return nil }
        self.base = base
        bucketCount = memory.count / Self.bucketByteCount
        self.owner = owner
    }

    private func bucket(of id: UnsafeRawBufferPointer) -> UnsafeMutableRawPointer {
        base + Int(FNV1a.hash(id) % UInt64(bucketCount)) * Self.bucketByteCount
    }

    // MARK: Writing

    /// Puts a session in. It is left out where it is too large, and where another process writes to the same bucket at
    /// this moment: its client does a full handshake then.
    package func insert(_ session: [UInt8], id: UnsafeRawBufferPointer, now: Instant) {
        let size = Self.size(idCount: id.count, sessionCount: session.count)
        guard size <= Self.bucketByteCount - Offset.entries else { return }
        let bucket = bucket(of: id)
        guard let token = lock(bucket, now) else { return }
        defer { unlock(bucket, token) }
        remove(id, from: bucket)
        var used = Self.used(bucket)
        var dropped = 0
        while used - dropped + size > Self.bucketByteCount - Offset.entries {
            guard let first = Self.entry(at: dropped, in: bucket, used) else {
                dropped = used
                break
            }
            dropped += first.size
        }
        cut(dropped, at: 0, from: bucket, &used)
        let place = bucket + Offset.entries + used
        var bytes = [UInt8]()
        bytes.reserveCapacity(id.count + session.count)
        bytes += id
        bytes += session
        place.storeBytes(of: Self.checksum(bytes), as: UInt64.self)
        place.storeBytes(of: UInt32(truncatingIfNeeded: id.count), toByteOffset: 8, as: UInt32.self)
        place.storeBytes(of: UInt32(truncatingIfNeeded: session.count), toByteOffset: 12, as: UInt32.self)
        (place + Self.entryHeader).copyMemory(from: bytes, byteCount: bytes.count)
        OPENSSL_cleanse(&bytes, bytes.count)
        bucket.storeBytes(of: UInt64(truncatingIfNeeded: used + size), toByteOffset: Offset.used, as: UInt64.self)
    }

    private func remove(_ id: UnsafeRawBufferPointer, from bucket: UnsafeMutableRawPointer) {
        var used = Self.used(bucket)
        var offset = 0
        while let entry = Self.entry(at: offset, in: bucket, used) {
            if Self.id(of: entry, at: offset, in: bucket).elementsEqual(id) {
                return cut(entry.size, at: offset, from: bucket, &used)
            }
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

    /// The session with an ID, or `nil`.
    package func session(_ id: UnsafeRawBufferPointer) -> [UInt8]? {
        let bucket = bucket(of: id)
        for _ in 0..<Self.maximumTries {
            let before = SharedWord.load(bucket + Offset.sequence)
            let found = find(id, in: bucket)
            SharedWord.fence()
            if let found { return found }
            if before & 1 == 0, SharedWord.load(bucket + Offset.sequence) == before { return nil }
        }
        return nil
    }

    private func find(_ id: UnsafeRawBufferPointer, in bucket: UnsafeMutableRawPointer) -> [UInt8]? {
        let used = Self.used(bucket)
        var offset = 0
        while let entry = Self.entry(at: offset, in: bucket, used) {
            let place = bucket + Offset.entries + offset
            if Self.id(of: entry, at: offset, in: bucket).elementsEqual(id) {
                // A copy, which nobody changes between the check and its use.
                var bytes = Array(
                    UnsafeRawBufferPointer(
                        start: place + Self.entryHeader, count: entry.idCount + entry.sessionCount))
                defer { OPENSSL_cleanse(&bytes, bytes.count) }
                guard Self.checksum(bytes) == entry.checksum, bytes.prefix(entry.idCount).elementsEqual(id) else {
                    return nil
                }
                return Array(bytes.dropFirst(entry.idCount))
            }
            offset += entry.size
        }
        return nil
    }

    // MARK: Entries

    private struct Entry {
        var checksum: UInt64
        var idCount: Int
        var sessionCount: Int
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
        let idCount = Int(place.load(fromByteOffset: 8, as: UInt32.self))
        let sessionCount = Int(place.load(fromByteOffset: 12, as: UInt32.self))
        guard idCount <= used, sessionCount <= used else { return nil }
        let size = size(idCount: idCount, sessionCount: sessionCount)
        guard offset + size <= used else { return nil }
        return Entry(
            checksum: place.load(as: UInt64.self), idCount: idCount, sessionCount: sessionCount, size: size)
    }

    private static func id(
        of entry: Entry, at offset: Int, in bucket: UnsafeMutableRawPointer
    ) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bucket + Offset.entries + offset + entryHeader, count: entry.idCount)
    }

    /// A multiple of 8, so that all entries are aligned.
    private static func size(idCount: Int, sessionCount: Int) -> Int {
        (entryHeader + idCount + sessionCount + 7) & ~7
    }

    private static func checksum(_ bytes: [UInt8]) -> UInt64 { FNV1a.hash(bytes) }
}

extension ServerContext {
    /// Puts the sessions of clients without tickets into a table, and finds those that clients come back with by their
    /// IDs.
    ///
    /// OpenSSL's own cache of the context stays off. It checks of what it gets from here what it checks of a ticket's
    /// session: the session context, the time, and the extended master secret (ssl_get_prev_session).
    func keepSessions(in table: SessionTable) {
        exData.sessions = table
        let mode = SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL | SSL_SESS_CACHE_NO_AUTO_CLEAR
        _ = co_ssl_ctx_set_session_cache_mode(pointer, Int(mode))
        SSL_CTX_sess_set_new_cb(pointer) { ssl, session in
            if let ssl, let session { SessionCallbacks.keep(session, of: ssl) }
            // OpenSSL keeps its reference.
            return 0
        }
        // There is no callback for removals: OpenSSL removes a session also when a connection is freed without a
        // close_notify (ssl_clear_bad_session), as each is here once its keys have left OpenSSL.
        SSL_CTX_sess_set_get_cb(pointer) { ssl, id, count, isCopy in
            // The caller gets this reference.
            isCopy?.pointee = 0
            guard let ssl, let id, count > 0 else { return nil }
            return SessionCallbacks.session(UnsafeRawBufferPointer(start: id, count: Int(count)), for: ssl)
        }
    }
}

private enum SessionCallbacks {
    static func keep(_ session: OpaquePointer, of ssl: OpaquePointer) {
        guard let table = ContextExData.of(ssl)?.sessions else { return }
        var count: UInt32 = 0
        // What a ticket would say of the key of the session.
        guard PresharedKeyCallbacks.writeTicketData(of: ssl) == 1, let id = SSL_SESSION_get_id(session, &count),
            count > 0
        else { return }
        var bytes = SessionBytes.encoded(session)
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        guard !bytes.isEmpty else { return OpenSSLError.clear() }
        table.insert(bytes, id: UnsafeRawBufferPointer(start: id, count: Int(count)), now: now)
    }

    /// CLOCK_MONOTONIC, which all processes of a machine share.
    private static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Instant(nanoseconds: UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_nsec))
    }

    /// - Returns: a reference that the caller owns.
    static func session(_ id: UnsafeRawBufferPointer, for ssl: OpaquePointer) -> OpaquePointer? {
        guard let table = ContextExData.of(ssl)?.sessions, var bytes = table.session(id) else { return nil }
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        guard let session = SessionBytes.decode(bytes) else { return nil }
        guard PresharedKeyCallbacks.isStillValid(ssl, session) else {
            SSL_SESSION_free(session)
            return nil
        }
        return session
    }
}
