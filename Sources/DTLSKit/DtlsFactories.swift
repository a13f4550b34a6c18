import DTLSEngine
import DTLSTransport
import LinuxSystem

/// Making servers and connections, synchronously or with a callback.
extension Dtls {
    /// Makes a server and binds it (reference: createServer).
    /// - Parameters:
    ///   - opt: its name, certificate and policy.
    ///   - sockaddr: where it listens; with port 0 the system chooses one, and ``DtlsSocket/sockName()`` tells.
    /// - Throws: `.credentials` for a certificate or key, `.invalid` for an option, `.system` with EADDRINUSE and the
    ///   like.
    @available(*, noasync, message: "a server belongs to one thread; use await AsyncDtlsServer(_:on:)")
    public static func createServer(_ opt: DtlsServerOption, _ sockaddr: DtlsAddress) throws(DtlsError) -> DtlsServer {
        try DtlsServer(opt, sockaddr, Iosched.current())
    }

    /// Connects to a server, and waits for the handshake (reference: createClient).
    /// - Parameters:
    ///   - opt: whom it trusts, and what it shows of itself.
    ///   - sockaddr: the server's address.
    ///   - timeout: milliseconds for the handshake; `nil`: `opt.handshakeTimeout`.
    /// - Throws: `.system` with ECONNREFUSED where the network says twice, before and after the first flight was sent again,
    ///   that nobody listens there; `.timedOut` where nothing has answered in time; `.handshake` where it has failed.
    @available(*, noasync, message: "it blocks; use await AsyncDtlsConnection.connect(_:to:timeout:)")
    public static func createClient(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, timeout: Int? = nil
    ) throws(DtlsError) -> DtlsConnection {
        try connect(opt, sockaddr, timeout, onPeer: nil)
    }

    /// Connects to a server that the program has to find the right one, and waits for the handshake; see
    /// ``createClient(_:_:timeout:)``. (Not in the reference.)
    /// - Parameters:
    ///   - opt: whom it trusts, and what it shows of itself.
    ///   - sockaddr: the server's address.
    ///   - timeout: milliseconds for the handshake; `nil`: `opt.handshakeTimeout`.
    ///   - onPeer: decides whether the server is the right one, before the handshake is done. See <doc:Peers>.
    @available(*, noasync, message: "it blocks; use await AsyncDtlsConnection.connect(_:to:timeout:onPeer:)")
    public static func createClient(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, timeout: Int? = nil,
        onPeer: @escaping (DtlsPeer) -> DtlsPeerVerdict
    ) throws(DtlsError) -> DtlsConnection {
        try connect(opt, sockaddr, timeout) { $0.answer(onPeer($0.peer)) }
    }

    private static func connect(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, _ timeout: Int?, onPeer: ((DtlsPeerQuestion) -> Void)?
    ) throws(DtlsError) -> DtlsConnection {
        try checkTimeout(timeout)
        let iosched = try Iosched.current()
        try iosched.checkMayWait()
        let connection = try DtlsConnection(opt, sockaddr, timeout: timeout, onPeer: onPeer, iosched)
        try connection.handshake()
        return connection
    }

    /// Connects to a server (reference: createClient with callback).
    /// - Parameters:
    ///   - opt: whom it trusts, and what it shows of itself.
    ///   - sockaddr: the server's address.
    ///   - timeout: milliseconds for the handshake; `nil`: `opt.handshakeTimeout`.
    ///   - callback: gets the connection once the handshake is done, or why it failed.
    @available(
        *, noasync, message: "a connection belongs to one thread; use await AsyncDtlsConnection.connect(_:to:timeout:)"
    )
    @discardableResult
    public static func createClient(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, timeout: Int? = nil,
        _ callback: @escaping (Result<DtlsConnection, DtlsError>, DtlsAddress) -> Void
    ) throws(DtlsError) -> DtlsConnection {
        try connect(opt, sockaddr, timeout, onPeer: nil, callback)
    }

    /// Connects to a server that the program has to find the right one; see ``createClient(_:_:timeout:_:)``. (Not in the
    /// reference.)
    /// - Parameters:
    ///   - opt: whom it trusts, and what it shows of itself.
    ///   - sockaddr: the server's address.
    ///   - timeout: milliseconds for the handshake; `nil`: `opt.handshakeTimeout`.
    ///   - onPeer: is asked whether the server is the right one, before the handshake is done, and answers at once or
    ///     later. See <doc:Peers>.
    ///   - callback: gets the connection once the handshake is done, or why it failed.
    @available(
        *, noasync,
        message: "a connection belongs to one thread; use await AsyncDtlsConnection.connect(_:to:timeout:onPeer:)"
    )
    @discardableResult
    public static func createClient(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, timeout: Int? = nil,
        onPeer: @escaping (DtlsPeerQuestion) -> Void,
        _ callback: @escaping (Result<DtlsConnection, DtlsError>, DtlsAddress) -> Void
    ) throws(DtlsError) -> DtlsConnection {
        try connect(opt, sockaddr, timeout, onPeer: onPeer, callback)
    }

    private static func connect(
        _ opt: DtlsClientOption, _ sockaddr: DtlsAddress, _ timeout: Int?, onPeer: ((DtlsPeerQuestion) -> Void)?,
        _ callback: @escaping (Result<DtlsConnection, DtlsError>, DtlsAddress) -> Void
    ) throws(DtlsError) -> DtlsConnection {
        try checkTimeout(timeout)
        let connection = try DtlsConnection(opt, sockaddr, timeout: timeout, onPeer: onPeer, Iosched.current())
        let remote = connection.remote
        connection.handshake { callback($0, remote) }
        return connection
    }

    /// Makes a connection from a socket that a server has accepted, and waits for its handshake (reference:
    /// createByFd).
    ///
    /// Where the descriptor came with ``DtlsTask/send(_:)`` the client's hello came along, or the state of the connection
    /// where its handshake is done; where it came alone, the
    /// client sends its hello again, which it does after a second (RFC 6347, section 4.2.4.1).
    /// - Parameters:
    ///   - name: that of a server of this thread, or of the thread that has started this task.
    ///   - sockFd: a connected UDP socket. It belongs to the connection from now on, and is closed where this throws,
    ///     unless it is no such socket.
    ///   - timeout: milliseconds for the handshake; `nil`: the server's `handshakeTimeout`.
    @available(*, noasync, message: "it blocks")
    public static func createByFd(
        _ name: String, _ sockFd: Int32, timeout: Int? = nil
    ) throws(DtlsError) -> DtlsConnection {
        try Iosched.current().checkMayWait()
        let connection = try adopt(name, sockFd, timeout: timeout)
        try connection.handshake()
        return connection
    }

    /// Makes a connection of a client that the program has to let in, where the server has
    /// ``DtlsServerOption/asksAboutPeers``; see ``createByFd(_:_:timeout:)``. (Not in the reference.)
    /// - Parameters:
    ///   - name: that of a server of this thread, or of the thread that has started this task.
    ///   - sockFd: a connected UDP socket.
    ///   - timeout: milliseconds for the handshake; `nil`: the server's `handshakeTimeout`.
    ///   - onPeer: decides whether the client is let in.
    @available(*, noasync, message: "it blocks")
    public static func createByFd(
        _ name: String, _ sockFd: Int32, timeout: Int? = nil, onPeer: @escaping (DtlsPeer) -> DtlsPeerVerdict
    ) throws(DtlsError) -> DtlsConnection {
        try Iosched.current().checkMayWait()
        let connection = try adopt(name, sockFd, timeout: timeout)
        connection.onPeer { $0.answer(onPeer($0.peer)) }
        try connection.handshake()
        return connection
    }

    /// Makes a connection from a socket that a server has accepted; `callback` gets it once the handshake is done, or
    /// why it failed (reference: createByFd with callback). See ``createByFd(_:_:timeout:)``.
    @available(*, noasync, message: "a connection belongs to one thread")
    @discardableResult
    public static func createByFd(
        _ name: String, _ sockFd: Int32, _ callback: @escaping (Result<DtlsConnection, DtlsError>) -> Void
    ) throws(DtlsError) -> DtlsConnection {
        let connection = try adopt(name, sockFd, timeout: nil)
        connection.handshake(callback)
        return connection
    }

    private static func adopt(_ name: String, _ sockFd: Int32, timeout: Int?) throws(DtlsError) -> DtlsConnection {
        try checkTimeout(timeout)
        let iosched = try Iosched.current()
        guard iosched.socket(sockFd) == nil else {
            throw .invalid("descriptor \(sockFd) belongs to another connection; send or duplicate it, and call flyAway")
        }
        guard let identity = iosched.identities[name] else { throw .unknownServer(name) }
        _ = try FileDescriptor.withBorrowed(sockFd) { descriptor throws(DtlsError) in
            try DtlsConnection.names(of: descriptor)
        }
        let arrived = iosched.parent?.takeArrived(sockFd, of: name)
        if let arrived, let state = arrived.state {
            let connection = try goOn(
                name, sockFd, state, number: arrived.number,
                connectionID: arrived.connectionID.isEmpty ? nil : ConnectionID(arrived.connectionID))
            for datagram in arrived.datagrams { datagram.withUnsafeBytes { connection.receive(misdelivered: $0) } }
            return connection
        }
        var hello: VerifiedHello?
        if let bytes = arrived?.hello { hello = VerifiedHello(handedOver: bytes, minute: .now()) }
        let connection = try DtlsConnection(
            FileDescriptor(owning: sockFd), identity, timeout: timeout, hello: hello,
            datagrams: arrived?.datagrams ?? [], number: arrived?.number ?? 0,
            connectionID: arrived.flatMap { $0.connectionID.isEmpty ? nil : ConnectionID($0.connectionID) }, iosched)
        iosched.parent?.remember(connection)
        return connection
    }
}
