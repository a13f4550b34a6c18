import COpenSSL

/// What keys of other protocols are derived from that are bound to a connection (RFC 5705): the connection's master secret
/// and both randoms. OpenSSL has them as long as it has the connection; this outlives it.
///
/// Anybody who has it can read all that the connection has sent and will send, so it is made only for those who ask for it, and
/// wiped with its last user.
package final class ExporterSecret {
    /// The most bytes of a label and a context together. OpenSSL's function takes seeds of 1,024 bytes, with the randoms in
    /// it (TLS1_PRF_MAXBUF).
    package static let maximumSeed = 512
    /// The bytes that can be had under one label.
    package static let lengths = 1...4_096
    /// What the protocol itself derives from the secret (RFC 5246; RFC 7627): who has it under these labels has its keys.
    private static let reservedLabels = [
        "client finished", "server finished", "master secret", "extended master secret", "key expansion",
    ]

    private var master: [UInt8]
    private let randoms: [UInt8]
    private let digest: String

    deinit { OPENSSL_cleanse(&master, master.count) }

    /// - Returns: `nil` where OpenSSL does not tell what is needed.
    init?(_ ssl: OpaquePointer) {
        // DTLS 1.3 has another exporter.
        let versions = [ProtocolVersion.dtls10, .dtls12].map { Int32($0.rawValue) }
        guard let session = SSL_get_session(ssl), let suite = SSL_get_current_cipher(ssl),
            versions.contains(SSL_version(ssl)), let digest = KeyBlock.pseudorandomDigest(of: ssl, suite)
        else { return nil }
        master = [UInt8](repeating: 0, count: 48)
        var (client, server) = ([UInt8](repeating: 0, count: 32), [UInt8](repeating: 0, count: 32))
        let isKnown =
            SSL_SESSION_get_master_key(session, &master, master.count) == master.count
            && SSL_get_client_random(ssl, &client, client.count) == client.count
            && SSL_get_server_random(ssl, &server, server.count) == server.count
        randoms = client + server
        self.digest = String(cString: digest)
        guard isKnown else { return nil }
    }

    package enum Fault: Error, Equatable {
        case label
        case seed(Int)
        case length
        case failed
    }

    /// RFC 5705, section 4.
    /// - Parameter context: an empty one is another than `nil`.
    package func keyingMaterial(label: String, context: [UInt8]?, length: Int) throws(Fault) -> [UInt8] {
        guard !label.isEmpty, label.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f }), !Self.reservedLabels.contains(label)
        else { throw .label }
        let size = label.utf8.count + (context?.count ?? 0)
        guard size <= Self.maximumSeed else { throw .seed(size) }
        guard Self.lengths.contains(length) else { throw .length }
        var seed = Array(label.utf8) + randoms
        if let context {
            seed += [UInt8(truncatingIfNeeded: context.count >> 8), UInt8(truncatingIfNeeded: context.count)]
            seed += context
        }
        var material = [UInt8](repeating: 0, count: length)
        OpenSSLError.clear()
        guard
            co_tls1_prf(
                KeyBlock.function, digest, master, master.count, seed, seed.count, &material, material.count) == 1
        else {
            OpenSSLError.clear()
            throw .failed
        }
        return material
    }
}

extension Engine {
    /// What keys of other protocols can be derived from. It is there right after `.established`.
    package var exporterSecret: ExporterSecret? { ssl.flatMap { ExporterSecret($0) } }
}
