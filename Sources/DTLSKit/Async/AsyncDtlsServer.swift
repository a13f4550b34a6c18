/// A server for asynchronous code: `for try await connection in server.connections`.
///
/// It does its work on ``DtlsLoop``, whatever thread calls it. The handshakes of its clients are done when `connections` yields
/// them, also on a server with a name. It is closed with its last reference.
@DtlsLoop public final class AsyncDtlsServer {
    private let server: DtlsServer
    private var ready: [AsyncDtlsConnection] = []
    private let waiters = Waiters()
    private var isOpen = true
    private var lastFailure: (@Sendable (DtlsError, DtlsAddress) -> Void)?

    /// Makes a server and binds it; see ``Dtls/createServer(_:_:)``.
    public init(_ opt: DtlsServerOption, on sockaddr: DtlsAddress) throws(DtlsError) {
        server = try Dtls.createServer(opt, sockaddr)
        server.accept { [weak self] connection, _ in self?.take(connection) }
        server.onHandshakeFailure { [weak self] error, address in
            self?.lastFailure?(error, address)
        }
    }

    isolated deinit { server.close() }

    private func take(_ connection: DtlsConnection) {
        if connection.isEstablished { return add(connection) }
        let address = connection.remote
        connection.handshake { [weak self] result in
            switch result {
            case .success(let connection): self?.add(connection)
            case .failure(let error): self?.lastFailure?(error, address)
            }
        }
    }

    private func add(_ connection: DtlsConnection) {
        ready.append(AsyncDtlsConnection(connection))
        waiters.wakeAll()
    }

    /// The clients, as they come, until the server is closed. Each client is yielded to one of the loops over this.
    public nonisolated var connections: Connections { Connections(server: self) }

    /// A server's clients.
    public struct Connections: AsyncSequence, Sendable {
        let server: AsyncDtlsServer

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
            if !ready.isEmpty { return ready.removeFirst() }
            if !isOpen { return nil }
            try await waiters.wait()
        }
    }

    /// Calls `callback`, on ``DtlsLoop``, for each client whose handshake fails.
    public func onHandshakeFailure(_ callback: (@Sendable (DtlsError, DtlsAddress) -> Void)?) { lastFailure = callback }

    /// The address that it listens on, with the port that the system has chosen.
    public func sockName() throws(DtlsError) -> DtlsAddress { try server.sockName() }

    /// See ``DtlsServer/addcert(_:)``.
    public func addcert(_ option: DtlsCertificateOption) throws(DtlsError) { try server.addcert(option) }

    /// Stops listening, and ends `connections`. Connections that were yielded go on.
    public func close() {
        server.close()
        isOpen = false
        ready = []
        waiters.wakeAll()
    }

    /// The socket's options, as the synchronous face has them: `try await server.configure { try $0.setTTL(64) }`.
    public func configure<Result: Sendable>(_ body: @Sendable (DtlsSocket) throws -> Result) throws -> Result {
        try body(server)
    }
}
