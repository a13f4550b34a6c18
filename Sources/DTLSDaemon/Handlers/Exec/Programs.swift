import Glibc
import LinuxSystem
import Logging
import Primitives

/// A worker's programs (handler "exec"): they are counted, and each is reaped as soon as it has ended.
final class Programs: HandlerSharedState {
    private let loop: EventLoop
    private let logs: WorkerLogs
    private var running: [pid_t: RunningProgram] = [:]
    /// How many programs a service has, by its name, since a service outlives its configuration.
    private var counts: [String: Int] = [:]
    /// What is called when no program is left, while the worker is stopping.
    private var allEnded: (() -> Void)?

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    /// How many programs a service has, including those that have been asked to end.
    func count(of service: ServiceRuntime) -> Int { counts[service.configuration.name] ?? 0 }

    /// Starts a program.
    /// - Parameters:
    ///   - stream: its standard input and output.
    ///   - ended: is called when it has ended, before its output is lost: what it has written can still be read.
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

    /// Ends a program that cannot be watched, for want of a descriptor. It ends at once, so this hardly waits.
    private static func destroy(_ pid: pid_t) {
        ForeignProgram.signal(SIGKILL, toGroupOf: pid)
        _ = ChildProcess.wait(for: pid)
    }

    private func reap(_ program: RunningProgram, _ service: ServiceRuntime, _ peer: SocketAddress) {
        // What the program has left running ends with it. While it is not reaped, no other process has its number.
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
                .programEnded,
                "the program of \(peer) was killed: it did not end by itself at the end of its input, nor at SIGTERM",
                service, ["PEER": "\(peer)", "PROGRAM_PID": "\(program.pid)"])
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

/// How a program is made to end, without I/O and without a clock: first its input ends, then it gets SIGTERM, and then
/// SIGKILL, each when the one before has had no effect for a while.
struct ProgramShutdown {
    enum Stage: Equatable {
        case running
        /// The program's input has ended, which most programs take as the end.
        case inputEnded
        /// The program has got SIGTERM.
        case terminated
        /// The program has got SIGKILL.
        case killed
    }

    /// How long a program has to end by itself once its input has ended, and how long after SIGTERM.
    static let inputGrace = Duration.seconds(2)
    static let terminationGrace = Duration.seconds(5)

    private(set) var stage = Stage.running
    /// When ``timePassed(now:)`` is to be called; ``Instant/distantFuture`` where there is nothing to wait for.
    private(set) var due = Instant.distantFuture
    /// When the program is killed at the latest, since its worker is stopping.
    private var deadline = Instant.distantFuture

    /// The connection has ended, and with it the program's input.
    mutating func inputEnded(now: Instant) {
        guard stage == .running else { return }
        stage = .inputEnded
        due = min(now + Self.inputGrace, deadline)
    }

    /// The worker is stopping. The program gets a third of the time that is left to end by itself, and the rest after
    /// SIGTERM, where that is less than it would have anyway.
    mutating func workerStops(by deadline: Instant, now: Instant) {
        self.deadline = deadline
        let left = deadline > now ? deadline - now : .zero
        switch stage {
        case .running, .killed: break
        case .inputEnded: due = min(due, now + left / 3)
        case .terminated: due = min(due, deadline)
        }
    }

    /// - Returns: the signal that the program is to get now, or `nil`.
    mutating func timePassed(now: Instant) -> Int32? {
        guard now >= due else { return nil }
        switch stage {
        case .running, .killed:
            due = .distantFuture
            return nil
        case .inputEnded:
            stage = .terminated
            due = min(now + Self.terminationGrace, deadline)
            return SIGTERM
        case .terminated:
            stage = .killed
            due = .distantFuture
            return SIGKILL
        }
    }
}

/// A program from its start until it is reaped, which can be after the end of its connection.
final class RunningProgram: TimerTarget, EventHandler {
    let pid: pid_t
    private let loop: EventLoop
    /// The program's pidfd, which is readable once the program has ended.
    private var process: FileDescriptor
    private var registration: EventLoop.Registration?
    private var ended: () -> Void = {}
    private var shutdown = ProgramShutdown()

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

    fileprivate var wasSignalled: Bool { shutdown.stage == .terminated || wasKilled }
    fileprivate var wasKilled: Bool { shutdown.stage == .killed }

    /// The connection has ended, and with it the program's input: the program is to end.
    func release() {
        guard registration != nil else { return }
        shutdown.inputEnded(now: loop.now)
        rearm()
    }

    /// The worker is stopping, and the program is to have ended before `deadline`.
    fileprivate func end(by deadline: Instant) {
        shutdown.workerStops(by: deadline, now: loop.now)
        rearm()
    }

    private func rearm() { loop.timers.arm(self, at: shutdown.due) }

    override func timerFired(now: Instant) {
        guard registration != nil else { return }
        if let signal = shutdown.timePassed(now: now) { ForeignProgram.signal(signal, toGroupOf: pid) }
        rearm()
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
