import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// A process that the main process asks over a channel, the resolver, the checker or the key process: started while it is wanted, and again,
/// after a growing pause, when it has ended.
final class AuxiliaryProcess: MessageChannelDelegate {
    private let role: Role
    private let environment: [String: String]
    private let loop: EventLoop
    private var running: (pid: pid_t, channel: MessageChannel)?
    private var backoff: Backoff
    /// When it may be started again.
    private(set) var nextStart = Instant.distantPast

    /// Is called with each message, and returns false for one that no such process sends: it is ended then. Who calls
    /// ``resetPause()`` decides what shows that the process does its work.
    var onMessage: (UnsafeRawBufferPointer) -> Bool = { _ in true }
    /// Is called when the process has ended, or cannot be started, with the reason and the pause until the next start.
    var onLost: (_ reason: String, _ pause: Duration) -> Void = { _, _ in }

    /// - Parameter backoff: the pauses between an end and the next start.
    init(
        _ role: Role, environment: [String: String], loop: EventLoop,
        backoff: Backoff = Backoff(from: .seconds(1), to: .seconds(60))
    ) {
        self.backoff = backoff
        self.role = role
        self.environment = environment
        self.loop = loop
    }

    /// What the process itself does first: it leaves signals to the main process, with which it ends, and walls itself in.
    /// - Returns: its end of the channel.
    static func begin(behind walls: AuxiliaryWalls) throws(SystemError) -> FileDescriptor {
        for signal in [SIGINT, SIGTERM, SIGHUP] { Glibc.signal(signal, SIG_IGN) }
        _ = OpenFileLimit.raise()
        walls.raise()
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        try channel.makeNonBlocking()
        return channel
    }

    var isRunning: Bool { running != nil }

    /// Starts it, unless it runs or its pause is not over.
    func start() {
        guard running == nil, loop.now >= nextStart else { return }
        do throws(SystemError) {
            let ends = try UnixChannel.pair()
            let pid = try ChildProcess.spawn(
                arguments: role.arguments, environment: environment, channel: ends.other)
            running = (pid, try MessageChannel(ends.one, loop: loop, delegate: self))
        } catch {
            lose("it cannot be started: \(error)\(ChildProcess.hint(error))")
        }
    }

    func send(_ message: [UInt8], descriptor: consuming FileDescriptor = FileDescriptor(owning: -1)) {
        running?.channel.send(message, descriptor: descriptor)
    }

    /// The process does what it is there for: the next pause is the shortest again.
    func resetPause() { backoff.reset() }

    /// Kills it, so that another one is started.
    func kill() {
        if let pid = running?.pid { Glibc.kill(pid, SIGKILL) }
    }

    /// Ends it, with its channel.
    func end() {
        running?.channel.close()
        running = nil
    }

    private func lose(_ reason: String) {
        end()
        let pause = backoff.next()
        nextStart = loop.now + pause
        onLost(reason, pause)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        if !onMessage(message) { kill() }
    }

    /// The process has ended, and SIGCHLD says how. One that goes on without its channel is of no use.
    func channelEnded(_ channel: MessageChannel) {
        if let running, running.channel === channel { kill() }
    }

    /// Notes how a child ended; the main process reaps all children.
    /// - Returns: whether it was this one.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) -> Bool {
        guard let running, running.pid == pid else { return false }
        // Whatever it has said before still counts.
        running.channel.readToEnd()
        guard self.running?.pid == pid else { return true }
        lose("its process \(ending)")
        return true
    }
}
