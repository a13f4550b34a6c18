import LinuxSystem

/// What listeners for DTLS and for plain datagrams have in common, for who keeps both.
package protocol DatagramListener: AnyObject {
    /// What it is bound to, the actual port included.
    var address: SocketAddress { get }
    var counters: DTLSListener.Counters { get }
    /// Starts to listen.
    func open() throws(SystemError)
    /// Stops, and closes the socket. Connections go on.
    func close()
    /// Takes back a datagram that a connection's socket has yielded: for this listener, as if it had come here.
    func putBack(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey)
}

extension DTLSListener: DatagramListener {}

/// Datagrams that were read from a connection's socket and belong to a listener; they take their turn after its batch.
struct MisdeliveredDatagrams {
    typealias Item = (datagram: [UInt8], key: FlowKey)

    private var waiting: [Item] = []
    private var isScheduled = false
    /// No more than a client's own hurry could bring: the rest is lost, as on the wire.
    private static let maximum = 1_024

    enum Outcome {
        case full
        case waits
        /// It waits, and `takeAll` is to be called at the end of the loop's turn.
        case needsTurn
    }

    mutating func add(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey) -> Outcome {
        guard waiting.count < Self.maximum else { return .full }
        waiting.append(([UInt8](datagram), key))
        defer { isScheduled = true }
        return isScheduled ? .waits : .needsTurn
    }

    /// The turn that was asked for has come.
    mutating func turnHasCome() { isScheduled = false }

    mutating func takeAll() -> [Item] {
        guard !waiting.isEmpty else { return [] }
        defer { waiting.removeAll(keepingCapacity: true) }
        return waiting
    }
}
