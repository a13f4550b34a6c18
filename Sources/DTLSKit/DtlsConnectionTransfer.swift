import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem

/// Sending and receiving.
extension DtlsConnection {
    /// Sends a text as one message of 1 to 16,384 bytes of UTF-8 (reference: send(string[, timeout])).
    ///
    /// A connection whose handshake is not done does it first, whatever the timeout.
    /// - Parameters:
    ///   - string: the message.
    ///   - timeout: milliseconds to wait for room in the socket's buffer; `nil`: for ever, 0: do not wait.
    /// - Returns: the number of bytes sent.
    @discardableResult
    public func send(_ string: String, timeout: Int? = nil) throws(DtlsError) -> Int {
        checkThread()
        return try send(Array(string.utf8), timeout: timeout)
    }

    /// Sends bytes as one message of 1 to 16,384 bytes (reference: send(buffer[, offset[, length[, timeout]]])).
    ///
    /// Datagrams are not fragmented: what the path to the peer does not take in one piece is thrown back with EMSGSIZE
    /// (see ``largestMessage``).
    /// - Parameters:
    ///   - buffer: what the message is in.
    ///   - offset: where in the buffer the message begins.
    ///   - length: its bytes; `nil`: all from `offset` on.
    ///   - timeout: see ``send(_:timeout:)``.
    /// - Returns: the number of bytes sent.
    @discardableResult
    public func send(
        _ buffer: [UInt8], offset: Int = 0, length: Int? = nil, timeout: Int? = nil
    ) throws(DtlsError) -> Int {
        checkThread()
        let range = try checkRange(of: buffer.count, offset: offset, length: length)
        return try buffer.withUnsafeBufferPointer { bytes throws(DtlsError) in
            try send(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: bytes[range])), timeout: timeout)
        }
    }

    private func send(_ message: UnsafeRawBufferPointer, timeout: Int?) throws(DtlsError) -> Int {
        try checkTimeout(timeout)
        try check(message)
        let connection = try use()
        while true {
            if try sendOnce(message, over: connection) { return message.count }
            if timeout != 0 { try scheduler.checkMayWait() }
            let hasRoom = try withSocket { socket throws(SystemError) in
                try UDPSocket.waitForRoom(in: socket, timeout: timeout.map { .milliseconds($0) })
            }
            guard hasRoom else { throw .timedOut(waitingFor: "room in the send buffer", errno: 0) }
        }
    }

    /// Sends on a connection whose handshake is done, without waiting; for the asynchronous face.
    /// - Returns: false where the socket's buffer is full.
    func sendIfRoom(_ message: [UInt8]) throws(DtlsError) -> Bool {
        let connection = try use()
        return try message.withUnsafeBufferPointer { bytes throws(DtlsError) in
            let bytes = UnsafeRawBufferPointer(bytes)
            try check(bytes)
            return try sendOnce(bytes, over: connection)
        }
    }

    private func check(_ message: UnsafeRawBufferPointer) throws(DtlsError) {
        guard message.count > 0, message.count <= Engine.maximumMessageSize else {
            throw .invalid("a message of \(message.count) bytes: it must have 1 to \(Engine.maximumMessageSize)")
        }
    }

    /// - Returns: false where the socket's buffer is full.
    private func sendOnce(_ message: UnsafeRawBufferPointer, over connection: Connection) throws(DtlsError) -> Bool {
        lookAtRoute(of: connection)
        if let sent = try tryToSend(message, over: connection) { return sent }
        return try tryToSend(message, over: connection) ?? false
    }

    /// - Returns: false where the socket's buffer is full; `nil` where the connection has another socket now, since this
    ///   machine's address was gone, and the message has not left.
    private func tryToSend(_ message: UnsafeRawBufferPointer, over connection: Connection) throws(DtlsError) -> Bool? {
        let lost = connection.counters.unsent &+ connection.counters.tooLarge
        do throws(EngineError) { try connection.send(message) } catch { throw DtlsError(error) }
        guard connection.counters.unsent &+ connection.counters.tooLarge != lost else { return true }
        let errno = connection.takeError()
        if errno == EAGAIN || errno == ENOBUFS { return false }
        if survives(errno, connection) { return nil }
        throw .system(call: "sendmmsg", subject: peerAddress.description, errno: errno)
    }

    /// Bytes of the largest message that the path to the peer takes, as far as the kernel knows: an interface's MTU, or
    /// what a router has said, less what the protocols add; or less, where the peer has asked for smaller records
    /// (max_fragment_length). 0 while there is no connection. (Not in the reference.)
    public var largestMessage: Int {
        checkThread()
        guard case .established(let connection) = phase else { return 0 }
        return connection.largestMessage
    }

    /// Receives into a buffer (reference: recv(buffer[, offset[, length[, timeout]]])).
    ///
    /// A message that does not fit leaves its rest for the next call. A connection whose handshake is not done does it
    /// first, whatever the timeout.
    /// - Parameters:
    ///   - buffer: what to receive into.
    ///   - offset: where in the buffer to begin.
    ///   - length: bytes to take at most; `nil`: as many as fit.
    ///   - timeout: milliseconds; `nil`: for ever, 0: do not wait.
    /// - Returns: the number of bytes received; 0 when nothing came within the timeout.
    /// - Throws: `.closed` after the peer's close_notify, once all that came before it has been received.
    @available(*, noasync, message: "it blocks; use AsyncDtlsConnection.messages")
    public func recv(
        _ buffer: inout [UInt8], offset: Int = 0, length: Int? = nil, timeout: Int? = nil
    ) throws(DtlsError) -> Int {
        checkThread()
        let range = try checkRange(of: buffer.count, offset: offset, length: length)
        guard !range.isEmpty else { throw .invalid("there is no room in the buffer: 0 bytes could be received") }
        try checkTimeout(timeout)
        if inbox.isEmpty {
            let connection: Connection
            do throws(DtlsError) {
                connection = try use()
            } catch {
                if inbox.isEmpty { throw error }
                return take(into: &buffer, range)
            }
            connection.setReading(true)
            _ = try scheduler.run(timeout: timeout) { isReadable }
        }
        if inbox.isEmpty {
            if case .ended(let error) = phase { throw error }
            return 0
        }
        return take(into: &buffer, range)
    }

    private func take(into buffer: inout [UInt8], _ range: Range<Int>) -> Int {
        let wasFull = inbox.isFull
        let count = buffer.withUnsafeMutableBytes {
            inbox.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[range]))
        }
        if wasFull, !inbox.isFull, case .established(let connection) = phase { connection.setReading(true) }
        return count
    }

    /// The next whole message, if there is one; for the asynchronous face.
    func nextMessage() throws(DtlsError) -> [UInt8]? {
        if let message = inbox.removeFirst() {
            if case .established(let connection) = phase, !inbox.isFull { connection.setReading(true) }
            return message
        }
        if case .ended(let error) = phase { throw error }
        return nil
    }

    /// The number of bytes that `recv` would give without waiting (reference: pending). A connection whose handshake has not
    /// begun begins it.
    public func pending() -> Int {
        checkThread()
        beginHandshake()
        // Reads what lies in the socket; calls nobody back.
        if inbox.isEmpty { try? scheduler.turn(timeout: 0) }
        return inbox.byteCount
    }

    /// Asks the peer whether it is there. (Not in the reference.)
    ///
    /// Where both sides have connection IDs and check that addresses are each other's (``checksReturnRoutability``), a peer
    /// that is there answers. Others answer nothing: then it is known that the peer is there where it happens to send
    /// something meanwhile, and that it is gone where its machine says that the port is closed, twice, since the first
    /// such message may be forged.
    /// - Parameter timeout: milliseconds to wait for the answer.
    /// - Returns: `nil` where nothing has told.
    @available(*, noasync, message: "it blocks; use AsyncDtlsConnection.isAlive(timeout:)")
    public func isAlive(timeout: Int = 5_000) throws(DtlsError) -> Bool? {
        checkThread()
        try checkTimeout(timeout)
        _ = try use()
        try scheduler.checkMayWait()
        var answer: Bool??
        ask(timeout: timeout) { answer = .some($0) }
        _ = try scheduler.run(timeout: nil) { answer != nil }
        return answer ?? nil
    }

    private func checkRange(of count: Int, offset: Int, length: Int?) throws(DtlsError) -> Range<Int> {
        guard offset >= 0, offset <= count else {
            throw .invalid("offset \(offset) is out of range: the buffer has \(count) bytes")
        }
        guard let length else { return offset..<count }
        guard length >= 0, length <= count - offset else {
            throw .invalid("length \(length) is out of range: the buffer has \(count - offset) bytes after the offset")
        }
        return offset..<(offset + length)
    }

    /// The results of the handshake, for logs: `"DTLSv1.2"`, OpenSSL's name of the cipher suite, the SNI name.
    public var session: (version: String, cipher: String, serverName: String?)? {
        checkThread()
        guard case .established(let connection) = phase else { return nil }
        let session = connection.session
        return (session.version, session.cipher, session.serverName)
    }
}
