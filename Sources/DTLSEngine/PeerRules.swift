/// A list of ``PeerRule`` made ready for looking up: what it costs hardly depends on how many there are.
struct PeerRules {
    private var exact: [Key: PeerRule] = [:]
    private var below: [Key: PeerRule] = [:]
    private var prefixes: [(start: [UInt8], rule: PeerRule)] = []
    private var networks: [(address: [UInt8], bits: Int, rule: PeerRule)] = []
    private(set) var isEmpty = true
    /// Whether there are others than fingerprints.
    private(set) var concernNames = false

    private struct Key: Hashable {
        let kind: CertificateNames.Kind
        let value: [UInt8]
    }

    init(_ rules: [PeerRule]) {
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

    /// A rule that means the certificate with this fingerprint (32 bytes) or one of these names.
    func match(fingerprint: [UInt8], _ names: CertificateNames?) -> PeerRule? {
        if let rule = exact[Key(kind: .fingerprint, value: fingerprint)] { return rule }
        guard concernNames, let names else { return nil }
        for (kind, name) in names.names {
            if let rule = match(kind, name) { return rule }
        }
        return nil
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
