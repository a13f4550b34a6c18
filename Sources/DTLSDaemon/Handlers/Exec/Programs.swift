import Glibc
import LinuxSystem
import Logging
import Primitives

/// A worker's programs (handler "exec"): they are counted, and each is reaped as soon as it has ended.
final class Programs: HandlerSharedState {
    private let loop: EventLoop
    private let logs: WorkerLogs
    private var running: [pid_t: RunningProgram] = [:]
    /// By the service's name, since a service lives longer than its configuration.
    private var counts: [String: Int] = [:]
    /// Is called when there is none any more; while the worker is ending.
    private var allEnded: (() -> Void)?

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    /// How many a service has, those that are still ending included.
    func count(of service: ServiceRuntime) -> Int { counts[service.configuration.name] ?? 0 }

    /// Starts a program.
    /// - Parameters:
    ///   - stream: its standard input and output.
    ///   - ended: is called when it has ended, and before its output is lost: what it has written can be read.
    func start(
        _ command: [String], environment: [String: String], stream: borrowing FileDescriptor,
        limits: ForeignProgram.Limits, of service: ServiceRuntime, peer: SocketAddress, ended: @escaping () -> Void
    ) throws(SystemError) -> RunningProgram {
        let pid = try ForeignProgram.spawn(command, environment: environment, stream: stream, limits: limits)
        let process: FileDescriptor
        do throws(SystemError) {
            process = try ChildProcess.watch(pid)
        } catch {
            Self.destroy(pid)
            throw error
        }
        let program = RunningProgram(pid: pid, process: process, loop: loop)
        do throws(SystemError) {
            try program.watch { [weak self] in
                ended()
                self?.reap(program, service, peer)
            }
        } catch {
            Self.destroy(pid)
            throw error
        }
        running[pid] = program
        counts[service.configuration.name, default: 0] += 1
        return program
    }

    /// For want of a descriptor to watch it with. It ends at once, so this hardly waits.
    private static func destroy(_ pid: pid_t) {
        ForeignProgram.signal(SIGKILL, toGroupOf: pid)
        _ = ChildProcess.wait(for: pid)
    }

    private func reap(_ program: RunningProgram, _ service: ServiceRuntime, _ peer: SocketAddress) {
        // What it has left running goes along; while it is not reaped, nobody else has its number.
        ForeignProgram.signal(SIGKILL, toGroupOf: program.pid)
        let ending = ChildProcess.reap(program.pid)
        running[program.pid] = nil
        let name = service.configuration.name
        counts[name] = counts[name].flatMap { $0 > 1 ? $0 - 1 : nil }
        if let ending, ending != .exited(status: 0), !program.wasSignalled {
            logs.limited(
                .programEnded, "the program of \(peer) \(ending)", service,
                ["PEER": "\(peer)", "PROGRAM_PID": "\(program.pid)"])
        } else if program.wasKilled {
            logs.limited(
                .programEnded, "the program of \(peer) did not end by itself, nor at SIGTERM, and was killed", service,
                ["PEER": "\(peer)", "PROGRAM_PID": "\(program.pid)"])
        }
        if running.isEmpty { allEnded?() }
    }

    var isBusy: Bool { !running.isEmpty }

    /// When the worker itself is killed, the kernel kills the programs, but not what they have started.
    func finish(by deadline: Instant, _ done: @escaping () -> Void) {
        allEnded = done
        for program in running.values { program.end(by: deadline) }
    }
}

/// A program from its start until it is reaped, which can be after the end of its connection.
final class RunningProgram: TimerTarget, EventHandler {
    let pid: pid_t

    /// How urgently it has been asked to end.
    private enum Stage {
        case running
        /// Its input has ended.
        case released
        /// SIGTERM.
        case asked
        /// SIGKILL.
        case killed
    }

    /// How long a program has to end by itself once its input has ended, and how long after SIGTERM.
    private static let grace = Duration.milliseconds(2_000)
    private static let lastGrace = Duration.milliseconds(5_000)

    private let loop: EventLoop
    private var process: FileDescriptor
    private var registration: EventLoop.Registration?
    private var ended: () -> Void = {}
    private var stage = Stage.running
    /// The loop's time at which it is killed, whatever grace it has left.
    private var deadline = Instant.distantFuture

    fileprivate init(pid: pid_t, process: consuming FileDescriptor, loop: EventLoop) {
        self.pid = pid
        self.process = process
        self.loop = loop
        super.init()
    }

    /// - Parameter ended: is called once, when the program has ended and is not reaped yet.
    fileprivate func watch(_ ended: @escaping () -> Void) throws(SystemError) {
        registration = try loop.add(process, .readable, self)
        self.ended = ended
    }

    fileprivate var wasSignalled: Bool { stage == .asked || stage == .killed }
    fileprivate var wasKilled: Bool { stage == .killed }

    /// Its connection has gone, and with it the program's input: it is to end.
    func release() {
        guard stage == .running, registration != nil else { return }
        stage = .released
        loop.timers.arm(self, at: loop.now + Self.grace)
    }

    /// Its connection has gone, and its worker is going. Of the time that is left it gets a third to end by itself, and
    /// the rest after SIGTERM, where that is less than it would have anyway.
    fileprivate func end(by deadline: Instant) {
        self.deadline = deadline
        let left = deadline > loop.now ? deadline - loop.now : .zero
        switch stage {
        case .running, .killed: break
        case .released: loop.timers.arm(self, at: loop.now + left / 3)
        case .asked: loop.timers.arm(self, at: deadline)
        }
    }

    override func timerFired(now: Instant) {
        guard registration != nil else { return }
        switch stage {
        case .running, .killed: break
        case .released:
            stage = .asked
            ForeignProgram.signal(SIGTERM, toGroupOf: pid)
            loop.timers.arm(self, at: min(now + Self.lastGrace, deadline))
        case .asked:
            stage = .killed
            ForeignProgram.signal(SIGKILL, toGroupOf: pid)
        }
    }

    func ready(_ events: EventLoop.Events) {
        guard let registration else { return }
        loop.remove(process, registration)
        self.registration = nil
        loop.timers.disarm(self)
        _ = process.take()
        let ended = ended
        self.ended = {}
        ended()
    }
}
