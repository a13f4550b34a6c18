import DTLSEngine
import LinuxSystem

/// Tells in words what passes between some peers and this process: records in and out with what becomes of them, flights
/// that are sent again, timers, sockets. It is there only while somebody has asked for it, and is slow.
package final class ClientTrace {
    private let patterns: [AddressPattern]
    private let write: (SocketAddress, String) -> Void
    /// The handshake fragments that were sent to a peer, by which a flight is known that is sent again.
    private var sent: [FlowKey: Set<UInt64>] = [:]
    /// Whether what is sent is, since the peer has not answered in time.
    var isTimedOut = false

    /// - Parameter write: takes a line about a peer.
    package init(_ patterns: [AddressPattern], _ write: @escaping (SocketAddress, String) -> Void) {
        self.patterns = patterns
        self.write = write
    }

    package func isFor(_ peer: SocketAddress) -> Bool { patterns.contains { $0.matches(peer) } }

    package func note(_ peer: SocketAddress, _ text: @autoclosure () -> String) {
        if isFor(peer) { write(peer, text()) }
    }

    /// A datagram has come.
    /// - Parameters:
    ///   - connectionIDLength: of the connection ID in the peer's records.
    ///   - verdict: what becomes of it.
    package func received(
        _ datagram: UnsafeRawBufferPointer, from peer: SocketAddress, connectionIDLength: Int = 0,
        _ verdict: @autoclosure () -> String
    ) {
        guard isFor(peer) else { return }
        let verdict = verdict()
        for record in RecordText.all(of: datagram, connectionIDLength: connectionIDLength) {
            write(peer, "received \(record.text): \(verdict)")
        }
    }

    /// The most peers, and fragments of each, that are remembered.
    private static let maximumRemembered = 64

    /// A datagram leaves.
    package func sent(_ datagram: UnsafeRawBufferPointer, by flow: FlowKey, connectionIDLength: Int = 0) {
        guard isFor(flow.peer) else { return }
        for record in RecordText.all(of: datagram, connectionIDLength: connectionIDLength) {
            let isAgain =
                record.isHandshake
                && (isTimedOut || record.fragments.contains { sent[flow]?.contains($0) == true })
            write(flow.peer, "\(isAgain ? "sent again" : "sent") \(record.text)")
            guard !record.fragments.isEmpty else { continue }
            if sent[flow] == nil, sent.count >= Self.maximumRemembered { sent = [:] }
            if let known = sent[flow], known.count >= Self.maximumRemembered { sent[flow] = [] }
            sent[flow, default: []].formUnion(record.fragments)
        }
    }

    /// The connection of this flow has ended: another one begins.
    package func ended(_ flow: FlowKey) { sent[flow] = nil }
}
