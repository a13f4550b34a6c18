import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// A live connection: one connected UDP socket, one engine, its deadlines.
package final class Connection: TimerTarget, EventHandler {
    enum Phase {
        case handshaking
        case established
        /// Ended, with its socket still open: datagrams of the present batch may be on their way.
        case ending(Ending)
        case gone
    }

    package let local: SocketAddress
    package let peer: SocketAddress
    package internal(set) var counters = Counters()
    /// The time from the start of the handshake to its end.
    package internal(set) var handshakeDuration = Duration.zero
    package internal(set) var engine: Engine

    /// The last errno that the socket gave, an ICMP error mostly; see ``takeError()``.
    package internal(set) var lastError: Int32 = 0

    let datapath: Datapath
    let limits: Limits
    var socket: FileDescriptor
    private var registration: EventLoop.Registration?
    weak var delegate: (any ConnectionDelegate)?
    var phase = Phase.handshaking
    var started: Instant
    /// What the peer's hello began with; `nil` for a client's side.
    var random: ClientRandom?
    var successor: Rehandshake?
    var restarts = RehandshakeLimit()
    var lastReceived: Instant
    /// When something was last sent by a connection that had given its record buffers back.
    var lastSentQuietly = Instant.distantPast
    /// Bytes of the largest message that the path is known to take; see ``checkFits(_:)``.
    var knownToFit = Connection.alwaysFits
    /// Whether OpenSSL holds record buffers for this connection.
    var holdsBuffers = true
    /// Whether datagrams of this connection are being worked through: its end waits for that.
    private var isReading = false
    /// Whether the delegate has had messages since it was last told that a batch is complete.
    private var hasMessages = false
    /// What came when it had ended, and may be a newcomer's.
    private var leftBehind: [(datagram: [UInt8], source: SocketAddress)] = []

    /// How long a connection keeps OpenSSL's record buffers after its last datagram.
    static let quietTime = Duration.milliseconds(1_000)

    private init(
        engine: Engine, socket: consuming FileDescriptor, local: SocketAddress, peer: SocketAddress, limits: Limits,
        datapath: Datapath, delegate: any ConnectionDelegate
    ) {
        self.engine = engine
        self.socket = socket
        self.local = local
        self.peer = peer
        self.limits = limits
        self.datapath = datapath
        self.delegate = delegate
        started = datapath.loop.now
        lastReceived = started
        super.init()
    }

    deinit { datapath.leave(self) }

    /// A server's connection from a connected socket and a ClientHello whose cookie is verified (reference:
    /// createByFd). Call `start` next.
    package static func createByFd(
        _ socket: consuming FileDescriptor, local: SocketAddress, peer: SocketAddress, context: ServerContext,
        hello: consuming VerifiedHello, limits: Limits, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let random = hello.random
        let engine = try makeEngine(context, hello, local: local, limits: limits, datapath: datapath)
        let connection = Connection(
            engine: engine, socket: socket, local: local, peer: peer, limits: limits, datapath: datapath,
            delegate: delegate)
        connection.random = random
        return connection
    }

    static func makeEngine(
        _ context: ServerContext, _ hello: consuming VerifiedHello, local: SocketAddress, limits: Limits,
        datapath: Datapath
    ) throws(OpenSSLError) -> Engine {
        try Engine(
            accepting: context, over: datapath.bio, payloadSize: limits.payloadSize(local.family), hello: hello,
            localAddress: local.withBytes { [UInt8]($0.dropLast(2)) })
    }

    /// A client's connection over a connected socket (reference: createClient). Call `start` next.
    package static func createClient(
        _ socket: consuming FileDescriptor, local: SocketAddress, peer: SocketAddress, context: ClientContext,
        serverName: String?, limits: Limits, datapath: Datapath, delegate: any ConnectionDelegate
    ) throws(OpenSSLError) -> Connection {
        let engine = try Engine(
            connecting: context, over: datapath.bio, payloadSize: limits.payloadSize(local.family),
            serverName: serverName)
        return Connection(
            engine: engine, socket: socket, local: local, peer: peer, limits: limits, datapath: datapath,
            delegate: delegate)
    }

    /// Begins the handshake. The delegate may be called before this returns.
    /// - Parameter datagrams: what the same peer has sent after the hello, if it was read already.
    package func start(with datagrams: [UnsafeRawBufferPointer] = []) throws(SystemError) {
        registration = try datapath.loop.add(socket, .readable, self)
        fitToPath(engine)
        whileReading {
            advance()
            for datagram in datagrams { take(datagram) }
        }
    }

    /// Takes a datagram of this connection's peer that somebody else has read.
    package func receive(_ datagram: UnsafeRawBufferPointer) {
        guard !isReading, isOpen else { return }
        whileReading { take(datagram) }
    }

    // MARK: What comes in

    package func ready(_ events: EventLoop.Events) {
        let batch = datapath.batch
        let count: Int
        do throws(SystemError) {
            count = try batch.receive(from: socket)
        } catch {
            // An ICMP error (ECONNREFUSED and the like), which anybody can forge: it has been cleared by this call.
            lastError = error.errno
            if error.errno == EMSGSIZE {
                counters.tooLarge &+= 1
                pathHasShrunk()
            }
            delegate?.connection(self, socketFailed: error.errno)
            return
        }
        whileReading {
            for index in 0..<count {
                // Rule 2: a connected socket can hold what came for it before it was connected.
                guard let source = batch.source(index), source == peer else {
                    if let source = batch.source(index) {
                        delegate?.connection(self, foreign: batch[index], from: source)
                    }
                    continue
                }
                take(batch[index])
            }
        }
    }

    @inline(__always)
    func whileReading(_ work: () -> Void) {
        isReading = true
        datapath.claim(self)
        work()
        endBatch()
        datapath.claim(self)
        flush()
        isReading = false
        if case .ending(let ending) = phase { return finish(ending) }
        rearm()
    }

    /// Tells the delegate that the messages of a batch, or of a life of the peer within it, are complete.
    @inline(__always)
    func endBatch() {
        guard hasMessages else { return }
        hasMessages = false
        delegate?.connectionHasRead(self)
    }

    @inline(__always)
    private func take(_ datagram: UnsafeRawBufferPointer) {
        switch phase {
        case .established where concernsSuccession(datagram):
            datapath.claim(self)
            takeForSuccession(datagram)
        case .handshaking where beginsAnew(datagram):
            takeInPlaceOfHandshake(datagram)
        case .handshaking, .established:
            engine.deliver(datagram)
            advance()
        case .ending:
            giveBack(datagram, from: peer)
        case .gone:
            break
        }
    }

    /// Hands out everything that the engine has to say.
    func advance() {
        holdsBuffers = true
        do throws(EngineError) {
            while isOpen {
                // The delegate may have used another connection meanwhile.
                datapath.claim(self)
                switch try engine.next() {
                case .needsInput:
                    return
                case .message(let message):
                    lastReceived = datapath.loop.now
                    hasMessages = true
                    counters.messagesIn &+= 1
                    counters.bytesIn &+= UInt64(truncatingIfNeeded: message.count)
                    delegate?.connection(self, received: message)
                    if datapath.bio.outbox.isFilling { flush() }
                case .established:
                    phase = .established
                    lastReceived = datapath.loop.now
                    handshakeDuration = Instant.now() - started
                    delegate?.connectionEstablished(self)
                case .closed:
                    end(.closedByPeer)
                }
            }
        } catch {
            end(.failed(error))
        }
    }

    var isOpen: Bool {
        switch phase {
        case .handshaking, .established: true
        case .ending, .gone: false
        }
    }

    // MARK: What goes out

    /// Encrypts a message of 1 to 16,384 bytes into one datagram. Throws, and counts, one that the path does not take
    /// in one piece, where the socket must not fragment. It leaves with `flush()`, or at the end of the batch
    /// that is being read.
    @inline(__always)
    package func send(_ message: UnsafeRawBufferPointer) throws(EngineError) {
        guard isOpen else { throw .notEstablished }
        if successor != nil, isQuietForSuccessor {
            counters.unsent &+= 1
            return
        }
        datapath.claim(self)
        if datapath.bio.outbox.isFilling { flush() }
        if message.count > knownToFit { try checkFits(message.count) }
        try engine.send(message)
        if !holdsBuffers {
            holdsBuffers = true
            lastSentQuietly = datapath.loop.now
            rearm()
        }
        counters.messagesOut &+= 1
        counters.bytesOut &+= UInt64(truncatingIfNeeded: message.count)
    }

    /// Sends what waits in the outbox. What the socket does not take is lost, as on the wire, and counted.
    package func flush() {
        guard !datapath.bio.outbox.isEmpty, datapath.isWriter(self) else { return }
        let count = datapath.bio.outbox.count
        let outcome = datapath.sendOutbox(over: socket)
        guard outcome.sent < count else { return }
        counters.unsent &+= UInt64(truncatingIfNeeded: count - outcome.sent - outcome.tooLarge)
        counters.tooLarge &+= UInt64(truncatingIfNeeded: outcome.tooLarge)
        lastError = outcome.error
        if outcome.tooLarge > 0 { pathHasShrunk() }
    }

    /// The last error that the socket gave, or 0; it is cleared by asking (reference: error()).
    package func takeError() -> Int32 {
        defer { lastError = 0 }
        if lastError == 0, socket.isOpen { return (try? UDPSocket.takeError(of: socket)) ?? 0 }
        return lastError
    }

    /// The socket's number, or -1 once it is closed.
    package var descriptor: Int32 { socket.rawValue }

    /// Lets datagrams wait in the socket, or reads them again: for a reader that does not keep up.
    package func setReading(_ on: Bool) {
        guard isOpen, let registration else { return }
        try? datapath.loop.modify(socket, on ? .readable : [], registration)
    }

    /// Ends the connection without a word to the peer: somebody else goes on with it.
    package func abandon() {
        guard isOpen else { return }
        end(.closedHere)
        if !isReading { whileReading {} }
    }

    /// Ends the connection with close_notify, or without a word where the handshake is not done. The delegate is told
    /// before this returns, unless it is called from the delegate.
    package func close(_ ending: Ending = .closedHere) {
        guard isOpen else { return }
        datapath.claim(self)
        engine.close()
        end(ending)
        if !isReading { whileReading {} }
    }

    // MARK: The end

    func end(_ ending: Ending) {
        guard isOpen else { return }
        phase = .ending(ending)
    }

    /// Rule 3: reads the socket empty before it is closed, since the peer may already be back on the same port.
    private func finish(_ ending: Ending) {
        let batch = datapath.leftovers
        batch.receiveAll(from: socket) { index in
            if let source = batch.source(index) { giveBack(batch[index], from: source) }
        }
        phase = .gone
        if let registration { datapath.loop.remove(socket, registration) }
        datapath.loop.timers.disarm(self)
        datapath.leave(self)
        _ = socket.take()
        let delegate = delegate
        delegate?.connectionClosed(self, ending)
        // Only now: the place that a newcomer needs may be the one that this connection had.
        for (datagram, source) in leftBehind {
            datagram.withUnsafeBytes { delegate?.connection(self, foreign: $0, from: source) }
        }
        leftBehind = []
    }

    func giveBack(_ datagram: UnsafeRawBufferPointer, from source: SocketAddress) {
        guard ClientHello.couldBePart(of: datagram) else { return }
        if isOpen {
            delegate?.connection(self, foreign: datagram, from: source)
        } else {
            leftBehind.append(([UInt8](datagram), source))
        }
    }

    // MARK: Time

    package override func timerFired(now: Instant) {
        switch phase {
        case .handshaking:
            if now >= started + limits.handshakeTimeout {
                if engine.holdsAlert { whileReading { believeAlert() } }
                return close(.handshakeTimedOut)
            }
            whileReading {
                do throws(EngineError) { try engine.handleTimeout() } catch { end(.failed(error)) }
            }
        case .established:
            if limits.idleTimeout > .zero, now >= lastReceived + limits.idleTimeout { return close(.idle) }
            if holdsBuffers, now >= max(lastReceived, lastSentQuietly) + Self.quietTime {
                engine.releaseBuffers()
                holdsBuffers = false
            }
            lookAfterSuccessor(now: now)
            lookAfterRenegotiation()
        case .ending, .gone:
            break
        }
    }
}
