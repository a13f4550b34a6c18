import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Who takes a listener's newcomers.
package protocol DTLSListenerDelegate: AnyObject {
    /// Why there is no place for this newcomer's connection; `nil` when there is one. Asked once the cookie is good,
    /// before anything is made.
    func refusal(of key: FlowKey, on listener: DTLSListener) -> Refusal?
    /// A client with a good cookie. The delegate hands it on, or serves it.
    /// - Returns: the number by which it knows this connection, or `nil` when it could not take it after all: then the
    ///   client's next try counts as the first.
    func listener(_ listener: DTLSListener, admitted newcomer: consuming IncomingConnection) -> UInt64?
    /// A datagram on the listener of a peer that was admitted moments ago: it was sent before the peer's own socket was
    /// connected (rule 4).
    func listener(_ listener: DTLSListener, late datagram: UnsafeRawBufferPointer, of connection: UInt64)
    /// A datagram came of a peer that the listener's ``DTLSListener/access`` does not allow. It has been dropped.
    func listener(_ listener: DTLSListener, denied peer: SocketAddress)
    /// The kernel gave no socket for a newcomer.
    func listener(_ listener: DTLSListener, failed error: SystemError, for peer: SocketAddress)
}

/// A UDP socket that waits for clients: it does the cookie exchange without keeping anything of a client, and makes a
/// connected socket for each client whose cookie is good.
package final class DTLSListener: EventHandler {
    /// What has happened here, by kind.
    package struct Counters {
        package var hellosAnswered: UInt64 = 0
        package var admitted: UInt64 = 0
        /// Good hellos for which there was no place, and datagrams of peers that are not served.
        package var refused = Tally<Refusal>()
        /// Hellos that contradict themselves.
        package var malformed: UInt64 = 0
        /// Datagrams that are no hello: late ones of closed connections, mostly.
        package var strays: UInt64 = 0
        /// Answers that the kernel did not take.
        package var unsent: UInt64 = 0

        package init() {}
    }

    package let address: SocketAddress
    package private(set) var counters = Counters()
    private var socket: FileDescriptor
    private let loop: EventLoop
    /// What the sockets of newcomers are made with.
    private var options: SocketOptions
    /// What it makes and checks cookies with; clients that have one of another must ask again.
    package var cookies: CookieAuthority
    /// Whose peers are served: those that all of these allow. Others get no answer at all.
    package var access: [AccessList] = []
    private let buffers: ListenerBuffers
    private unowned let delegate: any DTLSListenerDelegate
    private let isOwnedByAnother: Bool
    private let mayHaveShields: Bool
    private var shields: DecoySockets?
    private var registration: EventLoop.Registration?
    private var recent = RecentFlows()
    private var returned = MisdeliveredDatagrams()
    /// Batches read before others get their turn.
    private static let batchesPerTurn = 8

    /// - Parameters:
    ///   - socket: bound, non-blocking, with destinations reported (``UDPSocket/listen(on:options:)``).
    ///   - address: what it is bound to, the actual port included.
    ///   - isOwnedByAnother: the socket was made by another user (systemd's root), so that SO_REUSEPORT alone does not
    ///     let this process bind its address again.
    ///   - mayHaveShields: whether it may open more sockets of its address (``DecoySockets``). Not where listeners
    ///     share an address: they would get what is the others'.
    package init(
        socket: consuming FileDescriptor, address: SocketAddress, options: SocketOptions, cookies: CookieAuthority,
        buffers: ListenerBuffers, loop: EventLoop, delegate: any DTLSListenerDelegate, isOwnedByAnother: Bool = false,
        mayHaveShields: Bool = false
    ) {
        self.socket = socket
        self.address = address
        self.options = options
        self.cookies = cookies
        self.buffers = buffers
        self.loop = loop
        self.delegate = delegate
        self.isOwnedByAnother = isOwnedByAnother
        // Connections that are bound to an interface themselves would be in the shields' groups.
        self.mayHaveShields = mayHaveShields && options.interface == nil
    }

    /// Starts to listen.
    package func open() throws(SystemError) {
        registration = try loop.add(socket, .readable, self)
        if mayHaveShields { shields = DecoySockets(of: self, loop: loop) }
    }

    /// Stops, and closes the socket. Connections go on.
    package func close() {
        shields?.close(afterReading: false)
        shields = nil
        if let registration { loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
    }

    package var isOpen: Bool { registration != nil }

    /// The socket's number, or -1 once it is closed.
    package var descriptor: Int32 { socket.rawValue }

    /// Changes the socket, and what newcomers' sockets are made with. Throws, and changes nothing, where the kernel
    /// does not take it.
    package func apply(_ options: SocketOptions) throws(SystemError) {
        if options.ipv6Only != self.options.ipv6Only, address.family == .ipv6 {
            try replaceSocket(options)
        } else {
            try UDPSocket.apply(options, toBound: socket, address.family)
        }
        self.options = options
    }

    /// IPV6_V6ONLY cannot be changed once a socket is bound (ipv6(7)): another one takes over, and the old one is read
    /// empty before it goes.
    private func replaceSocket(_ options: SocketOptions) throws(SystemError) {
        var successor = try UDPSocket.listen(on: address, options: options)
        let successorRegistration = try loop.add(successor, .readable, self)
        ready(.readable)
        if let registration { loop.remove(socket, registration) }
        _ = socket.take()
        socket = successor.take()
        registration = successorRegistration
    }

    // MARK: Shields

    /// Another listener is about to open on the same port: what comes to this one's shields may be its from now on.
    package func closeShields() { shields?.close(afterReading: true) }

    var shieldCount: Int { shields?.count ?? 0 }

    /// A socket like its own, for what comes to one address over one interface.
    func openShield(on local: SocketAddress, interface: UInt32) throws(SystemError) -> FileDescriptor {
        try UDPSocket.open(
            on: local, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options, interface: interface)
    }

    // MARK: Datagrams

    package func ready(_ events: EventLoop.Events) { read(from: nil) }

    /// - Parameter shield: `nil`: its own socket.
    func read(from shield: DecoySocket?) {
        for _ in 0..<Self.batchesPerTurn {
            guard let count = receive(from: shield), count > 0 else { return }
            let minute = Minute.now()
            for index in 0..<count {
                guard let peer = buffers.received.source(index),
                    let destination = buffers.received.destination(index, port: address.port), isRoutable(peer),
                    !buffers.received.isTruncated(index)
                else {
                    counters.strays &+= 1
                    continue
                }
                if shield == nil { shields?.hasPassed(destination) }
                let key = FlowKey(peer: peer, local: destination.address)
                consider(buffers.received[index], key, minute: minute)
            }
            sendAnswers()
            takeReturned()
            guard isOpen, count == buffers.received.capacity else { return }
        }
    }

    /// `nil` is an ICMP error for one of our answers; this call has cleared it.
    private func receive(from shield: DecoySocket?) -> Int? {
        guard let shield else { return try? buffers.received.receive(from: socket) }
        return try? shield.receive(into: buffers.received)
    }

    /// A datagram with port 0 as its source cannot be answered.
    private func isRoutable(_ peer: SocketAddress) -> Bool { peer.port != 0 }

    /// Takes back a datagram that a connection's socket has yielded: for this listener, as if it had come here.
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
            let datagrams = returned.takeAll()
            if datagrams.isEmpty { return }
            let minute = Minute.now()
            for (datagram, key) in datagrams { datagram.withUnsafeBytes { consider($0, key, minute: minute) } }
            sendAnswers()
        }
    }

    /// One datagram, from its bytes to what is done about it.
    private func consider(_ datagram: UnsafeRawBufferPointer, _ key: FlowKey, minute: Minute) {
        for list in access where !list.allows(key.peer) {
            counters.refused.count(.denied)
            return delegate.listener(self, denied: key.peer)
        }
        let datagram = buffers.fragments.join(datagram)
        switch ClientHello.parse(datagram) {
        case .hello(let hello):
            guard let verified = cookies.verify(hello, for: key, minute: minute) else {
                return answer(hello, key, minute)
            }
            // It has come again after its client was admitted.
            if recent.contains(key, verified.random, now: loop.now) { return }
            admit(verified, key)
        case .malformed:
            counters.malformed &+= 1
        case .notClientHello:
            if let connection = recent.connection(of: key, now: loop.now) {
                delegate.listener(self, late: datagram, of: connection)
            } else {
                counters.strays &+= 1
            }
        }
    }

    private func answer(_ hello: ClientHello, _ key: FlowKey, _ minute: Minute) {
        if buffers.answers.count == buffers.answers.capacity { sendAnswers() }
        counters.hellosAnswered &+= 1
        buffers.answers.add(to: key.peer, from: key.local) {
            cookies.writeHelloVerifyRequest(answering: hello, for: key, minute: minute, into: $0)
        }
    }

    private func sendAnswers() {
        guard buffers.answers.count > 0 else { return }
        counters.unsent &+= UInt64(truncatingIfNeeded: buffers.answers.send(over: socket))
    }

    // MARK: Newcomers

    private func admit(_ hello: consuming VerifiedHello, _ key: FlowKey) {
        if let refusal = delegate.refusal(of: key, on: self) {
            counters.refused.count(refusal)
            return
        }
        do throws(SystemError) {
            let connected = try UDPSocket.newcomer(
                key, beside: socket, isOwnedByAnother: isOwnedByAnother, options: options)
            let random = hello.random
            let datagrams = IncomingConnection.readEmpty(connected, key, through: buffers.leftovers) {
                putBack($0, $1)
            }
            let newcomer = IncomingConnection(socket: connected, key: key, hello: hello, datagrams: datagrams)
            guard let connection = delegate.listener(self, admitted: newcomer) else {
                counters.refused.count(.full)
                return
            }
            counters.admitted &+= 1
            shields?.countOpening(on: key.local)
            recent.insert(key, random, connection, now: loop.now)
        } catch {
            counters.refused.count(Refusal(error))
            delegate.listener(self, failed: error, for: key.peer)
        }
    }
}

/// The memory that all listeners of a process read and answer through.
package final class ListenerBuffers {
    let received = ReceiveBatch(capacity: 64, slotSize: 16_640, destinations: true)
    let leftovers = ReceiveBatch(capacity: 16, slotSize: 16_640)
    let answers = ReplyBatch(capacity: 64, slotSize: 128)
    let fragments = HelloFragments()

    package init() {}
}
