import COpenSSL

/// A named choice of DTLS versions and cipher suites. A cipher list or version that a service sets overrides it.
public enum CipherPolicy: String, Codable, Sendable, CaseIterable {
    /// DTLS 1.2 and up; authenticated encryption with forward secrecy.
    case modern
    /// For old peers: it adds DTLS 1.0, AES-CBC, and key exchange without forward secrecy (RSA). It has nothing that is
    /// broken: no RC4, 3DES, export, NULL or anonymous suite, and no DSA.
    case legacy

    /// The oldest DTLS version where the service sets none.
    public var minimumVersion: ProtocolVersion {
        switch self {
        case .modern: .dtls12
        case .legacy: .dtls10
        }
    }

    /// The OpenSSL cipher list of a policy, best suites first.
    /// - Parameters:
    ///   - hasCertificates: whether suites with certificates are wanted; they are too where there are no keys.
    ///   - hasPresharedKeys: whether suites with pre-shared keys are wanted.
    ///   - minimumVersion: DTLS 1.0 knows neither authenticated encryption nor SHA-256 signatures, so with it come
    ///     AES-CBC and OpenSSL's security level 0, which alone allows these signatures.
    public static func cipherList(
        policy: CipherPolicy, hasCertificates: Bool, hasPresharedKeys: Bool, minimumVersion: ProtocolVersion
    ) -> String {
        var lists: [String] = []
        // Keys first: a client that offers them has one.
        if hasPresharedKeys { lists.append(presharedKeySuites(policy, minimumVersion)) }
        if hasCertificates || !hasPresharedKeys { lists.append(certificateSuites(policy, minimumVersion)) }
        if minimumVersion == .dtls10 { lists.append("@SECLEVEL=0") }
        return lists.joined(separator: ":")
    }

    /// AES-128 first: it is the cheapest, and as good in practice. AES-CCM last, which small devices use (RFC 7252,
    /// section 9.1.3.3, demands ECDHE-ECDSA-AES128-CCM8 of those with certificates).
    private static let certificateSuites =
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE+AESGCM:ECDHE+CHACHA20:"
        + "ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES128-CCM8"

    private static func certificateSuites(_ policy: CipherPolicy, _ minimumVersion: ProtocolVersion) -> String {
        switch policy {
        case .modern: minimumVersion == .dtls10 ? "\(certificateSuites):ECDHE+AES" : certificateSuites
        case .legacy: "\(certificateSuites):ECDHE+AES:DHE+AESGCM:DHE+AES:kRSA+AESGCM:kRSA+AES:!aDSS"
        }
    }

    /// The one with forward secrecy first. TLS_PSK_WITH_AES_128_CCM_8 is the suite that every CoAP device with
    /// pre-shared keys has (RFC 7252, section 9.1.3.1).
    private static let presharedKeySuites =
        "ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:"
        + "PSK-AES128-CCM:PSK-AES256-CCM:PSK-AES128-CCM8:PSK-AES256-CCM8"

    private static func presharedKeySuites(_ policy: CipherPolicy, _ minimumVersion: ProtocolVersion) -> String {
        let needsCBC = policy == .legacy || minimumVersion == .dtls10
        return needsCBC ? "\(presharedKeySuites):kECDHEPSK+AES:kPSK+AES" : presharedKeySuites
    }
}

extension CipherPolicy {
    /// The words of an OpenSSL cipher list that should add suites and add none. Words that remove (`!`, `-`) or move
    /// (`+`) suites are not looked at: to remove what is not there is not a mistake.
    public static func wordsWithoutSuite(in list: String) -> [String] {
        guard let context = SSL_CTX_new(DTLS_method()) else { return [] }
        defer { SSL_CTX_free(context) }
        defer { ERR_clear_error() }
        return list.split { ":, ;".contains($0) }.map(String.init).filter { word in
            !"!-+@".contains(word.prefix(1)) && SSL_CTX_set_cipher_list(context, word) != 1
        }
    }

    /// Whether an OpenSSL cipher list has suites whose clients encrypt a secret with the server's RSA key.
    static func hasKeyTransport(_ list: String) -> Bool {
        guard let context = SSL_CTX_new(DTLS_method()) else { return true }
        defer { SSL_CTX_free(context) }
        defer { ERR_clear_error() }
        guard SSL_CTX_set_cipher_list(context, list) == 1, let suites = SSL_CTX_get_ciphers(context) else {
            return false
        }
        return (0..<co_sk_ssl_cipher_num(suites)).contains { index in
            co_sk_ssl_cipher_value(suites, index).map {
                [NID_kx_rsa, NID_kx_rsa_psk].contains(SSL_CIPHER_get_kx_nid($0))
            } ?? false
        }
    }
}

/// The way in which a side of a handshake authenticates itself, as far as that limits its cipher suites.
enum Proof {
    /// A certificate of this side, with the NID_auth_… of the suites for its kind of key.
    case certificate(keyKind: String, authentication: Int32)
    /// The certificate of a server that a client does not know yet.
    case anyCertificate
    case presharedKey

    fileprivate func fits(_ suite: OpaquePointer) -> Bool {
        let isForKeys = Self.isForKeys(suite)
        return switch self {
        case .certificate(_, let authentication): !isForKeys && SSL_CIPHER_get_auth_nid(suite) == authentication
        case .anyCertificate: !isForKeys
        case .presharedKey: isForKeys
        }
    }

    /// Whether OpenSSL needs a signature scheme for each of the suites. Those of DTLS 1.0 are made of SHA-1, for which
    /// every security level above 0 is too high. A server's certificate must have one even where it signs nothing
    /// (tls_choose_sigalg: "no suitable signature algorithm"; seen with 3.0.19 and AES128-SHA).
    fileprivate func needsSignature(_ suites: [OpaquePointer]) -> Bool {
        switch self {
        case .certificate: true
        case .anyCertificate: suites.allSatisfy { SSL_CIPHER_get_kx_nid($0) != NID_kx_rsa }
        case .presharedKey: false
        }
    }

    /// Whether clients of the suite prove themselves by a pre-shared key.
    static func isForKeys(_ suite: OpaquePointer) -> Bool { keyExchanges.contains(SSL_CIPHER_get_kx_nid(suite)) }

    private static let keyExchanges = [NID_kx_psk, NID_kx_ecdhe_psk, NID_kx_dhe_psk, NID_kx_rsa_psk]

    /// The rest of a sentence that begins with "a cipher suite for".
    fileprivate var name: String {
        switch self {
        case .certificate(let kind, _): "certificates with \(kind) keys"
        case .anyCertificate: "servers with certificates"
        case .presharedKey: "pre-shared keys (PSK-…)"
        }
    }
}

/// OpenSSL's security level (SSL_CTX_set_security_level(3)).
private enum SecurityLevel {
    typealias Judge =
        @convention(c) (
            OpaquePointer?, OpaquePointer?, Int32, Int32, Int32, UnsafeMutableRawPointer?, UnsafeMutableRawPointer?
        ) -> Int32

    /// OpenSSL's own callback, which every context begins with; `nil` when OpenSSL had no memory.
    static let judge: Judge? = {
        guard let context = SSL_CTX_new(DTLS_method()) else { return nil }
        defer { SSL_CTX_free(context) }
        return SSL_CTX_get_security_callback(context)
    }()

    /// The bits of security that count: of a CCM-8 suite those of its key, 128 at least.
    /// - Parameters:
    ///   - bits: those that OpenSSL has counted.
    ///   - other: the SSL_CIPHER, where the operation is about one.
    static func bits(_ operation: Int32, _ bits: Int32, _ other: UnsafeMutableRawPointer?) -> Int32 {
        guard bits < 128, let other else { return bits }
        switch operation {
        case SSL_SECOP_CIPHER_SUPPORTED, SSL_SECOP_CIPHER_SHARED, SSL_SECOP_CIPHER_CHECK:
            return RecordAlgorithm.hasShortTag(SSL_CIPHER_get_protocol_id(OpaquePointer(other))) ? 128 : bits
        default: return bits
        }
    }
}

extension TLSContext {
    /// Sets an OpenSSL cipher list without its suites that do not authenticate or do not encrypt: with
    /// "ALL:@SECLEVEL=0" a client would take an anonymous server for the one that it is to verify.
    func use(ciphers: String) throws(CredentialsError) {
        ERR_clear_error()
        guard SSL_CTX_set_cipher_list(pointer, ciphers) == 1 else {
            _ = OpenSSLError.drain()
            throw .ciphers("no cipher matches \"\(ciphers)\"")
        }
        guard SSL_CTX_set_cipher_list(pointer, "\(ciphers):!aNULL:!eNULL") == 1 else {
            _ = OpenSSLError.drain()
            throw .ciphers("only suites without authentication or encryption match \"\(ciphers)\"")
        }
    }

    /// Lets the security level judge the CCM-8 suites by their key, and everything else as OpenSSL does.
    ///
    /// Their tag has 8 bytes, and from 3.2 on OpenSSL counts that as 64 bits, which level 0 alone allows. That level
    /// would allow every certificate and signature, too. But a tag is no key: nobody can try one out at leisure, since
    /// each guess is a datagram that the receiver sees, and RFC 7252, sections 9.1.3.1 and 9.1.3.3, makes these suites
    /// mandatory for CoAP.
    func acceptShortTags() {
        SSL_CTX_set_security_callback(pointer) { ssl, context, operation, bits, identifier, other, extra in
            guard let judge = SecurityLevel.judge else { return 0 }
            return judge(
                ssl, context, operation, SecurityLevel.bits(operation, bits, other), identifier, other, extra)
        }
    }

    /// Why no handshake can use the context's cipher list with this proof, or `nil` where one can.
    func suiteFault(for proof: Proof) -> String? {
        let suites = usableSuites.filter(proof.fits)
        guard maximumVersion == .dtls10 else {
            return suites.isEmpty ? "it has no cipher suite for \(proof.name)" : nil
        }
        let level = SSL_CTX_get_security_level(pointer)
        // Asked first: a level that forbids the version leaves no suite either.
        guard allowsDTLS10 else {
            return "this OpenSSL speaks DTLS 1.0 at its security level 0 only, and the level is \(level): "
                + "add \"@SECLEVEL=0\" to the list"
        }
        if suites.isEmpty { return "it has no cipher suite for \(proof.name) that DTLS 1.0 knows" }
        guard proof.needsSignature(suites), level > 0 else { return nil }
        return "DTLS 1.0 needs OpenSSL's security level 0 for its signatures: add \"@SECLEVEL=0\" to the list"
    }

    /// Whether the security level allows DTLS 1.0 at all. From OpenSSL 3.2 on only level 0 does; before, the levels
    /// below 3 did. OpenSSL is asked, so that a library that is newer than this program's headers counts.
    private var allowsDTLS10: Bool {
        defer { ERR_clear_error() }
        guard let ssl = SSL_new(pointer) else { return true }
        defer { SSL_free(ssl) }
        guard let judge = SSL_get_security_callback(ssl) else { return true }
        return judge(ssl, nil, SSL_SECOP_VERSION, 0, DTLS1_VERSION, nil, SSL_get0_security_ex_data(ssl)) == 1
    }

    /// The suites of the cipher list that the versions and the security level allow.
    private var usableSuites: [OpaquePointer] {
        defer { ERR_clear_error() }
        guard let ssl = SSL_new(pointer) else { return [] }
        defer { SSL_free(ssl) }
        // OpenSSL answers for a client, which has suites with pre-shared keys only with this callback.
        SSL_set_psk_client_callback(ssl) { _, _, _, _, _, _ in 0 }
        guard let list = SSL_get1_supported_ciphers(ssl) else { return [] }
        defer { co_sk_ssl_cipher_free(list) }
        return (0..<co_sk_ssl_cipher_num(list)).compactMap { co_sk_ssl_cipher_value(list, $0) }
    }
}
