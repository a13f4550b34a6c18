import CLinux
import Glibc

/// A file descriptor that is closed at the end of its lifetime. It cannot be copied; `consuming` passes it on.
public struct FileDescriptor: ~Copyable, Sendable {
    /// The number, for a system call. Do not close or store it. It is -1 after `take()`.
    public private(set) var rawValue: Int32

    /// Takes ownership of an open descriptor.
    public init(owning rawValue: Int32) { self.rawValue = rawValue }

    deinit { if rawValue >= 0 { Glibc.close(rawValue) } }

    /// Moves the descriptor out of a property of a class, which cannot be consumed. The property then holds none.
    public mutating func take() -> FileDescriptor {
        defer { rawValue = -1 }
        return FileDescriptor(owning: rawValue)
    }

    public var isOpen: Bool { rawValue >= 0 }

    /// Lends a descriptor that has another owner to `body`, and leaves it open.
    public static func withBorrowed<Result: ~Copyable, Failure>(
        _ rawValue: Int32, _ body: (borrowing FileDescriptor) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var descriptor = FileDescriptor(owning: rawValue)
        defer { _ = descriptor.take().release() }
        return try body(descriptor)
    }

    /// Releases ownership without closing the descriptor; the caller has to close it.
    public consuming func release() -> Int32 {
        let raw = rawValue
        discard self
        return raw
    }

    /// A second descriptor of the same open file, with FD_CLOEXEC.
    public func duplicate() throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("fcntl(F_DUPFD_CLOEXEC)") { fcntl(rawValue, F_DUPFD_CLOEXEC, 3) })
    }

    /// Sets O_NONBLOCK, for a descriptor that another process has passed in.
    public func makeNonBlocking() throws(SystemError) {
        let flags = try system("fcntl(F_GETFL)") { fcntl(rawValue, F_GETFL) }
        _ = try system("fcntl(F_SETFL)") { fcntl(rawValue, F_SETFL, flags | O_NONBLOCK) }
    }
}
