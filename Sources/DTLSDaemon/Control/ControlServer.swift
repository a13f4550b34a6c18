import ControlProtocol
import Glibc
import LinuxSystem
import Logging
import Primitives

/// How the answer to a request reaches the client that has sent it. It may be given later, and goes nowhere where the
/// client is gone by then.
struct ControlReply {
    let id: RequestID?
    let send: ([UInt8]) -> Void

    func callAsFunction<Value: Codable & Sendable>(_ result: Result<Value, ControlError>) {
        do {
            let line = try ControlProtocol.encode(ControlAnswer(result, id: id))
            guard line.count <= ControlProtocol.maximumAnswerBytes else {
                return fail(ControlError(.failed, "The answer is too long; ask for a part of it."))
            }
            send(line)
        } catch {
            fail(ControlError(.failed, "The answer cannot be written down."))
        }
    }

    func succeed(_ value: some Codable & Sendable) { self(.success(value)) }

    func fail(_ error: ControlError) { send(ControlSession.line(error, id: id)) }
}

/// The control socket, and the clients that have connected to it.
///
/// A client may be anything: there are a few at a time, and ``ControlSession`` bounds what each of them takes.
final class ControlServer: EventHandler {
    /// A socket that was made for a configuration and does not answer yet.
    struct Plan {
        fileprivate let change: Change
        fileprivate enum Change {
            case close
            case access(mode: UInt32, group: UInt32?)
            case open(UnixListener)
        }
        /// Why there is none, where nobody has asked for one at a place of its own.
        let warning: String?

        fileprivate init(_ change: Change, warning: String? = nil) {
            self.change = change
            self.warning = warning
        }
    }

    /// The most clients at a time. One more is told so, and is gone.
    static let maximumClients = 16

    private let loop: EventLoop
    /// Is called with each request.
    var onRequest: (ControlCommand, ControlReply) -> Void = { _, _ in }
    private var listener: UnixListener?
    private var registration: EventLoop.Registration?
    private var clients: [ObjectIdentifier: Client] = [:]
    /// Memory that requests are read into.
    fileprivate static let readSize = 16_384
    /// After accept(2) has failed, for want of descriptors mostly, the next try waits.
    private lazy var acceptRetry = CallbackTimer { [unowned self] _ in startAccepting() }
    /// What the process that this one succeeds has passed on, until the first configuration is active.
    private var passed: UnixListener?

    init(loop: EventLoop) { self.loop = loop }

    /// The path of the socket; `nil` without one.
    var path: String? { listener?.path }

    /// The listening socket, for the process that succeeds this one, with its path; `nil` without one.
    var descriptor: (number: Int32, path: String)? { listener.map { ($0.descriptor.rawValue, $0.path) } }

    /// The clients that are connected and were not refused.
    var clientCount: Int { clients.count }

    /// Whether clients are answered.
    private(set) var isOpen = false

    /// Takes the listening socket of the process that this one succeeds. It answers once ``open()`` is called.
    func adopt(_ socket: consuming FileDescriptor, at path: String) {
        passed = try? UnixListener(adopting: socket, at: path)
    }

    // MARK: Configuration

    /// Makes the socket that a configuration asks for. Nothing has changed before ``commit(_:)``.
    func prepare(_ configuration: ControlConfiguration) throws(SystemError) -> Plan {
        guard let path = configuration.socketPath else { return Plan(.close) }
        // A reload also helps where somebody has removed the file.
        if let present = listener ?? passed, present.path == path, present.group != nil {
            return Plan(.access(mode: configuration.mode, group: configuration.group))
        }
        do throws(SystemError) {
            return Plan(.open(try UnixListener(at: path, mode: configuration.mode, group: configuration.group)))
        } catch {
            guard configuration.path == nil else { throw error }
            let reason = error.errno == EADDRINUSE ? "another process answers there" : error.reason
            return Plan(
                .close,
                warning:
                    "there is no control socket: it cannot be made at \(path) (\(reason)); the key path of [control]"
                    + " names another place, or none (\"\")")
        }
    }

    /// Takes the socket of a plan into use, in place of the one before.
    func commit(_ plan: Plan) throws(SystemError) {
        if listener == nil, let passed { listener = passed }
        passed = nil
        switch plan.change {
        case .close: closeListener()
        case .access(let mode, let group): try listener?.setAccess(mode: mode, group: group)
        case .open(let new):
            // A file of the same name is the new one's, whatever the old one's was.
            closeListener(keepsFile: listener?.path == new.path)
            listener = new
        }
        if isOpen { startAccepting() }
    }

    /// Gives up what ``prepare(_:)`` has made.
    func discard(_ plan: Plan) {
        if case .open(let listener) = plan.change { listener.removeFile() }
    }

    private func closeListener(keepsFile: Bool = false) {
        stopAccepting()
        if !keepsFile { listener?.removeFile() }
        listener = nil
    }

    // MARK: Clients

    /// Answers clients from now on.
    func open() {
        isOpen = true
        startAccepting()
    }

    private func startAccepting() {
        guard isOpen, registration == nil, let listener else { return }
        registration = try? loop.add(listener.descriptor, .readable, self)
        if registration == nil { loop.timers.arm(acceptRetry, at: loop.now + .seconds(1)) }
    }

    private func stopAccepting() {
        if let registration, let listener { loop.remove(listener.descriptor, registration) }
        registration = nil
    }

    func ready(_ events: EventLoop.Events) {
        guard let listener else { return }
        do throws(SystemError) {
            // Others have their turn after a few of them.
            for _ in 0..<Self.maximumClients {
                guard let socket = try listener.accept() else { return }
                begin(socket)
            }
        } catch {
            stopAccepting()
            loop.timers.arm(acceptRetry, at: loop.now + .seconds(1))
        }
    }

    private func begin(_ socket: consuming FileDescriptor) {
        let refusal = refusal(of: socket)
        guard let client = try? Client(socket, self, loop) else { return }
        if let refusal { return client.refuse(refusal) }
        clients[ObjectIdentifier(client)] = client
        client.start()
    }

    private func refusal(of socket: borrowing FileDescriptor) -> ControlError? {
        guard let peer = try? UnixPeer(of: socket),
            Self.isAllowed(peer, user: geteuid(), group: listener?.group)
        else {
            return ControlError(
                .denied, "The daemon obeys root, its own user and the members of the socket's group alone.")
        }
        guard clientCount < Self.maximumClients else {
            return ControlError(.busy, "There are \(Self.maximumClients) clients already; try again later.")
        }
        return nil
    }

    /// Whether a process may control the daemon.
    /// - Parameters:
    ///   - user: the daemon's.
    ///   - group: of the socket's file.
    static func isAllowed(_ peer: UnixPeer, user: UInt32, group: UInt32?) -> Bool {
        peer.user == 0 || peer.user == user || group.map(peer.groups.contains) == true
    }

    /// Carries a request out at the end of this turn: a client that has sent many at once has one in each.
    fileprivate func perform(_ request: ControlRequest, for client: Client) {
        loop.atEndOfTurn { [weak self, weak client] in
            self?.onRequest(
                request.command, ControlReply(id: request.id) { [weak client] line in client?.answer(line) })
        }
    }

    fileprivate func remove(_ client: Client) { clients[ObjectIdentifier(client)] = nil }

    // MARK: Shutdown

    /// Answers nobody any more.
    /// - Parameter keepsFile: whether another process answers at the same path.
    func close(keepsFile: Bool) {
        isOpen = false
        stopAccepting()
        for client in clients.values { client.close() }
        if !keepsFile { listener?.removeFile() }
        listener = nil
    }
}

/// A client's socket.
private final class Client: TimerTarget, EventHandler {
    private var socket: FileDescriptor
    private var session: ControlSession
    private unowned let server: ControlServer
    private let loop: EventLoop
    private var registration: EventLoop.Registration?
    private var watched = ControlSession.Interest.input

    init(_ socket: consuming FileDescriptor, _ server: ControlServer, _ loop: EventLoop) throws(SystemError) {
        self.socket = socket
        self.server = server
        self.loop = loop
        session = ControlSession(now: loop.now)
        super.init()
    }

    func start() {
        do throws(SystemError) {
            registration = try loop.add(socket, .readable, self)
        } catch {
            return close()
        }
        loop.timers.arm(self, at: session.deadline)
    }

    /// Says why the client is not served, as far as that can be written at once.
    func refuse(_ error: ControlError) {
        _ = session.refuse(error)
        _ = try? writeSome()
    }

    func answer(_ line: [UInt8]) { perform { $0.answered(line, now: loop.now) } }

    func ready(_ events: EventLoop.Events) {
        switch session.interest {
        case .input: read()
        case .output: perform { _ in [] }
        // It has gone both ways: nobody reads the answer.
        case .nothing: if events.contains(.hangUp) { perform { $0.failed() } }
        }
    }

    private func read() {
        var count = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: ControlServer.readSize) { buffer, initialized in
            count = recv(socket.rawValue, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
            initialized = max(0, count)
        }
        if count < 0 {
            if errno == EAGAIN || errno == EINTR { return }
            return perform { $0.failed() }
        }
        if count == 0 { return perform { $0.inputEnded(now: loop.now) } }
        bytes.withUnsafeBytes { bytes in perform { $0.received(bytes, now: loop.now) } }
    }

    /// Has the session take something, and does what follows from it.
    private func perform(_ event: (inout ControlSession) -> [ControlSession.Action]) {
        var actions = event(&session)
        while true {
            for action in actions {
                switch action {
                case .perform(let request): server.perform(request, for: self)
                case .close: return close()
                }
            }
            guard socket.isOpen, session.interest == .output else { break }
            guard let count = try? writeSome() else {
                actions = session.failed()
                continue
            }
            if count == 0 { break }
            actions = session.written(count, now: loop.now)
        }
        watch()
    }

    /// - Returns: how many bytes the socket has taken.
    private func writeSome() throws(SystemError) -> Int {
        let count = session.unsent.withUnsafeBytes {
            Glibc.send(
                socket.rawValue, $0.baseAddress, $0.count,
                Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
        }
        if count >= 0 { return count }
        if errno == EAGAIN || errno == EINTR { return 0 }
        throw SystemError("send", errno: errno)
    }

    private func watch() {
        guard socket.isOpen, let registration else { return }
        loop.timers.arm(self, at: session.deadline)
        guard session.interest != watched else { return }
        watched = session.interest
        let events: EventLoop.Events =
            switch watched {
            case .input: .readable
            case .output: .writable
            case .nothing: []
            }
        try? loop.modify(socket, events, registration)
    }

    override func timerFired(now: Instant) {
        perform { $0.advance(to: now) }
    }

    func close() {
        if let registration { loop.remove(socket, registration) }
        registration = nil
        loop.timers.disarm(self)
        _ = socket.take()
        server.remove(self)
    }
}
