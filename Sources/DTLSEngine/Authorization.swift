import COpenSSL
import Primitives

/// Which handshakes of a server wait for an ``AuthorizationAnswer``.
public enum AuthorizationScope: String, Codable, Equatable, Sendable {
    case none
    /// Full handshakes with a pre-shared key: the answer has the key.
    case presharedKeys
    /// All: of clients with a certificate, with a pre-shared key, with a session to resume, and with nothing.
    case all
}

/// What is known of a client, or of a client's server, whose handshake waits for an answer.
public struct AuthorizationQuestion: Sendable, Equatable {
    /// The name that the client asks for (SNI), or `nil`.
    public var serverName: String?
    /// The application protocol that was agreed on (ALPN, RFC 7301), or `nil`.
    public var applicationProtocol: String?
    /// Whether the client resumes an earlier session, by which it has got what is known of it here.
    public var isResumed = false
    /// The identity of the pre-shared key. In a full handshake the client has not proven yet that it has the key.
    public var presharedKeyIdentity: [UInt8]?
    /// The certificate, which the client has proven to be its own, and which this side's checks have accepted; `nil`
    /// without one.
    public var certificate: PeerName?
    public var alternativeNames = AlternativeNames()
    /// The raw public key, which the client has proven to be its own, and which is known; `nil` without one.
    public var publicKey: PeerName?
    /// All certificates that the peer has shown, DER, its own first, where the settings keep them; see
    /// ``Engine/peerCertificates``.
    public var certificates: [[UInt8]] = []
    /// The result of the check of the certificate: see ``SessionDetails/verificationResult``.
    public var verificationResult = 0

    public init() {}

    init(_ ssl: OpaquePointer) {
        let details = SessionDetails(ssl)
        serverName = details.serverName
        applicationProtocol = details.applicationProtocol
        isResumed = details.isResumed
        presharedKeyIdentity = details.presharedKeyIdentity
        certificates = ShownCertificates.chain(of: ssl)
        verificationResult = details.verificationResult
        guard presharedKeyIdentity == nil else { return }
        guard details.peerName?.publicKeyName == nil else {
            publicKey = details.peerName
            return
        }
        certificate = details.peerName
        if let certificate = SSL_get0_peer_certificate(ssl) {
            alternativeNames = AlternativeNames(of: certificate)
        } else if let names = details.certificateNames {
            // A resumed session has the names alone (SessionNotes).
            alternativeNames = AlternativeNames(names)
        }
    }

    /// Who the client is, or says that it is.
    var client: PeerName? {
        certificate ?? publicKey
            ?? presharedKeyIdentity.map { PeerName(presharedKeyIdentity: PresharedKeys.text(of: $0)) }
    }
}

/// Whether a client may come in.
public enum AuthorizationAnswer: Sendable, Equatable {
    /// - Parameters:
    ///   - key: the pre-shared key of the identity; `nil`: that of the server's settings.
    ///   - label: what the client is called from now on (``SessionDetails/label``).
    case allowed(key: [UInt8]? = nil, label: String? = nil)
    /// - Parameters:
    ///   - reason: a sentence for the operator.
    ///   - alert: what the peer is told (RFC 5246, section 7.2.2): access_denied where nothing else is given. To a client
    ///     with a pre-shared key, OpenSSL says unknown_psk_identity (RFC 4279, section 2).
    case refused(reason: String, alert: UInt8 = AuthorizationRefusal.accessDenied)
}

/// A client that the ``AuthorizationAnswer`` keeps out.
public struct AuthorizationRefusal: Error, Sendable, Equatable, CustomStringConvertible {
    public var reason: String
    /// Who the client is, or, with a pre-shared key, says that it is.
    public var client: PeerName?
    /// What the peer is told.
    var alert = Self.accessDenied

    public static let accessDenied = UInt8(SSL_AD_ACCESS_DENIED)

    public var description: String { reason }
}

/// Holds the records of a client back that OpenSSL must not see before it is known whether the client may come in: OpenSSL
/// asks for a pre-shared key by a callback that has to answer at once, and tells nobody before it ends a handshake.
///
/// With a pre-shared key that is the ClientKeyExchange, which names the identity in the clear, and what follows it. In all
/// other handshakes it is the Finished: by then OpenSSL has checked the client's certificate and its proof, or knows the
/// session that is resumed. A client's side holds its server's Finished back, in all handshakes.
final class AuthorizationGate {
    private enum State {
        /// Nothing was asked yet.
        case closed
        case waiting
        case open
    }

    private struct Held {
        let bytes: [UInt8]
        /// The record as it has come, where ``ConnectionIDAdapter`` has made `bytes` of it.
        let original: [UInt8]?
    }

    private let scope: AuthorizationScope
    private var state = State.closed
    private var held: [Held] = []
    private var heldByteCount = 0
    /// The record that was given out last, and what it was made of.
    private var released: [UnsafeMutableRawBufferPointer] = []
    private var datagram: UnsafeRawBufferPointer?
    private var offset = 0
    private var keyExchange = KeyExchangeMessage()
    /// The identity that was asked about in a full handshake.
    private var identity: [UInt8]?
    private var key: [UInt8]?
    /// What waits for an answer.
    private(set) var question: AuthorizationQuestion?
    private(set) var label: String?
    private(set) var refusal: AuthorizationRefusal?

    /// A flight has a few records, and is sent again while the client waits.
    private static let maximumCount = 16
    private static let maximumBytes = 64 * 1_024

    private static let slot = ExDataSlot<AuthorizationGate>(of: .connection)

    private init(_ scope: AuthorizationScope) { self.scope = scope }

    deinit { for memory in released { memory.deallocate() } }

    /// - Returns: `nil` where OpenSSL has no memory.
    static func attach(_ scope: AuthorizationScope, to ssl: OpaquePointer) -> AuthorizationGate? {
        let gate = AuthorizationGate(scope)
        return slot.set(gate, in: ssl) ? gate : nil
    }

    static func of(_ ssl: OpaquePointer) -> AuthorizationGate? { slot.value(in: ssl) }

    /// Whether the answer is awaited, so that no flight is to be sent again.
    var isWaiting: Bool { state == .waiting }

    // MARK: Records

    /// Takes a datagram, which stays valid until ``nextOfDatagram()`` has said that there is nothing left of it.
    func deliver(_ datagram: UnsafeRawBufferPointer) {
        self.datagram = datagram
        offset = 0
    }

    /// Drops the rest of the datagram.
    func dropRest() { datagram = nil }

    func nextOfDatagram() -> UnsafeRawBufferPointer? {
        guard let datagram else { return nil }
        guard let record = Record(of: datagram, at: offset) else {
            self.datagram = nil
            return nil
        }
        offset = record.end
        return record.bytes
    }

    /// The next record that was held and is not any more. Its bytes are valid until the next call.
    func nextReleased() -> (bytes: UnsafeRawBufferPointer, original: UnsafeRawBufferPointer?)? {
        for memory in released { memory.deallocate() }
        released = []
        guard state == .open, !held.isEmpty else { return nil }
        let first = held.removeFirst()
        // An array keeps its memory when it is empty.
        if held.isEmpty { held = [] }
        heldByteCount -= first.bytes.count
        let bytes = release(first.bytes)
        return (bytes, first.original.map(release))
    }

    private func release(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
        copy.copyBytes(from: bytes)
        released.append(copy)
        return UnsafeRawBufferPointer(copy)
    }

    /// Whether a record is not for OpenSSL yet. Then it has been kept, or dropped where there is no room, as on the wire.
    /// - Parameter original: see ``Held/original``.
    func holds(_ bytes: UnsafeRawBufferPointer, original: UnsafeRawBufferPointer? = nil, _ ssl: OpaquePointer) -> Bool {
        guard state != .open, let record = Record(of: bytes) else { return false }
        guard isBehindGate(record, ssl) else { return false }
        if state == .open { return false }
        guard held.count < Self.maximumCount, heldByteCount + bytes.count <= Self.maximumBytes else { return true }
        held.append(Held(bytes: [UInt8](bytes), original: original.map { [UInt8]($0) }))
        heldByteCount += bytes.count
        return true
    }

    private func isBehindGate(_ record: Record, _ ssl: OpaquePointer) -> Bool {
        if record.isProtected { return record.contentType == .handshake }
        guard Self.isFullWithKey(ssl) else { return false }
        if record.contentType == .handshake, noteKeyExchange(record) { return true }
        // What follows the message waits with it.
        return keyExchange.hasBegun && (record.contentType == .handshake || record.contentType == .changeCipherSpec)
    }

    /// Whether a handshake goes on that a client proves itself in by a pre-shared key.
    private static func isFullWithKey(_ ssl: OpaquePointer) -> Bool {
        guard let suite = SSL_get_pending_cipher(ssl) else { return false }
        return Proof.isForKeys(suite) && SSL_session_reused(ssl) == 0
    }

    /// - Returns: whether the record holds a part of the ClientKeyExchange.
    private func noteKeyExchange(_ record: Record) -> Bool {
        var isPart = false
        var rest = record.fragment
        while let fragment = HandshakeFragment(rest) {
            if fragment.type == .clientKeyExchange, let body = fragment.body {
                isPart = true
                keyExchange.add(fragment, body)
            }
            rest = fragment.rest
        }
        // OpenSSL refuses what is no identity.
        if state == .closed, keyExchange.isInvalid { state = .open }
        return isPart
    }

    // MARK: Question and answer

    /// Finds out what is to be asked, as far as the handshake has got.
    /// - Returns: whether there is a ``question`` that was not there before.
    func findQuestion(_ ssl: OpaquePointer) -> Bool {
        guard state == .closed, SSL_get_pending_cipher(ssl) != nil else { return false }
        var question: AuthorizationQuestion
        if SSL_is_server(ssl) == 1, Self.isFullWithKey(ssl) {
            guard let identity = keyExchange.identity else { return false }
            question = AuthorizationQuestion(ssl)
            (question.certificate, question.publicKey) = (nil, nil)
            question.presharedKeyIdentity = identity
            self.identity = identity
        } else if scope == .all {
            guard HandshakeState(ssl) == .changeCipherSpecRead else { return false }
            question = AuthorizationQuestion(ssl)
        } else {
            state = .open
            return false
        }
        self.question = question
        state = .waiting
        return true
    }

    func answer(_ answer: AuthorizationAnswer) {
        guard state == .waiting else { return }
        state = .open
        defer { question = nil }
        switch answer {
        case .allowed(let key, let label):
            self.key = key
            self.label = label
        case .refused(let reason, let alert):
            refusal = AuthorizationRefusal(reason: reason, client: question?.client, alert: alert)
        }
    }

    /// Whether records wait that OpenSSL may have by now.
    var hasReleased: Bool { state == .open && !held.isEmpty }

    /// The refusal of a client that has sent all but its Finished. OpenSSL refuses one with a pre-shared key.
    var finalRefusal: AuthorizationRefusal? { identity == nil ? refusal : nil }

    // MARK: Keys

    /// The key that a client has in a full handshake with this identity; unknown where nobody has allowed it.
    func lookUp(_ identity: [UInt8], _ table: PresharedKeyTable) -> PresharedKeyLookup {
        guard state == .open, refusal == nil, identity == self.identity else { return .unknown }
        return key.map(PresharedKeyLookup.key) ?? table.lookUp(identity)
    }

    /// Whether the key is none of the server's settings.
    var hasOwnKey: Bool { key != nil }
}

/// The beginning of a ClientKeyExchange with a pre-shared key, from its fragments: the identity, after two bytes with its
/// length (RFC 4279, sections 2 to 4; RFC 5489, section 2).
private struct KeyExchangeMessage {
    private var sequence: UInt16?
    private var beginning: [UInt8] = []
    /// Fragments that do not follow what is there.
    private var later: [(offset: Int, bytes: [UInt8])] = []

    private static let size = 2 + PresharedKeys.maximumIdentityLength
    private static let maximumCount = 16

    var hasBegun: Bool { sequence != nil }

    mutating func add(_ fragment: HandshakeFragment, _ body: UnsafeRawBufferPointer) {
        guard sequence == nil || sequence == fragment.messageSequence else { return }
        sequence = fragment.messageSequence
        guard fragment.offset < Self.size, later.count < Self.maximumCount, beginning.count < Self.size else { return }
        later.append((fragment.offset, [UInt8](body.prefix(Self.size - fragment.offset))))
        while let index = later.firstIndex(where: { $0.offset <= beginning.count }) {
            let next = later.remove(at: index)
            let known = beginning.count - next.offset
            if known < next.bytes.count { beginning += next.bytes[known...] }
        }
    }

    private var length: Int? { beginning.count >= 2 ? Int(beginning[0]) << 8 | Int(beginning[1]) : nil }

    /// `nil` as long as it is not whole.
    var identity: [UInt8]? {
        guard let length, !isInvalid, beginning.count >= 2 + length else { return nil }
        return Array(beginning[2..<(2 + length)])
    }

    /// Whether it is none that anybody can have: empty, too long, or with a NUL.
    var isInvalid: Bool {
        guard let length else { return false }
        if !(1...PresharedKeys.maximumIdentityLength).contains(length) { return true }
        return beginning[2...].prefix(length).contains(0)
    }
}

extension OpenSSLConnection {
    /// Writes a fatal alert (RFC 5246, section 7.2.2).
    ///
    /// A server has keys in use before the client's Finished only where a session is resumed, and a client before the
    /// server's in all others. Where OpenSSL keeps them to itself (AES-CBC, DTLS 1.0), nothing is written then.
    func writeFatalAlert(_ description: UInt8) {
        guard protectedWrites.lastNumber > 0 else {
            withUnsafeTemporaryAllocation(byteCount: Record.headerSize + 2, alignment: 8) { record in
                Record.writeHeader(
                    .alert, version: UInt16(truncatingIfNeeded: SSL_version(ssl)),
                    sequenceNumber: lastPlaintextNumber + 1, length: 2, to: record)
                record[Record.headerSize] = UInt8(SSL3_AL_FATAL)
                record[Record.headerSize + 1] = description
                if bio.outbox.append(UnsafeRawBufferPointer(record)) { bio.notes.noteSentAlert(description) }
            }
            return
        }
        guard var records = ProtectedRecords(refusing: self) else { return }
        records.close(.fatal(description), over: bio)
        records.end(bio)
    }
}
