import Glibc
import LinuxSystem
import Synchronization

/// The actor that the asynchronous servers and connections live on: one thread, which runs an ``Iosched`` between the
/// actor's jobs.
///
/// Code of a program's own may run on it too, to use servers and connections without changing threads. It must not wait
/// there but with `await`: calls of ``Dtls`` that would wait throw ``DtlsError/invalid(_:)``.
@globalActor public actor DtlsLoop {
    /// The one actor of its kind.
    public static let shared = DtlsLoop()

    private let executor = LoopExecutor()

    private init() { executor.start() }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
}

/// Runs an actor's jobs on one thread, in turn with that thread's event loop.
///
/// A process that has no descriptors left has no event loop. Jobs run all the same: those that need the loop find out
/// by ``Iosched/current()``, which throws, and so do the calls that they work for. The loop is tried again meanwhile.
private final class LoopExecutor: SerialExecutor {
    private struct State {
        var jobs: [UnownedJob] = []
        /// Wakes the event loop up; `nil` while there is none.
        var waker: Waker?
    }

    private let state = Mutex(State())
    /// Microseconds between two tries to make the event loop.
    private static let retryInterval: UInt32 = 10_000

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let waker = state.withLock { state in
            state.jobs.append(job)
            return state.waker
        }
        waker?.wake()
    }

    /// Starts the thread, which runs as long as the process does.
    ///
    /// Without a thread no job of the actor can run, not even to throw: like Swift's own executors, this one then ends
    /// the process.
    func start() {
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { pointer in
                guard let pointer else { return nil }
                Unmanaged<LoopExecutor>.fromOpaque(pointer).takeRetainedValue().run()
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "DTLSKit's loop has no thread: \(String(cString: strerror(code)))")
        pthread_detach(thread)
    }

    private func run() -> Never {
        while true {
            do {
                try runLoop()
            } catch {
                runJobs()
                usleep(Self.retryInterval)
            }
        }
    }

    /// Runs jobs and the event loop in turn, until the event loop fails.
    private func runLoop() throws -> Never {
        let iosched = try Iosched.current()
        iosched.isOfActor = true
        let waker = try Waker()
        let event = iosched.event(.read, waker.descriptor.rawValue) {
            waker.reset()
            return true
        }
        try iosched.add(event)
        state.withLock { $0.waker = waker }
        defer {
            state.withLock { $0.waker = nil }
            iosched.remove(event)
        }
        while true {
            // First of all those that came while nothing could wake the loop up.
            runJobs()
            try iosched.turnAndCall(timeout: nil)
        }
    }

    private func runJobs() { for job in takeJobs() { job.runSynchronously(on: asUnownedSerialExecutor()) } }

    /// Apart from where jobs run, so that a suppression for this here (Tests/Sanitizers/threads.suppressions) hides nothing
    /// that they do.
    private func takeJobs() -> [UnownedJob] {
        state.withLock { state in
            defer { state.jobs.removeAll(keepingCapacity: true) }
            return state.jobs
        }
    }
}
