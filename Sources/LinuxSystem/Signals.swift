import CLinux
import Glibc

/// Signals as readable events. They are blocked for the process, and the loop reads them from a signalfd, so that no
/// signal handler ever runs.
public final class SignalSource {
    /// Readable when a signal is pending.
    public let descriptor: FileDescriptor

    /// Blocks `signals` in this thread, which must be the only one, and receives them from now on.
    public init(_ signals: [Int32]) throws(SystemError) {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in signals { sigaddset(&set, signal) }
        let code = pthread_sigmask(SIG_BLOCK, &set, nil)
        guard code == 0 else { throw SystemError("pthread_sigmask", errno: code) }
        descriptor = FileDescriptor(
            owning: try system("signalfd") {
                signalfd(-1, &set, Int32(SFD_NONBLOCK) | Int32(SFD_CLOEXEC))
            })
    }

    /// The next pending signal; `nil` when there is none.
    public func next() throws(SystemError) -> Int32? {
        var information = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        guard try systemUnlessBlocked("read", "signalfd", { read(descriptor.rawValue, &information, size) }) == size
        else { return nil }
        return Int32(bitPattern: information.ssi_signo)
    }
}
