import DTLSEngine
import DTLSTransport
import LinuxSystem

/// A header of the PROXY protocol, version 2, which tells a backend whose datagram follows it (haproxy's
/// doc/proxy-protocol.txt, whose sections are cited below). A connection's header changes only with the client's address
/// (RFC 9146). It precedes every datagram, as receivers of UDP expect, since any datagram can be lost.
struct ProxyHeader {
    /// The client's address.
    var source: SocketAddress
    /// The address that the client sends to.
    var destination: SocketAddress
    /// The protocol that ALPN has agreed on.
    var applicationProtocol: [UInt8]?
    /// The name that the client has asked for by SNI.
    var serverName: String?
    /// `"DTLSv1.2"`
    var version: String
    /// OpenSSL's name of the cipher suite.
    var cipher: String
    var client = Client.anonymous
    /// What the client is called by who has let it in.
    var label: String?

    enum Client {
        case anonymous
        /// - Parameters:
        ///   - isShownNow: false where it was shown in the handshake whose session was resumed by this one.
        ///   - verification: X509_V_OK (0), or the number of the reason why the certificate is not valid.
        case certificate(commonName: String?, isShownNow: Bool, verification: Int)
        case presharedKey(identity: [UInt8])
        /// - Parameter name: what this side calls the owner of the raw public key.
        case publicKey(name: String)
    }

    /// Bytes of the longest text. A longer common name is left out, since a part of it could be another client's name:
    /// RFC 5280 (appendix A.1) allows 64 characters. ALPN, SNI and the identities in our files are never longer.
    static let longestText = 255

    /// The header on the wire; at most 16 bytes, 36 of addresses, and some 1,300 more.
    var bytes: [UInt8] {
        let (family, addresses) = addressBlock
        let rest = addresses + extensions
        return Self.signature + [Self.versionAndCommand, family << 4 | Self.datagram]
            + Self.bigEndian(UInt16(clamping: rest.count)) + rest
    }

    /// The header of a datagram that the proxy sends for itself, to check a backend (section 2.2, command LOCAL).
    static let local = signature + [0x20, 0x00, 0x00, 0x00]

    // Section 2.2.
    private static let signature: [UInt8] = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a,
    ]
    /// Version 2, PROXY.
    private static let versionAndCommand: UInt8 = 0x21
    private static let datagram: UInt8 = 0x2

    private var addressBlock: (family: UInt8, bytes: [UInt8]) {
        let from = source.withAddressBytes { [UInt8]($0) }
        let to = destination.withAddressBytes { [UInt8]($0) }
        let bytes = from + to + Self.bigEndian(source.port) + Self.bigEndian(destination.port)
        return (from.count == 4 ? 0x1 : 0x2, bytes)
    }

    /// Type, length and value, one after the other (sections 2.2.1 to 2.2.8).
    private enum Kind: UInt8 {
        case applicationProtocol = 0x01
        case authority = 0x02
        case ssl = 0x20
        case sslVersion = 0x21
        case sslCommonName = 0x22
        case sslCipher = 0x23
        /// PP2_TYPE_MIN_CUSTOM, the first type for applications' own use. None is registered for a pre-shared key.
        case presharedKeyIdentity = 0xe0
        /// The label of an authorizer's answer.
        case label = 0xe1
        /// The name of the client's raw public key.
        case publicKeyName = 0xe2
    }

    private var extensions: [UInt8] {
        var result: [UInt8] = []
        if let applicationProtocol { result += Self.field(.applicationProtocol, applicationProtocol) }
        if let serverName { result += Self.field(.authority, serverName) }
        result += Self.field(.ssl, ssl)
        if case .presharedKey(let identity) = client { result += Self.field(.presharedKeyIdentity, identity) }
        if case .publicKey(let name) = client { result += Self.field(.publicKeyName, name) }
        if let label { result += Self.field(.label, label) }
        return result
    }

    /// Section 2.2.6.
    private var ssl: [UInt8] {
        var flags: UInt8 = 0x01
        // "Zero if the client presented a certificate and it was successfully verified, and non-zero otherwise."
        var verification: UInt32 = 1
        var name: String?
        if case .certificate(let commonName, let isShownNow, let result) = client {
            flags |= isShownNow ? 0x02 | 0x04 : 0x04
            verification = UInt32(truncatingIfNeeded: result)
            name = commonName
        }
        var value = [flags] + Self.bigEndian(verification) + Self.field(.sslVersion, version)
        if let name { value += Self.field(.sslCommonName, name) }
        return value + Self.field(.sslCipher, cipher)
    }

    /// Empty for a text that is too long, or that a receiver written in C would take for a shorter one.
    private static func field(_ kind: Kind, _ text: String) -> [UInt8] {
        let bytes = Array(text.utf8)
        return bytes.count <= longestText && !bytes.contains(0) ? field(kind, bytes) : []
    }

    private static func field(_ kind: Kind, _ value: [UInt8]) -> [UInt8] {
        [kind.rawValue] + bigEndian(UInt16(clamping: value.count)) + value
    }

    private static func bigEndian<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { [UInt8]($0) }
    }
}

extension ProxyHeader {
    /// The header for the client of an established connection.
    init(_ flow: FlowKey, _ session: SessionDetails) {
        self.init(
            source: flow.peer, destination: flow.local,
            applicationProtocol: session.applicationProtocol.map { Array($0.utf8) },
            serverName: session.serverName, version: session.version, cipher: session.cipher)
        if let identity = session.presharedKeyIdentity {
            self.client = .presharedKey(identity: identity)
        } else if let name = session.peerName?.publicKeyName {
            self.client = .publicKey(name: name)
        } else if let identity = session.peerName {
            self.client = .certificate(
                commonName: identity.commonName, isShownNow: !session.isResumed,
                verification: session.verificationResult)
        }
        label = session.label
    }
}
