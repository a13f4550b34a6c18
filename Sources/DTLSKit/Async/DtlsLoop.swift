import Glibc
import LinuxSystem
import Synchronization

/// The actor that the asynchronous servers and connections live on: one thread, which runs an ``Iosched`` between the
/// actor's jobs.
@globalActor public actor DtlsLoop {
    public static let shared = DtlsLoop()

    private let executor = LoopExecutor()

    private init() { executor.start() }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
}

/// Runs an actor's jobs on one thread, in turn with that thread's event loop.
private final class LoopExecutor: SerialExecutor {
    private let jobs = Mutex<[UnownedJob]>([])
    private let waker: Waker

    init() {
        do {
            waker = try Waker()
        } catch {
            preconditionFailure("DTLSKit's loop cannot be started: \(error)")
        }
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.withLock { $0.append(job) }
        waker.wake()
    }

    /// Starts the thread, which runs as long as the process does.
    func start() {
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { pointer in
                guard let pointer else { return nil }
                Unmanaged<LoopExecutor>.fromOpaque(pointer).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "DTLSKit's loop cannot be started: \(String(cString: strerror(code)))")
        pthread_detach(thread)
    }

    private func run() {
        do {
            let iosched = try Iosched.current()
            let event = iosched.event(.read, waker.descriptor.rawValue) { [waker] in
                waker.reset()
                return true
            }
            try iosched.add(event)
            while true {
                try iosched.poll()
                runJobs()
            }
        } catch {
            preconditionFailure("DTLSKit's loop cannot run: \(error)")
        }
    }

    private func runJobs() {
        let ready = jobs.withLock { jobs in
            defer { jobs.removeAll(keepingCapacity: true) }
            return jobs
        }
        for job in ready { job.runSynchronously(on: asUnownedSerialExecutor()) }
    }
}
