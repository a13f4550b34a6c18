import CLinux
import Glibc

/// A system call that failed: its name, its subject, and its errno.
public struct SystemError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The name of the call, as in its manual page (`"bind"`).
    public let operation: String
    /// The subject of the call, such as an address (`"127.0.0.1:4433"`), or empty.
    public let subject: String
    public let errno: Int32

    public init(_ operation: String, _ subject: String = "", errno: Int32) {
        self.operation = operation
        self.subject = subject
        self.errno = errno
    }

    /// The description of `errno`, without the name of the call.
    public var reason: String { String(cString: strerror(errno)) }

    public var description: String {
        subject.isEmpty ? "\(operation): \(reason)" : "\(operation) \(subject): \(reason)"
    }
}

/// The one place where a system call's errno is captured and EINTR is retried.
/// - Returns: the result of the call, which is never negative.
@inline(__always)
func system<Result: FixedWidthInteger & SignedInteger>(
    _ operation: StaticString,
    _ subject: @autoclosure () -> String = "",
    _ call: () -> Result
) throws(SystemError) -> Result {
    while true {
        let result = call()
        if result >= 0 { return result }
        let code = errno
        if code == EINTR { continue }
        throw SystemError("\(operation)", subject(), errno: code)
    }
}

/// Like ``system(_:_:_:)``, for a call on a non-blocking descriptor; returns `nil` when the call would block.
@inline(__always)
func systemUnlessBlocked<Result: FixedWidthInteger & SignedInteger>(
    _ operation: StaticString,
    _ subject: @autoclosure () -> String = "",
    _ call: () -> Result
) throws(SystemError) -> Result? {
    while true {
        let result = call()
        if result >= 0 { return result }
        let code = errno
        if code == EINTR { continue }
        if code == EAGAIN || code == EWOULDBLOCK { return nil }
        throw SystemError("\(operation)", subject(), errno: code)
    }
}
