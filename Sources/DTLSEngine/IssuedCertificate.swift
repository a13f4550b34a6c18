import COpenSSL
import Primitives

/// A certificate that this program makes, and its private key: for development and tests of a site, not a CA's software.
public final class IssuedCertificate {
    /// What the certificate is for.
    public enum Purpose: Sendable {
        /// It signs others.
        case authority
        case server
        case client
    }

    public enum KeyKind: String, Sendable, CaseIterable {
        /// ECDSA with P-256, which every DTLS stack has.
        case ec
        /// RSA with 2048 bits.
        case rsa
    }

    /// Owned.
    private let certificate: OpaquePointer
    private let key: OpaquePointer

    /// - Parameters:
    ///   - names: the subject alternative names, as OpenSSL writes them (`DNS:example.org`, `IP:::1`); the caller has
    ///     checked that they hold no comma. May be empty.
    ///   - lifetime: from now; validity begins an hour ago, for clocks that go wrong.
    ///   - issuer: `nil`: it signs itself.
    public init(
        _ purpose: Purpose, commonName: String, names: [String], lifetime: Duration, key kind: KeyKind = .ec,
        issuer: IssuedCertificate? = nil
    ) throws(OpenSSLError) {
        OpenSSLError.clear()
        guard let key = Self.makeKey(kind) else { throw OpenSSLError.drain() }
        guard let certificate = X509_new() else {
            EVP_PKEY_free(key)
            throw OpenSSLError.drain()
        }
        self.key = key
        self.certificate = certificate
        var random = SystemRandomNumberGenerator()
        // Positive, and 63 random bits, as nobody can foresee (CA/Browser Forum, section 7.1: 64 bits of a CSPRNG).
        let serial = max(1, random.next() >> 1)
        let subject = X509_get_subject_name(certificate)
        let name = Array(commonName.utf8)
        let isMade =
            X509_set_version(certificate, 2) == 1
            && ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial) == 1
            && X509_gmtime_adj(X509_getm_notBefore(certificate), -3_600) != nil
            && X509_gmtime_adj(X509_getm_notAfter(certificate), lifetime.seconds) != nil
            && X509_set_pubkey(certificate, key) == 1
            && X509_NAME_add_entry_by_NID(
                subject, NID_commonName, V_ASN1_UTF8STRING, name, Int32(truncatingIfNeeded: name.count), -1, 0) == 1
            && X509_set_issuer_name(certificate, X509_get_subject_name(issuer?.certificate ?? certificate)) == 1
        guard isMade, addExtensions(purpose, names, issuer: issuer?.certificate ?? certificate),
            X509_sign(certificate, issuer?.key ?? key, EVP_sha256()) > 0
        else { throw OpenSSLError.drain() }
    }

    deinit {
        X509_free(certificate)
        EVP_PKEY_free(key)
    }

    private func addExtensions(_ purpose: Purpose, _ names: [String], issuer: OpaquePointer) -> Bool {
        func add(_ identifier: Int32, _ value: String) -> Bool {
            co_x509_add_extension(certificate, issuer, identifier, value) == 1
        }
        var isDone = add(NID_subject_key_identifier, "hash")
        switch purpose {
        case .authority:
            // It signs leaves alone.
            isDone =
                isDone && add(NID_basic_constraints, "critical,CA:TRUE,pathlen:0")
                && add(NID_key_usage, "critical,keyCertSign,cRLSign")
        case .server:
            isDone =
                isDone && add(NID_basic_constraints, "critical,CA:FALSE")
                && add(NID_key_usage, "critical,digitalSignature,keyEncipherment")
                && add(NID_ext_key_usage, "serverAuth")
        case .client:
            isDone =
                isDone && add(NID_basic_constraints, "critical,CA:FALSE")
                && add(NID_key_usage, "critical,digitalSignature") && add(NID_ext_key_usage, "clientAuth")
        }
        // After the subject's own, from which a self-signed certificate has it.
        isDone = isDone && add(NID_authority_key_identifier, "keyid")
        return isDone && (names.isEmpty || add(NID_subject_alt_name, names.joined(separator: ",")))
    }

    static func makeKey(_ kind: KeyKind) -> OpaquePointer? {
        let generator = EVP_PKEY_CTX_new_id(kind == .rsa ? EVP_PKEY_RSA : EVP_PKEY_EC, nil)
        defer { EVP_PKEY_CTX_free(generator) }
        var key: OpaquePointer?
        guard EVP_PKEY_keygen_init(generator) == 1,
            kind == .rsa
                ? EVP_PKEY_CTX_set_rsa_keygen_bits(generator, 2_048) == 1
                : EVP_PKEY_CTX_set_ec_paramgen_curve_nid(generator, NID_X9_62_prime256v1) == 1,
            EVP_PKEY_keygen(generator, &key) == 1
        else { return nil }
        return key
    }

    /// The certificate, PEM.
    public var pem: String { PeerName.printed { PEM_write_bio_X509($0, certificate) } ?? "" }

    /// The private key, PEM, without a passphrase.
    public var privateKeyPEM: String {
        PeerName.printed { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) } ?? ""
    }
}
