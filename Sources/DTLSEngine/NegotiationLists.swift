import COpenSSL
import Primitives

/// The list of the groups that keys are exchanged in, as SSL_CTX_set1_groups_list(3) has it: `"X25519:P-256"`.
public enum GroupList {
    /// What is wrong with a list; `nil` for one that a handshake of DTLS 1.2 can use.
    public static func fault(of list: String) -> String? {
        if let fault = ListFault.of(list, { co_ssl_ctx_set_groups_list($0, $1) == 1 }, "group") { return fault }
        return words(in: list).allSatisfy(isNewer) ? "DTLS 1.2 has none of these groups" : nil
    }

    /// The groups of a list that no handshake of DTLS 1.2 uses: they are TLS 1.3's.
    public static func unusedWords(in list: String) -> [String] { words(in: list).filter(isNewer) }

    private static func words(in list: String) -> [String] {
        list.split(whereSeparator: { ":/".contains($0) }).map { String($0.drop { "?*-".contains($0) }) }
    }

    /// Hybrids with ML-KEM, and finite fields by their names (RFC 7919), which OpenSSL negotiates in TLS 1.3 alone
    /// (TLS_GROUP "mintls": TLS1_3_VERSION; tls1_get_supported_groups).
    private static func isNewer(_ word: String) -> Bool {
        let name = word.lowercased()
        return name.contains("mlkem") || name.hasPrefix("ffdhe")
    }
}

/// The list of signature algorithms, as SSL_CTX_set1_sigalgs_list(3) has it: `"ECDSA+SHA256:rsa_pss_rsae_sha256"`.
public enum SignatureAlgorithms {
    /// What is wrong with a list; `nil` for one that OpenSSL takes.
    public static func fault(of list: String) -> String? {
        ListFault.of(list, { co_ssl_ctx_set_sigalgs_list($0, $1) == 1 }, "signature algorithm")
    }

    /// Whether a list has an algorithm for keys of a kind.
    /// - Parameters:
    ///   - keyKind: see ``OwnCertificate/keyKind``.
    ///   - securityLevel: OpenSSL's, which allows SHA-1 and MD5 at level 0 only.
    static func has(keyKind: String, in list: String, securityLevel: Int32) -> Bool {
        list.lowercased().split(separator: ":").contains { word in
            let word = word.drop { $0 == "?" }
            if securityLevel > 0, word.hasSuffix("sha1") || word.hasSuffix("md5") { return false }
            return switch keyKind {
            // rsa_pss_pss is for keys that the certificate itself restricts to PSS.
            case "RSA":
                (word.hasPrefix("rsa") || word.hasPrefix("pss+")) && !word.hasPrefix("rsa_pss_pss")
            case "ECDSA": word.hasPrefix("ecdsa")
            // OpenSSL knows these by one name each.
            default: word == keyKind.lowercased()
            }
        }
    }
}

private enum ListFault {
    /// - Parameter accepts: whether OpenSSL takes a list of words with colons between them.
    static func of(
        _ list: String, _ accepts: (OpaquePointer, String) -> Bool, _ thing: String
    ) -> String? {
        guard let context = SSL_CTX_new(DTLS_method()) else {
            return "OpenSSL cannot check it: \(OpenSSLError.drain())"
        }
        defer {
            SSL_CTX_free(context)
            ERR_clear_error()
        }
        // OpenSSL takes a C string.
        guard !list.utf8.contains(0), !accepts(context, list) else {
            return list.utf8.contains(0) ? "it contains a NUL" : nil
        }
        let unknown = list.split(separator: ":").map(String.init).filter { !accepts(context, $0) }
        guard !unknown.isEmpty else { return "OpenSSL does not take the list; each \(thing) may stand in it once" }
        let names = unknown.map { Printable.quoted($0, limit: 100) }.joined(separator: ", ")
        return "OpenSSL knows no \(thing) \(names)"
    }
}
