import Foundation
import LinuxSystem
import TestSupport
import Testing

/// A group of processes that get no more memory than a limit (cgroups(7)). It takes root, and a hierarchy that is not
/// read-only.
struct MemoryGroup: ~Copyable {
    private static let root = "/sys/fs/cgroup"
    /// The older kind of hierarchy has a folder for each controller.
    private static let isOld = FileManager.default.fileExists(atPath: root + "/memory")
    private let folder: String

    static let isAllowed: Bool = {
        guard let group = try? MemoryGroup(name: "dtlsd-probe-\(getpid())") else { return false }
        return (try? group.limit(to: 64 << 20)) != nil
    }()

    init(name: String) throws {
        folder = Self.root + (Self.isOld ? "/memory/" : "/") + name
        if !Self.isOld { try? Self.write("+memory", to: Self.root + "/cgroup.subtree_control") }
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
    }

    deinit { rmdir(folder) }

    func add(_ process: pid_t) throws { try Self.write("\(process)", to: folder + "/cgroup.procs") }

    func limit(to bytes: Int) throws {
        try Self.write("\(bytes)", to: folder + (Self.isOld ? "/memory.limit_in_bytes" : "/memory.max"))
    }

    private static func write(_ text: String, to file: String) throws {
        guard let handle = FileHandle(forWritingAtPath: file) else { throw POSIXError(.ENOENT) }
        try handle.write(contentsOf: Data(text.utf8))
    }
}

extension FaultWorld {
    /// For how long things stop.
    enum Pauses {
        /// Of a suite that has a minute, that has ten, and of a soak.
        case short, medium, long

        fileprivate var lengths: [ClosedRange<Int>] {
            switch self {
            case .short: [300...2_000, 300...2_000, 5_000...5_000]
            case .medium: [300...2_000, 5_000...5_000, 20_000...20_000]
            case .long: [5_000...5_000, 20_000...20_000, 60_000...60_000]
            }
        }
    }

    func anyWorker() throws -> pid_t { try #require(daemon.workers.randomElement(using: &random)) }

    func milliseconds(_ range: ClosedRange<Int>) -> Duration {
        .milliseconds(Int.random(in: range, using: &random))
    }

    func kill(_ victims: [pid_t]) async throws {
        for victim in victims { Foundation.kill(victim, SIGKILL) }
        talk()
        try await eventually("killed processes are gone") { !victims.contains { ProcessTable.isRunning($0) } }
    }

    func pause(_ process: pid_t) async throws {
        Foundation.kill(process, SIGSTOP)
        talk()
        try await Task.sleep(for: anyPause())
        Foundation.kill(process, SIGCONT)
    }

    private func anyPause() -> Duration {
        let lengths = pauses.lengths
        return milliseconds(lengths[Int(random.next() % UInt64(lengths.count))])
    }

    /// In the midst of a record, of a client that does not stay: one on which a worker has died twice would be ended. A
    /// release build has no such record, and gets the signal from outside. Core dumps are allowed, and would be written to
    /// the small disk; they would have keys in them.
    func crashWorker(_ action: String, _ signal: Int32) async throws {
        let before = Set(daemon.workers)
        if Daemon.hasStandIn {
            let client = try Program(openSSL(Self.ports.echo), in: folder)
            client.send("stand-in: \(action)\n")
            try await eventually("a worker crashes", details: lastLines) { !before.isSubset(of: Set(daemon.workers)) }
            // Its successor gets no other message of it.
            client.signal(SIGKILL)
            noteVanished()
        } else {
            Foundation.kill(try anyWorker(), signal)
            try await eventually("a worker crashes", details: lastLines) { !before.isSubset(of: Set(daemon.workers)) }
        }
        let files = network.filesOfDisk
        guard !files.contains(where: { $0.hasPrefix("core") }) else {
            throw NeverHappened(description: "there is a core dump of a worker among \(files)")
        }
    }

    /// The next main process finds what the one before has stored with the service manager: clients are told nothing.
    /// Listeners are not stored here; the network is silent meanwhile, or clients would hear that there is no such port.
    func killMain() async throws {
        let workers = daemon.workers
        try await network.unplug()
        daemon.program.signal(SIGKILL)
        _ = try await daemon.program.ended()
        try await eventually("the workers end") { !workers.contains { ProcessTable.isRunning($0) } }
        try await restartDaemon()
        try await network.plugIn()
        try await warmUp()
    }

    /// It stops in the midst of a reload, as it would on a file system that does not answer. Nobody notices: clients are
    /// served with what is active, and others come. Who asks for a reload meanwhile gets one when this one has ended, with
    /// success, or because the loader is killed after a minute.
    func stopLoader() async throws {
        try await interruptLoader { loader in
            let end = ContinuousClock.now + anyPause()
            try daemon.reload(configuration)
            _ = try await exchange()
            let visitor = try newClient(.openSSL)
            try await visitor.exchange(within: 30)
            try await visitor.leave()
            guard ProcessTable.isStopped(loader) else { throw NeverHappened(description: "the loader has gone on") }
            try await Task.sleep(until: end, clock: .continuous)
            Foundation.kill(loader, SIGCONT)
        }
    }

    /// In the midst of a reload, which is done again afterwards.
    func interruptLoader(_ interrupt: (pid_t) async throws -> Void) async throws {
        let loader = try await daemon.reloadAndStopLoader(configuration)
        talk(1)
        try await interrupt(loader)
        try await eventually("the loader ends", details: lastLines) { !ProcessTable.isRunning(loader) }
        try await reloadWell()
    }

    /// Nothing new can be opened, and a client comes.
    func takeDescriptors(from process: pid_t) async throws {
        let limit = getdtablesize()
        try await Program.run(["prlimit", "--pid", "\(process)", "--nofile=4:"], in: folder)
        talk()
        let client = try newClient(.openSSL)
        client.say()
        try await Task.sleep(for: milliseconds(200...800))
        try await Program.run(["prlimit", "--pid", "\(process)", "--nofile=\(limit):"], in: folder)
        try await client.exchange(within: 30)
        try await client.leave()
    }

    /// No memory can be mapped any more, and clients come. The worker refuses them, or dies of it.
    func takeAddressSpace(from process: pid_t) async throws {
        let size = ProcessTable.kilobytes("VmSize", of: process)
        try await Program.run(["prlimit", "--pid", "\(process)", "--as=\(size * 1_024):"], in: folder)
        let crowd = try startCrowd()
        talk()
        try await Task.sleep(for: milliseconds(200...800))
        if ProcessTable.isRunning(process) {
            // It may have died just now.
            _ = try? await Program.run(["prlimit", "--pid", "\(process)", "--as=unlimited:"], in: folder)
        }
        _ = try await crowd.ended()
    }

    /// The main process can map no more memory, and clients come. It refuses them, or dies of it, and the next one goes on
    /// with what it has stored. The clients are beside the daemon, over the loopback interface, since the network is to be
    /// silent where the main process dies; see ``killMain()``.
    func takeAddressSpaceFromMain() async throws {
        let (main, workers) = (daemon.program.pid, daemon.workers)
        try await network.unplug()
        let size = ProcessTable.kilobytes("VmSize", of: main)
        try await Program.run(["prlimit", "--pid", "\(main)", "--as=\(size * 1_024):"], in: folder)
        let crowd = try startCrowd(network.prefix)
        try await Task.sleep(for: milliseconds(500...1_500))
        // It may have died just now.
        _ = try? await Program.run(["prlimit", "--pid", "\(main)", "--as=unlimited:"], in: folder)
        _ = try await crowd.ended()
        if daemon.program.ending != nil {
            try await eventually("the workers end") { !workers.contains { ProcessTable.isRunning($0) } }
            try await restartDaemon()
        }
        try await network.plugIn()
        try await warmUp()
    }

    /// A stopped loader goes on, and can map no more memory. That reload fails, or gets by with what there is.
    func takeAddressSpace(fromLoader process: pid_t) async throws {
        let size = ProcessTable.kilobytes("VmSize", of: process)
        try await Program.run(["prlimit", "--pid", "\(process)", "--as=\(size * 1_024):"], in: folder)
        Foundation.kill(process, SIGCONT)
    }

    /// The kernel kills the worker that wants more.
    func limitMemory(of process: pid_t) async throws {
        let group = try MemoryGroup(name: "dtlsd-fault-\(getpid())")
        try group.add(process)
        try group.limit(to: 1 << 18)
        let crowd = try startCrowd()
        talk()
        try await eventually("the kernel kills a worker over its limit", within: 30, details: lastLines) {
            !ProcessTable.isRunning(process)
        }
        _ = try await crowd.ended()
    }

    /// Clients that come all at once and leave again, those that are not served without a word.
    private func startCrowd(_ prefix: [String]? = nil) throws -> Program {
        noteVanished(200)
        return try Program(
            (prefix ?? network.clientPrefix) + [
                Daemon.tool, "bench", "idle", "--connections", "200", "--seconds", "1", "--timeout", "5", "--insecure",
                "--quiet", address(Self.ports.echo),
            ], in: folder)
    }
}

extension ProcessTable {
    /// A line of /proc/PID/status in kilobytes; 0 where there is none.
    static func kilobytes(_ name: String, of pid: pid_t) -> Int {
        text(of: "/proc/\(pid)/status").split(separator: "\n").first { $0.hasPrefix(name + ":") }
            .flatMap { $0.split(whereSeparator: \.isWhitespace).dropFirst().first }.flatMap { Int($0) } ?? 0
    }
}
