/// The result of ``ControlCommand/connections(_:)``: a page.
package struct ConnectionsResult: Codable, Equatable, Sendable {
    /// The connections that the conditions hold for, on all pages.
    package var matched: Int
    /// The connections that there are.
    package var total: Int
    package var connections: [ConnectionSummary]
    /// Begins the next page; `nil` where this is the last one.
    package var nextCursor: String?

    package init(matched: Int, total: Int, connections: [ConnectionSummary], nextCursor: String?) {
        self.matched = matched
        self.total = total
        self.connections = connections
        self.nextCursor = nextCursor
    }

    private enum CodingKeys: String, CodingKey {
        case matched, total, connections
        case nextCursor = "next_cursor"
    }
}

/// A connection in a list.
package struct ConnectionSummary: Codable, Equatable, Sendable {
    /// 16 hexadecimal digits; CONNECTION in the log. It changes where the connection moves to another worker.
    package var connection: String
    package var service: String?
    package var client: String?
    /// The peer's address; of a client (client mode), the local sender's.
    package var peer: String
    /// The address of this machine that the peer uses.
    package var local: String
    package var state: ConnectionState
    /// The worker that serves it; `nil` where there is none at the moment.
    package var worker: Int?
    /// Since the start of the handshake.
    package var ageSeconds: Double
    /// Since the last record of the peer.
    package var idleSeconds: Double
    package var receivedBytes: UInt64
    package var sentBytes: UInt64
    /// Messages of the application, each of which is a datagram.
    package var receivedMessages: UInt64
    package var sentMessages: UInt64
    /// Who the peer has shown to be: the common name or subject of its certificate, or the identity of its key.
    package var identity: String?
    /// What the client is called by the authorizer that has let it in.
    package var label: String?
    /// "DTLSv1.2"
    package var version: String?
    package var cipher: String?

    package init(
        connection: String, service: String?, client: String?, peer: String, local: String, state: ConnectionState,
        worker: Int?, ageSeconds: Double, idleSeconds: Double, receivedBytes: UInt64, sentBytes: UInt64,
        receivedMessages: UInt64, sentMessages: UInt64, identity: String?, label: String? = nil,
        version: String?, cipher: String?
    ) {
        self.connection = connection
        self.service = service
        self.client = client
        self.peer = peer
        self.local = local
        self.state = state
        self.worker = worker
        self.ageSeconds = ageSeconds
        self.idleSeconds = idleSeconds
        self.receivedBytes = receivedBytes
        self.sentBytes = sentBytes
        self.receivedMessages = receivedMessages
        self.sentMessages = sentMessages
        self.identity = identity
        self.label = label
        self.version = version
        self.cipher = cipher
    }

    private enum CodingKeys: String, CodingKey {
        case connection, service, client, peer, local, state, worker
        case ageSeconds = "age_seconds"
        case idleSeconds = "idle_seconds"
        case receivedBytes = "received_bytes"
        case sentBytes = "sent_bytes"
        case receivedMessages = "received_messages"
        case sentMessages = "sent_messages"
        case identity, label, version, cipher
    }
}

/// The result of ``ControlCommand/connection(_:)``: all that is known of one.
package struct ConnectionResult: Codable, Equatable, Sendable {
    package var summary: ConnectionSummary
    /// When its handshake began (RFC 3339).
    package var startedAt: String
    /// From the first ClientHello with a cookie to the end of the handshake; `nil` while it is under way.
    package var handshakeSeconds: Double?
    package var isResumed: Bool?
    /// The name that the client has asked for (SNI).
    package var serverName: String?
    /// The application protocol (ALPN).
    package var applicationProtocol: String?
    package var certificate: PeerCertificate?
    /// The raw public key, in the place of a certificate.
    package var publicKey: PeerPublicKey?
    /// The identity of the pre-shared key.
    package var pskIdentity: String?
    /// The connection ID that the peer puts into its records (RFC 9146), in hexadecimal digits.
    package var ownConnectionID: String?
    /// The connection ID that this side puts into its records.
    package var peerConnectionID: String?
    /// Whether return routability checks were agreed on (RFC 9853).
    package var checksReturnRoutability: Bool?
    /// Whether it can go on in another process (false where its records are OpenSSL's).
    package var isMovable: Bool?
    /// Whether the peer is known to be at another address than ``ConnectionSummary/peer``, and has not been heard there.
    package var hasLeftAddress: Bool?
    /// The backend of a service, or a client's server: an address, or `unix`.
    package var backend: String?
    /// The rule of the service that has the backend.
    package var rule: String?
    /// This side's address of the socket to the backend or server.
    package var backendLocal: String?
    /// Messages that could not be sent: the kernel had no room for them, or they were too large for the path.
    package var unsentMessages: UInt64
    package var tooLargeMessages: UInt64
    /// Records sent and received in the present epoch; `nil` without one that is known here.
    package var epoch: UInt16?
    package var sentRecords: UInt64?
    package var highestReceivedRecord: UInt64?
    /// How often a worker has died while it worked on the connection.
    package var workerDeaths: UInt32

    package init(summary: ConnectionSummary, startedAt: String) {
        self.summary = summary
        self.startedAt = startedAt
        unsentMessages = 0
        tooLargeMessages = 0
        workerDeaths = 0
    }

    private enum CodingKeys: String, CodingKey {
        case startedAt = "started_at"
        case handshakeSeconds = "handshake_seconds"
        case isResumed = "resumed"
        case serverName = "server_name"
        case applicationProtocol = "alpn"
        case certificate
        case publicKey = "public_key"
        case pskIdentity = "psk_identity"
        case ownConnectionID = "connection_id"
        case peerConnectionID = "peer_connection_id"
        case checksReturnRoutability = "return_routability_check"
        case isMovable = "movable"
        case hasLeftAddress = "left_address"
        case backend, rule
        case backendLocal = "backend_local"
        case unsentMessages = "unsent_messages"
        case tooLargeMessages = "too_large_messages"
        case epoch
        case sentRecords = "sent_records"
        case highestReceivedRecord = "highest_received_record"
        case workerDeaths = "worker_deaths"
    }

    package init(from decoder: any Decoder) throws {
        summary = try ConnectionSummary(from: decoder)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        startedAt = try container.decode(String.self, forKey: .startedAt)
        handshakeSeconds = try container.decodeIfPresent(Double.self, forKey: .handshakeSeconds)
        isResumed = try container.decodeIfPresent(Bool.self, forKey: .isResumed)
        serverName = try container.decodeIfPresent(String.self, forKey: .serverName)
        applicationProtocol = try container.decodeIfPresent(String.self, forKey: .applicationProtocol)
        certificate = try container.decodeIfPresent(PeerCertificate.self, forKey: .certificate)
        publicKey = try container.decodeIfPresent(PeerPublicKey.self, forKey: .publicKey)
        pskIdentity = try container.decodeIfPresent(String.self, forKey: .pskIdentity)
        ownConnectionID = try container.decodeIfPresent(String.self, forKey: .ownConnectionID)
        peerConnectionID = try container.decodeIfPresent(String.self, forKey: .peerConnectionID)
        checksReturnRoutability = try container.decodeIfPresent(Bool.self, forKey: .checksReturnRoutability)
        isMovable = try container.decodeIfPresent(Bool.self, forKey: .isMovable)
        hasLeftAddress = try container.decodeIfPresent(Bool.self, forKey: .hasLeftAddress)
        backend = try container.decodeIfPresent(String.self, forKey: .backend)
        rule = try container.decodeIfPresent(String.self, forKey: .rule)
        backendLocal = try container.decodeIfPresent(String.self, forKey: .backendLocal)
        unsentMessages = try container.decode(UInt64.self, forKey: .unsentMessages)
        tooLargeMessages = try container.decode(UInt64.self, forKey: .tooLargeMessages)
        epoch = try container.decodeIfPresent(UInt16.self, forKey: .epoch)
        sentRecords = try container.decodeIfPresent(UInt64.self, forKey: .sentRecords)
        highestReceivedRecord = try container.decodeIfPresent(UInt64.self, forKey: .highestReceivedRecord)
        workerDeaths = try container.decode(UInt32.self, forKey: .workerDeaths)
    }

    package func encode(to encoder: any Encoder) throws {
        try summary.encode(to: encoder)
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(startedAt, forKey: .startedAt)
        try container.encodeIfPresent(handshakeSeconds, forKey: .handshakeSeconds)
        try container.encodeIfPresent(isResumed, forKey: .isResumed)
        try container.encodeIfPresent(serverName, forKey: .serverName)
        try container.encodeIfPresent(applicationProtocol, forKey: .applicationProtocol)
        try container.encodeIfPresent(certificate, forKey: .certificate)
        try container.encodeIfPresent(publicKey, forKey: .publicKey)
        try container.encodeIfPresent(pskIdentity, forKey: .pskIdentity)
        try container.encodeIfPresent(ownConnectionID, forKey: .ownConnectionID)
        try container.encodeIfPresent(peerConnectionID, forKey: .peerConnectionID)
        try container.encodeIfPresent(checksReturnRoutability, forKey: .checksReturnRoutability)
        try container.encodeIfPresent(isMovable, forKey: .isMovable)
        try container.encodeIfPresent(hasLeftAddress, forKey: .hasLeftAddress)
        try container.encodeIfPresent(backend, forKey: .backend)
        try container.encodeIfPresent(rule, forKey: .rule)
        try container.encodeIfPresent(backendLocal, forKey: .backendLocal)
        try container.encode(unsentMessages, forKey: .unsentMessages)
        try container.encode(tooLargeMessages, forKey: .tooLargeMessages)
        try container.encodeIfPresent(epoch, forKey: .epoch)
        try container.encodeIfPresent(sentRecords, forKey: .sentRecords)
        try container.encodeIfPresent(highestReceivedRecord, forKey: .highestReceivedRecord)
        try container.encode(workerDeaths, forKey: .workerDeaths)
    }
}

/// The raw public key (RFC 7250) that a peer has shown.
package struct PeerPublicKey: Codable, Equatable, Sendable {
    /// What the configuration's file of keys calls it.
    package var name: String
    /// SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits.
    package var fingerprint: String?

    package init(name: String, fingerprint: String?) {
        self.name = name
        self.fingerprint = fingerprint
    }
}

/// The certificate that a peer has shown.
package struct PeerCertificate: Codable, Equatable, Sendable {
    package var commonName: String?
    /// RFC 2253.
    package var subject: String?
    /// SHA-256, 64 hexadecimal digits.
    package var fingerprint: String?

    package init(commonName: String?, subject: String?, fingerprint: String?) {
        self.commonName = commonName
        self.subject = subject
        self.fingerprint = fingerprint
    }

    private enum CodingKeys: String, CodingKey {
        case commonName = "common_name"
        case subject, fingerprint
    }
}
