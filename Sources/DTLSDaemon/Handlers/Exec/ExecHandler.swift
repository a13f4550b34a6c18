import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging
import Primitives

/// Every connection gets a program of its own, whose standard input and output are one SOCK_SEQPACKET socket: each read
/// yields one message from the client, and each write makes one message to it. The connection ends with the program,
/// and the program with the connection.
final class ExecHandler: Handler, EventHandler {
    private let configuration: ExecConfiguration
    private let service: ServiceRuntime
    private let resources: HandlerResources
    private weak var connection: Connection?
    private let socket: MessageSocket
    private var program: RunningProgram?
    /// What the program is told of its client, until it has been started.
    private var client: ServedClient?

    init(
        _ configuration: ExecConfiguration, of service: ServiceRuntime, for client: ServedClient,
        _ resources: HandlerResources
    ) {
        self.configuration = configuration
        self.client = client
        self.service = service
        self.resources = resources
        socket = MessageSocket(resources)
    }

    func opened(_ connection: Connection) {
        self.connection = connection
        let programs = resources.sharedState(Programs.self)
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
        guard let client else { return }
        self.client = nil
        let ends = try ForeignProgram.socketPair()
        program = try programs.start(
            configuration.command.elements, environment: ExecEnvironment.variables(of: client, service),
            stream: ends.other, limits: configuration.limits, of: service, peer: connection.peer
        ) { [weak self] in self?.programEnded() }
        try socket.open(ends.own, .unix, watching: [.readable, .peerClosed], for: self)
    }

    /// The end of its input tells the program to end.
    func closed() {
        socket.close()
        socket.removeMessages()
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
        if socket.isBatchFilling { batchEnded(on: connection) }
        socket.append(message)
    }

    func batchEnded(on connection: Connection) {
        socket.finishBatch {
            guard socket.isOpen else { return }
            if socket.hasPending { return keepBatch(from: 0) }
            let outcome = socket.sendBatch()
            // Any other error means that the program has ended, or has shut its end down, which reading tells.
            if socket.remainder(after: outcome.error) == .waits { keepBatch(from: outcome.handled) }
        }
    }

    /// Keeps what is left of a batch until the program has read something.
    private func keepBatch(from first: Int) {
        let dropped = socket.keepBatch(from: first)
        if dropped > 0 {
            service.counters.countDropped(.backendBusy, dropped)
            log(
                .datagramRefused,
                "\(counted(dropped, "datagram was", "datagrams were")) dropped: the program does not read its input fast enough"
            )
        }
    }

    // MARK: From the program

    func ready(_ events: EventLoop.Events) {
        if events.contains(.writable), socket.hasPending { socket.sendPending() }
        guard !events.isDisjoint(with: [.readable, .hangUp, .peerClosed]) else { return }
        let hasEnded = !events.isDisjoint(with: [.hangUp, .peerClosed])
        // The end of a stream of messages reads as empty messages, for ever; a single one can be a write of nothing.
        if passOn() == 0, hasEnded { connection?.close() }
    }

    /// Passes on what one read of the socket yields.
    /// - Returns: how many messages there were, not counting empty ones.
    private func passOn() -> Int {
        guard let connection, socket.isOpen, let count = try? socket.receive() else { return 0 }
        var messages = 0
        connection.batch {
            for index in 0..<count where !resources.received[index].isEmpty {
                messages += 1
                answer(resources.received[index], connection)
            }
        }
        return messages
    }

    private func answer(_ datagram: UnsafeRawBufferPointer, _ connection: Connection) {
        guard datagram.count <= Engine.maximumMessageSize else {
            service.counters.countDropped(.backendTooLarge)
            return log(
                .datagramRefused,
                "a write of \(datagram.count) bytes by the program was dropped: a message to a client has at most"
                    + " \(Engine.maximumMessageSize)")
        }
        connection.sendOrDrop(datagram)
    }

    /// Passes on what the program wrote just before it ended, and closes the connection.
    private func programEnded() {
        guard let connection else { return }
        // As many reads as empty a full buffer, and some more. Bounded, since what the program has started may write
        // on.
        for _ in 0..<64 {
            if passOn() == 0 { break }
        }
        connection.close()
    }
}
