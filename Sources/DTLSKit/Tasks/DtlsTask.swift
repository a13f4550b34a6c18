import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Synchronization

/// A task: a worker process of the same program, that does what the program has registered under a name (reference:
/// Task).
///
/// ```swift
/// try DtlsTask.run(["task": runTask])  // first of all, in the program's main file
/// let task = try DtlsTask("task")
/// try task.send(["sockFd": .sockFd(client.sockFd)])
/// ```
///
/// A task knows the named servers of the thread that has started it, and learns of their changes before it gets
/// anything that is sent later. It ends when its parent does. The object belongs to that thread, and a call on another
/// one ends the program.
public final class DtlsTask {
    /// How a task's process has ended.
    public enum Ending: Sendable, Equatable, CustomStringConvertible {
        /// It has ended by itself, with this exit status.
        case exited(status: Int32)
        /// A signal has ended it.
        case killed(signal: Int32)

        public var description: String {
            switch self {
            case .exited(let status): ChildProcess.Ending.exited(status: status).description
            case .killed(let signal): ChildProcess.Ending.killed(signal: signal).description
            }
        }
    }

    /// The name that its entry is registered under.
    public let entry: String
    /// The process, or the last one it had.
    public var pid: pid_t {
        checkThread()
        return process
    }
    private var process: pid_t = 0
    private let scheduler: Iosched
    private var channel: MessageChannel?
    private var watch: ProcessWatch?
    private var messageCallback: ((TaskValue) -> Void)?
    private var exitCallback: ((DtlsTask, Ending) -> Void)?

    /// The names that ``run(_:)`` was called with.
    private static let entries = Mutex<Set<String>>([])
    private static let argumentSuffix = ": task"

    /// Starts a task (reference: new Task).
    /// - Parameter entry: a name that ``run(_:)`` was called with.
    public init(_ entry: String) throws(DtlsError) {
        self.entry = entry
        scheduler = try Iosched.current()
        try start()
    }

    /// To be called first of all in the program's main file: in a task's process it does what the task is for, and does
    /// not return. In the program itself it remembers the names.
    /// - Parameter entries: what each kind of task does; usually it calls
    ///   ``onMessage(_:)-type.method`` and ``Iosched/forever()``. The process ends with status 0 when it returns, and
    ///   with 1 when it throws.
    public static func run(_ entries: [String: () throws -> Void]) throws(DtlsError) {
        let arguments = ChildProcess.arguments()
        if arguments.count == 2, arguments[0].hasSuffix(argumentSuffix) {
            guard let entry = entries[arguments[1]] else {
                throw .noTask("this program has no task with the name \"\(arguments[1])\"")
            }
            try TaskParent.run(entry)
        }
        self.entries.withLock { $0 = Set(entries.keys) }
    }

    /// Starts the process again, after it has ended.
    public func restart() throws(DtlsError) {
        checkThread()
        guard !isRunning else { throw .invalid("the task runs already, as process \(process)") }
        try start()
    }

    private func start() throws(DtlsError) {
        guard Self.entries.withLock({ $0.contains(entry) }) else {
            throw .noTask("DtlsTask.run was not called with an entry \"\(entry)\" at the beginning of this program")
        }
        var environment = ChildProcess.environment()
        // Swift's backtracer prints the memory that registers point to, keys among it.
        environment["SWIFT_BACKTRACE"] = "enable=no"
        let program = ChildProcess.arguments().first ?? "program"
        try DtlsError.system { () throws(SystemError) in
            var ends = try UnixChannel.pair()
            process = try ChildProcess.spawn(
                arguments: ["\(program)\(Self.argumentSuffix)", entry], environment: environment,
                channel: ends.other.take())
            watch = try ProcessWatch(process, scheduler.loop) { [weak self] in self?.processEnded($0) }
            channel = try MessageChannel(ends.one.take(), loop: scheduler.loop, delegate: self)
        }
        scheduler.tasks.append(self)
        for identity in scheduler.identities.values { send(identity) }
    }

    /// Whether the task's process is there.
    public var isRunning: Bool {
        checkThread()
        return watch != nil
    }

    /// See ``Iosched/checkThread(_:_:)``.
    @inline(__always) private func checkThread(_ call: StaticString = #function) {
        scheduler.checkThread(DtlsTask.self, call)
    }

    /// Ends the process: SIGTERM, and the end of its channel. ``onExit(_:)`` tells when it is gone.
    public func terminate() {
        checkThread()
        guard isRunning else { return }
        kill(process, SIGTERM)
        channel?.close()
    }

    /// The thread that has started the task ends: so does the task, since nothing is left to be told of its end.
    func abandon() {
        channel?.close()
        watch?.stop()
        watch = nil
    }

    // MARK: Messages

    /// Sends a value, with at most one descriptor (reference: task.send). It arrives unless the task dies.
    ///
    /// With the descriptor of a connection that a named server has accepted go the datagrams that its client has sent.
    /// Where the handshake is done, the connection's state goes along, and this process cannot use the connection any
    /// more, since its keys are the task's. Call ``DtlsConnection/flyAway()`` next.
    public func send(_ message: TaskValue) throws(DtlsError) {
        checkThread()
        guard let channel, channel.isOpen else { throw .noTask("the task \"\(entry)\" has ended") }
        let connection = message.descriptors.first.flatMap { scheduler.socket($0) as? DtlsConnection }
        if let connection, connection.isMovable { return try send(message, with: connection, over: channel) }
        let handover = connection?.handover
        let (bytes, descriptor) = try TaskMessage.encode(message, handover: handover)
        guard descriptor >= 0 else { return channel.send(bytes) }
        var copy = try DtlsError.system { () throws(SystemError) in
            try FileDescriptor.withBorrowed(descriptor) { borrowed throws(SystemError) in try borrowed.duplicate() }
        }
        channel.send(bytes, descriptor: copy.take())
        if handover != nil { connection?.handedOver(to: self) }
    }

    /// Sends the descriptor of a connection whose handshake is done. All that can fail does so before the connection is
    /// given up, but for a state that is too long, with messages that nobody has asked for.
    private func send(
        _ message: TaskValue, with connection: DtlsConnection, over channel: MessageChannel
    ) throws(DtlsError) {
        var handover = TaskMessage.Handover(
            server: connection.identityName ?? "", number: connection.number, hello: nil, datagrams: [])
        handover.connectionID = connection.connectionIDForRecords?.bytes ?? []
        _ = try TaskMessage.encode(message, handover: handover)
        guard connection.inbox.byteCount < Self.longestState else {
            throw .invalid("messages of \(connection.inbox.byteCount) bytes wait in the connection: receive them first")
        }
        let suspension = try connection.suspendNow()
        var descriptor = FileDescriptor(owning: suspension.sockFd)
        handover.state = suspension.state
        channel.send(try TaskMessage.encode(message, handover: handover).bytes, descriptor: descriptor.take())
        connection.handedOver(to: self)
    }

    /// Bytes of messages that can go along with a connection.
    private static let longestState = 32 * 1_024

    /// Calls `callback` for each message of the task.
    public func onMessage(_ callback: ((TaskValue) -> Void)?) {
        checkThread()
        messageCallback = callback
    }

    /// Calls `callback` when the process has ended, whatever the cause; the task can be started again from there.
    public func onExit(_ callback: ((DtlsTask, Ending) -> Void)?) {
        checkThread()
        exitCallback = callback
    }

    func send(_ identity: ServerIdentity) {
        guard let channel, let file = try? MemoryFile.make(identity.encode(), name: "dtls-server") else { return }
        channel.send(TaskMessage.identity.encode(), descriptor: file)
    }

    func send(misdelivered datagram: UnsafeRawBufferPointer, of number: UInt64) {
        _ = channel?.offer(TaskMessage.forConnection(number: number, datagram: datagram).encode())
    }

    /// - Parameter flow: the one that the datagram has come by.
    func send(record datagram: UnsafeRawBufferPointer, from flow: FlowKey, of number: UInt64) {
        _ = channel?.offer(TaskMessage.record(number: number, flow: flow, datagram: datagram).encode())
    }

    private func processEnded(_ ending: ChildProcess.Ending) {
        watch = nil
        // What the task has sent before its end may not have been read yet.
        channel?.readToEnd()
        channel?.close()
        scheduler.tasks.removeAll { $0 === self }
        scheduler.forgetConnections(of: self)
        let ending: Ending =
            switch ending {
            case .exited(let status): .exited(status: status)
            case .killed(let signal): .killed(signal: signal)
            }
        scheduler.call { self.exitCallback?(self, ending) }
    }
}

extension DtlsTask: MessageChannelDelegate {
    package func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        let number = Self.release(descriptor)
        // A task is a process of this program; what it says is well-formed, or its memory is not its own any more.
        guard let decoded = try? TaskMessage(decoding: message, descriptor: number) else { return terminate() }
        switch decoded {
        case .value(let value, _): scheduler.call { self.messageCallback?(value) }
        case .forListener(let server, let flow, let datagram): scheduler.server(named: server)?.reinject(datagram, flow)
        case .wantSocket(let server, let connection, let flow):
            makeSocket(of: scheduler.server(named: server), for: connection, flow)
        case .fromListener(let server, let flow, let datagram):
            scheduler.server(named: server)?.send(datagram, to: flow)
        case .ended(let server, let connection): scheduler.server(named: server)?.forget(connection, of: self)
        case .identity, .forConnection, .record, .socket: break
        }
    }

    /// A client of the task's is at another address (RFC 9146). The socket has to be made beside the listener's.
    private func makeSocket(of server: DtlsServer?, for connection: UInt64, _ flow: FlowKey) {
        // After this call, since the listener may be in the midst of its own.
        scheduler.call { [weak self] in
            guard let self, let channel = self.channel else { return }
            guard var incoming = try? server?.makeSocket(for: flow) else {
                return channel.send(TaskMessage.socket(number: connection, flow: flow, datagrams: []).encode())
            }
            channel.send(
                TaskMessage.socket(number: connection, flow: flow, datagrams: incoming.datagrams).encode(),
                descriptor: incoming.socket.take())
        }
    }

    /// The number of a descriptor that came along, or -1. It is the program's to close.
    static func release(_ descriptor: consuming FileDescriptor?) -> Int32 {
        guard let descriptor else { return -1 }
        return descriptor.release()
    }

    /// The end of the process tells the rest.
    package func channelEnded(_ channel: MessageChannel) {}
}

/// Tells when a child process has ended.
private final class ProcessWatch: EventHandler {
    private let pid: pid_t
    private var descriptor: FileDescriptor
    private let loop: EventLoop
    private var registration: EventLoop.Registration?
    private let ended: (ChildProcess.Ending) -> Void

    init(_ pid: pid_t, _ loop: EventLoop, _ ended: @escaping (ChildProcess.Ending) -> Void) throws(SystemError) {
        self.pid = pid
        self.loop = loop
        self.ended = ended
        descriptor = try ChildProcess.watch(pid)
        registration = try loop.add(descriptor, .readable, self)
    }

    func stop() {
        if let registration { loop.remove(descriptor, registration) }
        registration = nil
        _ = descriptor.take()
    }

    func ready(_ events: EventLoop.Events) {
        stop()
        // Somebody else may have reaped it: then its status is lost.
        ended(ChildProcess.wait(for: pid) ?? .exited(status: 0))
    }
}
