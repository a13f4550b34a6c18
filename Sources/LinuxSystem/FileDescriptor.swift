import CLinux
import Glibc

/// A file descriptor that is closed when its owner goes. It cannot be copied: passing it on is `consuming`.
public struct FileDescriptor: ~Copyable, Sendable {
    /// The number, for a system call. It is not to be closed or kept. -1 after `take()`.
    public private(set) var rawValue: Int32

    /// Takes over an open descriptor.
    public init(owning rawValue: Int32) { self.rawValue = rawValue }

    deinit { if rawValue >= 0 { Glibc.close(rawValue) } }

    /// Moves the descriptor out of a place that cannot be consumed, a class' property; that place then holds none.
    public mutating func take() -> FileDescriptor {
        defer { rawValue = -1 }
        return FileDescriptor(owning: rawValue)
    }

    public var isOpen: Bool { rawValue >= 0 }

    /// Lends a descriptor that belongs to somebody else to `body`; it stays open.
    public static func withBorrowed<Result: ~Copyable, Failure>(
        _ rawValue: Int32, _ body: (borrowing FileDescriptor) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var descriptor = FileDescriptor(owning: rawValue)
        defer { _ = descriptor.take().release() }
        return try body(descriptor)
    }

    /// Gives the number away without closing it; the receiver closes it.
    public consuming func release() -> Int32 {
        let raw = rawValue
        discard self
        return raw
    }

    /// A second descriptor of the same open file, with FD_CLOEXEC.
    public func duplicate() throws(SystemError) -> FileDescriptor {
        FileDescriptor(owning: try system("fcntl(F_DUPFD_CLOEXEC)") { fcntl(rawValue, F_DUPFD_CLOEXEC, 3) })
    }

    /// Sets O_NONBLOCK, for a descriptor that came from outside.
    public func makeNonBlocking() throws(SystemError) {
        let flags = try system("fcntl(F_GETFL)") { fcntl(rawValue, F_GETFL) }
        _ = try system("fcntl(F_SETFL)") { fcntl(rawValue, F_SETFL, flags | O_NONBLOCK) }
    }
}
