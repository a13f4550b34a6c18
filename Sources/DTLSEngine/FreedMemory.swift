import COpenSSL
import Glibc

/// Sessions in memory that OpenSSL has freed. It wipes keys and secrets before it frees them, but not the encoding of a session
/// that it makes a ticket of or takes out of one, nor the parts of one that is decoded (construct_stateless_ticket,
/// tls_decrypt_ticket and d2i_SSL_SESSION, read in OpenSSL 3.0.19): the master secret would stay in the heap until something
/// else takes its place.
///
/// OpenSSL's memory is wiped while it does that, and at no other time, since a handshake frees many other pieces.
package enum FreedMemory {
    /// Whether a process with one thread has asked for it.
    nonisolated(unsafe) private static var isEnabled = false
    nonisolated(unsafe) private static var wipes = false

    /// Has sessions wiped from now on. It is to be called before the first call of OpenSSL, in a process of one thread.
    /// - Returns: false where it is too late.
    package static func wipeSessions() -> Bool {
        isEnabled =
            CRYPTO_set_mem_functions(nil, nil) { memory, _, _ in
                guard let memory else { return }
                if FreedMemory.wipes { explicit_bzero(memory, malloc_usable_size(memory)) }
                free(memory)
            } == 1
        return isEnabled
    }

    /// OpenSSL is about to encode a session, or to decode one.
    static func sessionBegins() { if isEnabled { wipes = true } }

    /// It has done so.
    static func sessionEnds() { if isEnabled { wipes = false } }
}
