import CLinux
import Glibc

/// Wakes a loop from any thread: an eventfd that becomes readable.
public final class Waker: Sendable {
    /// To be watched by the loop that is to wake.
    public let descriptor: FileDescriptor

    public init() throws(SystemError) {
        descriptor = FileDescriptor(owning: try system("eventfd") { eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC)) })
    }

    /// Makes the descriptor readable, if it is not.
    public func wake() {
        var one: UInt64 = 1
        _ = write(descriptor.rawValue, &one, 8)
    }

    /// Makes the descriptor unreadable again.
    public func reset() {
        var count: UInt64 = 0
        _ = read(descriptor.rawValue, &count, 8)
    }
}
