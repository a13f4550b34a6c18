import DTLSTransport
import Glibc
import LinuxSystem

/// In a task's process: the way to the program that has started it.
extension DtlsTask {
    /// In a task: calls `callback` for each message of the program (reference: Task.on('message')).
    public static func onMessage(_ callback: @escaping (TaskValue) -> Void) throws(DtlsError) {
        try parent().onMessage(callback)
    }

    /// In a task: waits for the program's next message (reference: Task.recv).
    /// - Parameter timeout: milliseconds; `nil`: for ever.
    /// - Throws: `.timedOut` where none came.
    @available(*, noasync, message: "it blocks")
    public static func recv(timeout: Int? = nil) throws(DtlsError) -> TaskValue {
        try checkTimeout(timeout)
        return try parent().recv(timeout: timeout)
    }

    /// In a task: sends a value to the program, with at most one descriptor.
    public static func sendToParent(_ message: TaskValue) throws(DtlsError) { try parent().send(message) }

    private static func parent() throws(DtlsError) -> TaskParent {
        guard let parent = try Iosched.current().parent else { throw .noTask("this process is not a task") }
        return parent
    }
}

/// A task's end of the channel.
final class TaskParent: MessageChannelDelegate {
    private let scheduler: Iosched
    private var channel: MessageChannel?
    private var callback: ((TaskValue) -> Void)?
    /// Messages that came before there was a callback, or that `recv` is to take.
    private var waiting: [TaskValue] = []
    /// The datagrams that came along with the sockets of new clients, by the sockets' descriptors.
    private var arrived: [Int32: TaskMessage.Handover] = [:]
    private var recent = RecentConnections()
    /// The connections that have a connection ID, by their numbers.
    private var named: [UInt64: WeakConnection] = [:]

    private struct WeakConnection { weak var connection: DtlsConnection? }

    private init(_ scheduler: Iosched, _ channel: consuming FileDescriptor) throws(SystemError) {
        self.scheduler = scheduler
        try channel.makeNonBlocking()
        self.channel = try MessageChannel(channel, loop: scheduler.loop, delegate: self)
    }

    /// Does what the task is for, and ends the process.
    static func run(_ entry: () throws -> Void) throws(DtlsError) -> Never {
        let scheduler = try Iosched.current()
        let program = ChildProcess.arguments().first?.split(separator: " ").first?.split(separator: "/").last
        ChildProcess.setName(program.map(String.init) ?? "task")
        scheduler.parent = try DtlsError.system { () throws(SystemError) in
            try TaskParent(scheduler, FileDescriptor(owning: ChildProcess.channelDescriptor))
        }
        do {
            try entry()
        } catch {
            let text = Array("\(ChildProcess.arguments().joined(separator: " ")): \(error)\n".utf8)
            _ = text.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
            scheduler.closeAll()
            exit(1)
        }
        scheduler.closeAll()
        exit(0)
    }

    // MARK: Messages

    func onMessage(_ callback: @escaping (TaskValue) -> Void) {
        self.callback = callback
        let missed = waiting
        waiting = []
        for message in missed { scheduler.call { callback(message) } }
    }

    func recv(timeout: Int?) throws(DtlsError) -> TaskValue {
        let came = try scheduler.run(timeout: timeout) { !waiting.isEmpty }
        guard came else { throw .timedOut(waitingFor: "a message", errno: 0) }
        return waiting.removeFirst()
    }

    func send(_ message: TaskValue) throws(DtlsError) {
        let (bytes, descriptor) = try TaskMessage.encode(message, handover: nil)
        guard descriptor >= 0 else {
            channel?.send(bytes)
            return
        }
        var copy = try DtlsError.system { () throws(SystemError) in
            try FileDescriptor.withBorrowed(descriptor) { borrowed throws(SystemError) in try borrowed.duplicate() }
        }
        channel?.send(bytes, descriptor: copy.take())
    }

    /// Returns a misdelivered datagram to the listener of a server.
    func reinject(_ datagram: UnsafeRawBufferPointer, _ flow: FlowKey, server: String) {
        _ = channel?.offer(TaskMessage.forListener(server: server, flow: flow, datagram: datagram).encode())
    }

    /// The datagrams that came along with a descriptor; `nil` where it has come by another way, or was closed since.
    func takeArrived(_ descriptor: Int32, of server: String) -> TaskMessage.Handover? {
        guard let handover = arrived.removeValue(forKey: descriptor), handover.server == server else { return nil }
        return handover
    }

    /// The new client's socket has come, and the program has not made a connection of it yet: the datagram goes along.
    private func keep(_ datagram: UnsafeRawBufferPointer, of number: UInt64) {
        guard let (descriptor, handover) = arrived.first(where: { $0.value.number == number }),
            handover.datagrams.count < Self.maximumKept
        else { return }
        arrived[descriptor]?.datagrams.append([UInt8](datagram))
    }

    /// Datagrams kept of a new client, its hello among them.
    private static let maximumKept = 16

    /// Misdelivered datagrams of this connection may come over the channel.
    func remember(_ connection: DtlsConnection) {
        guard connection.number != 0 else { return }
        recent.insert(connection.number, .here(connection))
        if connection.connectionIDForRecords != nil {
            named[connection.number] = WeakConnection(connection: connection)
        }
    }

    /// A connection is gone for good.
    func forget(_ number: UInt64, server: String) {
        guard named.removeValue(forKey: number) != nil else { return }
        channel?.send(TaskMessage.ended(server: server, number: number).encode())
    }

    /// Asks the program for a socket that is connected by the flow: only beside the listener can one be made.
    func wantSocket(of number: UInt64, at flow: FlowKey, server: String) {
        channel?.send(TaskMessage.wantSocket(server: server, number: number, flow: flow).encode())
    }

    /// Has the server's listener send a datagram.
    func send(_ datagram: UnsafeRawBufferPointer, to flow: FlowKey, server: String) {
        _ = channel?.offer(TaskMessage.fromListener(server: server, flow: flow, datagram: datagram).encode())
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        let number = DtlsTask.release(descriptor)
        guard let decoded = try? TaskMessage(decoding: message, descriptor: number) else {
            return channelEnded(channel)
        }
        switch decoded {
        case .identity: learn(FileDescriptor(owning: number))
        case .value(let value, let handover):
            if number >= 0 { arrived[number] = handover }
            guard let callback else { return waiting.append(value) }
            scheduler.call { callback(value) }
        case .forConnection(let number, let datagram):
            if case .here(let connection) = recent.whereabouts(of: number) {
                connection.receive(misdelivered: datagram)
            } else {
                keep(datagram, of: number)
            }
        case .record(let connection, let flow, let datagram):
            // One that the program has made no connection of yet is found by the client's next record.
            named[connection]?.connection?.receive(datagram, from: flow)
        case .socket(let connection, let flow, let datagrams):
            if let found = named[connection]?.connection {
                found.moved(to: FileDescriptor(owning: number), flow, with: datagrams)
            } else {
                _ = FileDescriptor(owning: number)
            }
        case .forListener, .wantSocket, .fromListener, .ended: break
        }
    }

    private func learn(_ file: consuming FileDescriptor) {
        guard let bytes = try? MemoryFile.read(file), let identity = try? ServerIdentity.decode(bytes),
            let name = identity.option.name
        else { return }
        scheduler.identities[name] = identity
    }

    /// The program is gone: the clients get close_notify, and this process ends.
    func channelEnded(_ channel: MessageChannel) {
        channel.close()
        scheduler.closeAll()
        exit(0)
    }
}
