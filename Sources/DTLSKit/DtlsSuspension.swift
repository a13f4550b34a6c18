import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// A connection that was suspended: what ``Dtls/resume(_:_:_:)`` goes on with. (Not in the reference.)
///
/// See <doc:Suspending> for what the state holds, and how it is to be protected.
public struct DtlsSuspension: Sendable, Equatable {
    /// Some 300 bytes, and the messages that were received and not asked for yet. They begin with a version. **They hold
    /// the connection's keys.**
    public let state: [UInt8]
    /// The connection's socket. It is the program's to close, or to give away.
    public let sockFd: Int32
}

/// What a suspended connection's bytes say.
struct SuspensionState {
    let association: SuspendedAssociation
    /// What was received and not asked for yet.
    let messages: [[UInt8]]

    /// "DTLS", and the version of what follows.
    private static let mark: [UInt8] = Array("DTLS".utf8)
    private static let version: UInt8 = 1

    init(_ association: SuspendedAssociation, messages: [[UInt8]]) {
        self.association = association
        self.messages = messages
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        for byte in Self.mark { writer.integer(byte) }
        writer.integer(Self.version)
        association.encode(into: &writer)
        writer.list(messages) { $0.data($1) }
        return writer.bytes
    }

    init(decoding bytes: [UInt8]) throws(DtlsError) {
        guard bytes.starts(with: Self.mark), bytes.count > Self.mark.count else {
            throw .invalid("these bytes are not the state of a suspended connection")
        }
        let version = bytes[Self.mark.count]
        guard version == Self.version else {
            throw .invalid(
                "the state of the suspended connection has version \(version), and this program knows version"
                    + " \(Self.version)")
        }
        let decoded = bytes.withUnsafeBytes { bytes -> SuspensionState? in
            var reader = ByteReader(UnsafeRawBufferPointer(rebasing: bytes.dropFirst(Self.mark.count + 1)))
            return try? SuspensionState(reading: &reader)
        }
        guard let decoded else { throw .invalid("the state of the suspended connection is damaged") }
        self = decoded
    }

    private init(reading reader: inout ByteReader) throws(MalformedBytes) {
        association = try SuspendedAssociation(decoding: &reader)
        messages = try reader.list { (reader) throws(MalformedBytes) in try reader.array() }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

extension DtlsConnection {
    /// Gives the connection up without a word to the peer, and returns what ``Dtls/resume(_:_:_:)`` goes on with, on any
    /// thread, in any task or other process. This object cannot be used any more. (Not in the reference.)
    ///
    /// A connection whose handshake is not done does it first. Messages that have come meanwhile wait in the socket.
    ///
    /// The program that goes on with the state must be the only one, and the state must be used once: a second use would protect
    /// two messages with one nonce, which gives the keys away.
    /// - Throws: `.invalid` where the connection cannot move, with the reason; it goes on then.
    @available(*, noasync, message: "it blocks; use AsyncDtlsConnection.suspend()")
    public func suspend() throws(DtlsError) -> DtlsSuspension {
        checkThread()
        _ = try use()
        return try suspendNow()
    }

    func suspendNow() throws(DtlsError) -> DtlsSuspension {
        guard case .established(let connection) = phase else { throw .notOpen }
        guard var suspended = connection.suspend() else {
            throw .invalid(
                "the connection cannot move: OpenSSL protects its records, since its cipher suite is"
                    + " \(connection.session.cipher), or renegotiation is allowed")
        }
        let state = SuspensionState(suspended.association, messages: inbox.all).encode()
        let descriptor = suspended.socket.take().release()
        leaveSuspended()
        return DtlsSuspension(state: state, sockFd: descriptor)
    }
}

extension AsyncDtlsConnection {
    /// Gives the connection up without a word to the peer, and returns what ``resume(_:_:_:)`` goes on with; see
    /// ``DtlsConnection/suspend()``.
    public func suspend() throws(DtlsError) -> DtlsSuspension {
        defer { wakeAll() }
        return try connection.suspendNow()
    }

    /// Goes on with a connection that was suspended; see ``Dtls/resume(_:_:_:)``.
    public static func resume(
        _ name: String? = nil, _ sockFd: Int32, _ state: [UInt8]
    ) throws(DtlsError) -> AsyncDtlsConnection {
        AsyncDtlsConnection(try Dtls.goOn(name, sockFd, state))
    }
}

extension Dtls {
    /// Goes on with a connection that ``DtlsConnection/suspend()`` has given up, on this thread. Its handshake is done.
    /// (Not in the reference.)
    /// - Parameters:
    ///   - name: the server that has accepted it, of this thread or of the thread that has started this task, so that a client which
    ///     comes back without its state can be accepted as a new one; `nil` where there is none, and for a client's own
    ///     connection.
    ///   - sockFd: its socket, or another one with the same addresses. It belongs to the connection from now on, and
    ///     stays the caller's where this throws for the state or the addresses.
    ///   - state: its state, which nobody else goes on with.
    @available(*, noasync, message: "a connection belongs to one thread; use await AsyncDtlsConnection.resume(_:_:_:)")
    public static func resume(_ name: String? = nil, _ sockFd: Int32, _ state: [UInt8]) throws(DtlsError)
        -> DtlsConnection
    {
        try goOn(name, sockFd, state)
    }

    static func goOn(
        _ name: String?, _ sockFd: Int32, _ state: [UInt8], number: UInt64 = 0, connectionID: ConnectionID? = nil
    ) throws(DtlsError) -> DtlsConnection {
        let iosched = try Iosched.current()
        guard iosched.socket(sockFd) == nil else {
            throw .invalid("descriptor \(sockFd) belongs to another connection")
        }
        var identity: ServerIdentity?
        if let name {
            guard let known = iosched.identities[name] else { throw .unknownServer(name) }
            identity = known
        }
        let suspended = try SuspensionState(decoding: state)
        if let fault = suspended.association.fault {
            throw .invalid("the suspended connection cannot go on: \(fault)")
        }
        let (local, peer) = try FileDescriptor.withBorrowed(sockFd) { descriptor throws(DtlsError) in
            try DtlsConnection.names(of: descriptor)
        }
        guard FlowKey(peer: peer, local: local) == suspended.association.flow else {
            throw .invalid(
                "descriptor \(sockFd) is connected from \(local) to \(peer), and the suspended connection was from"
                    + " \(suspended.association.flow.local) to \(suspended.association.flow.peer)")
        }
        let connection = try DtlsConnection(
            resuming: suspended, FileDescriptor(owning: sockFd), identity, number: number, connectionID: connectionID,
            iosched)
        iosched.parent?.remember(connection)
        return connection
    }
}
