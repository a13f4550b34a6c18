import COpenSSL

/// Where the secrets of connections are written, a line each, so that captured traffic can be decrypted: the NSS key
/// log format, which Wireshark reads (SSLKEYLOGFILE). For debugging, and never otherwise.
public final class KeyLog {
    private let write: (UnsafeRawBufferPointer) -> Void

    /// - Parameter write: is given whole lines, each with its newline.
    public init(_ write: @escaping (UnsafeRawBufferPointer) -> Void) { self.write = write }

    fileprivate func add(_ line: UnsafePointer<CChar>) {
        var bytes = Array(UnsafeRawBufferPointer(start: line, count: strlen(line)))
        bytes.append(UInt8(ascii: "\n"))
        bytes.withUnsafeBytes { write($0) }
        OPENSSL_cleanse(&bytes, bytes.count)
    }
}

extension ServerContext {
    /// Writes the secrets of all connections from now on, those of the further identities too.
    public func logKeys(to log: KeyLog) {
        logOwnKeys(to: log)
        for identity in identities.values { identity.logOwnKeys(to: log) }
    }
}

extension TLSContext {
    /// Writes the secrets of all connections of this context when they have them.
    public func logOwnKeys(to log: KeyLog) {
        attachments.keyLog = log
        SSL_CTX_set_keylog_callback(pointer) { ssl, line in
            guard let ssl, let line else { return }
            ContextExData.of(ssl)?.keyLog?.add(line)
        }
    }
}
