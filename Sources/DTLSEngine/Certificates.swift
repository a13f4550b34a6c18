import COpenSSL
import Glibc

/// A server's or client's own certificate: what the choice between several, and the check of a configuration, ask of
/// it.
public final class OwnCertificate {
    /// An X509 that this object owns a reference to.
    let pointer: OpaquePointer

    /// Takes over the caller's reference to an X509.
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
        X509_get0_pubkey(pointer).map(KeyKind.name) ?? "unknown"
    }

    /// See ``KeyKind/authentication(of:)``.
    var authentication: Int32? { X509_get0_pubkey(pointer).flatMap(KeyKind.authentication) }

    /// Whether the certificate has issued itself. No OCSP response is stapled to such a one: who trusts it has asked
    /// nobody. From 3.6 on OpenSSL leaves CertificateStatus out for it, and counts the message all the same, so that
    /// clients wait for a message that was never sent, and the handshake never ends (seen with 3.6 and 4.0).
    public var isSelfSigned: Bool { X509_self_signed(pointer, 0) == 1 }

    /// Whether the certificate is valid for a host name (RFC 6125, section 6.4). The common name counts where there is
    /// no DNS name.
    /// - Parameter name: has no trailing dot. With `*.` in front, the certificate must be valid for all such names.
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

    /// The reason why next to no client takes a certificate with this key, as the rest of a sentence about the
    /// certificate; `nil` for a key that all take.
    public var rareKey: String? {
        guard let key = X509_get0_pubkey(pointer) else { return nil }
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA:
            let bits = EVP_PKEY_get_bits(key)
            return bits < 2_048 ? "has an RSA key of \(bits) bits, and clients want 2048 at least" : nil
        case EVP_PKEY_EC:
            var name = [CChar](repeating: 0, count: 64)
            var count = 0
            guard EVP_PKEY_get_group_name(key, &name, name.count, &count) == 1 else {
                return "has a key on a curve without a name, and clients know curves by their names"
            }
            let curve = String(decoding: name.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
            return Self.commonCurves.contains(curve)
                ? nil : "has a key on the curve \(curve), which next to no client knows; P-256 is known to all"
        default: return nil
        }
    }

    /// P-256, P-384 and P-521, by OpenSSL's names.
    private static let commonCurves: Set<String> = ["prime256v1", "P-256", "secp384r1", "P-384", "secp521r1", "P-521"]

    /// Whether the certificate names an IP address.
    /// - Parameter address: 4 or 16 bytes.
    public func covers(address: UnsafeRawBufferPointer) -> Bool {
        X509_check_ip(pointer, address.assumingMemoryBound(to: UInt8.self).baseAddress, address.count, 0) == 1
    }

    /// Whether the certificate names the IP address in this text. It is false for a text that is not an IP address.
    public func covers(addressText: String) -> Bool { X509_check_ip_asc(pointer, addressText, 0) == 1 }
}

/// The certificates of a PEM text, for warnings about what handshakes would fail for later.
public final class CertificateList {
    /// X509s that this object owns a reference to each.
    private let pointers: [OpaquePointer]

    public init(pem text: String) throws(OpenSSLError) {
        guard let source = PEMSource(text) else { throw OpenSSLError.drain() }
        pointers = try source.certificates()
    }

    deinit { for certificate in pointers { X509_free(certificate) } }

    public var count: Int { pointers.count }

    /// A part of a sentence about each certificate that is not valid now: its subject, and the date since or until
    /// which it is not.
    public var outOfDate: [String] {
        let now = time(nil)
        return pointers.compactMap { certificate in
            let name = ChainFault.name(X509_get_subject_name(certificate))
            let (start, end) = (co_x509_not_before(certificate), co_x509_not_after(certificate))
            if co_asn1_time_cmp(end, now) == -1 {
                return "the certificate of \(name) expired on \(ChainFault.date(end))"
            }
            return co_asn1_time_cmp(start, now) == 1
                ? "the certificate of \(name) is not valid before \(ChainFault.date(start))" : nil
        }
    }

    /// The subjects of the certificates that have issued none of these revocation lists.
    public func withoutList(in lists: [RevocationLists]) -> [String] {
        pointers.compactMap { certificate in
            let name = X509_get_subject_name(certificate)
            return lists.contains { $0.hasList(of: name) } ? nil : ChainFault.name(name)
        }
    }
}

/// The certificate revocation lists of a PEM text.
public final class RevocationLists {
    /// At least one X509_CRL. This object owns a reference to each.
    let pointers: [OpaquePointer]

    /// - Throws: when the text holds none, or one that is broken.
    public init(pem text: String) throws(OpenSSLError) {
        guard let source = PEMSource(text) else { throw OpenSSLError.drain() }
        var lists: [OpaquePointer] = []
        ERR_clear_error()
        while let list = PEM_read_bio_X509_CRL(source.bio, nil, nil, nil) { lists.append(list) }
        pointers = lists
        let end = ERR_peek_last_error()
        let atEnd = co_err_get_lib(end) == ERR_LIB_PEM && co_err_get_reason(end) == PEM_R_NO_START_LINE
        guard atEnd, !lists.isEmpty else { throw OpenSSLError.drain() }
        ERR_clear_error()
    }

    deinit { for list in pointers { X509_CRL_free(list) } }

    public var count: Int { pointers.count }

    /// A part of a sentence about each list that should have been replaced before now: its issuer, and the date since
    /// which it is out of date.
    public var outOfDate: [String] {
        let now = time(nil)
        return pointers.compactMap { list in
            // A list without nextUpdate does not expire.
            guard let end = co_x509_crl_next_update(list), co_asn1_time_cmp(end, now) == -1 else { return nil }
            let issuer = ChainFault.name(X509_CRL_get_issuer(list))
            return "the list of \(issuer) has been out of date since \(ChainFault.date(end))"
        }
    }

    /// Whether the issuer of one of the lists has this name.
    func hasList(of issuer: OpaquePointer?) -> Bool {
        pointers.contains { X509_NAME_cmp(X509_CRL_get_issuer($0), issuer) == 0 }
    }

    /// The store takes references of its own.
    func add(to store: OpaquePointer?) throws(OpenSSLError) {
        for list in pointers where X509_STORE_add_crl(store, list) != 1 { throw OpenSSLError.drain() }
    }
}

/// The CA certificates that the system trusts.
public enum SystemAuthorities {
    /// The file that this OpenSSL takes them from where SSL_CERT_FILE names no other: a bundle in PEM.
    public static var file: String { X509_get_default_cert_file().map { String(cString: $0) } ?? "" }

    /// The folder that this OpenSSL takes them from where SSL_CERT_DIR names no other: a file for each, named by the
    /// hash of its subject.
    public static var folder: String { X509_get_default_cert_dir().map { String(cString: $0) } ?? "" }
}

/// A PEM text as a read-only BIO; it owns the BIO and a copy of the text.
final class PEMSource {
    let bio: OpaquePointer

    init?(_ text: String) {
        let bytes = Self.withoutMarks(text)
        guard bytes.count <= Int(Int32.max), let memory = BIO_new(BIO_s_mem()) else { return nil }
        bio = memory
        let count = Int32(truncatingIfNeeded: bytes.count)
        guard BIO_write(memory, bytes, count) == count else { return nil }
    }

    /// The text's bytes without byte order marks. Some editors write one at the start of a file, and files are put
    /// together; OpenSSL does not see the "-----BEGIN" of a line that starts with one, and leaves that part out.
    private static func withoutMarks(_ text: String) -> [UInt8] {
        var bytes = Array(text.utf8)
        let mark: [UInt8] = [0xef, 0xbb, 0xbf]
        guard bytes.contains(mark[0]) else { return bytes }
        var kept = 0
        var position = 0
        while position < bytes.count {
            if bytes[position...].starts(with: mark) {
                position += mark.count
            } else {
                bytes[kept] = bytes[position]
                kept += 1
                position += 1
            }
        }
        return Array(bytes[..<kept])
    }

    deinit { BIO_free(bio) }

    /// Every certificate of the text, in order; the caller frees them. Stops at the first that is broken.
    func certificates() throws(OpenSSLError) -> [OpaquePointer] {
        var list: [OpaquePointer] = []
        ERR_clear_error()
        while let certificate = PEM_read_bio_X509(bio, nil, nil, nil) { list.append(certificate) }
        let end = ERR_peek_last_error()
        let atEnd = co_err_get_lib(end) == ERR_LIB_PEM && co_err_get_reason(end) == PEM_R_NO_START_LINE
        guard atEnd else {
            for certificate in list { X509_free(certificate) }
            throw OpenSSLError.drain()
        }
        ERR_clear_error()
        return list
    }
}
