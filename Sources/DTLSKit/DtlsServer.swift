import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem

/// A server: it waits for clients, proves their addresses with a cookie, and gives each a socket of its own.
public final class DtlsServer: DtlsSocket {
    let identity: ServerIdentity
    let counterBlock = ServerCounterBlock()
    private var listener: DatagramListener?
    private var options = SocketOptions(ipv6Only: false, fragmentation: false)
    /// Clients that `accept` has not given out yet.
    private var queue: [DtlsConnection] = []
    private let completesHandshakes: Bool
    /// Told when a client waits to be given out; for the asynchronous face.
    var clientWaiter: (() -> Void)?
    /// Clients in their handshake, where the server completes that.
    private var handshaking: [ObjectIdentifier: DtlsConnection] = [:]
    private var acceptCallback: ((DtlsConnection, DtlsAddress) -> Void)?
    private var failureCallback: ((DtlsError, DtlsAddress) -> Void)?
    private var keyCallback: ((DtlsPresharedKeyQuestion) -> Void)?
    private(set) var peerCallback: ((DtlsPeerQuestion) -> Void)?
    /// The connections whose datagrams may still come to the listener (rule 4), by their numbers.
    private var recent = RecentConnections()
    /// Where the connections are that clients have a connection ID of, by that. Those of this process that are gone are
    /// removed now and then.
    private var placesByID: [ConnectionID: Place] = [:]
    private var idsToSweepAt = 64
    /// The connection IDs of connections that are in tasks, by their numbers.
    private var idsInTasks: [UInt64: ConnectionID] = [:]

    private struct Place {
        weak var connection: DtlsConnection?
        /// The task that the connection was sent to.
        weak var task: DtlsTask?
        let number: UInt64

        var isInUse: Bool { task != nil || connection.map { $0.sockFd >= 0 } ?? false }
    }

    /// Clients in their handshake or waiting for `accept`, at most; further ones have to try again.
    public static let backlog = 1_024

    /// - Parameter completesHandshakes: whether clients are given out once their handshake is done, or as soon as their
    ///   address is proven; `nil`: the latter on a server with a name.
    init(
        _ option: DtlsServerOption, _ address: DtlsAddress, _ scheduler: Iosched, completesHandshakes: Bool? = nil
    ) throws(DtlsError) {
        identity = try ServerIdentity(option)
        self.completesHandshakes = completesHandshakes ?? (option.name == nil)
        super.init(scheduler)
        if let name = option.name, scheduler.identities[name] != nil {
            throw .invalid("there is a server with the name \"\(name)\" already")
        }
        listener = try makeListener(address)
        register()
        if let name = option.name {
            scheduler.identities[name] = identity
            for task in scheduler.tasks { task.send(identity) }
        }
    }

    deinit {
        if listener != nil { checkThread() }
        unregister()
        listener?.close()
        if listener != nil, let name = identity.option.name { scheduler.identities[name] = nil }
    }

    /// Where it listens; `nil` once it is closed.
    var place: ListeningPlace? {
        listener.map { ListeningPlace(address: $0.address, ipv6Only: options.ipv6Only) }
    }

    private func makeListener(_ address: DtlsAddress) throws(DtlsError) -> DatagramListener {
        let wanted = address.socketAddress
        let options = options
        let place = ListeningPlace(address: wanted, ipv6Only: options.ipv6Only)
        guard scheduler.server(beside: place) == nil else {
            throw .system(call: "bind", subject: wanted.description, errno: EADDRINUSE)
        }
        // What a closed server of this thread has left there keeps everybody else away, and must not keep a new one away.
        let isInUseHere = scheduler.hasClients(at: place)
        return try DtlsError.system { () throws(SystemError) in
            // SO_REUSEPORT alone would share the port in silence with another program of this user.
            if wanted.port != 0, !isInUseHere { try UDPSocket.probe(wanted, SocketOptions(ipv6Only: options.ipv6Only)) }
            let socket = try UDPSocket.listen(on: wanted, options: options)
            let actual = try UDPSocket.localAddress(of: socket) ?? wanted
            let listener = DatagramListener(
                socket: socket, address: actual, policy: .cookies(identity.cookies), options: options,
                buffers: scheduler.listenerBuffers, loop: scheduler.loop, delegate: self)
            try listener.open()
            return listener
        }
    }

    public override var sockFd: Int32 {
        checkThread()
        return listener?.descriptor ?? -1
    }

    override var isReadable: Bool { !queue.isEmpty }

    /// Adds a certificate for a host name, or replaces the one that the name has, for new handshakes (reference:
    /// addcert). Clients of the name are asked for the same as all others, unless the option has CAs of its own. Tasks
    /// learn it too. Changes nothing where it throws.
    public func addcert(_ option: DtlsCertificateOption) throws(DtlsError) {
        checkThread()
        guard listener != nil else { throw .notOpen }
        try identity.add(option)
        if identity.option.name != nil { for task in scheduler.tasks { task.send(identity) } }
    }

    /// Seals session tickets with the first of these keys from now on, and opens them with all of them: to replace keys while
    /// the server runs, in all processes that share them. Tasks learn it too. (Not in the reference.)
    ///
    /// A key that is to come should be last for a while, in all processes, before it becomes the first in one; and one that
    /// was first should stay for as long as a session can be resumed, two hours.
    /// - Parameter keys: of 80 random bytes each, no two of which begin with the same 16; one or more.
    public func setTicketKeys(_ keys: [[UInt8]]) throws(DtlsError) {
        checkThread()
        guard listener != nil else { throw .notOpen }
        try identity.setTicketKeys(keys)
        if identity.option.name != nil { for task in scheduler.tasks { task.send(identity) } }
    }

    /// Waits for the next client (reference: accept).
    ///
    /// A client that has lost its state and comes back on its old port is one too; its old connection is closed then
    /// (RFC 6347, section 4.2.8).
    ///
    /// On a server without a name its handshake is done. On a named one only its address is proven: send it to a task
    /// and call `flyAway()`, or use it here, which does the handshake first.
    /// - Parameter timeout: milliseconds; `nil`: for ever, 0: do not wait.
    @available(*, noasync, message: "it blocks; use AsyncDtlsServer.connections")
    public func accept(timeout: Int? = nil) throws(DtlsError) -> DtlsConnection {
        checkThread()
        try checkTimeout(timeout)
        guard listener != nil else { throw .notOpen }
        let came = try scheduler.run(timeout: timeout, answeringQuestions: true) { !queue.isEmpty || listener == nil }
        guard listener != nil else { throw .notOpen }
        guard came, !queue.isEmpty else { throw .timedOut(waitingFor: "a client", errno: 0) }
        return queue.removeFirst()
    }

    /// Waits for the next client, and puts its address into `remoteAddr`; see ``accept(timeout:)``.
    @available(*, noasync, message: "it blocks; use AsyncDtlsServer.connections")
    public func accept(_ remoteAddr: inout DtlsAddress?, timeout: Int? = nil) throws(DtlsError) -> DtlsConnection {
        let connection = try accept(timeout: timeout)
        remoteAddr = connection.remote
        return connection
    }

    /// Calls `callback` for each client from now on (reference: accept(unused, callback)). `nil`: no longer.
    public func accept(_ callback: ((DtlsConnection, DtlsAddress) -> Void)?) {
        checkThread()
        acceptCallback = callback
        if callback != nil { for _ in queue { scheduleAccept() } }
    }

    /// Calls `callback` for each client whose handshake fails, with the reason. (Not in the reference.)
    public func onHandshakeFailure(_ callback: ((DtlsError, DtlsAddress) -> Void)?) {
        checkThread()
        failureCallback = callback
    }

    /// Calls `callback` for each client whose identity has no key in ``DtlsServerOption/presharedKeys``, where
    /// ``DtlsServerOption/asksForPresharedKeys`` is set. The client waits, up to the handshake's timeout, until the question is
    /// answered: in the callback, or later, when a database has answered. The callback comes by ``Iosched/poll(timeout:)``,
    /// and while ``accept(timeout:)`` or a handshake is waited for. Without a callback, and in a task, such clients are
    /// refused. (Not in the reference.)
    public func onPresharedKey(_ callback: ((DtlsPresharedKeyQuestion) -> Void)?) {
        checkThread()
        keyCallback = callback
    }

    /// Calls `callback` for each client before its handshake is done, where ``DtlsServerOption/asksAboutPeers`` is set: with
    /// who the client is, and what this server's options say of that. The client waits, up to the handshake's timeout, until
    /// the question is answered: in the callback, or later. One that is refused gets the alert of the answer, and
    /// ``onHandshakeFailure(_:)`` the reason.
    ///
    /// It comes by ``Iosched/poll(timeout:)``, and while ``accept(timeout:)`` or a handshake is waited for. A client that
    /// resumes a session is asked about, too. Without a callback, all clients are refused; in a task,
    /// ``DtlsConnection/onPeer(_:)`` is asked. (Not in the reference.)
    public func onPeer(_ callback: ((DtlsPeerQuestion) -> Void)?) {
        checkThread()
        peerCallback = callback
    }

    var answersPresharedKeys: Bool { keyCallback != nil }

    func ask(_ question: DtlsPresharedKeyQuestion) {
        scheduler.ask { [weak self] in
            guard let callback = self?.keyCallback else { return question.answer(nil) }
            callback(question)
        }
    }

    /// Stops listening. Connections that `accept` has given out go on; those that wait for it are closed.
    public override func close() {
        checkThread()
        guard let listener else { return }
        unregister()
        listener.close()
        self.listener = nil
        if let name = identity.option.name { scheduler.identities[name] = nil }
        let waiting = queue + handshaking.values
        queue = []
        handshaking = [:]
        acceptCallback = nil
        failureCallback = nil
        keyCallback = nil
        peerCallback = nil
        clientWaiter = nil
        endEvents()
        for connection in waiting { connection.close() }
    }

    // MARK: Options

    override func change(_ set: (inout SocketOptions) -> Void) throws(DtlsError) {
        guard let listener else { throw .notOpen }
        var changed = options
        set(&changed)
        try DtlsError.system { () throws(SystemError) in try listener.apply(changed) }
        options = changed
        register()
    }

    override func changeIPv6Only(_ enable: Bool) throws(DtlsError) {
        if !enable, let address = listener?.address, address.isWildcard {
            let place = ListeningPlace(address: .anyAddress(.ipv4, port: address.port), ipv6Only: false)
            guard scheduler.server(beside: place, otherThan: self) == nil else {
                throw .system(call: "bind", subject: place.address.description, errno: EADDRINUSE)
            }
            if !scheduler.hasClients(at: place) {
                try DtlsError.system { () throws(SystemError) in
                    try UDPSocket.probe(place.address, SocketOptions(ipv6Only: false))
                }
            }
        }
        try change { $0.ipv6Only = enable }
    }

    // MARK: Clients

    /// A client's handshake is done, or its connection is to be handed on.
    private func enqueue(_ connection: DtlsConnection) {
        queue.append(connection)
        if acceptCallback != nil {
            scheduleAccept()
        } else {
            clientWaiter?()
            becameReadable()
        }
    }

    /// The next client that waits, if there is one; for the asynchronous face.
    func nextClient() -> DtlsConnection? { queue.isEmpty ? nil : queue.removeFirst() }

    private func scheduleAccept() {
        scheduler.call { [weak self] in
            guard let self, let callback = acceptCallback, !queue.isEmpty else { return }
            let connection = queue.removeFirst()
            callback(connection, connection.remote)
        }
    }

    private func handshakeEnded(_ connection: DtlsConnection, _ error: DtlsError?) {
        guard handshaking.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        guard let error else { return enqueue(connection) }
        scheduler.call { [weak self] in self?.failureCallback?(error, connection.remote) }
    }

    /// Takes a misdelivered datagram that the socket of one of this server's connections has yielded.
    func reinject(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey) { listener?.reinject(datagram, flow) }

    // MARK: Connection IDs

    /// A connection ID for the client of a new connection; `nil` where the server has none.
    ///
    /// It tells its own length, as those of QUIC-LB do, which a record does not; its first three bits say that no
    /// balancer can route by it.
    func makeConnectionID(for connection: DtlsConnection) -> ConnectionID? {
        guard let length = identity.option.connectionID, var bytes = try? ConnectionID.random(count: length).bytes,
            !bytes.isEmpty
        else { return nil }
        bytes[0] = 0xe0 | UInt8(truncatingIfNeeded: length - 1)
        guard let id = ConnectionID(bytes), placesByID[id]?.isInUse != true else { return nil }
        if placesByID.count >= idsToSweepAt {
            placesByID = placesByID.filter(\.value.isInUse)
            idsToSweepAt = max(64, 2 * placesByID.count)
        }
        placesByID[id] = Place(connection: connection, number: connection.number)
        return id
    }

    /// The connection has ended in the task.
    func forget(_ number: UInt64, of task: DtlsTask) {
        guard let id = idsInTasks[number], placesByID[id]?.task === task else { return }
        idsInTasks[number] = nil
        placesByID[id] = nil
    }

    /// The task has ended, and its connections with it.
    func forgetConnections(of task: DtlsTask) {
        for (number, id) in idsInTasks where placesByID[id]?.task === task {
            idsInTasks[number] = nil
            placesByID[id] = nil
        }
    }

    /// A socket for a connection whose client is at another address now; `nil` where the server is closed.
    func makeSocket(for flow: FlowKey) throws(SystemError) -> IncomingConnection? {
        try listener?.makeSocket(for: flow, with: [])
    }

    /// Sends a datagram to a client that no socket is connected to.
    func send(_ datagram: UnsafeRawBufferPointer, to flow: FlowKey) { listener?.send(datagram, to: flow) }

    /// A connection of this server has gone to a task: its misdelivered datagrams follow it there, and so does what comes by
    /// its connection ID.
    func handedOver(_ number: UInt64, _ id: ConnectionID?, to task: DtlsTask) {
        recent.insert(number, .task(task))
        guard let id else { return }
        placesByID[id] = Place(task: task, number: number)
        idsInTasks[number] = id
    }
}

extension DtlsServer: DatagramListenerDelegate {
    package func refusal(of flow: FlowKey, on listener: DatagramListener) -> Refusal? {
        if queue.count + handshaking.count < identity.option.backlog { return nil }
        counterBlock.clientTurnedAway()
        identity.option.observer?.observe(.clientTurnedAway, DtlsAddress(flow.peer))
        return .full
    }

    /// The API has no lists of peers.
    package func listener(_ listener: DatagramListener, doesNotServe peer: SocketAddress, _ refusal: Refusal) {}

    /// Any server on the Internet gets some.
    package func listener(_ listener: DatagramListener, droppedRecordOfNoConnectionFrom peer: SocketAddress) {}

    package func listener(_ listener: DatagramListener, admitted incoming: consuming IncomingConnection) -> UInt64? {
        let number = scheduler.makeNumber()
        let connection = DtlsConnection(accepted: incoming, number: number, by: self)
        recent.insert(number, .here(connection))
        if !completesHandshakes {
            enqueue(connection)
        } else {
            handshaking[ObjectIdentifier(connection)] = connection
            connection.handshakeEnded = { [weak self] in self?.handshakeEnded($0, $1) }
            connection.beginHandshake()
        }
        return number
    }

    package func listener(
        _ listener: DatagramListener, misdelivered datagram: UnsafeRawBufferPointer, of connection: UInt64
    ) -> Bool {
        switch recent.whereabouts(of: connection) {
        case .here(let found): found.receive(misdelivered: datagram)
        case .task(let task): task.send(misdelivered: datagram, of: connection)
        case nil: return false
        }
        return true
    }

    package func listener(
        _ listener: DatagramListener, received datagram: UnsafeRawBufferPointer, of flow: FlowKey, with id: ConnectionID
    ) -> Bool {
        guard let place = placesByID[id] else { return false }
        if let task = place.task {
            task.send(record: datagram, from: flow, of: place.number)
            return true
        }
        guard let connection = place.connection else { return false }
        connection.receive(datagram, from: flow)
        return true
    }

    package func listener(_ listener: DatagramListener, failed error: SystemError, for peer: SocketAddress) {
        // The client asks again; the program learns why it had to.
        scheduler.call { [weak self] in
            guard let self, let name = try? sockName() else { return }
            failureCallback?(DtlsError(error), name)
        }
    }
}
