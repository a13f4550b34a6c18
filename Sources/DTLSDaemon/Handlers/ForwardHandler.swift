import DTLSEngine
import DTLSKit
import Glibc
import LinuxSystem
import Logging

/// Messages go to a backend and its datagrams come back, over a socket of the connection's own: so the backend can tell
/// the clients apart, and answer each. One message is one datagram, both ways.
final class ForwardHandler: Handler, EventHandler {
    private let backend: Backend
    private let service: ServiceRuntime
    private let resources: HandlerResources
    private weak var connection: Connection?
    private var socket = FileDescriptor(owning: -1)
    private var registration: EventLoop.Registration?
    /// Whether the socket is connected: a Unix backend that is not there, or was restarted, needs it again.
    private var isConnected = false
    /// Messages that the backend's full queue did not take (net.unix.max_dgram_qlen is 10 by default).
    private var waiting: WaitingMessages

    init(_ configuration: ForwardConfiguration, of service: ServiceRuntime, _ resources: HandlerResources) {
        backend = configuration.backend
        self.service = service
        self.resources = resources
        waiting = WaitingMessages(resources.waitingBudget)
    }

    func opened(_ connection: Connection) {
        self.connection = connection
        // What another life of the connection has left there must never leave over this one's socket.
        resources.outbox.removeAll()
        do throws(SystemError) {
            switch backend {
            case .udp(let address): socket = try UDPSocket.open(address.family)
            case .unix: socket = try UDPSocket.openUnixDatagram()
            }
            registration = try resources.loop.add(socket, .readable, self)
        } catch {
            resources.logs.limited(.backendUnreachable, "no socket for the backend \(backend): \(error)", service)
            connection.close()
            return
        }
        connectIfNeeded()
    }

    func closed() {
        if let registration { resources.loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
        waiting.removeAll()
        resources.outbox.removeAll()
    }

    // MARK: To the backend

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        if resources.outbox.isFilling { batchEnded(on: connection) }
        resources.outbox.append(message)
    }

    func batchEnded(on connection: Connection) {
        defer { resources.outbox.removeAll() }
        guard !resources.outbox.isEmpty, connectIfNeeded() else { return }
        guard waiting.isEmpty else { return keepAll(from: 0) }
        var outcome = send(resources.outbox)
        if !isUDP, Reaction(to: outcome.error) == .dropAll {
            // A Unix backend that was restarted has a new socket under the old path.
            isConnected = false
            guard connectIfNeeded() else { return }
            outcome = send(resources.outbox)
        }
        switch Reaction(to: outcome.error) {
        case .goOn: break
        case .keepRest: keepAll(from: outcome.handled)
        case .dropAll: refused(outcome.error)
        }
    }

    /// What becomes of the messages that were to be sent.
    private enum Reaction {
        /// All are done with.
        case goOn
        /// The backend's queue is full: the rest waits until there is room.
        case keepRest
        /// The backend does not take any now, whatever the reason. To wait for room would be to spin: a socket with an
        /// error is always writable.
        case dropAll

        init(to error: Int32) {
            switch error {
            case 0, EMSGSIZE: self = .goOn
            case EAGAIN, ENOBUFS: self = .keepRest
            default: self = .dropAll
            }
        }
    }

    private var isUDP: Bool {
        if case .udp = backend { return true }
        return false
    }

    private func send(_ outbox: Outbox) -> DatagramSender.Outcome {
        outbox.withDatagrams { resources.sender.send($0, sizes: $1, over: socket, segmenting: isUDP) }
    }

    @discardableResult
    private func connectIfNeeded() -> Bool {
        if isConnected { return true }
        do throws(SystemError) {
            switch backend {
            case .udp(let address): try UDPSocket.connect(socket, to: address)
            case .unix(let path): try UDPSocket.connect(socket, toPath: path)
            }
            isConnected = true
        } catch {
            refused(error.errno)
        }
        return isConnected
    }

    private func refused(_ error: Int32) {
        guard service.backend.refused() else { return }
        let reason = String(cString: strerror(error))
        resources.logs.always(
            .backendRefused, "the backend \(backend) does not take datagrams: \(reason)", service)
    }

    private func answered() {
        guard let count = service.backend.answered() else { return }
        resources.logs.always(
            .backendAnswers, "the backend \(backend) answers again", service, ["REFUSALS": "\(count)"])
    }

    /// Keeps what is left of a batch until the backend has room.
    private func keepAll(from first: Int) {
        resources.outbox.withDatagrams { bytes, sizes in
            var offset = 0
            for (index, size) in sizes.enumerated() {
                defer { offset += size }
                if index >= first { waiting.append(UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset + size)])) }
            }
        }
        // None may have been kept, where other connections' wait.
        if !waiting.isEmpty { watch([.readable, .writable]) }
    }

    private func watch(_ events: EventLoop.Events) {
        guard let registration else { return }
        try? resources.loop.modify(socket, events, registration)
    }

    private func sendWaiting() {
        resources.outbox.removeAll()
        waiting.copy(to: resources.outbox)
        let outcome = send(resources.outbox)
        resources.outbox.removeAll()
        waiting.removeFirst(outcome.handled)
        if Reaction(to: outcome.error) == .dropAll {
            waiting.removeAll()
            isConnected = isUDP
            refused(outcome.error)
        }
        if waiting.isEmpty { watch(.readable) }
    }

    // MARK: From the backend

    func ready(_ events: EventLoop.Events) {
        if events.contains(.writable), !waiting.isEmpty { sendWaiting() }
        guard !events.isDisjoint(with: [.readable, .hangUp]), let connection else { return }
        let count: Int
        do throws(SystemError) {
            count = try resources.batch.receive(from: socket)
        } catch {
            return refused(error.errno)
        }
        guard count > 0 else { return }
        answered()
        for index in 0..<count { answer(resources.batch[index], connection) }
        connection.flush()
    }

    private func answer(_ datagram: UnsafeRawBufferPointer, _ connection: Connection) {
        guard datagram.count <= Engine.maximumMessageSize else {
            return resources.logs.limited(
                .datagramRefused,
                "a datagram of \(datagram.count) bytes from the backend \(backend) was dropped: a message to a client"
                    + " has at most \(Engine.maximumMessageSize)", service)
        }
        connection.sendOrDrop(datagram)
    }
}
