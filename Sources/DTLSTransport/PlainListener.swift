import LinuxSystem

/// Who takes a plain listener's senders.
package protocol PlainListenerDelegate: AnyObject {
    /// Whether there is a place for one more sender. Asked before anything is made.
    func canAdmit(_ key: FlowKey, on listener: PlainListener) -> Bool
    /// A sender that was not known, with what it has sent.
    /// - Returns: the number by which the delegate knows it, or `nil` when it could not take it after all: then the
    ///   sender's next datagram counts as the first.
    func listener(_ listener: PlainListener, admitted newcomer: consuming IncomingConnection) -> UInt64?
    /// A datagram on the listener of a sender that was admitted moments ago (rule 4).
    /// - Returns: false when that connection is gone, with its worker for example: then the sender is a new one.
    func listener(_ listener: PlainListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64) -> Bool
    /// The kernel gave no socket for a sender.
    func listener(_ listener: PlainListener, failed error: SystemError, for peer: SocketAddress)
}

/// A UDP socket that takes plain datagrams, and makes a connected socket for each sender: a client's local side.
///
/// There is no cookie: whoever can send to its address, with whatever source, gets a place. So it belongs on the
/// loopback interface or a network that is trusted.
package final class PlainListener: EventHandler, DatagramListener {
    package let address: SocketAddress
    /// `admitted`, `refused` and `strays` (datagrams that nobody can be answered for, or that no record has room for)
    /// count here.
    package private(set) var counters = DTLSListener.Counters()
    private var socket: FileDescriptor
    private let loop: EventLoop
    /// What the sockets of senders are made with.
    private let options: SocketOptions
    private let buffers: ListenerBuffers
    private unowned let delegate: any PlainListenerDelegate
    private let isOwnedByAnother: Bool
    private var registration: EventLoop.Registration?
    private var recent = RecentFlows()
    private var returned = MisdeliveredDatagrams()
    /// Batches read before others get their turn. One in which there was a new sender is the last of its turn.
    private static let batchesPerTurn = 8

    /// - Parameters:
    ///   - socket: bound, non-blocking, with destinations reported (``UDPSocket/listen(on:options:)``).
    ///   - address: what it is bound to, the actual port included.
    ///   - isOwnedByAnother: the socket was made by another user (systemd's root), so that SO_REUSEPORT alone does not
    ///     let this process bind its address again.
    package init(
        socket: consuming FileDescriptor, address: SocketAddress, options: SocketOptions, buffers: ListenerBuffers,
        loop: EventLoop, delegate: any PlainListenerDelegate, isOwnedByAnother: Bool = false
    ) {
        self.socket = socket
        self.address = address
        self.options = options
        self.buffers = buffers
        self.loop = loop
        self.delegate = delegate
        self.isOwnedByAnother = isOwnedByAnother
    }

    package func open() throws(SystemError) {
        registration = try loop.add(socket, .readable, self)
    }

    package func close() {
        if let registration { loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
    }

    private var isOpen: Bool { registration != nil }

    package func ready(_ events: EventLoop.Events) {
        for _ in 0..<Self.batchesPerTurn {
            guard let count = try? buffers.received.receive(from: socket), count > 0 else { return }
            let admittedBefore = counters.admitted
            for index in 0..<count {
                // A datagram with port 0 as its source cannot be answered.
                guard let peer = buffers.received.source(index), peer.port != 0, !buffers.received.isTruncated(index),
                    let local = buffers.received.destination(index, port: address.port)?.address
                else {
                    counters.strays &+= 1
                    continue
                }
                consider(buffers.received[index], FlowKey(peer: peer, local: local))
            }
            takeReturned()
            guard isOpen, count == buffers.received.capacity, counters.admitted == admittedBefore else { return }
        }
    }

    package func putBack(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey) {
        switch returned.add(datagram, key) {
        case .full, .waits: return
        case .needsTurn:
            loop.atEndOfTurn { [weak self] in
                self?.returned.turnHasCome()
                self?.takeReturned()
            }
        }
    }

    private func takeReturned() {
        while isOpen {
            let items = returned.takeAll()
            if items.isEmpty { return }
            for (datagram, key) in items { datagram.withUnsafeBytes { consider($0, key) } }
        }
    }

    private func consider(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey) {
        if let connection = recent.connection(of: key, now: loop.now),
            delegate.listener(self, late: datagram, of: connection)
        {
            return
        }
        admit(datagram, key)
    }

    private func admit(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey) {
        guard delegate.canAdmit(key, on: self) else {
            counters.refused.count(.full)
            return
        }
        do throws(SystemError) {
            let connected = try UDPSocket.newcomer(
                key, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options)
            let following = IncomingConnection.readEmpty(connected, key, through: buffers.leftovers) {
                putBack($0, $1)
            }
            let newcomer = IncomingConnection(
                socket: connected, key: key, hello: nil, datagrams: [[UInt8](datagram)] + following)
            guard let connection = delegate.listener(self, admitted: newcomer) else {
                counters.refused.count(.full)
                return
            }
            counters.admitted &+= 1
            recent.insert(key, nil, connection, now: loop.now)
        } catch {
            counters.refused.count(Refusal(error))
            delegate.listener(self, failed: error, for: key.peer)
        }
    }
}
