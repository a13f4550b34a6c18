import DTLSEngine
import LinuxSystem
import Primitives

/// What a ``ClientTrace`` is told of a connection. None of it is called without one.
extension Connection {
    /// A datagram has come and is about to be taken.
    @inline(never)
    func traceReceived(_ datagram: UnsafeRawBufferPointer, from source: FlowKey) {
        guard let trace = datapath.trace, trace.isFor(source.peer) else { return }
        trace.received(
            datagram, from: source.peer, connectionIDLength: association.connectionIDs?.own.count ?? 0,
            verdict(on: datagram))
        // Looking at it has noted that nothing is worked on.
        datapath.noteWork(on: slotIndex)
    }

    private func verdict(on datagram: UnsafeRawBufferPointer) -> String {
        guard association.isMovable else { return "taken for the handshake, or by OpenSSL" }
        guard let record = Record(of: datagram), record.isProtected, let slot = datapath.slot(Int(slotIndex)),
            slot.phase == .established
        else { return "not protected, although the connection is established" }
        switch datapath.authenticates(datagram, of: slot, at: Int(slotIndex)) {
        case .authentic(isNewest: true): return "authentic"
        case .authentic(isNewest: false): return "authentic, and older than others before"
        case .no: return "dropped, since it is forged, or a copy"
        }
    }

    /// Datagrams are about to leave.
    @inline(never)
    func traceSent(_ outbox: Outbox) {
        guard let trace = datapath.trace, trace.isFor(peer) else { return }
        outbox.withDatagrams { bytes, sizes in
            var offset = 0
            for size in sizes {
                trace.sent(
                    UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)]), by: flow,
                    connectionIDLength: association.connectionIDs?.peer.count ?? 0)
                offset += size
            }
        }
    }

    /// Something has happened that is no datagram.
    @inline(never)
    func traceNote(_ text: @autoclosure () -> String) { datapath.trace?.note(peer, text()) }

    /// The timer has fired, and what is done about it follows.
    @inline(never)
    func traceTimer() {
        guard let trace = datapath.trace, trace.isFor(peer) else { return }
        trace.isTimedOut = true
        trace.note(
            peer, "a timer of the connection has fired: " + (association.isMovable ? "established" : "in its handshake")
        )
    }

    @inline(never)
    func traceEnd(_ ending: Ending) {
        guard let trace = datapath.trace else { return }
        trace.note(peer, "the connection has ended, and its socket is closed: \(ending)")
        trace.ended(flow)
    }
}
