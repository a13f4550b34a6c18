import DTLSEngine
import DTLSTransport
import LinuxSystem

/// The other side of a connection, as far as the handshake has shown who that is. (Not in the reference, like all that
/// belongs to it.)
///
/// What it holds is known when the handshake is done or has failed, and, for a program that is asked
/// (``DtlsServer/onPeer(_:)``), before that.
public struct DtlsPeer: Sendable, Equatable {
    /// The certificate that it has shown; `nil` where it has shown none. A server does not get the certificate again from
    /// a client that resumes a session, and a connection that was suspended, or sent to a task, leaves it behind: what
    /// else stands here is known all the same.
    public var certificate: DtlsCertificate? { chain.first.flatMap { DtlsCertificate(der: $0) } }
    /// All certificates that it has sent, DER, its own first. Nobody has checked that they belong together unless
    /// ``verification`` says that they passed.
    public let chain: [[UInt8]]
    /// The certificate's subject, as RFC 2253 writes it (`CN=sensor-7,O=Example`), and the common name in it. They are the
    /// peer's own words, as the names below: what is not printable is to be escaped before it reaches a terminal or a log.
    public let subject: String?
    /// The common name in the subject, where it has one.
    public let commonName: String?
    /// The certificate's subject alternative names (RFC 5280, section 4.2.1.6). They are left behind by a connection that
    /// was suspended, or sent to a task.
    public let names: DtlsAlternativeNames
    /// SHA-256 of the certificate, or of a raw public key's SubjectPublicKeyInfo, in lower-case hexadecimal digits.
    public let fingerprint: String?
    /// The identity of the pre-shared key: a client's own, in both sides' eyes.
    public let presharedKeyIdentity: [UInt8]?
    /// What this side's options call the raw public key that the peer has shown.
    public let rawPublicKeyName: String?
    /// Whether the peer has proven to be one that this side's options trust, and if not, why.
    public let verification: DtlsVerification
    /// The name that the client has asked for (SNI), whichever side that is.
    public let serverName: String?
    /// Whether the handshake resumes an earlier session, whose checks are not repeated.
    public let isResumed: Bool

    /// Whether ``verification`` says that all checks passed.
    public var isVerified: Bool { verification == .passed }

    package init(_ details: SessionDetails, chain: [[UInt8]]) {
        self.chain = chain
        // Where the handshake has failed, the certificate is all that there is.
        let shown = chain.first.flatMap { CertificateDetails(der: $0) }
        subject = details.peerName?.subject ?? shown?.subject
        commonName = details.peerName?.commonName
        names = DtlsAlternativeNames(shown?.names ?? details.alternativeNames)
        fingerprint = details.peerName?.fingerprint ?? shown?.fingerprint
        presharedKeyIdentity = details.presharedKeyIdentity
        rawPublicKeyName = details.peerName?.publicKeyName
        serverName = details.serverName
        isResumed = details.isResumed
        verification = DtlsVerification(
            code: details.verificationResult,
            hasShown: fingerprint != nil || details.presharedKeyIdentity != nil)
    }

    package init(_ question: AuthorizationQuestion) {
        chain = question.certificates
        let name = question.certificate ?? question.publicKey
        subject = name?.subject
        commonName = name?.commonName
        names = DtlsAlternativeNames(question.alternativeNames)
        fingerprint = name?.fingerprint
        presharedKeyIdentity = question.presharedKeyIdentity
        rawPublicKeyName = name?.publicKeyName
        serverName = question.serverName
        isResumed = question.isResumed
        let isUnproven = question.presharedKeyIdentity != nil && !question.isResumed
        verification =
            isUnproven
            ? .unproven
            : DtlsVerification(
                code: question.verificationResult, hasShown: name != nil || question.presharedKeyIdentity != nil)
    }
}

/// A certificate's subject alternative names, as text: the certificate's own words.
public struct DtlsAlternativeNames: Sendable, Equatable {
    /// Host names.
    public let dns: [String]
    /// IPv4 and IPv6 addresses.
    public let ip: [String]
    /// URIs, as the certificate has them.
    public let uri: [String]
    /// Mail addresses (rfc822Name).
    public let email: [String]

    init(_ names: AlternativeNames) { (dns, ip, uri, email) = (names.dns, names.ip, names.uri, names.email) }
}

/// What the checks of this side's options have found out about the peer.
public enum DtlsVerification: Sendable, Equatable {
    /// The certificate is one of a trusted CA, and has the name that was expected where there was one; or the peer has the
    /// pre-shared key of its identity, or a raw public key that is known.
    case passed
    /// It would have been refused, or was, for this.
    case failed(DtlsVerificationFault)
    /// The peer has shown nothing: no certificate, and no key.
    case nothingShown
    /// The peer has named the identity of a pre-shared key, and has not proven yet that it has the key: that comes with
    /// the end of the handshake.
    case unproven

    /// - Parameter code: X509_V_OK or X509_V_ERR_….
    init(code: Int, hasShown: Bool) {
        if !hasShown {
            self = .nothingShown
        } else if let fault = VerificationFault(code: code) {
            self = .failed(DtlsVerificationFault(fault))
        } else {
            self = .passed
        }
    }

    /// What is wrong; `nil` unless it is ``failed(_:)``.
    public var fault: DtlsVerificationFault? {
        if case .failed(let fault) = self { fault } else { nil }
    }
}

/// What is wrong with a peer's certificate or raw public key: the first fault that was found.
public struct DtlsVerificationFault: Sendable, Equatable, CustomStringConvertible {
    /// The kinds of faults, as far as a program may decide differently for them. More may come.
    public enum Kind: Sendable, Equatable, CaseIterable {
        /// No trusted CA has signed it, or its CA is not known.
        case untrusted
        /// Its last day has passed, or that of a CA in its chain.
        case expired
        /// Its first day has not come, or that of a CA in its chain.
        case notYetValid
        /// Its issuer's revocation list has it.
        case revoked
        /// A revocation list that the options ask for is not there, or out of date.
        case revocationUnknown
        /// It does not name the host or address that was expected.
        case wrongName
        /// It may not be used by a client, or by a server.
        case wrongPurpose
        /// A signature is wrong, or made with what is too weak.
        case badSignature
        /// The options' rules about clients exclude it, or it is no raw public key that is known.
        case notAllowed
        /// Anything else: ``code`` says what.
        case other
    }

    /// What kind of fault it is.
    public let kind: Kind
    /// OpenSSL's number of the error, as openssl-verification-options(1) lists them (X509_V_ERR_…).
    public let code: Int
    /// OpenSSL's words for it.
    public let description: String

    init(_ fault: VerificationFault) {
        code = fault.code
        description = fault.description
        kind =
            switch fault.kind {
            case .untrusted: .untrusted
            case .expired: .expired
            case .notYetValid: .notYetValid
            case .revoked: .revoked
            case .revocationUnknown: .revocationUnknown
            case .wrongName: .wrongName
            case .wrongPurpose: .wrongPurpose
            case .badSignature: .badSignature
            case .notAllowed: .notAllowed
            case .other: .other
            }
    }
}

/// Whether the program lets a peer in.
public enum DtlsPeerVerdict: Sendable, Equatable {
    /// The handshake goes on.
    case accepted
    /// - Parameters:
    ///   - alert: what the peer is told.
    ///   - reason: for this side's ``DtlsError``; the peer does not get it.
    case refused(_ alert: DtlsAlert = .accessDenied, reason: String = "the program has refused the peer")
}

/// The fatal alerts that a peer can be refused with (RFC 5246, section 7.2.2).
public enum DtlsAlert: UInt8, Sendable, CaseIterable {
    /// Nothing else fits.
    case handshakeFailure = 40
    /// The certificate cannot be read, or a signature in it is wrong.
    case badCertificate = 42
    /// The certificate is of a type that cannot be used.
    case unsupportedCertificate = 43
    /// The certificate's issuer has revoked it.
    case certificateRevoked = 44
    /// The certificate is not valid at this time.
    case certificateExpired = 45
    /// Anything else about the certificate is not acceptable.
    case certificateUnknown = 46
    /// The certificate's CA is not known, or not trusted.
    case unknownCA = 48
    /// The certificate is valid, but the peer may not come in.
    case accessDenied = 49
    /// This side demands stronger algorithms.
    case insufficientSecurity = 71
    /// This side could not decide, for a reason of its own.
    case internalError = 80
}

/// A handshake that waits until the program has said whether the peer is the right one; see ``DtlsServer/onPeer(_:)``.
///
/// It may be kept on any thread, and is to be answered on the connection's.
public final class DtlsPeerQuestion: @unchecked Sendable {
    /// The peer, as far as the handshake has shown who it is.
    public let peer: DtlsPeer
    /// The peer's address.
    public let remote: DtlsAddress
    /// The application protocol that was agreed on (ALPN).
    public let applicationProtocol: String?
    // Used on the connection's thread alone, which `answer` checks.
    private let scheduler: Iosched
    private weak var connection: DtlsConnection?
    private let number: UInt32
    /// The pre-shared key that the program has given before.
    private let key: [UInt8]?

    init(_ question: AuthorizationQuestion, _ connection: DtlsConnection, _ number: UInt32, key: [UInt8]?) {
        peer = DtlsPeer(question)
        remote = connection.remote
        applicationProtocol = question.applicationProtocol
        scheduler = connection.scheduler
        self.connection = connection
        self.number = number
        self.key = key
    }

    /// Lets the handshake go on, or ends it with an alert. Nothing happens where it is over meanwhile, or was answered
    /// before.
    public func answer(_ verdict: DtlsPeerVerdict) {
        scheduler.checkThread(DtlsPeerQuestion.self)
        guard let connection else { return }
        self.connection = nil
        switch verdict {
        case .accepted: connection.authorize(number, .allowed(key: key))
        case .refused(let alert, let reason):
            connection.authorize(number, .refused(reason: reason, alert: alert.rawValue))
        }
    }
}

/// The peer of a connection, and the question whether it is the right one.
extension DtlsConnection {
    /// Who the other side is; `nil` before the handshake is done or has failed. It stays known when the connection ends.
    public var peer: DtlsPeer? {
        checkThread()
        return peerRecord.map { DtlsPeer($0.details, chain: $0.chain) }
    }

    /// Has the handshake of this connection wait until `callback` has the question answered whether the peer is the right
    /// one: at once, or later. It is in the place of the server's ``DtlsServer/onPeer(_:)``, for a connection made from a
    /// descriptor in a task, and nobody is asked unless the server's options say so (``DtlsServerOption/asksAboutPeers``).
    public func onPeer(_ callback: ((DtlsPeerQuestion) -> Void)?) {
        checkThread()
        peerCallback = callback
    }

    func noteEstablished(_ connection: Connection) {
        peerRecord = PeerRecord(details: connection.session, chain: connection.peerCertificates)
    }

    func noteFailed(_ connection: Connection) {
        guard let details = connection.unfinishedDetails else { return }
        peerRecord = PeerRecord(details: details, chain: connection.peerCertificates)
    }

    /// The handshake waits for the program's word on the peer, where it is asked.
    /// - Parameter key: of the client's identity, where the program has just given it.
    func askAboutPeer(
        _ connection: Connection, _ question: AuthorizationQuestion, _ number: UInt32, key: [UInt8]? = nil
    ) {
        guard asksAboutPeers else { return connection.authorize(number, .allowed(key: key)) }
        let question = DtlsPeerQuestion(question, self, number, key: key)
        scheduler.ask { [weak self] in
            guard let self else { return }
            guard let callback = peerCallback ?? serverPeerCallback else {
                return question.answer(.refused(reason: "nobody can be asked about the peer (onPeer)"))
            }
            callback(question)
        }
    }
}

/// What ``DtlsConnection/peer`` is made from, when somebody asks.
struct PeerRecord {
    let details: SessionDetails
    let chain: [[UInt8]]
}
