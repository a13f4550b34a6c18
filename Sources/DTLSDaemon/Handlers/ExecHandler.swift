import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging

/// Every connection gets a program of its own, whose standard input and output are one SOCK_SEQPACKET: each of its
/// reads is a message from the client, and each of its writes one to it. The connection ends with the program, and the
/// program with the connection.
final class ExecHandler: Handler, EventHandler {
    private let configuration: ExecConfiguration
    private let service: ServiceRuntime
    private let resources: HandlerResources
    private weak var connection: Connection?
    private var socket = FileDescriptor(owning: -1)
    private var registration: EventLoop.Registration?
    private var program: RunningProgram?
    /// Messages that the program has not read yet, and that the socket's buffer has no room for.
    private var waiting: PendingQueue

    init(_ configuration: ExecConfiguration, of service: ServiceRuntime, _ resources: HandlerResources) {
        self.configuration = configuration
        self.service = service
        self.resources = resources
        waiting = PendingQueue(resources.waitingBudget)
    }

    func opened(_ connection: Connection) {
        self.connection = connection
        resources.outbox.removeAll()
        let programs = resources.commons(Programs.self)
        guard programs.count(of: service) < configuration.programsPerWorker else {
            log(
                .programFailed,
                "no program for \(connection.peer): this worker has \(configuration.programsPerWorker)"
                    + " of this service already (programs_per_worker)")
            return connection.close()
        }
        do throws(SystemError) {
            try start(connection, programs)
        } catch {
            log(.programFailed, "the program for \(connection.peer) cannot be started: \(error)")
            connection.close()
        }
    }

    private func start(_ connection: Connection, _ programs: Programs) throws(SystemError) {
        let ends = try ForeignProgram.socketPair()
        program = try programs.start(
            configuration.command, environment: ExecEnvironment.variables(of: connection, service),
            stream: ends.other, limits: configuration.limits, of: service, peer: connection.peer
        ) { [weak self] in self?.programEnded() }
        registration = try resources.loop.add(ends.own, [.readable, .peerClosed], self)
        socket = ends.own
    }

    func closed() {
        leave()
        resources.outbox.removeAll()
    }

    /// The end of its input tells the program to end.
    private func leave() {
        if let registration { resources.loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
        waiting.removeAll()
        program?.release()
        program = nil
    }

    private func log(_ event: LogEvent, _ message: @autoclosure () -> String) {
        resources.logs.limited(event, message(), service, fields)
    }

    private var fields: Logger.Metadata {
        var fields: Logger.Metadata = [:]
        if let connection { fields["PEER"] = "\(connection.peer)" }
        if let program { fields["PROGRAM_PID"] = "\(program.pid)" }
        return fields
    }

    // MARK: To the program

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        if resources.outbox.isFilling { batchEnded(on: connection) }
        resources.outbox.append(message)
    }

    func batchEnded(on connection: Connection) {
        defer { resources.outbox.removeAll() }
        guard !resources.outbox.isEmpty, registration != nil else { return }
        guard waiting.isEmpty else { return keep(from: 0) }
        let outcome = send()
        if Self.isFull(outcome.error) { keep(from: outcome.handled) }
        // Any other error means that the program is gone, or has shut its end down: reading tells.
    }

    private func send() -> DatagramSender.Outcome {
        resources.outbox.withDatagrams { resources.sender.send($0, sizes: $1, over: socket, segmenting: false) }
    }

    private static func isFull(_ error: Int32) -> Bool { error == EAGAIN || error == ENOBUFS }

    /// Keeps what is left of a batch until the program has read something.
    private func keep(from first: Int) {
        let dropped = waiting.append(resources.outbox, from: first)
        if dropped > 0 {
            log(.datagramRefused, "\(dropped) datagrams were dropped: the program does not read its input fast enough")
        }
        if !waiting.isEmpty { watch([.readable, .peerClosed, .writable]) }
    }

    private func watch(_ events: EventLoop.Events) {
        guard let registration else { return }
        try? resources.loop.modify(socket, events, registration)
    }

    private func sendWaiting() {
        resources.outbox.removeAll()
        waiting.copy(to: resources.outbox)
        let outcome = send()
        resources.outbox.removeAll()
        waiting.removeFirst(outcome.handled)
        if outcome.error != 0, !Self.isFull(outcome.error) { waiting.removeAll() }
        if waiting.isEmpty { watch([.readable, .peerClosed]) }
    }

    // MARK: From the program

    func ready(_ events: EventLoop.Events) {
        if events.contains(.writable), !waiting.isEmpty { sendWaiting() }
        guard !events.isDisjoint(with: [.readable, .hangUp, .peerClosed]) else { return }
        let hasEnded = !events.isDisjoint(with: [.hangUp, .peerClosed])
        // The end of a stream of messages reads as empty ones, for ever; one alone can be a write of nothing.
        if passOn() == 0, hasEnded { connection?.close() }
    }

    /// Passes on what one read of the socket yields.
    /// - Returns: how many messages there were, empty ones not counted.
    private func passOn() -> Int {
        guard let connection, registration != nil, let count = try? resources.batch.receive(from: socket) else {
            return 0
        }
        var messages = 0
        for index in 0..<count where !resources.batch[index].isEmpty {
            messages += 1
            answer(resources.batch[index], connection)
        }
        connection.flush()
        return messages
    }

    private func answer(_ datagram: UnsafeRawBufferPointer, _ connection: Connection) {
        guard datagram.count <= Engine.maximumMessageSize else {
            return log(
                .datagramRefused,
                "a write of \(datagram.count) bytes by the program was dropped: a message to a client has at most"
                    + " \(Engine.maximumMessageSize)")
        }
        connection.sendOrDrop(datagram)
    }

    /// Its last words first: it may have written them just before it ended.
    private func programEnded() {
        guard let connection else { return }
        // As many reads as empty a full buffer, and then some: what it has started may write on.
        for _ in 0..<64 {
            if passOn() == 0 { break }
        }
        connection.close()
    }
}
