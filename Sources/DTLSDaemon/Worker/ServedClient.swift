import DTLSEngine
import DTLSTransport
import LinuxSystem

/// Whom a handler serves: what is known of a connection whether it has a socket at the moment or not.
struct ServedClient {
    let flow: FlowKey
    /// What the handshake has agreed on.
    let session: SessionDetails
    /// Where the connection is kept. A handler notes its far side there. `nil` in a worker that has got no memory for
    /// it, so that the connection ends with the worker.
    let slot: ConnectionSlot?

    /// The client of a connection that has just been established.
    init(_ connection: Connection, _ slot: ConnectionSlot?) {
        flow = FlowKey(peer: connection.peer, local: connection.local)
        session = connection.session
        self.slot = slot
    }

    /// The client of a connection that is in a slot; `nil` for memory that holds no addresses.
    /// - Parameter flow: where the client is, if that is known; otherwise it is where the client was last.
    init?(_ slot: ConnectionSlot, _ flow: FlowKey? = nil) {
        guard let flow = flow ?? slot.lastFlow else { return nil }
        self.flow = flow
        session = slot.session ?? SessionDetails()
        self.slot = slot
    }
}
