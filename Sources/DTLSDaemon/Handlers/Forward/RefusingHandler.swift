import DTLSTransport
import Logging

/// Ends a connection that no backend is for: its client has proven who it is, and may not come in.
final class RefusingHandler: Handler {
    private let refusal: Refusal
    private let reason: String
    private let service: ServiceRuntime
    private let resources: HandlerResources

    /// - Parameter reason: for the log.
    init(_ refusal: Refusal, _ reason: String, of service: ServiceRuntime, _ resources: HandlerResources) {
        self.refusal = refusal
        self.reason = reason
        self.service = service
        self.resources = resources
    }

    func opened(_ connection: Connection) { Self.refuse(connection, refusal, reason, service, resources) }
    /// It was without a socket when another configuration came. It ends when its client is heard of again.
    func resumed(_ connection: Connection) { opened(connection) }
    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {}
    func batchEnded(on connection: Connection) {}
    func closed() {}

    /// Ends a connection with the alert access_denied.
    static func refuse(
        _ connection: Connection, _ refusal: Refusal, _ reason: String, _ service: ServiceRuntime,
        _ resources: HandlerResources
    ) {
        service.counters.count(refusal)
        resources.logs.refused(connection, refusal, reason, service)
        connection.close(.refused(reason))
    }
}
