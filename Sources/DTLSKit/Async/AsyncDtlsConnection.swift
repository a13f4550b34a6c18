import LinuxSystem

/// A connection for asynchronous code: `for try await message in connection.messages`,
/// `try await connection.send(…)`.
///
/// It does its work on ``DtlsLoop``, whatever thread calls it. It comes from ``AsyncDtlsServer/connections`` or from
/// ``connect(_:to:timeout:onPeer:)``. It is closed with its last reference.
@DtlsLoop public final class AsyncDtlsConnection {
    let connection: DtlsConnection
    private let waiters = Waiters()
    /// The peer's address when the connection was made.
    public nonisolated let remote: DtlsAddress
    /// The peer's present address: another one than ``remote`` where the peer has moved (RFC 9146).
    public var presentRemote: DtlsAddress { connection.remote }
    /// See ``DtlsConnection/connectionIDs``.
    public var connectionIDs: (own: [UInt8], peer: [UInt8])? { connection.connectionIDs }
    /// See ``DtlsConnection/checksReturnRoutability``.
    public var checksReturnRoutability: Bool { connection.checksReturnRoutability }
    /// See ``DtlsConnection/onAddressChange(_:)``.
    public func onAddressChange(
        _ callback: (@Sendable (_ remote: DtlsAddress, _ former: DtlsAddress) -> Void)?
    ) { connection.onAddressChange(callback) }

    init(_ connection: DtlsConnection) {
        self.connection = connection
        remote = connection.remote
        connection.messageWaiter = { [weak waiters] in waiters?.wakeAll() }
    }

    isolated deinit { connection.close() }

    /// Connects to a server, and returns when the handshake is done. Cancelling the task gives it up.
    /// - Parameters:
    ///   - opt: whom it trusts, and what it shows of itself.
    ///   - sockaddr: the server's address.
    ///   - timeout: milliseconds for the handshake; `nil`: `opt.handshakeTimeout`.
    ///   - onPeer: decides whether the server is the right one, before the handshake is done, which waits for it; `nil`: the
    ///     options alone do. See <doc:Peers>.
    public static func connect(
        _ opt: DtlsClientOption, to sockaddr: DtlsAddress, timeout: Int? = nil,
        onPeer: (@Sendable (DtlsPeer) async -> DtlsPeerVerdict)? = nil
    ) async throws -> AsyncDtlsConnection {
        try checkTimeout(timeout)
        let connection = try DtlsConnection(
            opt, sockaddr, timeout: timeout,
            onPeer: onPeer.map { decide in
                { question in Task { @DtlsLoop in question.answer(await decide(question.peer)) } }
            }, Iosched.current())
        let waiters = Waiters()
        let outcome = Outcome()
        connection.handshake { result in
            if case .failure(let error) = result { outcome.error = error }
            outcome.isKnown = true
            waiters.wakeAll()
        }
        do {
            while !outcome.isKnown { try await waiters.wait() }
        } catch {
            connection.close()
            throw error
        }
        if let error = outcome.error { throw error }
        return AsyncDtlsConnection(connection)
    }

    @DtlsLoop private final class Outcome {
        var isKnown = false
        var error: DtlsError?
    }

    /// The messages, as they come, until the peer closes the connection. Throws when the connection breaks or is closed
    /// at this end. Each message is yielded to one of the loops over this.
    public nonisolated var messages: Messages { Messages(connection: self) }

    /// A connection's messages, each whole.
    public struct Messages: AsyncSequence, Sendable {
        let connection: AsyncDtlsConnection

        /// Takes the messages, one at a time.
        public struct AsyncIterator: AsyncIteratorProtocol {
            let connection: AsyncDtlsConnection

            /// Waits for the next message; `nil` after the peer's close_notify. Throws `CancellationError` when the
            /// task is cancelled.
            public mutating func next() async throws -> [UInt8]? {
                do {
                    return try await connection.receive()
                } catch DtlsError.closed {
                    return nil
                }
            }
        }

        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(connection: connection) }
    }

    /// Waits for the next message.
    ///
    /// A peer that has vanished is noticed by `idleTimeout` of the options alone, or by ``isAlive(timeout:)``.
    /// - Throws: `DtlsError.closed` after the peer's close_notify, `.timedOut` after `idleTimeout`, `CancellationError`
    ///   when the task is cancelled.
    public func receive() async throws -> [UInt8] {
        while true {
            try Task.checkCancellation()
            if let message = try connection.nextMessage() { return message }
            try await waiters.wait()
        }
    }

    /// Asks the peer whether it is there; see ``DtlsConnection/isAlive(timeout:)``.
    public func isAlive(timeout: Int = 5_000) async throws -> Bool? {
        try checkTimeout(timeout)
        let asked = Waiters()
        let result = Presence()
        connection.ask(timeout: timeout) { answer in
            result.answer = .some(answer)
            asked.wakeAll()
        }
        while true {
            if let answer = result.answer { return answer }
            try await asked.wait()
        }
    }

    @DtlsLoop private final class Presence { var answer: Bool?? }

    /// Sends bytes as one message of 1 to 16,384 bytes; waits while the socket's buffer is full.
    /// - Returns: the number of bytes sent.
    @discardableResult
    public func send(_ message: [UInt8]) async throws -> Int {
        while true {
            try Task.checkCancellation()
            if try connection.sendIfRoom(message) { return message.count }
            try await waitForRoom()
        }
    }

    /// Sends a text as one message of 1 to 16,384 bytes of UTF-8.
    @discardableResult
    public func send(_ message: String) async throws -> Int { try await send(Array(message.utf8)) }

    private func waitForRoom() async throws {
        let iosched = try Iosched.current()
        let room = Waiters()
        let event = iosched.event(.write, connection.sockFd) {
            room.wakeAll()
            return false
        }
        try iosched.add(event)
        defer { iosched.remove(event) }
        try await room.wait()
    }

    func wakeAll() { waiters.wakeAll() }

    /// Closes the connection, with close_notify.
    public func close() {
        connection.close()
        waiters.wakeAll()
    }

    /// The local address.
    public func sockName() throws(DtlsError) -> DtlsAddress { try connection.sockName() }

    /// Version, cipher suite and SNI name; `nil` once it is closed.
    public var session: (version: String, cipher: String, serverName: String?)? { connection.session }

    /// See ``DtlsConnection/agreement``.
    public var agreement: DtlsAgreement? { connection.agreement }
    /// See ``DtlsConnection/peer``.
    public var peer: DtlsPeer? { connection.peer }
    /// See ``DtlsConnection/exportKeyingMaterial(label:context:length:)``.
    public func exportKeyingMaterial(label: String, context: [UInt8]? = nil, length: Int) throws(DtlsError) -> [UInt8] {
        try connection.exportKeyingMaterial(label: label, context: context, length: length)
    }
    /// See ``DtlsConnection/srtpKeys``.
    public var srtpKeys: DtlsSrtpKeys? { connection.srtpKeys }
    /// See ``DtlsConnection/counters``.
    public var counters: DtlsCounters { connection.counters }
    /// See ``DtlsConnection/serverCertificate``.
    public var serverCertificate: DtlsCertificate? { connection.serverCertificate }
    /// See ``DtlsConnection/roundTrips``.
    public var roundTrips: [DtlsRoundTrip] { connection.roundTrips }
    /// See ``DtlsConnection/resumableSession``.
    public var resumableSession: DtlsSession? { connection.resumableSession }

    /// The socket's options, as the synchronous face has them: `try await connection.configure { try $0.setTTL(64) }`.
    public func configure<Result: Sendable>(_ body: @Sendable (DtlsSocket) throws -> Result) throws -> Result {
        try body(connection)
    }
}
