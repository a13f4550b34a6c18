import COpenSSL

/// The authenticated encryption of a cipher suite whose records are protected here, and not by OpenSSL. The numbers are
/// those of ``RecordState``, so they never change.
enum RecordAlgorithm: UInt8, CaseIterable {
    case aes128GCM = 1
    case aes256GCM = 2
    case aes128CCM = 3
    case aes256CCM = 4
    case aes128CCM8 = 5
    case aes256CCM8 = 6
    case chacha20Poly1305 = 7

    /// The algorithm of a cipher suite; `nil` for AES-CBC and what else OpenSSL may bring.
    init?(suite: OpaquePointer) {
        let hasShortTag = Self.hasShortTag(SSL_CIPHER_get_protocol_id(suite))
        switch SSL_CIPHER_get_cipher_nid(suite) {
        case NID_aes_128_gcm: self = .aes128GCM
        case NID_aes_256_gcm: self = .aes256GCM
        case NID_aes_128_ccm: self = hasShortTag ? .aes128CCM8 : .aes128CCM
        case NID_aes_256_ccm: self = hasShortTag ? .aes256CCM8 : .aes256CCM
        case NID_chacha20_poly1305: self = .chacha20Poly1305
        default: return nil
        }
    }

    /// Whether a suite is one of RFC 6655 and RFC 7251 whose names end with CCM_8.
    static func hasShortTag(_ suite: UInt16) -> Bool {
        switch suite {
        case 0xC0A0...0xC0A3, 0xC0A8...0xC0AB, 0xC0AE...0xC0AF: true
        default: false
        }
    }

    enum Mode { case gcm, ccm, chacha20Poly1305 }

    @inline(__always)
    var mode: Mode {
        switch self {
        case .aes128GCM, .aes256GCM: .gcm
        case .aes128CCM, .aes256CCM, .aes128CCM8, .aes256CCM8: .ccm
        case .chacha20Poly1305: .chacha20Poly1305
        }
    }

    var keySize: Int {
        switch self {
        case .aes128GCM, .aes128CCM, .aes128CCM8: 16
        case .aes256GCM, .aes256CCM, .aes256CCM8, .chacha20Poly1305: 32
        }
    }

    /// The bytes of the nonce that come from the key block: RFC 5288, section 3, and RFC 6655, section 3; RFC 7905,
    /// section 2.
    var fixedNonceSize: Int { mode == .chacha20Poly1305 ? 12 : 4 }

    /// The bytes of the nonce that are in each record.
    @inline(__always)
    var explicitNonceSize: Int { mode == .chacha20Poly1305 ? 0 : 8 }

    @inline(__always)
    var tagSize: Int {
        switch self {
        case .aes128CCM8, .aes256CCM8: 8
        default: 16
        }
    }

    /// The bytes that protection adds to a message.
    @inline(__always)
    var overhead: Int { explicitNonceSize + tagSize }

    /// The EVP_CIPHER, which is fetched once and never freed; `nil` where this OpenSSL has none.
    var cipher: OpaquePointer? {
        switch self {
        case .aes128GCM: Self.aes128GCMCipher
        case .aes256GCM: Self.aes256GCMCipher
        case .aes128CCM, .aes128CCM8: Self.aes128CCMCipher
        case .aes256CCM, .aes256CCM8: Self.aes256CCMCipher
        case .chacha20Poly1305: Self.chacha20Poly1305Cipher
        }
    }

    private nonisolated(unsafe) static let aes128GCMCipher = EVP_CIPHER_fetch(nil, "AES-128-GCM", nil)
    private nonisolated(unsafe) static let aes256GCMCipher = EVP_CIPHER_fetch(nil, "AES-256-GCM", nil)
    private nonisolated(unsafe) static let aes128CCMCipher = EVP_CIPHER_fetch(nil, "AES-128-CCM", nil)
    private nonisolated(unsafe) static let aes256CCMCipher = EVP_CIPHER_fetch(nil, "AES-256-CCM", nil)
    private nonisolated(unsafe) static let chacha20Poly1305Cipher = EVP_CIPHER_fetch(nil, "ChaCha20-Poly1305", nil)
}
