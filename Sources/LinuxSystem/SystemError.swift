import CLinux
import Glibc

/// A system call that failed: which one, on what, and the kernel's errno.
public struct SystemError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The call, as its manual page names it (`"bind"`).
    public let operation: String
    /// What the call was about, or empty (`"127.0.0.1:4433"`).
    public let subject: String
    public let errno: Int32

    public init(_ operation: String, _ subject: String = "", errno: Int32) {
        self.operation = operation
        self.subject = subject
        self.errno = errno
    }

    /// The kernel's words for `errno`, without the call's name.
    public var reason: String { String(cString: strerror(errno)) }

    public var description: String {
        subject.isEmpty ? "\(operation): \(reason)" : "\(operation) \(subject): \(reason)"
    }
}

/// The one place where a system call's errno is captured and EINTR is retried.
/// - Returns: what the call returned, never negative.
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

/// Like ``system(_:_:_:)`` for a call on a non-blocking descriptor: `nil` when it would block.
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
