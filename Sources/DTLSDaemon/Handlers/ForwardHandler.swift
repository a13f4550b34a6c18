import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging

/// Messages go to a backend and its datagrams come back, over a socket of the connection's own: so the backend can tell
/// the clients apart, and answer each. One message is one datagram, both ways.
///
/// Of several backends it is the first in the client's own order that takes datagrams, looked for anew when messages
/// are to be sent. The socket goes with the backend.
final class ForwardHandler: Handler, EventHandler {
    private let backends: ForwardBackends
    private let service: ServiceRuntime
    private let resources: HandlerResources
    private let hasProxyHeader: Bool
    /// Stands before every message; empty for a backend that wants none.
    private var header: [UInt8] = []
    private weak var connection: Connection?
    /// The client's part in the choice.
    private var client: UInt64 = 0
    /// The backend that the client is to have, and the one that it has.
    private var home = 0
    private var chosen = 0
    private var socket = FileDescriptor(owning: -1)
    private var registration: EventLoop.Registration?
    /// Whether the socket is connected: a Unix backend that is not there, or was restarted, needs it again.
    private var isConnected = false
    /// Messages that the backend's full queue did not take (net.unix.max_dgram_qlen is 10 by default).
    private var waiting: PendingQueue

    init(_ configuration: ForwardConfiguration, of service: ServiceRuntime, _ resources: HandlerResources) {
        backends = service.backends
        hasProxyHeader = configuration.proxyProtocol
        self.service = service
        self.resources = resources
        waiting = PendingQueue(resources.waitingBudget)
    }

    func opened(_ connection: Connection) {
        self.connection = connection
        // What another life of the connection has left there must never leave over this one's socket.
        resources.outbox.removeAll()
        if hasProxyHeader { header = ProxyHeader(connection).bytes }
        if backends.areSeveral {
            client = RendezvousHash.client(connection.peer)
            home = backends.home(of: client)
            chosen = home
        }
        if !makeReady(), !socket.isOpen { connection.close() }
    }

    func closed() {
        leave()
        waiting.removeAll()
        resources.outbox.removeAll()
    }

    // MARK: To the backend

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        if resources.outbox.isFilling { batchEnded(on: connection) }
        if header.isEmpty {
            resources.outbox.append(message)
        } else {
            header.withUnsafeBytes { _ = resources.outbox.append($0, message) }
        }
    }

    func batchEnded(on connection: Connection) {
        defer { resources.outbox.removeAll() }
        guard !resources.outbox.isEmpty else { return }
        if waiting.isEmpty { sendOutbox(from: 0) } else { keepAll(from: 0) }
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

        init(to error: Int32, isUDP: Bool) {
            switch error {
            case 0, EMSGSIZE: self = .goOn
            // An interface's full queue has dropped one, which only sockets with IP_RECVERR hear of. The others of the
            // batch are lost as well: to wait for room would be to spin, since the socket itself has room all the time.
            case ENOBUFS where isUDP: self = .goOn
            case EAGAIN, ENOBUFS: self = .keepRest
            default: self = .dropAll
            }
        }
    }

    /// Sends what is in the outbox to the first backend that takes it.
    private func sendOutbox(from start: Int) {
        var first = start
        var hasRetried = false
        // Ends, since a backend that refuses is not chosen again as long as the clock stands still, or is the last.
        while makeReady() {
            if !backends.isServing(chosen) { tries() }
            let outcome = send(from: first)
            first += outcome.handled
            switch Reaction(to: outcome.error, isUDP: isUDP) {
            case .goOn:
                if !isUDP { takesDatagrams() }
                return
            case .keepRest:
                return keepAll(from: first)
            case .dropAll where !isUDP && !hasRetried:
                // A Unix backend that was restarted has a new socket under the old path.
                isConnected = false
                hasRetried = true
            case .dropAll:
                refused(outcome.error)
                if moves() {
                    hasRetried = false
                } else if isUDP, backends.areSeveral, !hasRetried {
                    // The error was an earlier datagram's.
                    hasRetried = true
                } else {
                    return
                }
            }
        }
    }

    private var isUDP: Bool {
        if case .udp = backends.backends[chosen].address { return true }
        return false
    }

    private func send(from first: Int) -> DatagramSender.Outcome {
        resources.outbox.withDatagrams { bytes, sizes in
            let offset = sizes[..<first].reduce(0, +)
            return resources.sender.send(
                UnsafeMutableRawBufferPointer(rebasing: bytes[offset...]),
                sizes: UnsafeBufferPointer(rebasing: sizes[first...]), over: socket, segmenting: isUDP,
                retrying: !backends.areSeveral)
        }
    }

    /// Keeps what is left of a batch until the backend has room.
    private func keepAll(from first: Int) {
        let dropped = waiting.append(resources.outbox, from: first)
        if dropped > 0 {
            resources.logs.limited(
                .datagramRefused,
                "\(dropped) datagrams were dropped: the backend \(backends.backends[chosen]) does not take them fast"
                    + " enough", service)
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
        let outcome = send(from: 0)
        switch Reaction(to: outcome.error, isUDP: isUDP) {
        case .goOn:
            waiting.removeAll()
        case .keepRest:
            waiting.removeFirst(outcome.handled)
        case .dropAll:
            waiting.removeAll()
            if isUDP { refused(outcome.error) } else { isConnected = false }
            sendOutbox(from: outcome.handled)
        }
        resources.outbox.removeAll()
        if waiting.isEmpty { watch(.readable) }
    }

    // MARK: The choice of the backend

    /// Connects to the backend, or to the next one where it refuses. Once connected to the client's own, it is all.
    /// - Returns: whether there is one to send to.
    private func makeReady() -> Bool {
        if isConnected, chosen == home, !backends.areSeveral || backends.isServing(home) { return true }
        if backends.areSeveral { moves() }
        repeat {
            if isConnected { return true }
            do throws(SystemError) {
                if !socket.isOpen { try open() }
            } catch {
                // No fault of the backend's.
                leave()
                resources.logs.limited(
                    .backendUnreachable, "no socket for the backend \(backends.backends[chosen]): \(error)", service)
                return false
            }
            do throws(SystemError) {
                try connect()
                isConnected = true
                return true
            } catch {
                refused(error.errno)
            }
        } while backends.areSeveral && moves()
        return false
    }

    /// Goes over to the backend that it should be now.
    /// - Returns: false when that is the one that it has been.
    @discardableResult
    private func moves() -> Bool {
        let better = backends.choice(of: client, for: ObjectIdentifier(self), now: resources.loop.now)
        if better == chosen { return false }
        leave()
        chosen = better
        return true
    }

    /// Messages are about to go to a backend that was out.
    private func tries() {
        if let count = backends.begin(chosen, by: ObjectIdentifier(self), now: resources.loop.now) {
            logRecovery(count)
        }
    }

    private func open() throws(SystemError) {
        switch backends.backends[chosen].address {
        case .udp(let address):
            socket = try UDPSocket.open(address.family)
            if backends.areSeveral { try UDPSocket.reportAllErrors(address.family, of: socket) }
        case .unix:
            socket = try UDPSocket.openUnixDatagram()
        }
        registration = try resources.loop.add(socket, .readable, self)
    }

    private func connect() throws(SystemError) {
        switch backends.backends[chosen].address {
        case .udp(let address): try UDPSocket.connect(socket, to: address)
        case .unix(let path): try UDPSocket.connect(socket, toPath: path)
        }
    }

    private func leave() {
        if let registration { resources.loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
        isConnected = false
    }

    private func refused(_ error: Int32) {
        guard backends.refused(chosen, now: resources.loop.now) else { return }
        let reason = String(cString: strerror(error))
        resources.logs.limited(
            .backendRefused, "the backend \(backends.backends[chosen]) does not take datagrams: \(reason)", service)
    }

    @inline(__always)
    private func takesDatagrams() {
        if backends.isServing(chosen) { return }
        if let count = backends.answered(chosen) { logRecovery(count) }
    }

    private func logRecovery(_ refusals: UInt64) {
        resources.logs.limited(
            .backendAnswers, "the backend \(backends.backends[chosen]) takes datagrams again", service,
            ["REFUSALS": "\(refusals)"])
    }

    // MARK: From the backend

    func ready(_ events: EventLoop.Events) {
        if events.contains(.writable), !waiting.isEmpty { sendWaiting() }
        guard !events.isDisjoint(with: [.readable, .hangUp]), let connection else { return }
        if events.contains(.hangUp), backends.areSeveral, isUDP { return takeErrors(connection) }
        let count: Int
        do throws(SystemError) {
            count = try resources.batch.receive(from: socket)
        } catch {
            // EMSGSIZE is how the kernel tells of a smaller path MTU.
            if error.errno != EMSGSIZE { refused(error.errno) }
            return
        }
        guard count > 0 else { return }
        takesDatagrams()
        for index in 0..<count { answer(resources.batch[index], connection) }
        connection.flush()
    }

    /// ICMP has said that the backend cannot be reached. What it has answered before that is still read; the next
    /// message goes to another one.
    private func takeErrors(_ connection: Connection) {
        let error = UDPSocket.takeErrors(of: socket)
        resources.batch.receiveAll(from: socket) { answer(resources.batch[$0], connection) }
        connection.flush()
        if error != 0 { refused(error) }
    }

    private func answer(_ datagram: UnsafeRawBufferPointer, _ connection: Connection) {
        guard datagram.count <= Engine.maximumMessageSize else {
            return resources.logs.limited(
                .datagramRefused,
                "a datagram of \(datagram.count) bytes from the backend \(backends.backends[chosen]) was dropped: "
                    + "a message to a client has at most \(Engine.maximumMessageSize)", service)
        }
        connection.sendOrDrop(datagram)
    }
}
