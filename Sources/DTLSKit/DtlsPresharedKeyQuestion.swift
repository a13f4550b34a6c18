import DTLSEngine
import DTLSTransport

/// A client that waits in its handshake for the key of its identity; see ``DtlsServer/onPresharedKey(_:)``. (Not in the
/// reference.)
///
/// It may be kept on any thread, and is to be answered on the server's.
public final class DtlsPresharedKeyQuestion: @unchecked Sendable {
    /// What the client says that it is; it has proven nothing yet. 1 to 255 bytes, UTF-8 as a rule.
    public let identity: [UInt8]
    /// The name that the client asks for (SNI).
    public let serverName: String?
    // Used on the server's thread alone, which `answer` checks.
    private let scheduler: Iosched
    private weak var connection: DtlsConnection?
    private let number: UInt32
    private let question: AuthorizationQuestion

    init(_ identity: [UInt8], _ question: AuthorizationQuestion, _ connection: DtlsConnection, _ number: UInt32) {
        self.identity = identity
        serverName = question.serverName
        scheduler = connection.scheduler
        self.connection = connection
        self.number = number
        self.question = question
    }

    /// Lets the handshake go on. Nothing happens where it is over meanwhile, or was answered before.
    /// - Parameter key: the identity's, 1 to 512 bytes; `nil`: there is none, and the client is refused.
    public func answer(_ key: [UInt8]?) {
        scheduler.checkThread(DtlsPresharedKeyQuestion.self)
        guard let connection else { return }
        self.connection = nil
        guard let key else { return connection.authorize(number, .refused(reason: "its identity has no key")) }
        guard (1...PresharedKeys.maximumKeyLength).contains(key.count) else {
            return connection.authorize(
                number,
                .refused(reason: "its key has \(key.count) bytes, and 1 to \(PresharedKeys.maximumKeyLength) do"))
        }
        connection.gotKey(key, question, number)
    }
}
