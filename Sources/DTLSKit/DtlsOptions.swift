import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A handshake's time limit in milliseconds, 2,000 to 120,000 (reference: handshakeTimeout).
enum HandshakeTimeout {
    static let range = 2_000...120_000
    static let standard = 60_000

    static func check(_ value: Int) throws(DtlsError) {
        guard range.contains(value) else {
            throw .invalid(
                "handshakeTimeout \(value) is out of range: it must be \(range.lowerBound) to \(range.upperBound) ms")
        }
    }
}

/// After how many milliseconds without a datagram of the peer's a connection ends; `nil`: never. (Not in the reference.)
enum IdleTimeout {
    static let range = 100...Int(Int32.max)

    static func check(_ value: Int?) throws(DtlsError) {
        if let value, !range.contains(value) {
            throw .invalid(
                "idleTimeout \(value) is out of range: it must be \(range.lowerBound) to \(range.upperBound) ms")
        }
    }

    static func duration(_ value: Int?) -> Duration { value.map { .milliseconds($0) } ?? .zero }
}

/// Bytes of a connection ID (RFC 9146) that the program asks the other side for. (Not in the reference.)
enum ConnectionIDLength {
    /// Long enough that nobody guesses one, and that no two of a server's connections have the same.
    static let ofServers = 9...20
    /// 0: the client needs none itself, and sends the server's.
    static let ofClients = 0...20

    static func check(_ value: Int?, _ range: ClosedRange<Int>, renegotiate: Bool) throws(DtlsError) {
        guard let value else { return }
        guard range.contains(value) else {
            throw .invalid(
                "connectionID \(value) is out of range: it must be \(range.lowerBound) to \(range.upperBound) bytes")
        }
        if renegotiate { throw .invalid("there are no connection IDs where renegotiate is set") }
    }
}

/// The options of a server (reference: Dtls.createServer).
public struct DtlsServerOption: Sendable, Equatable {
    /// Server name for multitasking, under which the thread that makes the server, and the tasks that this thread starts,
    /// find certificate, key and cookie secret. Other threads do not know it. `nil`: a single task's server, whose `accept`
    /// gives connections that have done their handshake.
    public var name: String?
    /// Trusted CAs, PEM. Where there are any, clients must show a certificate that one of them signed, unless
    /// ``clientCertificates`` says otherwise.
    public var ca: String?
    /// The certificate and the chain above it, PEM.
    public var cert: String
    /// The private key, PEM; `nil`: it stands in `cert` too.
    public var key: String?
    /// The private key's password.
    public var passwd: String?
    /// Whether a client that asks for no name (SNI) gets the certificate that names the local IP address.
    public var ipcert: Bool
    /// Whether clients may renegotiate.
    public var renegotiate: Bool
    /// Milliseconds, 2,000 to 120,000.
    public var handshakeTimeout: Int
    /// Bytes of the connection ID that clients which offer it are asked for (RFC 9146), 9 to 20, so that a connection
    /// goes on when the client's address changes, in a task too (see <doc:Multitask>); `nil`: none. (Not in the reference.)
    public var connectionID: Int?
    /// Whether clients get session tickets (RFC 5077), by which they resume their sessions at any task. (Not in the
    /// reference.)
    public var sessionTickets: Bool
    /// Bytes of memory for the sessions of clients without tickets, which they resume by the sessions' IDs, 8,192 to
    /// 2^30; 0: they cannot resume theirs. A session takes 200 to 500 bytes, and memory that was never needed is not taken.
    /// Each task has memory of its own, so a client resumes at the task that it was at, if at all. (Not in the reference.)
    public var sessionCache: Int
    /// Milliseconds without a datagram of the client's after which its connection ends with
    /// ``DtlsError/timedOut(waitingFor:errno:)``, 100 to 2,147,483,647; `nil`: never. A client that vanishes says nothing, so
    /// this alone ends its connection. (Not in the reference.)
    public var idleTimeout: Int?
    /// Keys that clients may prove themselves by in place of certificates (RFC 4279), each under an identity of its own. With
    /// keys, `cert` may be empty: then there are no clients without one. (Not in the reference.)
    public var presharedKeys: [DtlsPresharedKey]
    /// Whether the program is asked for the key of an identity that is not among ``presharedKeys``; see
    /// ``DtlsServer/onPresharedKey(_:)``. (Not in the reference.)
    public var asksForPresharedKeys: Bool
    /// What is asked of clients' certificates. (Not in the reference.)
    public var clientCertificates: DtlsClientCertificates
    /// Whether each client's handshake waits for the program's word; see ``DtlsServer/onPeer(_:)``. (Not in the reference.)
    public var asksAboutPeers: Bool
    /// An OpenSSL cipher list (openssl-ciphers(1)); `nil`: authenticated encryption with forward secrecy, and the suites for
    /// pre-shared keys where there are such keys. The server's order counts. (Not in the reference, like all that follows.)
    public var ciphers: String?
    /// The groups for the key exchange, best first: `"X25519:P-256"`; `nil`: X25519, P-256, P-384 and P-521. The curve of a
    /// client's ECDSA certificate must be among them (RFC 8422, section 5.1.1).
    public var groups: String?
    /// The oldest version that is spoken.
    public var minimumVersion: DtlsVersion
    /// `nil`: the newest.
    public var maximumVersion: DtlsVersion?
    /// The application protocols (ALPN, RFC 7301), best first, each of 1 to 255 bytes. Clients that offer others alone are
    /// refused, those that offer none are served. None: what clients offer is ignored.
    public var applicationProtocols: [String]
    /// Which clients with a valid certificate are let in.
    public var clientRules: DtlsClientRules
    /// The raw public keys (RFC 7250) of which a client may show one in the place of a certificate. `ca` may be left out then:
    /// clients must show such a key, as far as ``clientCertificates`` demands something at all.
    public var clientPublicKeys: [DtlsPublicKey]
    /// Whether clients that take raw public keys get that of `cert`. Where `cert` is empty, all must take that of `key`.
    public var showsRawPublicKey: Bool
    /// An OCSP response about the certificate, DER, for clients that ask for one (RFC 6066, section 8). It is left out when it
    /// is out of date.
    public var ocspResponse: [UInt8]?
    /// The keys that those of session tickets are derived from, of 80 random bytes each, so that several processes or machines
    /// resume each other's sessions. The first one seals, all open. None: a key that this server draws, and its tasks share. See
    /// ``DtlsServer/setTicketKeys(_:)``.
    public var ticketKeys: [[UInt8]]
    /// Whether the connection keeps the secret that ``DtlsConnection/exportKeyingMaterial(label:context:length:)`` derives keys
    /// from, some 150 bytes, until it is closed. Otherwise it is gone when the handshake is done.
    public var exportsKeys: Bool
    /// The profiles of SRTP (use_srtp, RFC 5764), best first; see ``DtlsConnection/srtpKeys``, which keeps the same secret. A
    /// peer that knows none of them gets a connection without.
    public var srtpProfiles: [DtlsSrtpProfile]
    /// Where the secrets of connections are written to, **for debugging alone**; `nil`: nowhere. It does not go along to tasks.
    public var keyLog: DtlsKeyLog?
    /// Who is told of what happens; see <doc:Observing>. It does not go along to tasks.
    public var observer: DtlsObserver?
    /// Clients in their handshake or waiting to be accepted, at most.
    package var backlog = DtlsServer.backlog

    /// Each parameter is the property of its name.
    public init(
        name: String? = nil, ca: String? = nil, cert: String, key: String? = nil, passwd: String? = nil,
        ipcert: Bool = false, renegotiate: Bool = false, handshakeTimeout: Int = 60_000, connectionID: Int? = nil,
        sessionTickets: Bool = true, sessionCache: Int = 1 << 20, idleTimeout: Int? = nil,
        presharedKeys: [DtlsPresharedKey] = [], asksForPresharedKeys: Bool = false,
        clientCertificates: DtlsClientCertificates = .automatic, asksAboutPeers: Bool = false,
        ciphers: String? = nil, groups: String? = nil, minimumVersion: DtlsVersion = .dtls12,
        maximumVersion: DtlsVersion? = nil, applicationProtocols: [String] = [],
        clientRules: DtlsClientRules = DtlsClientRules(), clientPublicKeys: [DtlsPublicKey] = [],
        showsRawPublicKey: Bool = false, ocspResponse: [UInt8]? = nil, ticketKeys: [[UInt8]] = [],
        exportsKeys: Bool = false, srtpProfiles: [DtlsSrtpProfile] = [], keyLog: DtlsKeyLog? = nil,
        observer: DtlsObserver? = nil
    ) {
        self.observer = observer
        self.exportsKeys = exportsKeys
        self.srtpProfiles = srtpProfiles
        self.keyLog = keyLog
        self.ciphers = ciphers
        self.groups = groups
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.applicationProtocols = applicationProtocols
        self.clientRules = clientRules
        self.clientPublicKeys = clientPublicKeys
        self.showsRawPublicKey = showsRawPublicKey
        self.ocspResponse = ocspResponse
        self.ticketKeys = ticketKeys
        self.clientCertificates = clientCertificates
        self.asksAboutPeers = asksAboutPeers
        self.presharedKeys = presharedKeys
        self.asksForPresharedKeys = asksForPresharedKeys
        self.idleTimeout = idleTimeout
        self.sessionTickets = sessionTickets
        self.sessionCache = sessionCache
        self.connectionID = connectionID
        self.name = name
        self.ca = ca
        self.cert = cert
        self.key = key
        self.passwd = passwd
        self.ipcert = ipcert
        self.renegotiate = renegotiate
        self.handshakeTimeout = handshakeTimeout
    }

    func check() throws(DtlsError) {
        try HandshakeTimeout.check(handshakeTimeout)
        try IdleTimeout.check(idleTimeout)
        try ConnectionIDLength.check(connectionID, ConnectionIDLength.ofServers, renegotiate: renegotiate)
        try checkProofs()
        try ApplicationProtocolList.check(applicationProtocols)
        try TicketKeys.check(ticketKeys)
        try DtlsSrtpProfile.check(srtpProfiles)
        guard sessionCache == 0 || Self.sessionCaches.contains(sessionCache) else {
            throw .invalid(
                "sessionCache \(sessionCache) is out of range: it must be 0, or \(Self.sessionCaches.lowerBound) to"
                    + " \(Self.sessionCaches.upperBound) bytes")
        }
        if name == "" { throw .invalid("a server's name must not be empty; without one, leave it out") }
    }

    private func checkProofs() throws(DtlsError) {
        if cert.isEmpty, showsRawPublicKey {
            if key == nil { throw .invalid("there is no key whose public key could be shown, and no cert") }
        } else if cert.isEmpty, usesPresharedKeys {
            if key != nil { throw .invalid("there is a key but no cert") }
        } else {
            try PrivateKey.check(cert: cert, key: key)
        }
        if asksForPresharedKeys, renegotiate {
            throw .invalid(
                "asksForPresharedKeys cannot be set where renegotiate is: nobody is asked in a renegotiation")
        }
        if asksAboutPeers, renegotiate {
            throw .invalid("asksAboutPeers cannot be set where renegotiate is: nobody is asked in a renegotiation")
        }
        let isAsked =
            switch clientCertificates {
            case .automatic: ca != nil || knowsClientsWithoutCA
            case .ignored: false
            case .requested, .required, .judged: true
            }
        if clientRules != DtlsClientRules(), !isAsked {
            throw .invalid("there are clientRules, but no client is asked for a certificate")
        }
        if ca == nil, !knowsClientsWithoutCA, clientCertificates == .requested || clientCertificates == .required {
            throw .invalid(
                "clientCertificates is \(clientCertificates), but there is no ca by which a client's certificate could be"
                    + " valid; to judge them by onPeer, set it to judged")
        }
        var identities: Set<[UInt8]> = []
        for key in presharedKeys {
            try key.check()
            guard identities.insert(key.identity).inserted else {
                throw .invalid(
                    "the identity \"\(PresharedKeys.text(of: key.identity))\" is there twice in presharedKeys")
            }
        }
    }

    /// By raw public keys, or by fingerprints of certificates.
    private var knowsClientsWithoutCA: Bool { !clientPublicKeys.isEmpty || !clientRules.allow.isEmpty }

    private var usesPresharedKeys: Bool { asksForPresharedKeys || !presharedKeys.isEmpty }

    func makeSettings() throws(DtlsError) -> ServerSettings {
        var settings = ServerSettings(
            certifiedKeys: cert.isEmpty && (usesPresharedKeys || showsRawPublicKey)
                ? [] : [try CertifiedKey(cert, key, passwd, staple: ocspResponse)],
            clients: clientCertificates.verification(ca: ca, hasOthers: knowsClientsWithoutCA),
            ciphers: ciphers, minimumVersion: minimumVersion.version, maximumVersion: maximumVersion?.version,
            allowsRenegotiation: renegotiate)
        try clientRules.apply(to: &settings.clients)
        settings.clients.publicKeys = try DtlsPublicKey.known(clientPublicKeys)
        if cert.isEmpty, showsRawPublicKey, let key {
            settings.bareKeys = [BareKey(privateKey: key, passphrase: passwd)]
        }
        settings.offersRawPublicKeys = showsRawPublicKey
        settings.srtpProfiles = srtpProfiles.map(\.name)
        settings.groups = groups
        settings.applicationProtocols = applicationProtocols
        settings.keepsPeerCertificates = true
        if usesPresharedKeys {
            settings.presharedKeys = PresharedKeys(
                keys: presharedKeys.map(\.engineKey))
        }
        if asksForPresharedKeys { settings.authorization = .presharedKeys }
        if asksAboutPeers { settings.authorization = .all }
        settings.connectionIDs = connectionID != nil
        settings.sessions.tickets = sessionTickets
        return settings
    }

    package var keepsExporter: Bool { exportsKeys || !srtpProfiles.isEmpty }

    private static let sessionCaches = 8_192...(1 << 30)

    package func limits(handshakeTimeout: Int) -> Connection.Limits {
        Connection.Limits(
            handshakeTimeout: .milliseconds(handshakeTimeout), idleTimeout: IdleTimeout.duration(idleTimeout))
    }
}

/// What a server asks of its clients' certificates. (Not in the reference.)
public enum DtlsClientCertificates: UInt8, Sendable, Equatable, CaseIterable {
    /// ``required`` where there is a ``DtlsServerOption/ca``, ``DtlsServerOption/clientPublicKeys`` or a rule of
    /// ``DtlsClientRules/allow``, and ``ignored`` otherwise, as in the reference.
    case automatic
    /// Clients are not asked for a certificate.
    case ignored
    /// Clients are asked for a certificate. One that has none is let in; one whose certificate is not valid is not.
    case requested
    /// Clients must show a valid certificate.
    case required
    /// Clients are asked for a certificate, and let in whatever they show. The program judges what
    /// ``DtlsPeer/verification`` says, by ``DtlsServer/onPeer(_:)`` before the handshake is done, or by
    /// ``DtlsConnection/peer`` after it. The client has proven in each case that it has the certificate's private key.
    case judged

    func verification(ca: String?, hasOthers: Bool) -> PeerVerification {
        var verification = PeerVerification(authorities: ca)
        switch self {
        case .automatic: verification.mode = ca == nil && !hasOthers ? .none : .required
        case .ignored: verification.mode = .none
        case .requested: verification.mode = .requested
        case .required: verification.mode = .required
        case .judged:
            verification.mode = .requested
            verification.isEnforced = false
        }
        return verification
    }
}

/// A further certificate of a server (reference: dtls.addcert).
public struct DtlsCertificateOption: Sendable, Equatable {
    /// The host name that clients ask for (SNI); `*.example.com` stands for all names with one more label.
    public var name: String
    /// Trusted CAs, PEM, for clients that ask for this name, which must show a certificate that one of them signed.
    /// `nil`: those of the server, whose clients are then asked for the same here.
    public var ca: String?
    /// The certificate and the chain above it, PEM.
    public var cert: String
    /// The private key, PEM; `nil`: it stands in `cert` too.
    public var key: String?
    /// The private key's password.
    public var passwd: String?
    /// See ``DtlsServerOption/ocspResponse``. (Not in the reference.)
    public var ocspResponse: [UInt8]?

    /// Each parameter is the property of its name.
    public init(
        name: String, ca: String? = nil, cert: String, key: String? = nil, passwd: String? = nil,
        ocspResponse: [UInt8]? = nil
    ) {
        self.ocspResponse = ocspResponse
        self.name = name
        self.ca = ca
        self.cert = cert
        self.key = key
        self.passwd = passwd
    }

    func check() throws(DtlsError) {
        guard HostName.isValid(name.hasPrefix("*.") ? name.dropFirst(2) : name[...]) else {
            throw .invalid(
                "the certificate's name \"\(name)\" is none that clients can ask for: \(HostName.expectation), after"
                    + " \"*.\" where it stands for all names with one more label")
        }
        try PrivateKey.check(cert: cert, key: key)
    }

    /// The server's settings with another certificate, and with other CAs where this option has some.
    func settings(like server: DtlsServerOption) throws(DtlsError) -> ServerSettings {
        var settings = try server.makeSettings()
        settings.certifiedKeys = [try CertifiedKey(cert, key, passwd, staple: ocspResponse)]
        settings.bareKeys = []
        if let ca {
            settings.clients.authorities = ca
            if settings.clients.mode == .none { settings.clients.mode = .required }
        }
        return settings
    }
}

/// The options of a client (reference: Dtls.createClient).
public struct DtlsClientOption: Sendable, Equatable {
    /// Whether the server's certificate must be signed by a trusted CA, and name `server` where that is given.
    public var rejectUnauthorized: Bool
    /// Trust the CAs of the system too.
    public var loadDefaultCerts: Bool
    /// Trusted CAs, PEM.
    public var ca: String?
    /// The server's host name or IP address: asked for (SNI) where it is a name, and checked against its certificate
    /// where `rejectUnauthorized` is set.
    public var server: String?
    /// Whether the server may ask to renegotiate.
    public var renegotiate: Bool
    /// Milliseconds, 2,000 to 120,000.
    public var handshakeTimeout: Int
    /// The client's own certificate and chain, PEM.
    public var cert: String?
    /// Its private key, PEM; `nil`: it stands in `cert` too.
    public var key: String?
    /// The private key's password.
    public var passwd: String?
    /// Bytes of the connection ID that the server is asked for (RFC 9146), 0 to 20. With 0 the client sends the server's
    /// and needs none itself; `nil`: nothing is offered. Where the server gives one, a connection goes on when this machine's
    /// address changes: `send` finds that out, and sends over another socket. (Not in the reference.)
    public var connectionID: Int?
    /// The key that both sides prove themselves by, in place of certificates (RFC 4279). Only suites with pre-shared keys
    /// are offered then, unless `ciphers` says otherwise. (Not in the reference, like all that follows.)
    public var presharedKey: DtlsPresharedKey?
    /// An OpenSSL cipher list (openssl-ciphers(1)); `nil`: authenticated encryption with forward secrecy, or the suites for
    /// pre-shared keys.
    public var ciphers: String?
    /// The groups for the key exchange, best first: `"X25519:P-256"`; `nil`: X25519, P-256, P-384 and P-521. The curve of an
    /// ECDSA certificate must be among them (RFC 8422, section 5.1.1).
    public var groups: String?
    /// The oldest version that is spoken.
    public var minimumVersion: DtlsVersion
    /// `nil`: the newest.
    public var maximumVersion: DtlsVersion?
    /// The application protocols that are offered (ALPN, RFC 7301), best first, each of 1 to 255 bytes.
    public var applicationProtocols: [String]
    /// Bytes of the largest IP packet of a handshake flight, 256 to 4,096.
    public var mtu: Int
    /// A session to resume, from an earlier connection with the same trust, name and keys; see ``DtlsSession``. The server
    /// may do a full handshake all the same.
    public var session: DtlsSession?
    /// Whether the connection keeps its session for ``DtlsConnection/resumableSession``.
    public var keepsSession: Bool
    /// Milliseconds without a datagram of the server's after which the connection ends with
    /// ``DtlsError/timedOut(waitingFor:errno:)``, 100 to 2,147,483,647; `nil`: never. It does not go along where the
    /// connection is suspended.
    public var idleTimeout: Int?
    /// The raw public keys (RFC 7250) of which the server must show one. Where there is a `ca`, or `loadDefaultCerts`, beside
    /// them, a server that does not know raw public keys may show a certificate instead. They need `rejectUnauthorized`.
    public var serverPublicKeys: [DtlsPublicKey]
    /// Whether the client shows the public key of `key` to servers that take it. Without a `cert`, it has nothing else.
    public var showsRawPublicKey: Bool
    /// Whether the connection keeps the secret that ``DtlsConnection/exportKeyingMaterial(label:context:length:)`` derives keys
    /// from, some 150 bytes, until it is closed. Otherwise it is gone when the handshake is done.
    public var exportsKeys: Bool
    /// The profiles of SRTP (use_srtp, RFC 5764), best first; see ``DtlsConnection/srtpKeys``, which keeps the same secret. A
    /// peer that knows none of them gets a connection without.
    public var srtpProfiles: [DtlsSrtpProfile]
    /// Where the secrets of connections are written to, **for debugging alone**; `nil`: nowhere.
    public var keyLog: DtlsKeyLog?
    /// Who is told of what happens; see <doc:Observing>. It does not go along to tasks.
    public var observer: DtlsObserver?

    /// Each parameter is the property of its name.
    public init(
        rejectUnauthorized: Bool = false, loadDefaultCerts: Bool = false, ca: String? = nil, server: String? = nil,
        renegotiate: Bool = false, handshakeTimeout: Int = 60_000, cert: String? = nil, key: String? = nil,
        passwd: String? = nil, connectionID: Int? = nil, presharedKey: DtlsPresharedKey? = nil,
        ciphers: String? = nil, groups: String? = nil, minimumVersion: DtlsVersion = .dtls12,
        maximumVersion: DtlsVersion? = nil, applicationProtocols: [String] = [], mtu: Int = 1_400,
        session: DtlsSession? = nil, keepsSession: Bool = false, idleTimeout: Int? = nil,
        serverPublicKeys: [DtlsPublicKey] = [], showsRawPublicKey: Bool = false, exportsKeys: Bool = false,
        srtpProfiles: [DtlsSrtpProfile] = [], keyLog: DtlsKeyLog? = nil,
        observer: DtlsObserver? = nil
    ) {
        self.observer = observer
        self.exportsKeys = exportsKeys
        self.srtpProfiles = srtpProfiles
        self.keyLog = keyLog
        self.serverPublicKeys = serverPublicKeys
        self.showsRawPublicKey = showsRawPublicKey
        self.idleTimeout = idleTimeout
        self.connectionID = connectionID
        self.presharedKey = presharedKey
        self.ciphers = ciphers
        self.groups = groups
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.applicationProtocols = applicationProtocols
        self.mtu = mtu
        self.session = session
        self.keepsSession = keepsSession
        self.rejectUnauthorized = rejectUnauthorized
        self.loadDefaultCerts = loadDefaultCerts
        self.ca = ca
        self.server = server
        self.renegotiate = renegotiate
        self.handshakeTimeout = handshakeTimeout
        self.cert = cert
        self.key = key
        self.passwd = passwd
    }

    package func check() throws(DtlsError) {
        try HandshakeTimeout.check(handshakeTimeout)
        try ConnectionIDLength.check(connectionID, ConnectionIDLength.ofClients, renegotiate: renegotiate)
        try IdleTimeout.check(idleTimeout)
        try ApplicationProtocolList.check(applicationProtocols)
        try DtlsSrtpProfile.check(srtpProfiles)
        _ = try DtlsPublicKey.known(serverPublicKeys)
        if !serverPublicKeys.isEmpty, !rejectUnauthorized {
            throw .invalid("serverPublicKeys need rejectUnauthorized: without it, any server would do")
        }
        if cert == nil, key != nil, !showsRawPublicKey { throw .invalid("there is a key but no cert") }
        if cert == nil, key == nil, showsRawPublicKey {
            throw .invalid("there is no key whose public key could be shown")
        }
        if let cert { try PrivateKey.check(cert: cert, key: key) }
        if let server, !HostName.isValid(server), SocketAddress(host: server, port: 0) == nil {
            throw .invalid("server \"\(server)\" is neither an IP address nor a host name: \(HostName.expectation)")
        }
        guard Self.mtus.contains(mtu) else {
            throw .invalid(
                "mtu \(mtu) is out of range: it must be \(Self.mtus.lowerBound) to \(Self.mtus.upperBound) bytes")
        }
        if let session, !session.fits(self) {
            throw .invalid(
                "the session was begun with other options; it can be resumed with the same trust, name and keys")
        }
    }

    package var settings: ClientSettings {
        var settings = ClientSettings(
            rejectUnauthorized: rejectUnauthorized, loadDefaultCertificates: loadDefaultCerts,
            certificateAuthorities: ca, certificate: cert, privateKey: key ?? cert, passphrase: passwd,
            presharedKey: presharedKey?.engineKey, ciphers: ciphers,
            minimumVersion: minimumVersion.version, maximumVersion: maximumVersion?.version,
            allowsRenegotiation: renegotiate)
        settings.connectionIDs = connectionID != nil
        settings.keepsPeerCertificates = true
        settings.groups = groups
        settings.applicationProtocols = applicationProtocols
        if !serverPublicKeys.isEmpty { settings.serverPublicKeys = DtlsPublicKey.engineKeys(serverPublicKeys) }
        settings.offersRawPublicKey = showsRawPublicKey
        settings.srtpProfiles = srtpProfiles.map(\.name)
        return settings
    }

    package var keepsExporter: Bool { exportsKeys || !srtpProfiles.isEmpty }

    /// From the least that OpenSSL can cut flights down to (a UDP payload of 208 bytes), with IPv6's header.
    private static let mtus = 256...4_096

    package func limits(handshakeTimeout: Int) -> Connection.Limits {
        Connection.Limits(
            handshakeTimeout: .milliseconds(handshakeTimeout), idleTimeout: IdleTimeout.duration(idleTimeout), mtu: mtu)
    }
}

/// A version of the protocol.
public enum DtlsVersion: String, Sendable, CaseIterable {
    /// RFC 4347, for peers that know nothing else. OpenSSL wants its security level 0 for it, which a cipher list of the
    /// program's own has to set (`@SECLEVEL=0`).
    case dtls10 = "1.0"
    /// RFC 6347.
    case dtls12 = "1.2"

    var version: ProtocolVersion {
        switch self {
        case .dtls10: .dtls10
        case .dtls12: .dtls12
        }
    }
}

/// An identity and the key that goes with it (RFC 4279).
public struct DtlsPresharedKey: Sendable, Equatable {
    /// 1 to 255 bytes other than NUL, UTF-8 as a rule.
    public var identity: [UInt8]
    /// 1 to 512 bytes.
    public var key: [UInt8]

    /// Nothing is checked here: what is given options with a wrong identity or key throws.
    public init(identity: [UInt8], key: [UInt8]) {
        self.identity = identity
        self.key = key
    }

    func check() throws(DtlsError) {
        guard engineKey.isUsable else {
            throw .invalid(
                "the identity \"\(PresharedKeys.text(of: identity))\" cannot be used: \(PresharedKey.rule)")
        }
    }

    var engineKey: PresharedKey { PresharedKey(identity: identity, key: key) }
}

enum PrivateKey {
    /// Says what is missing, where OpenSSL would find fault with the certificate for being no key.
    static func check(cert: String, key: String?) throws(DtlsError) {
        guard key == nil, cert.contains("-----BEGIN "), !cert.contains("PRIVATE KEY-----") else { return }
        throw .credentials("there is no private key: key is not given, and cert contains none")
    }
}

extension HostName {
    static let expectation =
        "expected labels of 1 to 63 ASCII letters, digits, - and _ with dots between them, 253 bytes at most"
        + " (international names begin with xn--)"
}

/// Checks how long a call may wait: the reference's `timeout` argument, in milliseconds. `nil`: for ever, 0: do not
/// wait.
func checkTimeout(_ timeout: Int?) throws(DtlsError) {
    if let timeout, timeout < 0 || timeout > Int(Int32.max) {
        throw .invalid(
            "timeout \(timeout) is out of range: it must be 0 to \(Int32.max) ms, or left out to wait for ever")
    }
}
