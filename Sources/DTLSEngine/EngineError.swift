import COpenSSL

/// The reason why an engine has ended, or has refused a message.
public enum EngineError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The handshake has failed, with OpenSSL's reason. `verification` is the reason of the check of the peer's
    /// certificate or key, where that has failed.
    case handshake(OpenSSLError, verification: String?)
    /// The client asks for a server name (SNI) that is not served here, and this side has refused the handshake.
    case unknownServerName(String)
    /// The client may not come in, as the ``AuthorizationAnswer`` says.
    indirect case unauthorized(AuthorizationRefusal)
    /// The peer has ended the handshake with close_notify.
    case cancelled
    /// A fatal alert, or a record that breaks the protocol, after the handshake, where the records are OpenSSL's.
    case record(OpenSSLError)
    /// A message must have at most ``Engine/maximumMessageSize`` bytes.
    case size(Int)
    /// The path to the peer takes messages of at most `limit` bytes, and they must not be fragmented.
    case path(Int, limit: Int)
    /// The peer has asked for records of at most `limit` bytes (max_fragment_length: RFC 6066, section 4).
    case fragment(Int, limit: Int)
    /// The peer has ended the connection with a fatal alert, after the handshake (RFC 5246, section 7.2).
    case alert(UInt8)
    /// The peer has sent an authentic record with more bytes than it may have.
    case overflow(limit: Int)
    /// All numbers of records are used up: another record would have the nonce of an earlier one.
    case exhausted
    case notEstablished

    public var description: String {
        switch self {
        case .handshake(let error, nil): "\(error)"
        case .handshake(let error, let verification?): "\(error): \(verification)"
        case .unknownServerName(let name): "the client asks for the name \"\(name)\", which is not served here"
        case .unauthorized(let refusal): "\(refusal)"
        case .cancelled: "the peer has cancelled the handshake (close_notify)"
        case .record(let error): "\(error)"
        case .size(let count): "a message of \(count) bytes: it may have at most \(Engine.maximumMessageSize)"
        case .path(let count, let limit): "a message of \(count) bytes: the path to the peer takes at most \(limit)"
        case .fragment(let count, let limit):
            "a message of \(count) bytes: the peer has asked for records of at most \(limit) (max_fragment_length)"
        case .alert(let description):
            "the peer has ended the connection with the fatal alert \"\(Self.name(ofAlert: description))\""
        case .overflow(let limit): "the peer has sent a record of more than \(limit) bytes"
        case .exhausted: "all 2^48 numbers that the connection's records can have are used up"
        case .notEstablished: "the handshake is not done, or the connection is closed"
        }
    }
}

extension EngineError {
    /// OpenSSL's name of an alert: `"handshake failure"`.
    private static func name(ofAlert description: UInt8) -> String {
        // It is "unknown" for what OpenSSL does not know.
        SSL_alert_desc_string_long(Int32(description)).map { String(cString: $0) } ?? "unknown"
    }

    /// The reason why the peer's certificate or key was refused; `nil` where the handshake failed for another reason.
    public var verification: String? {
        if case .handshake(_, let verification) = self { return verification }
        return nil
    }
}
