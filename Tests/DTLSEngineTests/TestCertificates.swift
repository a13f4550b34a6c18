import COpenSSL

/// Certificates and keys for tests, made when first asked for: none lies in the repository, none runs out.
struct TestCertificates: Sendable {
    /// PEM texts, as `ServerSettings` and `ClientSettings` take them.
    struct Identity: Sendable {
        let certificate: String
        let privateKey: String
    }

    /// The CA that all but the strangers are signed by.
    let authority: String
    /// Another CA with the same name.
    let wrongAuthority: String
    /// For `localhost`, with the CA's certificate in the chain, so that the server's flight needs several datagrams.
    let rsaServer: Identity
    let ecdsaServer: Identity
    let client: Identity
    /// A client that the other CA signed.
    let stranger: Identity

    private static let shared = Result { try TestCertificates() }

    static func make() throws -> TestCertificates { try shared.get() }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private init() throws {
        let trusted = try Authority(serial: 1)
        let wrong = try Authority(serial: 2)
        authority = trusted.pem
        wrongAuthority = wrong.pem
        rsaServer = try trusted.issue(name: "localhost", key: .rsa, serial: 3)
        ecdsaServer = try trusted.issue(name: "localhost", key: .ecdsa, serial: 4)
        client = try trusted.issue(name: "client", key: .ecdsa, serial: 5)
        stranger = try wrong.issue(name: "stranger", key: .ecdsa, serial: 6)
    }
}

/// A private key; freed with its last user.
final class Key {
    enum Kind { case rsa, ecdsa }

    let pointer: OpaquePointer

    init(_ kind: Kind, curve: Int32 = NID_X9_62_prime256v1, bits: Int32 = 2048) throws {
        let generator = EVP_PKEY_CTX_new_id(kind == .rsa ? EVP_PKEY_RSA : EVP_PKEY_EC, nil)
        defer { EVP_PKEY_CTX_free(generator) }
        var key: OpaquePointer?
        guard EVP_PKEY_keygen_init(generator) == 1,
            kind == .rsa
                ? EVP_PKEY_CTX_set_rsa_keygen_bits(generator, bits) == 1
                : EVP_PKEY_CTX_set_ec_paramgen_curve_nid(generator, curve) == 1,
            EVP_PKEY_keygen(generator, &key) == 1, let key
        else { throw TestCertificates.Failure(description: "no key") }
        pointer = key
    }

    deinit { EVP_PKEY_free(pointer) }

    func pem() throws -> String {
        try text { PEM_write_bio_PrivateKey($0, pointer, nil, nil, 0, nil, nil) }
    }
}

/// What `write` puts into a memory BIO.
func text(_ write: (OpaquePointer?) -> Int32) throws -> String {
    let bio = BIO_new(BIO_s_mem())
    defer { BIO_free(bio) }
    var bytes: UnsafePointer<CChar>?
    guard write(bio) == 1 else { throw TestCertificates.Failure(description: "no PEM") }
    let count = co_bio_get_mem_data(bio, &bytes)
    return String(decoding: UnsafeRawBufferPointer(start: bytes, count: count), as: UTF8.self)
}

/// A self-signed CA.
private final class Authority {
    private let key: Key
    private let certificate: OpaquePointer
    let pem: String

    init(serial: Int) throws {
        key = try Key(.ecdsa)
        certificate = try Self.certificate(
            name: "Test CA", key: key, serial: serial, signedBy: nil, signingKey: key,
            extensions: [(NID_basic_constraints, "critical,CA:TRUE"), (NID_key_usage, "critical,keyCertSign")])
        let pointer = certificate
        pem = try text { PEM_write_bio_X509($0, pointer) }
    }

    deinit { X509_free(certificate) }

    func issue(name: String, key kind: Key.Kind, serial: Int) throws -> TestCertificates.Identity {
        let leafKey = try Key(kind)
        let leaf = try Self.certificate(
            name: name, key: leafKey, serial: serial, signedBy: certificate, signingKey: key,
            extensions: [(NID_subject_alt_name, "DNS:\(name)")])
        defer { X509_free(leaf) }
        return TestCertificates.Identity(
            certificate: try text { PEM_write_bio_X509($0, leaf) } + pem, privateKey: try leafKey.pem())
    }

    private static func certificate(
        name: String, key: Key, serial: Int, signedBy issuer: OpaquePointer?, signingKey: Key,
        extensions: [(Int32, String)]
    ) throws -> OpaquePointer {
        guard let certificate = X509_new() else { throw TestCertificates.Failure(description: "no memory") }
        let issuer = issuer ?? certificate
        var good =
            X509_set_version(certificate, 2) == 1
            && ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial) == 1
            && X509_gmtime_adj(X509_getm_notBefore(certificate), -86_400) != nil
            && X509_gmtime_adj(X509_getm_notAfter(certificate), 86_400) != nil
            && X509_set_pubkey(certificate, key.pointer) == 1
            && X509_NAME_add_entry_by_txt(
                X509_get_subject_name(certificate), "CN", MBSTRING_ASC, name, -1, -1, 0) == 1
            && X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1
        for (identifier, value) in extensions {
            let item = X509V3_EXT_conf_nid(nil, nil, identifier, value)
            good = good && item != nil && X509_add_ext(certificate, item, -1) == 1
            X509_EXTENSION_free(item)
        }
        guard good, X509_sign(certificate, signingKey.pointer, EVP_sha256()) > 0 else {
            X509_free(certificate)
            throw TestCertificates.Failure(description: "no certificate for \(name)")
        }
        return certificate
    }
}
