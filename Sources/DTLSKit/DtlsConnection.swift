import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives
import Synchronization

/// A connection with one peer: a client's own, one that a server has accepted, or one made from a descriptor.
///
/// Messages keep their boundaries: one `send` is one message and one datagram. As with UDP, a message may be lost or
/// overtake another.
public final class DtlsConnection: DtlsSocket {
    /// Where it is in its life.
    enum Phase {
        /// A client's, whose cookie is valid and whose handshake has not begun; with the datagrams that it has sent
        /// after its hello.
        case verified(ServerIdentity, [[UInt8]])
        /// From a bare descriptor: it waits for the client's hello.
        case exchanging(CookieExchange)
        case handshaking(Connection, isStarted: Bool)
        case established(Connection)
        case ended(DtlsError)
    }

    var phase: Phase
    /// The socket of a connection in `.verified`; later, others own it.
    private var socket = FileDescriptor(owning: -1)
    var inbox = Inbox()
    /// What a client's handshake has shown; `nil` for a server's side.
    var handshakeRecord: HandshakeRecord?
    /// See ``peer``; `nil` before the end of the handshake.
    var peerRecord: PeerRecord?
    /// What has passed.
    let counterBlock = CounterBlock()
    /// Where the server adds it up.
    private let serverCounters: ServerCounterBlock?
    private let observer: DtlsObserver?
    private let made = Instant.now()
    /// What other protocols' keys are derived from, where the options say so.
    var exporter: ExporterSecret?
    private let keepsExporter: Bool
    /// See ``onPeer(_:)``.
    var peerCallback: ((DtlsPeerQuestion) -> Void)?
    /// What the server asks, where that is in this thread.
    var serverPeerCallback: ((DtlsPeerQuestion) -> Void)? { server?.peerCallback }
    /// Whether the program is asked about the peer before the handshake is done.
    let asksAboutPeers: Bool
    /// Told once when the handshake is done or has failed; called inside the core, so it must not call the program.
    var handshakeEnded: ((DtlsConnection, DtlsError?) -> Void)?
    /// What it serves as; `nil` for a client's own.
    private let identity: ServerIdentity?
    private let handshakeTimeout: Int
    /// Where the handshake has not begun: the client's hello, or `nil` where only its descriptor has arrived.
    private var hello: VerifiedHello?
    private var deadlineTimer: CallbackTimer?
    private var lastError: Int32 = 0
    /// Why it ends, where the reason is found here and not by the core.
    private var endReason: DtlsError?
    /// For a client's handshake.
    private var refusals = RefusalCheck()
    /// Whether the peer is there, as the program has asked.
    private var questions: [PeerQuestion] = []
    /// Whether the program has closed it or given it away.
    private var isGivenUp = false
    private var local: SocketAddress
    /// It has a lock, since every thread may ask for ``remote``.
    private let presentPeer: Mutex<SocketAddress>
    var peerAddress: SocketAddress { presentPeer.withLock { $0 } }
    /// What it is known by to the server that has accepted it, in this process or in the parent of this task; or 0.
    let number: UInt64
    /// The server that has accepted it here.
    private weak var server: DtlsServer?
    /// Whether a server of this thread has accepted it.
    private let isOfServerHere: Bool
    /// The name of its server, where that is in the parent of this task.
    private var serverName: String?

    /// What the client was asked to put into its records, by the server here or in the parent.
    private(set) var connectionIDForRecords: ConnectionID?
    /// Whether it is a client's own.
    let isClient: Bool
    /// What a socket of this connection's is to have: what the program has set, and for a client what its first one had.
    private var socketOptions = SocketOptions()
    private static let clientOptions = SocketOptions(ipv6Only: false, fragmentation: false)
    /// For a client whose own address may change.
    private var route = RouteCheck()

    /// Called with the addresses that the peer has now and had before; see ``onAddressChange(_:)``.
    private var addressCallback: ((DtlsAddress, DtlsAddress) -> Void)?

    /// The peer's address, also once the connection is closed. It changes where ``connectionIDs`` were agreed on.
    public var remote: DtlsAddress { DtlsAddress(peerAddress) }

    private var flow: FlowKey { FlowKey(peer: peerAddress, local: local) }

    // MARK: Lifecycle

    init(accepted incoming: consuming IncomingConnection, number: UInt64, by server: DtlsServer) {
        local = incoming.flow.local
        presentPeer = Mutex(incoming.flow.peer)
        self.number = number
        self.server = server
        isOfServerHere = true
        identity = server.identity
        handshakeTimeout = server.identity.option.handshakeTimeout
        phase = .verified(server.identity, incoming.datagrams)
        asksAboutPeers = server.identity.option.asksAboutPeers
        keepsExporter = server.identity.option.keepsExporter
        serverCounters = server.counterBlock
        observer = server.identity.option.observer
        server.counterBlock.add(counterBlock)
        hello = incoming.hello.take()
        isClient = false
        super.init(server.scheduler)
        socket = incoming.socket.take()
        register()
    }

    /// - Parameters:
    ///   - hello: `nil` where only the descriptor has arrived.
    ///   - datagrams: what followed the hello.
    ///   - connectionID: what the server in the parent has for the client.
    init(
        _ descriptor: consuming FileDescriptor, _ identity: ServerIdentity, timeout: Int?,
        hello: consuming VerifiedHello?, datagrams: [[UInt8]], number: UInt64, connectionID: ConnectionID?,
        _ scheduler: Iosched
    ) throws(DtlsError) {
        let (local, peer) = try Self.names(of: descriptor)
        self.local = local
        presentPeer = Mutex(peer)
        self.number = number
        self.identity = identity
        isOfServerHere = false
        serverName = identity.option.name
        handshakeTimeout = timeout ?? identity.option.handshakeTimeout
        phase = .verified(identity, datagrams)
        asksAboutPeers = identity.option.asksAboutPeers
        keepsExporter = identity.option.keepsExporter
        serverCounters = nil
        observer = identity.option.observer
        self.hello = hello
        connectionIDForRecords = connectionID
        isClient = false
        super.init(scheduler)
        socket = descriptor
        register()
    }

    static func names(
        of descriptor: borrowing FileDescriptor
    ) throws(DtlsError) -> (local: SocketAddress, peer: SocketAddress) {
        let names: (local: SocketAddress, peer: SocketAddress)?
        do throws(SystemError) {
            if try UDPSocket.isUDP(descriptor), let local = try UDPSocket.localAddress(of: descriptor),
                let peer = try UDPSocket.peerAddress(of: descriptor)
            {
                try descriptor.makeNonBlocking()
                names = (local, peer)
            } else {
                names = nil
            }
        } catch {
            throw DtlsError(error)
        }
        guard let names else { throw .invalid("descriptor \(descriptor.rawValue) is not a connected UDP socket") }
        return names
    }

    /// A client's.
    /// - Parameter onPeer: see ``Dtls/createClient(_:_:timeout:onPeer:_:)``.
    init(
        _ option: DtlsClientOption, _ address: DtlsAddress, timeout: Int?, onPeer: ((DtlsPeerQuestion) -> Void)? = nil,
        _ scheduler: Iosched
    ) throws(DtlsError) {
        try option.check()
        var settings = option.settings
        if onPeer != nil {
            if option.renegotiate {
                throw .invalid("onPeer cannot be given where renegotiate is set: nobody is asked in a renegotiation")
            }
            settings.asksAboutServer = true
        }
        asksAboutPeers = onPeer != nil
        keepsExporter = option.keepsExporter
        serverCounters = nil
        observer = option.observer
        let context: ClientContext
        do throws(CredentialsError) { context = try ClientContext(settings) } catch { throw DtlsError(error) }
        if let keyLog = option.keyLog { context.logOwnKeys(to: keyLog.engineLog) }
        var descriptor = try DtlsError.system { () throws(SystemError) in
            let socket = try UDPSocket.open(address.socketAddress.family, options: Self.clientOptions)
            try UDPSocket.connect(socket, to: address.socketAddress)
            return socket
        }
        // The kernel connects to the loopback address in place of 0.0.0.0 or ::, and the answers come from that.
        let (local, peer) = try Self.names(of: descriptor)
        self.local = local
        presentPeer = Mutex(peer)
        number = 0
        identity = nil
        isOfServerHere = false
        handshakeTimeout = timeout ?? option.handshakeTimeout
        phase = .ended(.notOpen)
        handshakeRecord = HandshakeRecord(option)
        isClient = true
        socketOptions = Self.clientOptions
        peerCallback = onPeer
        super.init(scheduler)
        // Files may have been read meanwhile, and names been looked up: the handshake begins now.
        scheduler.loop.renewTime()
        let limits = option.limits(handshakeTimeout: handshakeTimeout)
        do throws(OpenSSLError) {
            let connection = try Connection.connect(
                over: descriptor.take(), flow, context: context, serverName: option.server,
                resuming: option.session?.session,
                connectionID: option.connectionID.map { length throws(OpenSSLError) in
                    try ConnectionID.random(count: length)
                },
                limits: limits, traffic: counterBlock.traffic, datapath: scheduler.datapath, delegate: self)
            phase = .handshaking(connection, isStarted: false)
        } catch {
            throw DtlsError(error)
        }
        register()
    }

    /// From a state that was suspended.
    init(
        resuming suspended: SuspensionState, _ descriptor: consuming FileDescriptor, _ identity: ServerIdentity?,
        number: UInt64, connectionID: ConnectionID?, _ scheduler: Iosched
    ) throws(DtlsError) {
        local = suspended.association.flow.local
        presentPeer = Mutex(suspended.association.flow.peer)
        self.number = number
        self.identity = identity
        isOfServerHere = false
        serverName = identity?.option.name
        handshakeTimeout = identity?.option.handshakeTimeout ?? 0
        phase = .ended(.notOpen)
        connectionIDForRecords = connectionID
        isClient = suspended.association.isClient
        asksAboutPeers = false
        keepsExporter = false
        serverCounters = nil
        observer = identity?.option.observer
        if isClient { socketOptions = Self.clientOptions }
        super.init(scheduler)
        let connection: Connection
        do throws(InvalidRecordState) {
            connection = try Connection.resume(
                suspended.association, over: descriptor,
                limits: identity?.option.limits(handshakeTimeout: handshakeTimeout) ?? Connection.Limits(),
                traffic: counterBlock.traffic, datapath: scheduler.datapath, delegate: self)
        } catch {
            throw .invalid("the suspended connection cannot go on: \(error)")
        }
        try DtlsError.system { () throws(SystemError) in _ = try connection.start() }
        phase = .established(connection)
        noteEstablished(connection)
        for message in suspended.messages { message.withUnsafeBytes { inbox.append($0) } }
        register()
    }

    deinit {
        if case .ended = phase {} else { checkThread() }
        if let serverName, connectionIDForRecords != nil { scheduler.parent?.forget(number, server: serverName) }
        unregister()
        disarm()
        serverCounters?.remove(counterBlock)
        // The transport may be at work on the connection, and counts at its end.
        if case .ended = phase {} else { scheduler.loop.atEndOfTurn { [counterBlock] in _ = counterBlock } }
        switch phase {
        case .handshaking(let connection, _), .established(let connection):
            connection.closeForDepartingDelegate()
        case .exchanging(let exchange): _ = exchange.take()
        case .verified, .ended: break
        }
    }

    // MARK: Handshake

    override func beginUse() { beginHandshake() }

    /// Begins the handshake, if it has not begun.
    func beginHandshake() {
        switch phase {
        case .handshaking(let connection, isStarted: false): start(connection, [])
        case .verified(let identity, let datagrams):
            if let hello = hello.take() { accept(identity, hello, datagrams) } else { exchangeCookies(identity) }
        case .handshaking, .exchanging, .established, .ended: break
        }
    }

    /// Begins the handshake, and has `callback` called when it is done or has failed.
    func handshake(_ callback: @escaping (Result<DtlsConnection, DtlsError>) -> Void) {
        if case .established = phase { return scheduler.call { callback(.success(self)) } }
        // The connection must live until its callback was called, even if the program keeps no reference.
        scheduler.keep(self)
        handshakeEnded = { connection, error in
            connection.scheduler.letGo(connection)
            connection.scheduler.call { callback(error.map { .failure($0) } ?? .success(connection)) }
        }
        beginHandshake()
    }

    private func exchangeCookies(_ identity: ServerIdentity) {
        do throws(SystemError) {
            let exchange = try CookieExchange(
                socket.take(), flow, cookies: identity.cookies, datapath: scheduler.datapath,
                misdelivered: { [weak self] in self?.reinject($0, $1) },
                completion: { [weak self] descriptor, hello, datagrams in
                    guard let self, case .exchanging = phase else { return }
                    disarm()
                    socket = descriptor
                    accept(identity, hello, datagrams)
                })
            phase = .exchanging(exchange)
        } catch {
            return end(DtlsError(error))
        }
        let timer = CallbackTimer { [weak self] _ in
            guard let self, case .exchanging = phase else { return }
            end(.timedOut(waitingFor: "the client's hello", errno: 0))
        }
        deadlineTimer = timer
        scheduler.loop.timers.arm(timer, at: Instant.now() + .milliseconds(handshakeTimeout))
    }

    private func disarm() {
        if let deadlineTimer { scheduler.loop.timers.disarm(deadlineTimer) }
        deadlineTimer = nil
    }

    private func accept(_ identity: ServerIdentity, _ hello: consuming VerifiedHello, _ datagrams: [[UInt8]]) {
        do throws(OpenSSLError) {
            prepareConnectionID()
            let connection = try Connection.accept(
                on: socket.take(), flow, hello: hello, context: identity.context,
                connectionID: connectionIDForRecords,
                limits: identity.option.limits(handshakeTimeout: handshakeTimeout), traffic: counterBlock.traffic,
                datapath: scheduler.datapath, delegate: self)
            start(connection, datagrams)
        } catch {
            end(DtlsError(error))
        }
    }

    private func start(_ connection: Connection, _ datagrams: [[UInt8]]) {
        phase = .handshaking(connection, isStarted: true)
        do throws(SystemError) {
            // `connectionClosed` has been called where it has ended already.
            if try connection.start() != nil { return }
        } catch {
            return end(DtlsError(error))
        }
        for datagram in datagrams { datagram.withUnsafeBytes { connection.receive($0) } }
    }

    /// Waits until the handshake is done.
    func handshake() throws(DtlsError) {
        switch phase {
        case .established: return
        case .ended(let error): throw error
        case .verified, .exchanging, .handshaking: try scheduler.checkMayWait()
        }
        beginHandshake()
        // The core ends it when its time has passed.
        _ = try scheduler.run(timeout: nil, answeringQuestions: true) {
            switch phase {
            case .established, .ended: true
            case .verified, .exchanging, .handshaking: false
            }
        }
        if case .ended(let error) = phase { throw error }
    }

    /// Whether the handshake is done, and the connection open.
    public var isEstablished: Bool {
        checkThread()
        if case .established = phase { return true }
        return false
    }

    /// Waits until messages can be sent and received.
    func use() throws(DtlsError) -> Connection {
        if case .established(let connection) = phase { return connection }
        try handshake()
        guard case .established(let connection) = phase else { throw .notOpen }
        return connection
    }

    // MARK: Shutdown

    /// Closes the connection, with close_notify where its handshake is done (reference: close).
    public override func close() {
        checkThread()
        switch phase {
        case .handshaking(let connection, _), .established(let connection): connection.close()
        case .verified, .exchanging: end(.notOpen)
        case .ended: break
        }
        leave()
    }

    private func leave() {
        isGivenUp = true
        inbox.removeAll()
        endEvents()
    }

    /// Gives the descriptor up without a word to the peer: somebody else, a task, has got a copy and goes on with it
    /// (reference: flyAway). This object cannot be used any more.
    ///
    /// It works before the handshake, as in the reference, and after it: the task goes on with the connection as it is.
    /// While the handshake lasts, nobody can go on with it.
    public func flyAway() {
        checkThread()
        switch phase {
        case .handshaking(let connection, _), .established(let connection): connection.abandon()
        case .verified, .exchanging: end(.notOpen)
        case .ended: break
        }
        leave()
    }

    /// Another object goes on with the connection.
    func leaveSuspended() {
        phase = .ended(.notOpen)
        exporter = nil
        serverCounters?.remove(counterBlock)
        unregister()
        leave()
        messageWaiter?()
    }

    private func end(_ error: DtlsError) {
        if case .ended = phase { return }
        disarm()
        if case .exchanging(let exchange) = phase { _ = exchange.take() }
        _ = socket.take()
        ended(error)
    }

    private func ended(_ error: DtlsError) {
        phase = .ended(error)
        exporter = nil
        serverCounters?.remove(counterBlock)
        unregister()
        if let callback = handshakeEnded {
            handshakeEnded = nil
            callback(self, error)
        }
        for question in questions { question.peerIsGone() }
        messageWaiter?()
        // A program that watches the descriptor learns of the end from recv or send.
        becameUnusable()
    }

    /// The program knows whether the client may come in, and by which key.
    func authorize(_ number: UInt32, _ answer: AuthorizationAnswer) {
        if case .handshaking(let connection, _) = phase { connection.authorize(number, answer) }
    }

    /// Asks the peer whether it is there; see ``isAlive(timeout:)``. Its handshake is done.
    func ask(timeout: Int, _ callback: @escaping (Bool?) -> Void) {
        guard case .established = phase else { return callback(false) }
        let question = PeerQuestion(self, timeout: .milliseconds(timeout)) { [weak self] question, answer in
            self?.questions.removeAll { $0 === question }
            callback(answer)
        }
        questions.append(question)
        question.ask()
    }

    /// Sends what a peer that is there answers, or what at least tells whether its port is closed.
    /// - Returns: whether a peer that is there answers.
    func sendQuestion() -> Bool {
        guard case .established(let connection) = phase else { return false }
        if connection.checksReturnRoutability {
            connection.askPeer()
            return true
        }
        // An empty record means nothing (RFC 5246, section 6.2.1).
        try? connection.send(UnsafeRawBufferPointer(start: nil, count: 0))
        return false
    }

    /// Told when there is something to receive, or the connection has ended; for the asynchronous face.
    var messageWaiter: (() -> Void)?

    // MARK: For the scheduler and the asynchronous face

    public override var sockFd: Int32 {
        checkThread()
        return switch phase {
        case .verified: socket.rawValue
        case .exchanging(let exchange): exchange.descriptor
        case .handshaking(let connection, _), .established(let connection): connection.descriptor
        case .ended: -1
        }
    }

    override var fault: DtlsError {
        if case .ended(let error) = phase, !isGivenUp { error } else { .notOpen }
    }

    /// The local address (reference: sockName). It stays known when the connection ends, until `close()`.
    public override func sockName() throws(DtlsError) -> DtlsAddress {
        checkThread()
        if case .ended = phase, !isGivenUp { return DtlsAddress(local) }
        return try super.sockName()
    }

    /// The remote address (reference: peerName). It stays known when the connection ends, until `close()`; ``remote`` tells
    /// it even then.
    public override func peerName() throws(DtlsError) -> DtlsAddress {
        checkThread()
        if case .ended = phase, !isGivenUp { return DtlsAddress(peerAddress) }
        return try super.peerName()
    }

    /// Whether a server of this thread that listened there has accepted it.
    func wasAccepted(at place: ListeningPlace) -> Bool {
        isOfServerHere && place.overlaps(ListeningPlace(address: local, ipv6Only: false))
    }

    override var isReadable: Bool {
        if case .ended = phase { return true }
        return !inbox.isEmpty
    }

    /// What a task needs beside the descriptor to begin the handshake without the client's help; `nil` once that has
    /// begun.
    var handover: TaskMessage.Handover? {
        guard case .verified(let identity, let datagrams) = phase, let name = identity.option.name else { return nil }
        prepareConnectionID()
        return TaskMessage.Handover(
            server: name, number: number, hello: helloHandover, datagrams: datagrams,
            connectionID: connectionIDForRecords?.bytes ?? [])
    }

    /// Has the server make what the client is to put into its records, if it has not and the server has connection IDs.
    private func prepareConnectionID() {
        if connectionIDForRecords == nil { connectionIDForRecords = server?.makeConnectionID(for: self) }
    }

    /// The name of the server that it was accepted by.
    var identityName: String? { identity?.option.name }

    /// Whether the handshake is done, and the connection's keys are not OpenSSL's.
    var isMovable: Bool {
        if case .established(let connection) = phase { return connection.canSuspend }
        return false
    }

    private var helloHandover: [UInt8]? {
        switch hello {
        case .some(let hello): hello.handover
        case nil: nil
        }
    }

    /// The server has found out that it sent this connection to a task.
    func handedOver(to task: DtlsTask) { server?.handedOver(number, connectionIDForRecords, to: task) }

    /// Takes a datagram of this connection's peer that was read elsewhere.
    func receive(misdelivered datagram: UnsafeRawBufferPointer) {
        switch phase {
        case .verified(let identity, let datagrams) where datagrams.count < 16:
            phase = .verified(identity, datagrams + [[UInt8](datagram)])
        case .handshaking(let connection, _), .established(let connection): connection.receive(datagram)
        default: break
        }
    }

    /// Returns a misdelivered datagram to the listener of this connection's server.
    private func reinject(_ datagram: UnsafeRawBufferPointer, _ source: SocketAddress) {
        let flow = FlowKey(peer: source, local: local)
        if let server {
            server.reinject(datagram, flow)
        } else if let serverName {
            scheduler.parent?.reinject(datagram, flow, server: serverName)
        }
    }

    override func change(_ set: (inout SocketOptions) -> Void) throws(DtlsError) {
        try super.change(set)
        set(&socketOptions)
    }

    public override func error() -> Int32 {
        checkThread()
        switch phase {
        case .handshaking(let connection, _), .established(let connection): return connection.takeError()
        case .verified, .exchanging: return super.error()
        case .ended:
            defer { lastError = 0 }
            return lastError
        }
    }
}

/// Connection IDs (RFC 9146). (Not in the reference.)
extension DtlsConnection {
    private var connection: Connection? {
        switch phase {
        case .handshaking(let connection, _), .established(let connection): connection
        case .verified, .exchanging, .ended: nil
        }
    }

    /// The connection IDs that were agreed on: the one in the records that this side receives, and the one in those that
    /// it sends; each may be empty. `nil` where none were, before the handshake is done, and once it is closed.
    public var connectionIDs: (own: [UInt8], peer: [UInt8])? {
        checkThread()
        return connection?.connectionIDs.map { ($0.own.bytes, $0.peer.bytes) }
    }

    /// Whether both sides check that a new address is the peer's before they use it (return routability check, RFC
    /// 9853).
    public var checksReturnRoutability: Bool {
        checkThread()
        return connection?.checksReturnRoutability ?? false
    }

    /// Calls `callback` each time the peer has another address, with that and the former one. The connection goes on,
    /// over another descriptor (``sockFd``).
    public func onAddressChange(_ callback: ((_ remote: DtlsAddress, _ former: DtlsAddress) -> Void)?) {
        checkThread()
        addressCallback = callback
    }

    /// Takes a datagram that came to the server's listener, perhaps from another address of the client.
    func receive(_ datagram: UnsafeRawBufferPointer, from flow: FlowKey) {
        connection?.receive(datagram, from: flow)
    }

    package func connection(_ connection: Connection, wantsSocketAt flow: FlowKey) {
        if let serverName, let parent = scheduler.parent {
            parent.wantSocket(of: number, at: flow, server: serverName)
        } else {
            scheduler.call { [weak self] in self?.move(connection, to: flow) }
        }
    }

    /// The parent has made the socket that was wanted, or could not.
    /// - Parameter socket: not open where it could not.
    func moved(to socket: consuming FileDescriptor, _ flow: FlowKey, with datagrams: [[UInt8]]) {
        guard let connection else { return }
        guard socket.isOpen else { return connection.moveFailed() }
        do throws(SystemError) {
            try socket.makeNonBlocking()
            try move(connection, to: flow, over: socket, with: datagrams)
        } catch {
            connection.moveFailed()
        }
    }

    private func move(_ connection: Connection, to flow: FlowKey) {
        guard self.connection === connection else { return }
        do throws(SystemError) {
            guard var incoming = try server?.makeSocket(for: flow) else { return connection.moveFailed() }
            try move(connection, to: flow, over: incoming.socket.take(), with: incoming.datagrams)
        } catch {
            connection.moveFailed()
        }
    }

    private func move(
        _ connection: Connection, to flow: FlowKey, over socket: consuming FileDescriptor, with datagrams: [[UInt8]]
    ) throws(SystemError) {
        try UDPSocket.apply(socketOptions, toBound: socket, flow.local.family)
        try connection.move(to: flow, over: socket)
        for datagram in datagrams { datagram.withUnsafeBytes { connection.receive($0) } }
    }

    // MARK: Another address of this machine

    /// A client's connection that the server knows by its connection ID is to look, before it sends, whether this machine
    /// has another address toward the server by now: nothing has come back for a while.
    func lookAtRoute(of connection: Connection) {
        guard isClient, connection.survivesOwnMoves, route.isDue(now: scheduler.loop.now) else { return }
        _ = followOwnAddress(connection, evenIfItStays: false)
    }

    /// - Parameter errno: what the socket has answered.
    /// - Returns: whether the connection goes on over another socket, from another address of this machine.
    func survives(_ errno: Int32, _ connection: Connection) -> Bool {
        guard isClient, connection.survivesOwnMoves, let fault = OwnAddressFault(errno: errno) else { return false }
        return followOwnAddress(connection, evenIfItStays: fault == .isGone)
    }

    private func followOwnAddress(_ connection: Connection, evenIfItStays isLost: Bool) -> Bool {
        do throws(SystemError) {
            let other = try UDPSocket.openConnected(to: connection.peer, options: socketOptions)
            return try connection.followOwnAddress(over: other, evenIfItStays: isLost)
        } catch {
            return false
        }
    }

    package func connection(_ connection: Connection, send datagram: UnsafeRawBufferPointer, to flow: FlowKey) {
        if let serverName, let parent = scheduler.parent {
            parent.send(datagram, to: flow, server: serverName)
        } else {
            server?.send(datagram, to: flow)
        }
    }

    package func connectionMoved(_ connection: Connection, from flow: FlowKey) {
        local = connection.flow.local
        presentPeer.withLock { $0 = connection.flow.peer }
        register()
        guard peerAddress != flow.peer else { return }
        let (now, former) = (remote, DtlsAddress(flow.peer))
        scheduler.call { [weak self] in self?.addressCallback?(now, former) }
    }
}

extension DtlsConnection: ConnectionDelegate {
    package func connectionEstablished(_ connection: Connection) {
        phase = .established(connection)
        noteEstablished(connection)
        if serverCounters != nil || observer != nil {
            let agreement = DtlsAgreement(connection.session)
            serverCounters?.handshakeDone(agreement)
            observer?.observe(.handshakeDone(agreement, duration: Instant.now() - made), remote)
        }
        if keepsExporter { exporter = connection.exporterSecret }
        handshakeRecord?.note(connection, isEstablished: true)
        if let callback = handshakeEnded {
            handshakeEnded = nil
            callback(self, nil)
        }
    }

    package func connection(_ connection: Connection, received message: UnsafeRawBufferPointer) {
        // An empty record is nothing for a program, which would take 0 bytes for the end.
        if isClient { route.heardPeer(now: scheduler.loop.now) }
        for question in questions { question.peerWasHeard() }
        if message.isEmpty { return }
        inbox.append(message)
        if inbox.isFull { connection.setReading(false) }
    }

    package func connectionHasRead(_ connection: Connection) {
        messageWaiter?()
        becameReadable()
    }

    package func connection(
        _ connection: Connection, misdelivered datagram: UnsafeRawBufferPointer, from peer: SocketAddress
    ) { reinject(datagram, peer) }

    /// A client that has lost its state goes on as a new one, which the program gets from its server: it would take the
    /// new one's messages for those of the old one otherwise.
    package func rehandshakeMaterial(for connection: Connection) -> RehandshakeMaterial? {
        guard let identity, server != nil || scheduler.parent != nil else { return nil }
        return RehandshakeMaterial(context: nil, cookies: identity.cookies)
    }

    package func connectionReplaced(_ connection: Connection) {}

    package func connection(_ connection: Connection, asks question: AuthorizationQuestion, _ number: UInt32) {
        guard let identity, let presharedKeyIdentity = question.presharedKeyIdentity, !question.isResumed,
            !identity.presharedIdentities.contains(presharedKeyIdentity)
        else { return askAboutPeer(connection, question, number) }
        guard let server, server.answersPresharedKeys else {
            return connection.authorize(number, .refused(reason: "nobody can be asked for its key"))
        }
        server.ask(DtlsPresharedKeyQuestion(presharedKeyIdentity, question, self, number))
    }

    /// The program has given the key of the client's identity.
    func gotKey(_ key: [UInt8], _ question: AuthorizationQuestion, _ number: UInt32) {
        if case .handshaking(let connection, _) = phase { askAboutPeer(connection, question, number, key: key) }
    }

    package func connectionAnswered(_ connection: Connection) {
        for question in questions { question.peerWasHeard() }
    }

    package func connection(_ connection: Connection, noted notes: EngineNotes) {
        if notes.retransmittedFlights > 0 { refusals.flightWasRepeated() }
        counterBlock.note(notes, observer, remote)
    }

    package func connection(_ connection: Connection, socketFailed errno: Int32) {
        guard errno == ECONNREFUSED else { return }
        for question in questions { question.peerWasRefused() }
        guard isClient, case .handshaking = phase, refusals.wasRefused() else { return }
        endReason = .system(call: "connect", subject: peerAddress.description, errno: errno)
        connection.close()
    }

    package func connection(_ connection: Connection, rehandshakeFailed ending: Connection.Ending) {}

    package func connectionClosed(_ connection: Connection, _ ending: Connection.Ending) {
        if case .ended = phase { return }
        lastError = connection.takeError()
        let error = endReason ?? DtlsError(ending, lastError: lastError)
        if case .handshaking = phase {
            noteFailed(connection)
            handshakeRecord?.note(connection, isEstablished: false)
            // What this side gives up by itself has not failed.
            if error != .notOpen {
                serverCounters?.handshakeFailed(DtlsServerCounters.Failure(ending))
                observer?.observe(.handshakeFailed(error), remote)
            }
        } else if case .established = phase {
            observer?.observe(.ended(error), remote)
        }
        ended(error)
    }
}
