import COpenSSL

/// A certificate with whatever is asked for in it, down to the bytes of its names.
final class MadeCertificate {
    /// Owned.
    let pointer: OpaquePointer
    let key: Key

    /// One subject alternative name: the tag of its GeneralName (RFC 5280, section 4.2.1.6) and its bytes.
    enum Name {
        case email([UInt8])
        case dns([UInt8])
        case uri([UInt8])
        case ip([UInt8])

        static func dns(_ text: String) -> Name { .dns(Array(text.utf8)) }
        static func email(_ text: String) -> Name { .email(Array(text.utf8)) }
        static func uri(_ text: String) -> Name { .uri(Array(text.utf8)) }

        fileprivate var encoded: [UInt8] {
            switch self {
            case .email(let bytes): MadeCertificate.encode(0x81, bytes)
            case .dns(let bytes): MadeCertificate.encode(0x82, bytes)
            case .uri(let bytes): MadeCertificate.encode(0x86, bytes)
            case .ip(let bytes): MadeCertificate.encode(0x87, bytes)
            }
        }
    }

    /// A value of ASN.1 with its tag and length (DER).
    static func encode(_ tag: UInt8, _ bytes: [UInt8]) -> [UInt8] {
        switch bytes.count {
        case 0..<0x80: [tag, UInt8(bytes.count)] + bytes
        case 0x80..<0x100: [tag, 0x81, UInt8(bytes.count)] + bytes
        case 0x100..<0x1_0000: [tag, 0x82, UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes
        default: [tag, 0x83] + [16, 8, 0].map { UInt8(bytes.count >> $0 & 255) } + bytes
        }
    }

    /// - Parameters:
    ///   - alternativeNames: the extension's bytes, where it shall be there and not be right.
    ///   - days: when it is valid, from now.
    ///   - issuer: `nil`: it signs itself.
    ///   - key: `nil`: one of P-256.
    ///   - digest: what it is signed with.
    init(
        commonNames: [[UInt8]], names: [Name] = [], alternativeNames: [UInt8]? = nil, days: ClosedRange<Int> = -1...1,
        isAuthority: Bool = false, usage: String? = nil, issuer: MadeCertificate? = nil, key: Key? = nil,
        digest: OpaquePointer? = EVP_sha256()
    ) throws {
        self.key = try key ?? Key(.ecdsa)
        guard let certificate = X509_new() else { throw TestCertificates.Failure(description: "no memory") }
        pointer = certificate
        var good =
            X509_set_version(certificate, 2) == 1
            && ASN1_INTEGER_set(X509_get_serialNumber(certificate), Int.random(in: 1...1_000_000)) == 1
            && X509_gmtime_adj(X509_getm_notBefore(certificate), days.lowerBound * 86_400) != nil
            && X509_gmtime_adj(X509_getm_notAfter(certificate), days.upperBound * 86_400) != nil
            && X509_set_pubkey(certificate, self.key.pointer) == 1
        for name in commonNames {
            good =
                good
                && X509_NAME_add_entry_by_NID(
                    X509_get_subject_name(certificate), NID_commonName, V_ASN1_UTF8STRING, name, Int32(name.count), -1,
                    0)
                    == 1
        }
        good = good && X509_set_issuer_name(certificate, X509_get_subject_name(issuer?.pointer ?? certificate)) == 1
        if isAuthority { good = good && add(NID_basic_constraints, "critical,CA:TRUE") }
        if let usage { good = good && add(NID_ext_key_usage, usage) }
        if let encoded = alternativeNames ?? (names.isEmpty ? nil : Self.encode(0x30, names.flatMap(\.encoded))) {
            good = good && add(alternativeNames: encoded)
        }
        guard good, X509_sign(certificate, (issuer?.key ?? self.key).pointer, digest) > 0 else {
            throw TestCertificates.Failure(description: "no certificate for \(commonNames)")
        }
    }

    convenience init(
        _ name: String, names: [Name] = [], days: ClosedRange<Int> = -1...1, isAuthority: Bool = false,
        usage: String? = nil, issuer: MadeCertificate? = nil, key: Key? = nil, digest: OpaquePointer? = EVP_sha256()
    ) throws {
        try self.init(
            commonNames: [Array(name.utf8)], names: names, days: days, isAuthority: isAuthority, usage: usage,
            issuer: issuer, key: key, digest: digest)
    }

    deinit { X509_free(pointer) }

    private func add(_ identifier: Int32, _ value: String) -> Bool {
        let item = X509V3_EXT_conf_nid(nil, nil, identifier, value)
        defer { X509_EXTENSION_free(item) }
        return item != nil && X509_add_ext(pointer, item, -1) == 1
    }

    private func add(alternativeNames encoded: [UInt8]) -> Bool {
        let value = ASN1_OCTET_STRING_new()
        defer { ASN1_OCTET_STRING_free(value) }
        ASN1_OCTET_STRING_set(value, encoded, Int32(encoded.count))
        let item = X509_EXTENSION_create_by_NID(nil, NID_subject_alt_name, 0, value)
        defer { X509_EXTENSION_free(item) }
        return item != nil && X509_add_ext(pointer, item, -1) == 1
    }

    func pem() throws -> String { try text { PEM_write_bio_X509($0, pointer) } }

    /// With the certificates of `chain` after it.
    func identity(chain: [MadeCertificate] = []) throws -> TestCertificates.Identity {
        TestCertificates.Identity(
            certificate: try ([self] + chain).map { try $0.pem() }.joined(), privateKey: try key.pem())
    }

    var fingerprint: [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        X509_digest(pointer, EVP_sha256(), &digest, nil)
        return digest
    }

    /// This CA's list of what it has revoked, PEM.
    /// - Parameter days: when it is in force, from now.
    func revocationList(_ revoked: [MadeCertificate] = [], days: ClosedRange<Int> = -1...1) throws -> String {
        guard let list = X509_CRL_new() else { throw TestCertificates.Failure(description: "no memory") }
        defer { X509_CRL_free(list) }
        let (start, end) = (ASN1_TIME_new(), ASN1_TIME_new())
        defer {
            ASN1_TIME_free(start)
            ASN1_TIME_free(end)
        }
        X509_gmtime_adj(start, days.lowerBound * 86_400)
        X509_gmtime_adj(end, days.upperBound * 86_400)
        var good =
            X509_CRL_set_version(list, 1) == 1
            && X509_CRL_set_issuer_name(list, X509_get_subject_name(pointer)) == 1
            && X509_CRL_set1_lastUpdate(list, start) == 1 && X509_CRL_set1_nextUpdate(list, end) == 1
        for certificate in revoked {
            let entry = X509_REVOKED_new()
            good =
                good && X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(certificate.pointer)) == 1
                && X509_REVOKED_set_revocationDate(entry, start) == 1 && X509_CRL_add0_revoked(list, entry) == 1
        }
        guard good, X509_CRL_sign(list, key.pointer, EVP_sha256()) > 0 else {
            throw TestCertificates.Failure(description: "no revocation list")
        }
        return try text { PEM_write_bio_X509_CRL($0, list) }
    }
}
