import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The checker's role: it sends datagrams to backends for the main process, which orders each check over descriptor 3, and
/// ends with that one. It decides nothing, and keeps nothing between two checks.
///
/// It is a separate process, since neither the main process nor a worker should read what backends send to nobody's
/// connection, and since a backend is to be checked once, however many workers there are.
final class Checker: MessageChannelDelegate {
    private let loop: EventLoop
    private var channel: MessageChannel?
    private let batch = ReceiveBatch(capacity: 1)
    private var checks: [ObjectIdentifier: BackendCheck] = [:]

    /// Runs the role until it ends.
    static func run() throws {
        let checker = try Checker(AuxiliaryProcess.begin(behind: .checker))
        #if DEBUG
            StandIn.actAsTold(in: "checker")
        #endif
        try checker.loop.run()
    }

    private init(_ channel: consuming FileDescriptor) throws {
        loop = try EventLoop()
        self.channel = try MessageChannel(channel, loop: loop, delegate: self)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let question: CheckQuestion = try? BinaryCoding.decode(from: message) else { return }
        let check = BackendCheck(question, loop: loop, batch)
        let key = ObjectIdentifier(check)
        checks[key] = check
        check.begin { [unowned self] outcome in
            checks[key] = nil
            self.channel?.send(BinaryCoding.encode(CheckAnswer(number: question.number, outcome: outcome)))
        }
    }

    func channelEnded(_ channel: MessageChannel) { loop.stop() }
}

/// One check of one backend: a datagram is sent from a socket of its own, so that what comes back is the answer to it.
private final class BackendCheck: TimerTarget, EventHandler {
    private let question: CheckQuestion
    private let loop: EventLoop
    private let batch: ReceiveBatch
    private var socket = FileDescriptor(owning: -1)
    private var registration: EventLoop.Registration?
    private var completion: ((CheckAnswer.Outcome) -> Void)?

    init(_ question: CheckQuestion, loop: EventLoop, _ batch: ReceiveBatch) {
        self.question = question
        self.loop = loop
        self.batch = batch
        super.init()
    }

    func begin(_ completion: @escaping (CheckAnswer.Outcome) -> Void) {
        self.completion = completion
        loop.timers.arm(self, at: loop.now + question.check.timeout)
        do throws(SystemError) {
            switch question.address {
            case .udp(let address): try openUDP(to: address)
            case .unix(let path): try openUnix(path)
            case .name(let name, _): return end(.impossible("the host name \(name) is not resolved"))
            }
            registration = try loop.add(socket, .readable, self)
        } catch {
            return end(.impossible("\(error)"))
        }
        guard self.completion != nil else { return }
        do throws(SystemError) {
            let wasSent = try question.check.datagram.withUnsafeBufferPointer { bytes throws(SystemError) in
                try UDPSocket.send(UnsafeRawBufferPointer(bytes), over: socket)
            }
            // A Unix backend that does not read its queue has no room for it.
            if !wasSent { end(.failed("it does not read what it is sent")) }
        } catch {
            end(.failed(error.reason))
        }
    }

    private func openUDP(to address: SocketAddress) throws(SystemError) {
        socket = try UDPSocket.open(address.family, options: SocketOptions(interface: question.check.interface))
        let source = question.check.sources.first { $0.family == address.family }
        if let source { try UDPSocket.bindWithoutPort(socket, to: source) }
        // Where this fails, closed ports are still told of.
        try? UDPSocket.reportAllErrors(address.family, of: socket)
        do throws(SystemError) { try UDPSocket.connect(socket, to: address) } catch {
            // A want of ports is this machine's.
            if LocalShortage(connecting: error, from: source) != nil { throw error }
            end(.failed(error.reason))
        }
    }

    private func openUnix(_ path: String) throws(SystemError) {
        socket = try UDPSocket.openUnixDatagram()
        do throws(SystemError) { try UDPSocket.connect(socket, toPath: path) } catch { end(.failed(error.reason)) }
    }

    func ready(_ events: EventLoop.Events) {
        do throws(SystemError) {
            guard try batch.receive(from: socket) > 0 else {
                guard events.contains(.hangUp) else { return }
                let error = UDPSocket.takeErrors(of: socket)
                if error != 0 { end(.failed(String(cString: strerror(error)))) }
                return
            }
        } catch {
            return end(.failed(error.reason))
        }
        let answer = batch[0]
        guard let expected = question.check.expected, !expected.matches(answer) else { return end(.passed) }
        end(.failed("its answer is not the one that is expected: \(Self.beginning(of: answer))"))
    }

    /// The first bytes of an answer, for the log.
    private static func beginning(of answer: UnsafeRawBufferPointer) -> String {
        if answer.isEmpty { return "an empty datagram" }
        let digits = Hexadecimal.text(Array(answer.prefix(16)))
        return "hex:\(digits)\(answer.count > 16 ? "…" : "")"
    }

    override func timerFired(now: Instant) {
        let milliseconds = question.check.timeout.milliseconds
        let seconds = milliseconds % 1_000 == 0 ? "\(milliseconds / 1_000)" : "\(Double(milliseconds) / 1_000)"
        end(.failed("no answer within \(seconds) s"))
    }

    private func end(_ outcome: CheckAnswer.Outcome) {
        guard let completion else { return }
        self.completion = nil
        loop.timers.disarm(self)
        if let registration { loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
        completion(outcome)
    }
}
