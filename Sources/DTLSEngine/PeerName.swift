import COpenSSL
import Primitives

/// The names that the peer has proven, for logs, handlers and rules.
public struct PeerName: Sendable, Equatable {
    /// The common name of the certificate's subject, where it has one.
    public var commonName: String?
    /// The certificate's whole subject, as RFC 2253 writes it (`CN=sensor-7,O=Example`).
    public var subject: String?
    /// SHA-256 of the certificate, or of the SubjectPublicKeyInfo of a raw public key, lower-case hexadecimal digits without colons.
    public var fingerprint: String?
    /// The identity that came with a pre-shared key.
    public var presharedKeyIdentity: String?
    /// What the peer's raw public key is called by this side (``KnownPublicKey/name``). The `fingerprint` is the key's then.
    public var publicKeyName: String?

    public init(
        commonName: String? = nil, subject: String? = nil, fingerprint: String? = nil,
        presharedKeyIdentity: String? = nil, publicKeyName: String? = nil
    ) {
        self.publicKeyName = publicKeyName
        self.commonName = commonName
        self.subject = subject
        self.fingerprint = fingerprint
        self.presharedKeyIdentity = presharedKeyIdentity
    }

    /// One name for a log line: the key's identity or name, the common name, or the subject.
    public var name: String? { presharedKeyIdentity ?? publicKeyName ?? commonName ?? subject }
}

/// How it is kept beside a connection's state, and in sessions, but for the name of a raw public key: those who keep it have a
/// place for that at their end, where earlier versions of this program do not look.
extension PeerName {
    func encode(into writer: inout ByteWriter) {
        for text in [commonName, subject, fingerprint, presharedKeyIdentity] {
            writer.optional(text) { $0.string($1) }
        }
    }

    init(decoding reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            commonName: try reader.optionalString(), subject: try reader.optionalString(),
            fingerprint: try reader.optionalString(), presharedKeyIdentity: try reader.optionalString())
    }
}

extension PeerName {
    /// The peer that has shown this key.
    init(_ key: KnownPublicKey) { self.init(fingerprint: Hexadecimal.text(key.fingerprint), publicKeyName: key.name) }

    /// The names in a certificate. They are the peer's own words, and can hold any character but NUL.
    init(certificate: OpaquePointer) {
        let name = X509_get_subject_name(certificate)
        self.init(
            commonName: Self.commonName(name), subject: Self.text(name),
            fingerprint: Self.digest(certificate).map(Hexadecimal.text))
    }

    /// The first common name. It is `nil` for one with a NUL in it, too: software that takes it for a C string would
    /// see another name.
    private static func commonName(_ name: OpaquePointer?) -> String? {
        let index = X509_NAME_get_index_by_NID(name, NID_commonName, -1)
        guard index >= 0, let entry = X509_NAME_get_entry(name, index),
            let bytes = CertificateNames.utf8(co_x509_name_entry_data(entry)), !bytes.contains(0)
        else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A whole name in one line: control characters and what is not ASCII are escaped.
    static func text(_ name: OpaquePointer?) -> String? {
        printed { X509_NAME_print_ex($0, name, 0, CO_XN_FLAG_RFC2253) }
    }

    /// What OpenSSL prints, or `nil` where it prints nothing or fails.
    static func printed(_ print: (OpaquePointer) -> Int32) -> String? {
        guard let bio = BIO_new(BIO_s_mem()) else { return nil }
        defer { BIO_free(bio) }
        guard print(bio) > 0 else { return nil }
        var start: UnsafePointer<CChar>?
        let count = co_bio_get_mem_data(bio, &start)
        guard count > 0, let start else { return nil }
        return String(decoding: UnsafeRawBufferPointer(start: start, count: Int(count)), as: UTF8.self)
    }

    /// SHA-256 of the whole certificate.
    static func digest(_ certificate: OpaquePointer) -> [UInt8]? {
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard X509_digest(certificate, EVP_sha256(), &digest, &count) == 1 else { return nil }
        return Array(digest.prefix(Int(count)))
    }
}
