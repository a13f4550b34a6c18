import DTLSEngine

/// `[service.NAME.forward.rule.RULE]`: where the connections of some clients go. The first rule whose conditions all hold
/// is the one for a connection.
struct ForwardRule: Codable, Equatable, Sendable {
    /// It tells the rule from the others over a reload, too.
    var name: String
    var conditions: NonEmpty<ForwardCondition>
    /// `nil`: its clients are refused.
    var backends: NonEmpty<Backend>?
}

/// What has to hold of a client, by what its handshake has shown: one of several patterns fits.
enum ForwardCondition: Codable, Equatable, Sendable {
    /// The name that it has asked for (SNI), with patterns in lower case.
    case serverName([BytePattern])
    /// The protocol that ALPN has agreed on.
    case applicationProtocol([BytePattern])
    /// The identity of its pre-shared key; one that is not UTF-8 is "#" and hexadecimal digits.
    case identity([BytePattern])
    /// The names of its certificate.
    case certificateName([PeerRule])
    /// The name of its raw public key.
    case publicKey([BytePattern])
    /// What it is called by the authorizer that has let it in.
    case label([BytePattern])

    func holds(of session: SessionDetails) -> Bool {
        switch self {
        case .serverName(let patterns): Self.fits(session.serverName?.lowercased(), patterns)
        case .applicationProtocol(let patterns): Self.fits(session.applicationProtocol, patterns)
        case .identity(let patterns): Self.fits(session.peerName?.presharedKeyIdentity, patterns)
        case .certificateName(let rules): PeerRules(rules).match(session) != nil
        case .publicKey(let patterns): Self.fits(session.peerName?.publicKeyName, patterns)
        case .label(let patterns): Self.fits(session.label, patterns)
        }
    }

    /// What a client has not shown fits no pattern, `*` included.
    private static func fits(_ text: String?, _ patterns: [BytePattern]) -> Bool {
        guard let text else { return false }
        return patterns.contains { $0.matches(text) }
    }
}
