import DTLSEngine

/// Lends an outbox that many share to one holder at a time, so that what one connection has written can never leave
/// over another's socket.
///
/// A lease begins with an empty outbox and ends with one: what the holder has written meanwhile is sent by the holder,
/// or gone. A holder that forgets to send loses its own datagrams, and no other connection's.
package final class OutboxLender {
    private let outbox: Outbox
    /// The one that is lent.
    private let lease: OutboxLease
    private var holder: ObjectIdentifier?

    package init(_ outbox: Outbox) {
        self.outbox = outbox
        lease = OutboxLease(outbox)
    }

    /// Lends the outbox to `holder` while `work` runs, and has `send` take what is in it at the end.
    ///
    /// A lease that its holder takes within its own is the same lease: what is written leaves with the outer one.
    /// Within another holder's lease, the outer one's datagrams are set aside meanwhile.
    /// - Parameter send: sends the datagrams over the holder's own socket. It need not empty the outbox.
    @inline(__always)
    package func lend(
        to holder: AnyObject, sending send: (Outbox) -> Void, _ work: (borrowing OutboxLease) -> Void
    ) {
        let identifier = ObjectIdentifier(holder)
        if self.holder == identifier { return work(lease) }
        let outer = beginLease(of: identifier)
        work(lease)
        if !outbox.isEmpty {
            send(outbox)
            outbox.removeAll()
        }
        endLease(within: outer)
    }

    /// The lease that another one is taken within, if there is one, with what its holder had written by then.
    private struct OuterLease {
        let holder: ObjectIdentifier?
        let datagrams: Datagrams?
    }

    private struct Datagrams {
        let bytes: [UInt8]
        let sizes: [Int]
    }

    @inline(__always)
    private func beginLease(of holder: ObjectIdentifier) -> OuterLease {
        let outer = OuterLease(holder: self.holder, datagrams: outbox.isEmpty ? nil : setAside())
        self.holder = holder
        return outer
    }

    @inline(__always)
    private func endLease(within outer: OuterLease) {
        holder = outer.holder
        if let datagrams = outer.datagrams { restore(datagrams) }
    }

    /// Empties the outbox. Only where there is an outer lease is there anything to be kept.
    private func setAside() -> Datagrams? {
        defer { outbox.removeAll() }
        guard holder != nil else { return nil }
        return outbox.withDatagrams { Datagrams(bytes: Array($0), sizes: Array($1)) }
    }

    private func restore(_ datagrams: Datagrams) {
        datagrams.bytes.withUnsafeBytes { bytes in
            var offset = 0
            for size in datagrams.sizes {
                outbox.append(UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)]))
                offset += size
            }
        }
    }
}

/// The right to write into an outbox, for as long as an ``OutboxLender`` lends it. It cannot be kept.
package struct OutboxLease: ~Copyable {
    private let outbox: Outbox

    @inline(__always)
    fileprivate init(_ outbox: Outbox) { self.outbox = outbox }

    @inline(__always)
    package func append(_ datagram: UnsafeRawBufferPointer) { outbox.append(datagram) }

    /// Has `send` take what is in the outbox, if it is more than half full: there may be more to come than it holds.
    @inline(__always)
    package func sendIfFilling(_ send: (Outbox) -> Void) {
        guard outbox.isFilling else { return }
        send(outbox)
        outbox.removeAll()
    }
}
