import COpenSSL

/// Who the peer has proven to be, for logs, handlers and rules.
public struct PeerIdentity: Sendable, Equatable {
    /// The common name of the certificate's subject, where it has one.
    public var commonName: String?
    /// The certificate's whole subject, as RFC 2253 writes it (`CN=sensor-7,O=Example`).
    public var subject: String?
    /// SHA-256 of the certificate, lower-case hexadecimal digits without colons.
    public var fingerprint: String?
    /// The identity that came with a pre-shared key.
    public var presharedKeyIdentity: String?

    public init(
        commonName: String? = nil, subject: String? = nil, fingerprint: String? = nil,
        presharedKeyIdentity: String? = nil
    ) {
        self.commonName = commonName
        self.subject = subject
        self.fingerprint = fingerprint
        self.presharedKeyIdentity = presharedKeyIdentity
    }

    /// One name for a log line: the key's identity, the common name, or the subject.
    public var name: String? { presharedKeyIdentity ?? commonName ?? subject }
}

extension PeerIdentity {
    /// What a certificate says. Names are the peer's own words: they can hold any character.
    init(certificate: OpaquePointer) {
        let name = X509_get_subject_name(certificate)
        self.init(
            commonName: Self.commonName(name), subject: Self.text(name),
            fingerprint: Self.fingerprint(certificate))
    }

    private static func commonName(_ name: OpaquePointer?) -> String? {
        let index = X509_NAME_get_index_by_NID(name, NID_commonName, -1)
        guard index >= 0, let entry = X509_NAME_get_entry(name, index), let value = X509_NAME_ENTRY_get_data(entry)
        else { return nil }
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = ASN1_STRING_to_UTF8(&bytes, value)
        guard count >= 0, let bytes else { return nil }
        defer { CRYPTO_free(bytes, nil, 0) }
        return String(decoding: UnsafeBufferPointer(start: bytes, count: Int(count)), as: UTF8.self)
    }

    private static func text(_ name: OpaquePointer?) -> String? {
        guard let bio = BIO_new(BIO_s_mem()) else { return nil }
        defer { BIO_free(bio) }
        // Control characters and non-ASCII are escaped, so the text is one line.
        guard X509_NAME_print_ex(bio, name, 0, CO_XN_FLAG_RFC2253) > 0 else { return nil }
        var start: UnsafePointer<CChar>?
        let count = co_bio_get_mem_data(bio, &start)
        guard count > 0, let start else { return nil }
        let bytes = UnsafeRawBufferPointer(start: start, count: Int(count))
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func fingerprint(_ certificate: OpaquePointer) -> String? {
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard X509_digest(certificate, EVP_sha256(), &digest, &count) == 1 else { return nil }
        return digest.prefix(Int(count)).map { byte in
            let hexadecimal = String(byte, radix: 16)
            return byte < 16 ? "0" + hexadecimal : hexadecimal
        }.joined()
    }
}

extension Engine {
    /// Who the peer has proven to be; `nil` for one that has shown neither certificate nor key. It is made anew each
    /// time that it is asked for.
    public var peerIdentity: PeerIdentity? {
        withPeerCertificate { PeerIdentity(certificate: $0) }
            ?? claimedPresharedKeyIdentity.map { PeerIdentity(presharedKeyIdentity: $0) }
    }
}
