import DTLSKit
import Glibc
import LinuxSystem
import Synchronization

/// SIGINT, SIGTERM and SIGHUP as something to ask for, so that connections can be closed with close_notify. The second
/// signal ends the process as ever.
///
/// Swift's runtime and getaddrinfo(3) may have threads of their own, and the kernel gives a signal to any that does not
/// block it. So it is a handler that takes them, and writes to a descriptor that the command's loop watches.
enum EndingSignals {
    /// The eventfd; -1 before ``watch()``.
    private static let descriptor = Atomic<Int32>(-1)
    private static let came = Atomic(false)

    /// Begins to take the signals, and has them wake the calling thread's loop up.
    static func watch() throws(TalkingFailure) {
        // Written to a pipe that nobody reads any more.
        signal(SIGPIPE, SIG_IGN)
        let waker: Waker
        do throws(SystemError) { waker = try Waker() } catch { throw .local("\(error)") }
        descriptor.store(waker.descriptor.rawValue, ordering: .sequentiallyConsistent)
        do throws(DtlsError) {
            // The event keeps the waker; it is never read, and needs to wake the loop up once.
            try iosched.add(iosched.event(.read, waker.descriptor.rawValue) { withExtendedLifetime(waker) { true } })
        } catch {
            throw .local(error)
        }
        for number in [SIGINT, SIGTERM, SIGHUP] { signal(number, handler) }
    }

    private static let handler: @convention(c) (Int32) -> Void = { number in
        let saved = errno
        EndingSignals.came.store(true, ordering: .relaxed)
        var one: UInt64 = 1
        _ = write(EndingSignals.descriptor.load(ordering: .relaxed), &one, 8)
        signal(number, SIG_DFL)
        errno = saved
    }

    /// Whether one has come.
    static var hasCome: Bool { came.load(ordering: .relaxed) }
}
