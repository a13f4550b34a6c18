import COpenSSL

/// The OpenSSL that this process runs with.
package enum OpenSSLVersion {
    /// The OpenSSL whose headers this program was built with, in the form of ``text``.
    static var ofHeaders: String { OPENSSL_VERSION_TEXT }

    /// `"OpenSSL 3.5.4 30 Sep 2025"`
    package static var text: String { OpenSSL_version(OPENSSL_VERSION).map { String(cString: $0) } ?? "unknown" }
}
