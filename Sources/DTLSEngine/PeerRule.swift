import Glibc
import Primitives

/// One entry of a list of clients: which certificates it means, in one line of text.
///
/// | text | the certificates that it means |
/// | --- | --- |
/// | `cn:NAME` | with this common name in the subject |
/// | `dns:NAME`, `ip:ADDRESS`, `uri:URI`, `email:MAILBOX` | with this subject alternative name (RFC 5280, section
/// 4.2.1.6) |
/// | `cn:*.NAME`, `dns:*.NAME` | with any name that has exactly one label more |
/// | `ip:ADDRESS/BITS` | with any address of the network |
/// | `uri:START*` | with any URI that starts so |
/// | `email:*@HOST` | with any mailbox of the host |
/// | `sha256:DIGITS` | this one alone, by the SHA-256 of the whole certificate |
///
/// The case of ASCII letters matters in URIs and to the left of an @, and nowhere else. A wildcard in a certificate is
/// a character like another.
public struct PeerRule: Sendable, Equatable {
    /// The rule as it was written.
    public let text: String
    let pattern: PeerPattern

    /// - Throws: what is wrong with the text, and what would be right.
    public init(_ text: String) throws(PeerRuleError) {
        self.text = text
        guard let colon = text.utf8.firstIndex(of: UInt8(ascii: ":")), let kind = Kind(text[..<colon]) else {
            throw PeerRuleError("expected one of \(Kind.prefixes) in front")
        }
        let value = Array(text.utf8[text.utf8.index(after: colon)...])
        guard let first = value.first, let last = value.last else {
            throw PeerRuleError("nothing after \"\(kind):\"; expected \(kind.expected)")
        }
        guard first != UInt8(ascii: " "), last != UInt8(ascii: " ") else {
            throw PeerRuleError("a space before or after the value; expected \(kind.expected)")
        }
        guard !value.contains(where: { $0 < 0x20 || $0 == 0x7f }) else {
            throw PeerRuleError("a control character; expected \(kind.expected)")
        }
        guard let pattern = kind.pattern(value) else { throw PeerRuleError("expected \(kind.expected)") }
        self.pattern = pattern
    }

    /// Whether the rule means a single certificate, by its fingerprint.
    public var isFingerprint: Bool {
        if case .exact(.fingerprint, _) = pattern { true } else { false }
    }
}

/// A rule is coded as its text.
extension PeerRule: Codable {
    public init(from decoder: any Decoder) throws { try self.init(decoder.singleValueContainer().decode(String.self)) }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

/// What is wrong with the text of a ``PeerRule``.
public struct PeerRuleError: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}

/// The names that a rule matches. Texts are in the form that ``CertificateNames`` gives names.
enum PeerPattern: Sendable, Hashable {
    /// This name exactly.
    case exact(CertificateNames.Kind, [UInt8])
    /// A name that has one label, or a mailbox, in front of this text, which follows its first dot or its last @.
    case below(CertificateNames.Kind, [UInt8])
    case uriPrefix([UInt8])
    /// The first `bits` bits of an address of 4 or 16 bytes.
    case network([UInt8], bits: Int)
}

extension PeerRule {
    fileprivate enum Kind: String, CaseIterable, CustomStringConvertible {
        case cn, dns, ip, uri, email, sha256

        init?(_ prefix: Substring) { self.init(rawValue: prefix.lowercased()) }

        static var prefixes: String { allCases.map { "\"\($0):\"" }.joined(separator: ", ") }

        var description: String { rawValue }

        /// The form of the value, for messages.
        var expected: String {
            switch self {
            case .cn: "\"cn:NAME\" or \"cn:*.NAME\", where * stands for one label; no other * is allowed"
            case .dns:
                "\"dns:NAME\" or \"dns:*.NAME\" with a host name in ASCII (xn--… for others), where * stands for one "
                    + "label; no other * is allowed"
            case .ip: "\"ip:ADDRESS\" or \"ip:ADDRESS/BITS\" with an IPv4 or IPv6 address, all 0 after the first BITS"
            case .uri: "\"uri:URI\" or \"uri:START*\" in ASCII; no other * is allowed"
            case .email: "\"email:NAME@HOST\" or \"email:*@HOST\" in ASCII; no other * is allowed"
            case .sha256: "\"sha256:\" and 64 hexadecimal digits, with or without a colon between each two of them"
            }
        }

        /// The pattern of a value, or `nil` where the value is not of this kind.
        func pattern(_ value: [UInt8]) -> PeerPattern? {
            switch self {
            case .cn: Self.name(value, .commonName) { _ in true }
            case .dns: Self.name(value, .dns, isHostName)
            case .ip: Self.network(value)
            case .uri: Self.uri(value)
            case .email: Self.email(value)
            case .sha256: Hexadecimal.fingerprint(value).map { .exact(.fingerprint, $0) }
            }
        }

        private static let asterisk = UInt8(ascii: "*")
        private static let dot = UInt8(ascii: ".")

        private static func name(
            _ value: [UInt8], _ kind: CertificateNames.Kind, _ isValid: ([UInt8]) -> Bool
        ) -> PeerPattern? {
            let name = value.asciiLowercased()
            let isWildcard = name.starts(with: [asterisk, dot])
            let rest = isWildcard ? Array(name.dropFirst(2)) : name
            guard !rest.isEmpty, !rest.contains(asterisk), isValid(rest) else { return nil }
            return isWildcard ? .below(kind, rest) : .exact(kind, rest)
        }

        private static func uri(_ value: [UInt8]) -> PeerPattern? {
            let isWildcard = value.last == asterisk
            let start = isWildcard ? Array(value.dropLast()) : value
            guard !start.contains(asterisk), start.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else { return nil }
            return isWildcard ? .uriPrefix(start) : .exact(.uri, start)
        }

        private static func email(_ value: [UInt8]) -> PeerPattern? {
            guard value.allSatisfy({ $0 > 0x20 && $0 < 0x7f }), let at = value.lastIndex(of: UInt8(ascii: "@")) else {
                return nil
            }
            let mailbox = value[..<at]
            let host = Array(value[(at + 1)...]).asciiLowercased()
            guard isHostName(host), !mailbox.isEmpty else { return nil }
            if mailbox.elementsEqual([asterisk]) { return .below(.email, host) }
            return mailbox.contains(asterisk) ? nil : .exact(.email, mailbox + [UInt8(ascii: "@")] + host)
        }
    }

    /// Labels of letters, digits, - and _ (which devices' names have), 1 to 63 bytes, 253 in all (RFC 1035, section
    /// 2.3.4).
    private static func isHostName(_ name: [UInt8]) -> Bool {
        name.count <= 253
            && name.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy { label in
                (1...63).contains(label.count)
                    && label.allSatisfy { byte in
                        switch byte {
                        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                            true
                        default: false
                        }
                    }
            }
    }
}

extension PeerRule.Kind {
    fileprivate static func network(_ value: [UInt8]) -> PeerPattern? {
        let parts = value.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
        guard let host = parts.first, let address = Self.address(host) else { return nil }
        guard parts.count > 1 else { return .exact(.ip, address) }
        guard let bits = Self.decimal(parts[1]), bits <= address.count * 8 else { return nil }
        return CertificateNames.hasOnlyZeros(address, after: bits) ? .network(address, bits: bits) : nil
    }

    /// The number that one to three digits make.
    private static func decimal(_ digits: ArraySlice<UInt8>) -> Int? {
        let zero = UInt8(ascii: "0")
        guard (1...3).contains(digits.count), digits.allSatisfy({ (zero...UInt8(ascii: "9")).contains($0) }) else {
            return nil
        }
        return digits.reduce(0) { $0 * 10 + Int($1 - zero) }
    }

    /// The 4 or 16 bytes of an IP address in text.
    private static func address(_ text: ArraySlice<UInt8>) -> [UInt8]? {
        let string = String(decoding: text, as: UTF8.self)
        for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: count)
            if inet_pton(family, string, &bytes) == 1 { return bytes }
        }
        return nil
    }
}

/// A list of ``PeerRule`` prepared for look-ups, whose cost hardly depends on the number of rules.
package struct PeerRules: Sendable {
    private var exact: [Key: PeerRule] = [:]
    private var below: [Key: PeerRule] = [:]
    private var prefixes: [(start: [UInt8], rule: PeerRule)] = []
    private var networks: [(address: [UInt8], bits: Int, rule: PeerRule)] = []
    private(set) var isEmpty = true
    /// Whether there are rules other than fingerprints.
    private(set) var concernNames = false

    private struct Key: Hashable {
        let kind: CertificateNames.Kind
        let value: [UInt8]
    }

    package init(_ rules: [PeerRule]) {
        for rule in rules {
            isEmpty = false
            if !rule.isFingerprint { concernNames = true }
            switch rule.pattern {
            case .exact(let kind, let value): exact[Key(kind: kind, value: value)] = rule
            case .below(let kind, let value): below[Key(kind: kind, value: value)] = rule
            case .uriPrefix(let start): prefixes.append((start, rule))
            case .network(let address, let bits): networks.append((address, bits, rule))
            }
        }
    }

    /// A rule that matches the certificate with this fingerprint (32 bytes) or one of these names.
    func match(fingerprint: [UInt8], _ names: CertificateNames?) -> PeerRule? {
        if let rule = exact[Key(kind: .fingerprint, value: fingerprint)] { return rule }
        guard concernNames, let names else { return nil }
        for (kind, name) in names.names {
            if let rule = match(kind, name) { return rule }
        }
        return nil
    }

    /// A rule that matches the certificate that the peer of a session has shown. Of a session that was kept in a slot, the
    /// common name and the fingerprint are known, and no other name.
    package func match(_ session: SessionDetails) -> PeerRule? {
        guard let name = session.peerName, name.publicKeyName == nil, let fingerprint = name.fingerprint else {
            return nil
        }
        return match(
            fingerprint: Hexadecimal.fingerprint(Array(fingerprint.utf8)) ?? [],
            session.certificateNames ?? CertificateNames(commonName: name.commonName))
    }

    private func match(_ kind: CertificateNames.Kind, _ name: [UInt8]) -> PeerRule? {
        if let rule = exact[Key(kind: kind, value: name)] { return rule }
        switch kind {
        case .uri: return prefixes.first { name.starts(with: $0.start) }?.rule
        case .ip: return networks.first { CertificateNames.agree(name, $0.address, in: $0.bits) }?.rule
        case .commonName, .dns, .email:
            guard !below.isEmpty, let rest = CertificateNames.rest(kind, name) else { return nil }
            return below[Key(kind: kind, value: rest)]
        case .fingerprint: return nil
        }
    }
}
