import DTLSEngine
import Glibc
import LinuxSystem
import Logging
import Primitives

/// A worker's socket to one authorizer, for all services that ask it. It never waits: what the authorizer's queue has no
/// room for is sent when it has, and what is not answered in time is refused.
final class AuthorizerLink: TimerTarget, EventHandler {
    enum Outcome {
        case verdict(Verdict)
        case malformed(Verdict.Malformed)
        case noAnswer
        /// The authorizer's socket is not there, or may not be written to.
        case unreachable(SystemError)
        /// Too many questions wait already.
        case busy
    }

    /// Is called once, with what has become of a question.
    typealias Waiter = (Outcome) -> Void

    private let path: String
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// Is called for an answer that nobody waits for.
    private let onDropped: (DroppedAnswer) -> Void
    private var questions = QuestionQueue<Waiter>()
    private var socket: UnixDatagramClient?
    private var registration: EventLoop.Registration?
    private var awaitsRoom = false
    /// Why there is no socket; `nil` where there is one, or none was tried.
    private var failure: SystemError?
    private var retry = Instant.distantFuture
    private var backoff = Backoff(from: .milliseconds(50), to: .seconds(1))
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Verdict.maximumSize + 1, alignment: 8)

    init(_ path: String, loop: EventLoop, logs: WorkerLogs, onDropped: @escaping (DroppedAnswer) -> Void) {
        self.path = path
        self.loop = loop
        self.logs = logs
        self.onDropped = onDropped
        super.init()
    }

    deinit { buffer.deallocate() }

    /// Asks a question.
    /// - Parameter datagram: makes it with an id, which nobody can guess.
    func ask(_ datagram: (UInt64) -> [UInt8], timeout: Duration, _ waiter: @escaping Waiter) {
        guard !questions.isFull else { return waiter(.busy) }
        let id = UInt64.random(in: .min ... .max)
        questions.add(id, datagram(id), waiter, now: loop.now, timeout: timeout)
        if retry > loop.now, retry != .distantFuture { return rearm() }
        sendAll()
    }

    /// - Parameter isSecondTry: whether the socket was made for this.
    private func sendAll(isSecondTry: Bool = false) {
        guard open() else { return rearm() }
        var fault: SystemError?
        questions.sendAll { datagram in
            fault = socket?.send(datagram)
            return fault == nil
        }
        if let fault, fault.errno != EAGAIN, fault.errno != ENOBUFS {
            // The authorizer has ended. Another one has got nothing of what this one was asked.
            close()
            questions.sendAllAgain()
            if !isSecondTry, open() { return sendAll(isSecondTry: true) }
            failure = fault
            retry = loop.now + backoff.next()
        } else {
            awaitRoom(fault != nil)
        }
        rearm()
    }

    /// - Returns: whether there is a socket.
    private func open() -> Bool {
        if socket != nil { return true }
        do throws(SystemError) {
            let made = try UnixDatagramClient(to: path)
            registration = try loop.add(made.descriptor, .readable, self)
            socket = made
            failure = nil
            retry = .distantFuture
            backoff.reset()
            return true
        } catch {
            failure = error
            retry = loop.now + backoff.next()
            logs.limited(
                .authorizerFailed, "the authorizer cannot be asked: \(error); clients are refused",
                fields: ["PATH": "\(path)"])
            return false
        }
    }

    private func close() {
        if let registration, let socket { loop.remove(socket.descriptor, registration) }
        registration = nil
        socket = nil
        awaitsRoom = false
    }

    private func awaitRoom(_ awaits: Bool) {
        guard awaits != awaitsRoom, let registration, let socket else { return }
        awaitsRoom = awaits
        try? loop.modify(socket.descriptor, awaits ? [.readable, .writable] : .readable, registration)
    }

    // MARK: Events

    func ready(_ events: EventLoop.Events) {
        // As many as the queue of a socket holds by default, and some more; the rest comes in the next turn.
        for _ in 0..<64 {
            guard let count = socket?.receive(into: buffer) else { break }
            receive(UnsafeRawBufferPointer(rebasing: buffer[..<min(count, buffer.count)]))
        }
        if events.contains(.writable), awaitsRoom { sendAll() }
    }

    private func receive(_ datagram: UnsafeRawBufferPointer) {
        do throws(Verdict.Malformed) {
            let verdict = try Verdict(datagram)
            guard let waiter = questions.takeAnswered(verdict.id) else { return onDropped(.late) }
            waiter(.verdict(verdict))
        } catch {
            logs.limited(
                .authorizerFailed, "an answer of the authorizer is malformed: \(error.message)",
                fields: ["PATH": "\(path)"])
            guard let id = error.id, let waiter = questions.takeAnswered(id) else { return onDropped(.malformed) }
            waiter(.malformed(error))
        }
    }

    override func timerFired(now: Instant) {
        let expired = questions.takeExpired(now: now)
        if questions.isEmpty {
            retry = .distantFuture
        } else if socket != nil ? questions.hasUnsent && !awaitsRoom : retry <= now {
            sendAll()
        }
        for waiter in expired { waiter(failure.map { .unreachable($0) } ?? .noAnswer) }
        rearm()
    }

    private func rearm() {
        let deadline = min(questions.deadline, questions.isEmpty ? .distantFuture : retry)
        // All that are due within some milliseconds are looked at together.
        if deadline != .distantFuture { loop.timers.arm(self, at: max(deadline, loop.now + .milliseconds(5))) }
    }
}

/// Why an answer was dropped.
enum DroppedAnswer: Int, CaseIterable, Sendable {
    /// Nobody waits for it: it is late, a second one, or to no question.
    case late
    case malformed

    var label: String {
        switch self {
        case .late: "late"
        case .malformed: "malformed"
        }
    }
}

/// The links of one worker, each of which all services share that ask the same authorizer.
final class AuthorizerLinks: HandlerSharedState {
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// As many as all configurations so far have named, since connections keep the authorizer that they began with.
    private var links: [String: AuthorizerLink] = [:]
    var onDropped: (DroppedAnswer) -> Void = { _ in }

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    func link(to path: String) -> AuthorizerLink {
        if let link = links[path] { return link }
        let link = AuthorizerLink(path, loop: loop, logs: logs) { [unowned self] in onDropped($0) }
        links[path] = link
        return link
    }

    func reconfigure() {}

    /// The handshakes that wait end with their worker.
    var isBusy: Bool { false }
    func finish(by deadline: Instant, _ done: @escaping () -> Void) {}
}
