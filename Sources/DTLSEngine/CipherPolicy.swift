import COpenSSL

/// A named choice of DTLS versions and cipher suites; what a service sets by itself goes before it.
public enum CipherPolicy: String, Codable, Sendable, CaseIterable {
    /// DTLS 1.2 and up; authenticated encryption with forward secrecy.
    case modern
    /// For peers that know no better: DTLS 1.0 too, AES-CBC, and key exchange without forward secrecy (RSA). Not what
    /// is broken: no RC4, 3DES, export, NULL or anonymous suite, and no DSA.
    case legacy

    /// The oldest version that is spoken where none is set.
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
        // From OpenSSL 3.2 on the 8-byte tag of CCM8 counts as 64 bits of security, which only level 0 allows. The
        // level also judges certificates, so it is lowered only where there are none; these suites need none of its
        // protection.
        let isKeysAlone = hasPresharedKeys && !hasCertificates && co_version() >= 0x3020_0000
        if minimumVersion == .dtls10 || isKeysAlone { lists.append("@SECLEVEL=0") }
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
    /// The words of an OpenSSL cipher list that stand for no suite, of those that add suites: leaving out (`!`) or
    /// moving (`-`, `+`) what is not there is no mistake.
    public static func wordsWithoutSuite(in list: String) -> [String] {
        guard let context = SSL_CTX_new(DTLS_method()) else { return [] }
        defer { SSL_CTX_free(context) }
        defer { ERR_clear_error() }
        return list.split { ":, ;".contains($0) }.map(String.init).filter { word in
            !"!-+@".contains(word.prefix(1)) && SSL_CTX_set_cipher_list(context, word) != 1
        }
    }
}
