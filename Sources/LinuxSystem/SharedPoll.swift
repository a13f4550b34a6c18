import CLinux
import Glibc

/// An epoll instance that several threads wait at. An event is given to one of them, which has the descriptor to itself
/// until it says ``watchAgain(_:as:)``.
public final class SharedPoll: Sendable {
    private let epoll: FileDescriptor

    public init() throws(SystemError) {
        epoll = FileDescriptor(owning: try system("epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) })
    }

    /// Watches whether there is something to be read. A descriptor that is closed is forgotten.
    /// - Parameter number: what ``wait()`` returns for it.
    public func watch(_ descriptor: borrowing FileDescriptor, as number: UInt64) throws(SystemError) {
        try control(EPOLL_CTL_ADD, descriptor, number)
    }

    /// Watches a descriptor whose event was given out.
    public func watchAgain(_ descriptor: borrowing FileDescriptor, as number: UInt64) throws(SystemError) {
        try control(EPOLL_CTL_MOD, descriptor, number)
    }

    private func control(
        _ operation: Int32, _ descriptor: borrowing FileDescriptor, _ number: UInt64
    ) throws(SystemError) {
        var event = epoll_event()
        event.events = EPOLLIN.rawValue | EPOLLONESHOT.rawValue
        event.data.u64 = number
        let raw = descriptor.rawValue
        _ = try system("epoll_ctl") { epoll_ctl(epoll.rawValue, operation, raw, &event) }
    }

    /// Waits for an event.
    /// - Returns: the number of the descriptor.
    public func wait() throws(SystemError) -> UInt64 {
        var event = epoll_event()
        _ = try system("epoll_wait") { epoll_wait(epoll.rawValue, &event, 1, -1) }
        return event.data.u64
    }
}

/// A thread of this process, which ends with the process.
public enum SystemThread {
    private final class Work {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }

    public static func start(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
        var thread = pthread_t()
        let work = Unmanaged.passRetained(Work(body))
        let code = pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body() }
                return nil
            }, work.toOpaque())
        guard code == 0 else {
            work.release()
            throw SystemError("pthread_create", errno: code)
        }
        pthread_detach(thread)
    }
}
