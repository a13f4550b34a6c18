import COpenSSL

/// A certificate of one's own, as far as the choice of it and the check of a configuration go.
public final class OwnCertificate {
    /// An X509; owned.
    let pointer: OpaquePointer

    /// Takes over a reference.
    init(owning pointer: OpaquePointer) { self.pointer = pointer }

    deinit { X509_free(pointer) }

    /// The first certificate of a PEM text.
    public convenience init(pem: String) throws(CredentialsError) {
        guard let source = PEMSource(pem) else { throw .certificate("too large") }
        ERR_clear_error()
        guard let certificate = PEM_read_bio_X509(source.bio, nil, nil, nil) else {
            throw .certificate("not valid PEM (\(OpenSSLError.drain()))")
        }
        self.init(owning: certificate)
    }

    /// The kind of its key, `"RSA"`, `"ECDSA"`, or OpenSSL's name (`"ED25519"`): a name has one certificate of each.
    public var keyKind: String {
        guard let key = X509_get0_pubkey(pointer) else { return "unknown" }
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: return "RSA"
        case EVP_PKEY_EC: return "ECDSA"
        case let other: return OBJ_nid2sn(other).map { String(cString: $0) } ?? "unknown"
        }
    }

    /// How cipher suites name what a server with such a key proves itself by; `nil` where none does in DTLS: OpenSSL
    /// uses Ed25519, Ed448 and RSA-PSS keys of servers in TLS alone (ssl_set_masks: "TLS1_get_version(s) ==
    /// TLS1_2_VERSION"; seen with 3.0.19, issue 20122 of openssl/openssl).
    var authentication: Int32? {
        guard let key = X509_get0_pubkey(pointer) else { return nil }
        return switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: NID_auth_rsa
        case EVP_PKEY_EC: NID_auth_ecdsa
        case EVP_PKEY_DSA: NID_auth_dss
        default: nil
        }
    }

    /// Whether it is good for a host name (RFC 6125, section 6.4); the common name counts where there is no DNS name.
    /// - Parameter name: without a trailing dot; with `*.` in front of it, whether it is good for all such names.
    public func covers(name: String) -> Bool {
        // No certificate has this label by chance.
        var host = name.hasPrefix("*.") ? "any-name-whatever" + name.dropFirst() : name
        return host.withUTF8 { bytes in
            bytes.withMemoryRebound(to: CChar.self) {
                X509_check_host(
                    pointer, $0.baseAddress, $0.count, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS), nil) == 1
            }
        }
    }

    /// Whether it names an IP address.
    /// - Parameter address: 4 or 16 bytes.
    public func covers(address: UnsafeRawBufferPointer) -> Bool {
        X509_check_ip(pointer, address.assumingMemoryBound(to: UInt8.self).baseAddress, address.count, 0) == 1
    }

    /// Whether it names the IP address that this text is; false for any other text.
    public func covers(addressText: String) -> Bool { X509_check_ip_asc(pointer, addressText, 0) == 1 }
}
