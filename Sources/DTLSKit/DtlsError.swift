import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem

/// The reason for a failed call. It is thrown where the reference returns a negative number, `false` or `undefined`.
public enum DtlsError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A system call failed: its name, what it was about (may be empty), and the kernel's errno.
    case system(call: String, subject: String, errno: Int32)
    /// A value is out of its range, or has the wrong form. Nothing was changed.
    case invalid(String)
    /// A certificate, key, passphrase or CA list cannot be used. Nothing was changed.
    case credentials(String)
    /// The handshake failed: OpenSSL's reason, and what is wrong with the peer's certificate where that was it.
    case handshake(reason: String, certificate: String?)
    /// The event that was waited for did not happen within the timeout. `errno` is the last error that the network
    /// reported meanwhile (ECONNREFUSED: nothing listens there), or 0.
    case timedOut(waitingFor: String, errno: Int32)
    /// The peer has closed the connection (close_notify).
    case closed
    /// This end has closed the connection or server, or has given it away with `flyAway()`.
    case notOpen
    /// The connection broke after its handshake: OpenSSL's reason, a fatal alert of the peer for instance.
    case broken(reason: String)
    /// No server of this name is known to this thread: it has made none, and, where this process is a task, neither has the
    /// thread that has started it.
    case unknownServer(String)
    /// The task's process has ended, or this process is not a task.
    case noTask(String)

    /// The kernel's error number, where there is one.
    public var errno: Int32? {
        switch self {
        case .system(_, _, let errno): errno
        case .timedOut(_, let errno): errno == 0 ? nil : errno
        default: nil
        }
    }

    public var description: String {
        switch self {
        case .system(let call, let subject, let errno):
            SystemError(call, subject, errno: errno).description
        case .invalid(let reason): reason
        case .credentials(let reason): reason
        case .handshake(let reason, nil): "the handshake failed: \(reason)"
        case .handshake(let reason, let certificate?): "the handshake failed: \(reason): \(certificate)"
        case .timedOut(let what, 0): "timed out waiting for \(what)"
        case .timedOut(let what, let errno):
            "timed out waiting for \(what); the network said: \(String(cString: strerror(errno)))"
        case .closed: "the peer has closed the connection"
        case .notOpen: "it is closed at this end, or was given away"
        case .broken(let reason): "the connection broke: \(reason)"
        case .unknownServer(let name): "no server with the name \"\(name)\" is known to this thread"
        case .noTask(let reason): reason
        }
    }
}

extension DtlsError {
    init(_ error: SystemError) { self = .system(call: error.operation, subject: error.subject, errno: error.errno) }

    package init(_ error: OpenSSLError) { self = .handshake(reason: error.description, certificate: nil) }

    package init(_ error: CredentialsError) { self = .credentials(error.description) }

    package init(_ error: EngineError) {
        switch error {
        case .handshake(let error, let verification):
            self = .handshake(reason: error.description, certificate: verification)
        case .unknownServerName, .unauthorized, .cancelled:
            self = .handshake(reason: error.description, certificate: nil)
        case .record, .alert, .overflow, .exhausted: self = .broken(reason: error.description)
        case .path, .fragment: self = .system(call: "send", subject: error.description, errno: EMSGSIZE)
        case .size, .notEstablished: self = .invalid(error.description)
        }
    }

    /// - Parameter lastError: what the socket said last.
    package init(_ ending: Connection.Ending, lastError: Int32) {
        switch ending {
        case .closedByPeer, .replaced, .addressTaken, .serviceRemoved: self = .closed
        case .closedHere, .refused: self = .notOpen
        case .idle: self = .timedOut(waitingFor: "anything from the peer (idleTimeout)", errno: lastError)
        case .handshakeTimedOut: self = .timedOut(waitingFor: "the handshake", errno: lastError)
        case .failed(let error): self.init(error)
        }
    }

    /// Calls into the system layer, whose errors become these.
    static func system<Result: ~Copyable>(_ work: () throws(SystemError) -> Result) throws(DtlsError) -> Result {
        do { return try work() } catch { throw DtlsError(error) }
    }
}
