import CLinux
import Glibc

/// Threads of this process, which end with the process.
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

    /// The number of the processor that the calling thread runs on (sched_getcpu(3)). It may run on another one a moment
    /// later.
    public static var processor: UInt16 { UInt16(exactly: cl_processor()) ?? 0 }

    /// Has the calling thread run on this processor alone (sched_setaffinity(2)).
    /// - Throws: EINVAL where the process may not use that one, or there is none.
    public static func stay(onProcessor number: UInt16) throws(SystemError) {
        _ = try system("sched_setaffinity") { cl_stay_on_processor(UInt32(number)) }
    }
}
