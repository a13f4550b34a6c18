import COpenSSL

/// Protected records that are too short to carry what protects them, so that nobody with the keys has made them.
///
/// They are dropped like all other forgeries (RFC 6347, section 4.1.2.7), and not left to OpenSSL: 3.0.19 and its
/// predecessors answer one that is shorter than AEAD's nonce and tag with the alert internal_error, and are at their
/// end. (tls1_enc: "pad <= 0"; seen with AES-GCM, AES-CCM and ChaCha20-Poly1305, and no more in 3.0.22.)
enum ShortRecord {
    /// Where no cipher is chosen yet: the longest nonce and tag that there are. The first protected record is a
    /// Finished, which has at least 24 bytes more.
    static let unknownCipherMinimum = 24

    private static let headerSize = 13
    /// change_cipher_spec to heartbeat. What begins otherwise is no record of DTLS 1.2, and none of ours to judge.
    private static let contentTypes: ClosedRange<UInt8> = 20...24

    /// Bytes that the shortest record of a connection's cipher has behind its header, or 0 for a cipher without AEAD:
    /// those are dropped by OpenSSL as they should.
    /// - Parameter payloadSize: what OpenSSL has been told that a datagram takes.
    static func minimum(for ssl: OpaquePointer, payloadSize: Int) -> Int {
        guard let cipher = SSL_get_current_cipher(ssl) else { return unknownCipherMinimum }
        guard SSL_CIPHER_is_aead(cipher) == 1 else { return 0 }
        // OpenSSL tells this only as what is left of a datagram.
        return payloadSize - headerSize - DTLS_get_data_mtu(ssl)
    }

    /// What is before the first such record in a datagram: whoever has forged one has sent also what comes after it.
    @inline(__always)
    static func cutOff(_ datagram: UnsafeRawBufferPointer, minimum: Int) -> UnsafeRawBufferPointer {
        var offset = 0
        while datagram.count - offset >= headerSize {
            let length = Int(datagram[offset + 11]) << 8 | Int(datagram[offset + 12])
            let isProtected = datagram[offset + 3] != 0 || datagram[offset + 4] != 0
            if length < minimum, isProtected, contentTypes.contains(datagram[offset]) {
                return UnsafeRawBufferPointer(rebasing: datagram[..<offset])
            }
            offset += headerSize + length
        }
        return datagram
    }
}
