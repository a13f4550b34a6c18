import CLinux
import Glibc

/// Descriptors that one thread waits at for something to be read, and that other threads may add to (an epoll instance).
public final class PollSet: Sendable {
    private let epoll: FileDescriptor

    public init() throws(SystemError) {
        epoll = FileDescriptor(owning: try system("epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) })
    }

    /// Adds a descriptor. One that is closed is removed by the kernel.
    /// - Parameter number: what ``wait()`` returns for it.
    public func add(_ descriptor: borrowing FileDescriptor, as number: UInt64) throws(SystemError) {
        var event = epoll_event()
        event.events = EPOLLIN.rawValue
        event.data.u64 = number
        let raw = descriptor.rawValue
        _ = try system("epoll_ctl") { epoll_ctl(epoll.rawValue, EPOLL_CTL_ADD, raw, &event) }
    }

    /// Waits until something can be read, or the other side has closed.
    /// - Returns: the number of the descriptor.
    public func wait() throws(SystemError) -> UInt64 {
        var event = epoll_event()
        _ = try system("epoll_wait") { epoll_wait(epoll.rawValue, &event, 1, -1) }
        return event.data.u64
    }
}
