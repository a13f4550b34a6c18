import CLinux
import Glibc

/// A thread of this process, to tell whether code runs on it.
package struct ThreadIdentity: Sendable {
    private let handle: pthread_t
    /// The kernel's number of the thread, as `ps -L` and debuggers show it (gettid(2)).
    package let number: pid_t

    /// The calling thread.
    package static var current: ThreadIdentity { ThreadIdentity(handle: pthread_self(), number: cl_thread_number()) }

    /// Whether this is the calling thread. It costs no system call.
    @inline(__always) package var isCurrent: Bool { pthread_self() == handle }
}
