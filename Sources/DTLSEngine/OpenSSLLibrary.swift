import COpenSSL

/// OpenSSL as a whole.
public enum OpenSSLLibrary {
    /// Has OpenSSL read its configuration file (openssl.cnf), and load the providers that it names. It does so by itself when
    /// it is first used, which may be when this process can load nothing any more.
    public static func prepare() { _ = OPENSSL_init_ssl(0, nil) }
}
