import COpenSSL

/// The OpenSSL that this process runs with.
package enum OpenSSLVersion {
    /// `"OpenSSL 3.5.4 30 Sep 2025"`
    package static var text: String { OpenSSL_version(OPENSSL_VERSION).map { String(cString: $0) } ?? "unknown" }
}
