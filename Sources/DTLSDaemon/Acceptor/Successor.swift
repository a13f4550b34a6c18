import DTLSTransport
import Glibc
import LinuxSystem

/// The main process' side of an upgrade: the process that is to take its place, and the channel to it.
final class Successor: MessageChannelDelegate, EventHandler {
    private let pid: pid_t
    private var channel: MessageChannel?
    /// Readable once the process has ended; not open where it had ended before it could be watched.
    private let end: FileDescriptor
    private var registration: EventLoop.Registration?
    private var isClosed = false
    private let loop: EventLoop
    private let onEvent: (Upgrade.Event) -> Void

    /// Starts the program at `path`, and offers it the daemon.
    /// - Parameters:
    ///   - environment: what the main process was started with, the service manager's variables included.
    ///   - onEvent: is called from the loop.
    init(
        path: String, configurationFile: String, environment: [String: String], loop: EventLoop,
        onEvent: @escaping (Upgrade.Event) -> Void
    ) throws(SystemError) {
        let ends = try UnixChannel.pair()
        self.onEvent = onEvent
        self.loop = loop
        pid = try ChildProcess.spawn(
            path: path, arguments: Role.successor(file: configurationFile).arguments, environment: environment,
            channel: ends.other)
        end = try Self.watch(pid)
        if end.isOpen {
            registration = try loop.add(end, .readable, self)
        } else {
            loop.atEndOfTurn { [weak self] in self?.ready(.readable) }
        }
        channel = try MessageChannel(ends.one, loop: loop, delegate: self)
        send(
            .offer(
                protocolVersion: MessageToSuccessor.protocolVersion, layoutVersion: SlotFile.layoutVersion))
    }

    private static func watch(_ pid: pid_t) throws(SystemError) -> FileDescriptor {
        do throws(SystemError) {
            return try ChildProcess.watch(pid)
        } catch {
            guard error.errno == ESRCH else { throw error }
            return FileDescriptor(owning: -1)
        }
    }

    var processID: pid_t { pid }

    func send(_ message: MessageToSuccessor) { channel?.send(message.bytes) }

    /// Sends a copy of a descriptor.
    func send(_ descriptor: Int32, name: String) throws(SystemError) {
        let copy = try FileDescriptor.withBorrowed(descriptor) { borrowed throws(SystemError) in
            try borrowed.duplicate()
        }
        channel?.send(MessageToSuccessor.descriptor(name: name).bytes, descriptor: copy)
    }

    /// Hears and says nothing more.
    func close() {
        isClosed = true
        if let registration { loop.remove(end, registration) }
        registration = nil
        channel?.close()
        channel = nil
    }

    /// Calls `work` once everything was sent.
    func whenAllIsSent(_ work: @escaping () -> Void) {
        if let channel { channel.whenAllIsSent(work) } else { work() }
    }

    /// Kills it, with its workers and all else that it has started: once this returns, none of them touches a
    /// connection any more.
    func kill() { Glibc.kill(-pid, SIGKILL) }

    /// The process has ended. What it has said last is read first.
    func ready(_ events: EventLoop.Events) {
        if !isClosed { channel?.readToEnd() }
        guard !isClosed else { return }
        close()
        onEvent(.successorEnded)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let decoded = try? MessageFromSuccessor(decoding: message) else {
            return onEvent(.refused(reason: "the new process did not keep to the protocol"))
        }
        switch decoded {
        case .prepared: onEvent(.prepared)
        case .refused(let reason): onEvent(.refused(reason: reason))
        case .serving: onEvent(.successorServes)
        }
    }

    /// The process ends, which ``ready(_:)`` will tell. One that goes on without its channel is given up after its time.
    func channelEnded(_ channel: MessageChannel) {}
}
