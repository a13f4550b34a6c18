import COpenSSL
import Primitives

/// The names that a certificate gives its owner, as bytes to compare: common names and hosts in lower case.
struct CertificateNames: Sendable, Equatable {
    enum Kind: Sendable, Hashable {
        case commonName, dns, ip, uri, email
        /// SHA-256 of the whole certificate; its 32 bytes are no name that ``CertificateNames`` collects.
        case fingerprint
    }

    private(set) var names: [(kind: Kind, value: [UInt8])] = []
    /// Whether every name could be read.
    private(set) var isComplete = true
    /// Whether a name has a NUL in it, which counts as unreadable: software that takes it for a C string sees another
    /// name.
    private(set) var hasNUL = false

    init(of certificate: OpaquePointer) {
        let subject = X509_get_subject_name(certificate)
        var index: Int32 = -1
        while true {
            index = X509_NAME_get_index_by_NID(subject, NID_commonName, index)
            guard index >= 0, let entry = X509_NAME_get_entry(subject, index) else { break }
            add(.commonName, Self.utf8(co_x509_name_entry_data(entry)))
        }
        addAlternativeNames(of: certificate)
    }

    /// The names of a certificate of which no more than the common name was kept.
    init(commonName: String?) {
        if let commonName { add(.commonName, Array(commonName.utf8)) }
        isComplete = false
    }

    static func == (one: CertificateNames, other: CertificateNames) -> Bool {
        one.isComplete == other.isComplete && one.hasNUL == other.hasNUL
            && one.names.elementsEqual(other.names, by: ==)
    }

    private mutating func add(_ kind: Kind, _ bytes: [UInt8]?) {
        guard let bytes, !bytes.contains(0) else {
            isComplete = false
            if bytes != nil { hasNUL = true }
            return
        }
        names.append((kind, Self.normalized(kind, bytes)))
    }

    private mutating func addAlternativeNames(of certificate: OpaquePointer) {
        AlternativeNames.forEach(of: certificate) { name in
            switch name {
            case .text(let kind, let bytes): add(kind, bytes)
            case .address(let bytes): names.append((.ip, bytes))
            case .unreadable: isComplete = false
            }
        }
    }

    /// An ASN.1 string as UTF-8, or `nil` where its bytes do not agree with its type.
    static func utf8(_ string: UnsafeRawPointer?) -> [UInt8]? {
        guard let string else { return nil }
        ERR_set_mark()
        defer { ERR_pop_to_mark() }
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = co_asn1_string_to_utf8(&bytes, string)
        guard count >= 0, let bytes else { return nil }
        defer { CRYPTO_free(bytes, nil, 0) }
        return Array(UnsafeBufferPointer(start: bytes, count: Int(count)))
    }

    // MARK: Coding

    /// How a kind of names is kept in sessions.
    private static let codes: [Kind: UInt8] = [.commonName: 0, .dns: 1, .ip: 2, .uri: 3, .email: 4]

    func encode(into writer: inout ByteWriter) {
        writer.bool(isComplete)
        writer.bool(hasNUL)
        writer.list(names) { writer, name in
            writer.integer(Self.codes[name.kind] ?? .max)
            writer.data(name.value)
        }
    }

    init(decoding reader: inout ByteReader) throws(MalformedBytes) {
        isComplete = try reader.bool()
        hasNUL = try reader.bool()
        names = try reader.list { (reader) throws(MalformedBytes) in
            let code = try reader.integer(UInt8.self)
            guard let kind = Self.codes.first(where: { $0.value == code })?.key else { throw MalformedBytes() }
            return (kind, try reader.array())
        }
    }

    /// RFC 5280, section 7: hosts compare without regard to case, what is left of an @ does not.
    private static func normalized(_ kind: Kind, _ bytes: [UInt8]) -> [UInt8] {
        switch kind {
        case .commonName: return bytes.asciiLowercased()
        case .dns:
            // "example.org." is the same host.
            let host = bytes.last == UInt8(ascii: ".") ? Array(bytes.dropLast()) : bytes
            return host.asciiLowercased()
        case .email:
            guard let at = bytes.lastIndex(of: UInt8(ascii: "@")) else { return bytes }
            return bytes[..<at] + Array(bytes[at...]).asciiLowercased()
        case .ip, .uri, .fingerprint: return bytes
        }
    }

    /// The part of a name that a wildcard rule compares: what follows the first label of a host name, or the @ of a
    /// mailbox. `nil` for a name without such a part.
    static func rest(_ kind: Kind, _ name: [UInt8]) -> [UInt8]? {
        switch kind {
        case .commonName, .dns:
            guard let dot = name.firstIndex(of: UInt8(ascii: ".")), dot > 0 else { return nil }
            return Array(name[(dot + 1)...])
        case .email:
            guard let at = name.lastIndex(of: UInt8(ascii: "@")), at > 0 else { return nil }
            return Array(name[(at + 1)...])
        case .ip, .uri, .fingerprint: return nil
        }
    }

    /// Whether an address has no bit set after its first `bits`.
    static func hasOnlyZeros(_ address: [UInt8], after bits: Int) -> Bool {
        address.enumerated().allSatisfy { index, byte in
            let kept = min(max(bits - index * 8, 0), 8)
            return kept == 8 || byte << kept == 0
        }
    }

    /// Whether two addresses have the same first `bits`.
    static func agree(_ one: [UInt8], _ other: [UInt8], in bits: Int) -> Bool {
        one.count == other.count && hasOnlyZeros(zip(one, other).map { $0 ^ $1 }, before: bits)
    }

    private static func hasOnlyZeros(_ address: [UInt8], before bits: Int) -> Bool {
        address.enumerated().allSatisfy { index, byte in
            let counted = min(max(bits - index * 8, 0), 8)
            return counted == 0 || byte >> (8 - counted) == 0
        }
    }
}
