import COpenSSL
import Glibc
import Primitives

/// A service's way to the ``SessionTable``, which it may share with other services: its contexts put the sessions of
/// clients without tickets in, and find those that clients come back with by their IDs.
package final class SessionCache {
    /// What has happened.
    package enum Event: Equatable {
        /// A client has come back with the ID of a session that is there and still good.
        case hit
        /// A client has come back with an ID under which nothing is found that is still good.
        case miss
        case inserted(SessionTable.Insertion)
    }

    let table: SessionTable
    /// Is told of each event.
    package var onEvent: (Event) -> Void = { _ in }

    package init(_ table: SessionTable) { self.table = table }
}

extension ServerContext {
    /// Puts the sessions of clients without tickets into a cache, and finds them there.
    ///
    /// OpenSSL's own cache of the context stays off. It checks of what it gets from here what it checks of a ticket's
    /// session: the session context, the time, and the extended master secret (ssl_get_prev_session).
    func keepSessions(in cache: SessionCache) {
        exData.sessions = cache
        let mode = SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL | SSL_SESS_CACHE_NO_AUTO_CLEAR
        _ = co_ssl_ctx_set_session_cache_mode(pointer, Int(mode))
        SSL_CTX_set_generate_session_id(pointer) { ssl, id, count in
            guard let ssl, let id, let count else { return 0 }
            return SessionCallbacks.makeID(
                UnsafeMutableRawBufferPointer(start: id, count: Int(count.pointee)), for: ssl) ? 1 : 0
        }
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
    /// Makes an ID that begins with the name of the session's key, where there is one. All else is random: some clients take
    /// IDs of 32 bytes alone for such that they can resume by.
    static func makeID(_ id: UnsafeMutableRawBufferPointer, for ssl: OpaquePointer) -> Bool {
        guard RAND_bytes(id.assumingMemoryBound(to: UInt8.self).baseAddress, Int32(clamping: id.count)) == 1 else {
            return false
        }
        guard id.count > SessionName.byteCount else { return true }
        _ = ResumptionKeys.withNewKey(for: ssl) { id.copyMemory(from: $0.name) }
        return true
    }

    static func keep(_ session: OpaquePointer, of ssl: OpaquePointer) {
        guard let cache = ContextExData.of(ssl)?.sessions else { return }
        var count: UInt32 = 0
        // As a ticket would have it.
        guard SessionNotes.write(for: ssl), let id = SSL_SESSION_get_id(session, &count),
            count > 0
        else { return }
        var bytes = SessionBytes.encoded(session)
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        guard !bytes.isEmpty else { return OpenSSLError.clear() }
        let insertion = ResumptionKeys.withKey(
            named: UnsafeRawBufferPointer(start: id, count: Int(count)), for: ssl
        ) { key, _ in cache.table.insert(bytes, key: key, now: now) }
        // Without a key, as in a renegotiation, nobody could open it.
        if let insertion { cache.onEvent(.inserted(insertion)) }
    }

    /// CLOCK_MONOTONIC, which all processes of a machine share.
    private static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Instant(nanoseconds: UInt64(clamping: time.tv_sec) &* 1_000_000_000 &+ UInt64(clamping: time.tv_nsec))
    }

    /// - Returns: a reference that the caller owns.
    static func session(_ id: UnsafeRawBufferPointer, for ssl: OpaquePointer) -> OpaquePointer? {
        guard let cache = ContextExData.of(ssl)?.sessions else { return nil }
        let session = validSession(id, for: ssl, in: cache.table)
        cache.onEvent(session == nil ? .miss : .hit)
        return session
    }

    private static func validSession(
        _ id: UnsafeRawBufferPointer, for ssl: OpaquePointer, in table: SessionTable
    ) -> OpaquePointer? {
        guard var bytes = ResumptionKeys.withKey(named: id, for: ssl, { key, _ in table.session(key) }) ?? nil else {
            return nil
        }
        defer { OPENSSL_cleanse(&bytes, bytes.count) }
        guard let session = SessionBytes.decode(bytes) else { return nil }
        guard isOf(id, session), SessionNotes.allowResumption(of: session, on: ssl) else {
            SSL_SESSION_free(session)
            return nil
        }
        return session
    }

    /// Whether a session has the whole of an ID, of which the table knows the beginning alone.
    private static func isOf(_ id: UnsafeRawBufferPointer, _ session: OpaquePointer) -> Bool {
        var count: UInt32 = 0
        let own = UnsafeRawBufferPointer(start: SSL_SESSION_get_id(session, &count), count: Int(count))
        return own.elementsEqual(id)
    }
}
