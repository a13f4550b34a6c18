import COpenSSL
import Glibc

/// A certificate's subject alternative names (RFC 5280, section 4.2.1.6) as text. The names are the certificate's own
/// words: they can hold any character but NUL, and there can be thousands of them.
public struct AlternativeNames: Sendable, Equatable {
    public var dns: [String] = []
    /// IPv4 and IPv6 addresses in the form of inet_ntop(3).
    public var ip: [String] = []
    public var uri: [String] = []
    public var email: [String] = []

    public init() {}

    enum Name {
        case text(CertificateNames.Kind, [UInt8])
        /// 4 or 16 bytes.
        case address([UInt8])
        /// An address that is not 4 or 16 bytes long, or an extension that cannot be decoded at all.
        case unreadable
    }

    init(of certificate: OpaquePointer) {
        Self.forEach(of: certificate) { name in
            switch name {
            case .text(_, let bytes) where bytes.contains(0): break
            case .text(.dns, let bytes): dns.append(String(decoding: bytes, as: UTF8.self))
            case .text(.uri, let bytes): uri.append(String(decoding: bytes, as: UTF8.self))
            case .text(.email, let bytes): email.append(String(decoding: bytes, as: UTF8.self))
            case .text, .unreadable: break
            case .address(let bytes): if let text = Self.text(ofAddress: bytes) { ip.append(text) }
            }
        }
    }

    /// The names of a certificate of which no more was kept. Hosts are in lower case then, without a dot at their end.
    init(_ names: CertificateNames) {
        for (kind, bytes) in names.names {
            switch kind {
            case .dns: dns.append(String(decoding: bytes, as: UTF8.self))
            case .uri: uri.append(String(decoding: bytes, as: UTF8.self))
            case .email: email.append(String(decoding: bytes, as: UTF8.self))
            case .ip: if let text = Self.text(ofAddress: bytes) { ip.append(text) }
            case .commonName, .fingerprint: break
            }
        }
    }

    /// Calls `body` with the names of the kinds that rules know.
    static func forEach(of certificate: OpaquePointer, _ body: (Name) -> Void) {
        // It says -1 where there is no such extension; else nothing means that it is broken, or there twice.
        var found: Int32 = 0
        ERR_set_mark()
        let extensionValue = X509_get_ext_d2i(certificate, NID_subject_alt_name, &found, nil)
        ERR_pop_to_mark()
        guard let extensionValue else {
            if found != -1 { body(.unreadable) }
            return
        }
        let list = OpaquePointer(extensionValue)
        defer { GENERAL_NAMES_free(list) }
        for index in 0..<max(0, OPENSSL_sk_num(list)) {
            guard let raw = OPENSSL_sk_value(list, index) else { continue }
            var type: Int32 = 0
            let value = GENERAL_NAME_get0_value(raw.assumingMemoryBound(to: GENERAL_NAME.self), &type)
            guard let string = value.map({ UnsafeRawPointer($0) }) else { continue }
            switch type {
            case GEN_DNS: body(.text(.dns, bytes(of: string)))
            case GEN_URI: body(.text(.uri, bytes(of: string)))
            case GEN_EMAIL: body(.text(.email, bytes(of: string)))
            case GEN_IPADD:
                let address = bytes(of: string)
                body([4, 16].contains(address.count) ? .address(address) : .unreadable)
            default: break
            }
        }
    }

    private static func bytes(of string: UnsafeRawPointer) -> [UInt8] {
        Array(
            UnsafeBufferPointer(start: co_asn1_string_data(string), count: Int(max(0, co_asn1_string_length(string)))))
    }

    private static func text(ofAddress bytes: [UInt8]) -> String? {
        let size = Int(INET6_ADDRSTRLEN)
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: size) { buffer in
            inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, buffer.baseAddress, socklen_t(size))
                .map { String(cString: $0) }
        }
    }
}
