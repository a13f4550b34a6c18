import DTLSTransport

/// Every message goes back to its sender.
final class EchoHandler: Handler, Sendable {
    /// It knows nothing of a connection, so one serves them all.
    static let shared = EchoHandler()

    private init() {}

    func opened(_ connection: Connection) {}

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        #if DEBUG
            if let answer = StandIn.answer(to: message) {
                return answer.withUnsafeBytes { connection.sendOrDrop($0) }
            }
        #endif
        connection.sendOrDrop(message)
    }

    func batchEnded(on connection: Connection) {}

    func closed() {}
}
