import DTLSEngine
import DTLSTransport
import Primitives

/// A flight of a client's handshake and the server's answer to it (RFC 6347, section 4.2.4). (Not in the reference.)
public struct DtlsRoundTrip: Sendable, Equatable {
    /// What the client has said.
    public enum Flight: Sendable {
        /// A ClientHello without a cookie.
        case hello
        /// A ClientHello with the server's cookie.
        case helloWithCookie
        /// The messages from the client's certificate or key exchange to its Finished.
        case keyExchange
    }

    /// The client's flight.
    public let flight: Flight
    /// From the flight's first sending to the end of its answer, with what both sides have computed meanwhile; `nil`
    /// where the answer has not come.
    public let duration: Duration?
    /// How often the flight was sent again: it, or its answer, was lost or late.
    public let retransmissions: Int

    init(_ flight: HandshakeFlight) {
        self.flight =
            switch flight.kind {
            case .hello: .hello
            case .helloWithCookie: .helloWithCookie
            case .keyExchange: .keyExchange
            }
        duration = flight.answered.map { $0 - flight.sent }
        retransmissions = flight.retransmissions
    }
}

/// What a peer's certificate says. It is the peer's own words: what is not printable is to be escaped before it
/// reaches a terminal or a log. (Not in the reference.)
public struct DtlsCertificate: Sendable, Equatable {
    /// Whose it is, as RFC 2253 writes it (`CN=sensor-7,O=Example`); may be empty.
    public let subject: String
    /// Who has signed it, likewise.
    public let issuer: String
    /// The host names and IP addresses that the certificate is for.
    public let names: [String]
    /// Seconds since 1970 from which on it is valid.
    public let notBefore: Int64
    /// Seconds since 1970 until which it is valid.
    public let notAfter: Int64
    /// Hexadecimal digits.
    public let serialNumber: String
    /// SHA-256 of the certificate, hexadecimal digits.
    public let fingerprint: String
    /// `"RSA 2048"`, `"ECDSA P-256"`.
    public let key: String
    /// The certificate itself, DER.
    public let der: [UInt8]

    /// - Parameter der: a certificate in DER, of ``DtlsPeer/chain`` for instance; `nil` where it cannot be read.
    public init?(der: [UInt8]) {
        guard let details = CertificateDetails(der: der) else { return nil }
        self.der = der
        subject = details.subject
        issuer = details.issuer
        names = details.names.dns + details.names.ip
        (notBefore, notAfter) = (details.notBefore.seconds, details.notAfter.seconds)
        (serialNumber, fingerprint, key) = (details.serialNumber, details.fingerprint, details.key)
    }
}

/// What a handshake has agreed on. (Not in the reference.)
public struct DtlsAgreement: Sendable, Equatable {
    /// `"DTLSv1.2"`
    public let version: String
    /// OpenSSL's name of the cipher suite.
    public let cipher: String
    /// The group that the keys were exchanged in (`"x25519"`); `nil` where none was: in a resumed handshake, and with a
    /// pre-shared key alone.
    public let group: String?
    /// Whether an earlier session was resumed.
    public let isResumed: Bool
    /// The name that the client has asked for (SNI).
    public let serverName: String?
    /// The application protocol (ALPN).
    public let applicationProtocol: String?
    /// The identity of the pre-shared key.
    public let presharedKeyIdentity: [UInt8]?
    /// Why the peer's certificate would have been refused, had the options said so (`rejectUnauthorized`); `nil` for one
    /// that has passed, and where there was none.
    public let verificationFault: String?

    package init(_ session: SessionDetails) {
        version = session.version
        cipher = session.cipher
        group = session.group
        isResumed = session.isResumed
        serverName = session.serverName
        applicationProtocol = session.applicationProtocol
        presharedKeyIdentity = session.presharedKeyIdentity
        verificationFault = session.verificationFault
    }
}

/// A session that a server has given a client, for the next connection's handshake to be shorter (RFC 5077). It holds
/// secrets. (Not in the reference.)
///
/// Nothing is verified again when a session is resumed. So it is bound to the options that it was begun with: trust,
/// name and the client's own keys; others are refused.
public struct DtlsSession: Sendable, Equatable {
    private let binding: [UInt8]
    private let bytes: [UInt8]

    private static let mark = Array("DTLSsession1".utf8)

    package init(_ session: ResumableSession, _ option: DtlsClientOption) {
        binding = Self.binding(of: option)
        bytes = session.encoded
    }

    /// The session as bytes, to be kept where nobody else can read them.
    public var encoded: [UInt8] {
        var writer = ByteWriter()
        for byte in Self.mark { writer.integer(byte) }
        writer.data(binding)
        writer.data(bytes)
        return writer.bytes
    }

    /// - Parameter encoded: what ``encoded`` has given.
    public init(decoding encoded: [UInt8]) throws(DtlsError) {
        let parts = encoded.withUnsafeBytes { buffer -> (binding: [UInt8], bytes: [UInt8])? in
            guard buffer.starts(with: Self.mark) else { return nil }
            var reader = ByteReader(UnsafeRawBufferPointer(rebasing: buffer.dropFirst(Self.mark.count)))
            guard let binding = try? reader.array(), let bytes = try? reader.array(), reader.isAtEnd else { return nil }
            return (binding, bytes)
        }
        guard let parts, ResumableSession(decoding: parts.bytes) != nil else {
            throw .invalid("these bytes are no session")
        }
        (binding, bytes) = parts
    }

    package var session: ResumableSession? { ResumableSession(decoding: bytes) }

    /// Whether a connection with these options may resume it.
    public func fits(_ option: DtlsClientOption) -> Bool { binding == Self.binding(of: option) }

    /// SHA-256 of all that decides whom the client trusts, and whom it shows itself as.
    private static func binding(of option: DtlsClientOption) -> [UInt8] {
        var writer = ByteWriter()
        writer.bool(option.rejectUnauthorized)
        writer.bool(option.loadDefaultCerts)
        for text in [option.ca, option.server, option.cert] { writer.optional(text) { $0.string($1) } }
        writer.optional(option.presharedKey) { writer, key in
            writer.data(key.identity)
            writer.data(key.key)
        }
        // Sessions that were kept before there were such keys stay what they were.
        if !option.serverPublicKeys.isEmpty || option.showsRawPublicKey {
            writer.list(option.serverPublicKeys) { $0.data($1.fingerprint) }
            writer.optional(option.showsRawPublicKey ? option.key : nil) { $0.string($1) }
        }
        return Digest.sha256(writer.bytes)
    }
}

/// What is known of a client's handshake, also when it has failed.
struct HandshakeRecord {
    /// Where the session is to be kept, until it is.
    private var option: DtlsClientOption?
    private(set) var flights: [HandshakeFlight] = []
    private(set) var certificate: [UInt8]?
    private(set) var session: DtlsSession?

    init(_ option: DtlsClientOption) { self.option = option.keepsSession ? option : nil }

    mutating func note(_ connection: Connection, isEstablished: Bool) {
        flights = connection.flights
        certificate = connection.peerCertificate
        guard isEstablished, let option else { return }
        self.option = nil
        session = connection.resumableSession.map { DtlsSession($0, option) }
    }
}

/// What a client's handshake has shown; also once the connection is closed. (Not in the reference.)
extension DtlsConnection {
    /// The round trips of a client's handshake: all of one that is done, and as far as it has come of one that goes on or
    /// has failed. None for a server's side.
    public var roundTrips: [DtlsRoundTrip] {
        checkThread()
        if case .handshaking(let connection, _) = phase { return connection.flights.map(DtlsRoundTrip.init) }
        return (handshakeRecord?.flights ?? []).map(DtlsRoundTrip.init)
    }

    /// The certificate that the server has shown, also where it was refused; `nil` where it has shown none, and for a
    /// server's side.
    public var serverCertificate: DtlsCertificate? {
        checkThread()
        return handshakeRecord?.certificate.flatMap { DtlsCertificate(der: $0) }
    }

    /// What the next connection can resume, where the options say that it is kept (`keepsSession`) and the server has
    /// given something for it.
    public var resumableSession: DtlsSession? {
        checkThread()
        return handshakeRecord?.session
    }

    /// What the handshake has agreed on; `nil` before it is done, and once the connection is closed.
    public var agreement: DtlsAgreement? {
        checkThread()
        guard case .established(let connection) = phase else { return nil }
        return DtlsAgreement(connection.session)
    }
}
