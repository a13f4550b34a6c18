import DTLSEngine
import DTLSTransport

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
    /// Server name for multitasking, under which tasks find certificate, key and cookie secret. `nil`: a single task's
    /// server, whose `accept` gives connections that have done their handshake.
    public var name: String?
    /// Trusted CAs, PEM. Where there are any, clients must show a certificate that one of them signed.
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
    /// goes on when the client's address changes; `nil`: none. A connection that goes to a task before its handshake has
    /// none, and the task of one that goes there later does not learn of another address. (Not in the reference.)
    public var connectionID: Int?

    public init(
        name: String? = nil, ca: String? = nil, cert: String, key: String? = nil, passwd: String? = nil,
        ipcert: Bool = false, renegotiate: Bool = false, handshakeTimeout: Int = 60_000, connectionID: Int? = nil
    ) {
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
        try ConnectionIDLength.check(connectionID, ConnectionIDLength.ofServers, renegotiate: renegotiate)
        if name == "" { throw .invalid("a server's name must not be empty; without one, leave it out") }
    }

    var settings: ServerSettings {
        var settings = ServerSettings(
            certificate: cert, privateKey: key ?? cert, passphrase: passwd, certificateAuthorities: ca,
            allowsRenegotiation: renegotiate)
        settings.connectionIDs = connectionID != nil
        return settings
    }

    var limits: Connection.Limits { Connection.Limits(handshakeTimeout: .milliseconds(handshakeTimeout)) }
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

    public init(name: String, ca: String? = nil, cert: String, key: String? = nil, passwd: String? = nil) {
        self.name = name
        self.ca = ca
        self.cert = cert
        self.key = key
        self.passwd = passwd
    }

    func check() throws(DtlsError) {
        guard !name.isEmpty, name.utf8.count <= 255 else {
            throw .invalid("a certificate's name must be a host name of 1 to 255 bytes")
        }
    }

    /// The server's settings with another certificate, and with other CAs where this option has some.
    func settings(like server: DtlsServerOption) -> ServerSettings {
        var settings = server.settings
        settings.certifiedKeys = [CertifiedKey(certificate: cert, privateKey: key ?? cert, passphrase: passwd)]
        if let ca { settings.clients = PeerVerification(mode: .required, authorities: ca) }
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
    /// and needs none itself; `nil`: nothing is offered. (Not in the reference.)
    public var connectionID: Int?

    public init(
        rejectUnauthorized: Bool = false, loadDefaultCerts: Bool = false, ca: String? = nil, server: String? = nil,
        renegotiate: Bool = false, handshakeTimeout: Int = 60_000, cert: String? = nil, key: String? = nil,
        passwd: String? = nil, connectionID: Int? = nil
    ) {
        self.connectionID = connectionID
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

    func check() throws(DtlsError) {
        try HandshakeTimeout.check(handshakeTimeout)
        try ConnectionIDLength.check(connectionID, ConnectionIDLength.ofClients, renegotiate: renegotiate)
        if cert == nil, key != nil { throw .invalid("there is a key but no cert") }
        if let server, server.isEmpty || server.utf8.count > 255 {
            throw .invalid("server must be a host name or IP address of 1 to 255 bytes")
        }
    }

    var settings: ClientSettings {
        var settings = ClientSettings(
            rejectUnauthorized: rejectUnauthorized, loadDefaultCertificates: loadDefaultCerts,
            certificateAuthorities: ca, certificate: cert, privateKey: key ?? cert, passphrase: passwd,
            allowsRenegotiation: renegotiate)
        settings.connectionIDs = connectionID != nil
        return settings
    }
}

/// Checks how long a call may wait: the reference's `timeout` argument, in milliseconds. `nil`: for ever, 0: do not
/// wait.
func checkTimeout(_ timeout: Int?) throws(DtlsError) {
    if let timeout, timeout < 0 || timeout > Int(Int32.max) {
        throw .invalid(
            "timeout \(timeout) is out of range: it must be 0 to \(Int32.max) ms, or left out to wait for ever")
    }
}
