/// A server for asynchronous code: `for try await connection in server.connections`.
///
/// It does its work on ``DtlsLoop``, whatever thread calls it. The handshakes of its clients are done when `connections` yields
/// them, also on a server with a name. It is closed with its last reference.
@DtlsLoop public final class AsyncDtlsServer {
    private let server: DtlsServer
    private let waiters = Waiters()
    private var isOpen = true

    /// Makes a server and binds it; see ``Dtls/createServer(_:_:)``.
    public init(_ opt: DtlsServerOption, on sockaddr: DtlsAddress) throws(DtlsError) {
        server = try DtlsServer(opt, sockaddr, Iosched.current(), completesHandshakes: true)
        server.clientWaiter = { [weak waiters] in waiters?.wakeAll() }
    }

    isolated deinit { server.close() }

    /// The clients, as they come, until the server is closed. Each client is yielded to one of the loops over this. While
    /// ``DtlsServer/backlog`` of them wait for that, further ones have to try again.
    public nonisolated var connections: Connections { Connections(server: self) }

    /// A server's clients.
    public struct Connections: AsyncSequence, Sendable {
        let server: AsyncDtlsServer

        /// Takes the clients, one at a time.
        public struct AsyncIterator: AsyncIteratorProtocol {
            let server: AsyncDtlsServer

            /// Waits for the next client; `nil` once the server is closed. Throws `CancellationError` when the task is
            /// cancelled.
            public mutating func next() async throws -> AsyncDtlsConnection? { try await server.nextConnection() }
        }

        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(server: server) }
    }

    private func nextConnection() async throws -> AsyncDtlsConnection? {
        while true {
            try Task.checkCancellation()
            if let client = server.nextClient() { return AsyncDtlsConnection(client) }
            if !isOpen { return nil }
            try await waiters.wait()
        }
    }

    /// Calls `callback`, on ``DtlsLoop``, for each client whose handshake fails.
    public func onHandshakeFailure(_ callback: (@Sendable (DtlsError, DtlsAddress) -> Void)?) {
        server.onHandshakeFailure(callback)
    }

    /// Calls `lookUp` for each client whose identity has no key in ``DtlsServerOption/presharedKeys``, where
    /// ``DtlsServerOption/asksForPresharedKeys`` is set. The client waits meanwhile, and nobody else does; with `nil` it is
    /// refused.
    public func onPresharedKey(_ lookUp: (@Sendable (_ identity: [UInt8]) async -> [UInt8]?)?) {
        guard let lookUp else { return server.onPresharedKey(nil) }
        server.onPresharedKey { question in
            Task { @DtlsLoop in question.answer(await lookUp(question.identity)) }
        }
    }

    /// Calls `decide` for each client before its handshake is done, where ``DtlsServerOption/asksAboutPeers`` is set: with
    /// who the client is, and its address. The client waits meanwhile, and nobody else does. See ``DtlsServer/onPeer(_:)``.
    public func onPeer(_ decide: (@Sendable (DtlsPeer, DtlsAddress) async -> DtlsPeerVerdict)?) {
        guard let decide else { return server.onPeer(nil) }
        server.onPeer { question in
            Task { @DtlsLoop in question.answer(await decide(question.peer, question.remote)) }
        }
    }

    /// See ``DtlsServer/counters``.
    public var counters: DtlsServerCounters { server.counters }

    /// The address that it listens on, with the port that the system has chosen.
    public func sockName() throws(DtlsError) -> DtlsAddress { try server.sockName() }

    /// See ``DtlsServer/addcert(_:)``.
    public func addcert(_ option: DtlsCertificateOption) throws(DtlsError) { try server.addcert(option) }

    /// See ``DtlsServer/setTicketKeys(_:)``.
    public func setTicketKeys(_ keys: [[UInt8]]) throws(DtlsError) { try server.setTicketKeys(keys) }

    /// Stops listening, and ends `connections`. Connections that were yielded go on.
    public func close() {
        server.close()
        isOpen = false
        waiters.wakeAll()
    }

    /// The socket's options, as the synchronous face has them: `try await server.configure { try $0.setTTL(64) }`.
    public func configure<Result: Sendable>(_ body: @Sendable (DtlsSocket) throws -> Result) throws -> Result {
        try body(server)
    }
}
