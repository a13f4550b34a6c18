import CLinux
import DTLSEngine
import DTLSKit
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// A load on a server: many connections on one thread, on a loop of its own.
final class Load {
    struct Counts {
        var started = 0
        var opened = 0
        var failed = 0
        var resumed = 0
        /// Established connections that have ended before their time.
        var broken = 0
        var sent = 0
        var received = 0
        var lost = 0
        var bytesReceived = 0
    }

    let peer: SocketAddress
    let option: DtlsClientOption
    let context: ClientContext
    let session: ResumableSession?
    let limits: Connection.Limits
    let loop: EventLoop
    let datapath: Datapath
    /// What is sent; its first four bytes are the message's number.
    let message: UnsafeMutableRawBufferPointer
    var counts = Counts()
    var latencies = LatencyRecord(started: .now(), sliceLength: .seconds(1))
    /// Messages that each connection keeps under way; 0: none.
    private(set) var window = 0
    /// Whether answers are answered with further messages.
    private(set) var isEchoing = false
    private(set) var isMeasuringMessages = false
    /// Reasons of failed handshakes and broken connections, and how often each.
    private(set) var failures: [String: Int] = [:]
    /// Called some times a second with the part that is done, 0 to 1.
    var progress: ((_ done: Double, _ load: Load) -> Void)?
    var isCancelled: () -> Bool = { false }

    private var clients: [LoadClient] = []
    private var halfOpen = 0
    /// Those that have ended in this turn: they must outlive their connections' calls.
    private var ended: [LoadClient] = []
    private var closesWhenOpen = false
    private var nextProgress = Instant.distantPast
    private var nextCheck = Instant.distantPast

    /// As many handshakes are under way at once, where nobody says how many: what a server's listener takes in a burst.
    static let mostHalfOpen = 256
    /// A message without an answer for so long is lost.
    private static let patience = Duration.milliseconds(250)
    private static let checkInterval = Duration.milliseconds(20)
    private static let progressInterval = Duration.milliseconds(200)
    /// One loopback address has fewer ports than a large load has connections.
    private static let clientsPerAddress = 8_000

    init(
        _ peer: SocketAddress, _ option: DtlsClientOption, resuming session: DtlsSession?, handshakeTimeout: Duration,
        messageSize: Int
    ) throws(TalkingFailure) {
        self.peer = peer
        self.option = option
        self.session = session?.session
        limits = Connection.Limits(handshakeTimeout: handshakeTimeout, mtu: option.mtu)
        message = .allocate(byteCount: messageSize, alignment: 8)
        message.initializeMemory(as: UInt8.self, repeating: UInt8(ascii: "d"))
        do {
            context = try ClientContext(option.settings)
            loop = try EventLoop()
            datapath = try Datapath(loop: loop)
        } catch {
            throw .local("\(error)")
        }
    }

    deinit { message.deallocate() }

    // MARK: Scenarios

    /// Does handshakes, and closes each connection at once.
    func shakeHands(count: Int, atOnce: Int) throws(TalkingFailure) {
        closesWhenOpen = true
        latencies = LatencyRecord(started: .now(), sliceLength: .milliseconds(100))
        let first = counts.opened + counts.failed
        let target = first + count
        try run(
            done: { Double(self.counts.opened + self.counts.failed - first) / Double(count) },
            while: {
                while self.counts.started < target, self.halfOpen < atOnce { self.startClient(ring: 0) }
                return self.counts.opened + self.counts.failed < target
            })
    }

    /// Opens connections and keeps them.
    func open(_ count: Int, ring: Int) throws(TalkingFailure) {
        closesWhenOpen = false
        latencies = LatencyRecord(started: .now(), sliceLength: .milliseconds(100))
        let first = counts.opened + counts.failed
        let target = first + count
        try run(
            done: { Double(self.counts.opened + self.counts.failed - first) / Double(count) },
            while: {
                while self.counts.started < target, self.halfOpen < min(Self.mostHalfOpen, count) {
                    self.startClient(ring: ring)
                }
                return self.counts.opened + self.counts.failed < target
            })
    }

    /// Keeps `window` messages of every open connection under way.
    func echo(window: Int, for duration: Duration) throws(TalkingFailure) {
        beginMessages(for: duration)
        self.window = window
        isEchoing = true
        for client in clients { client.fillWindow() }
        try hold(for: duration)
        isEchoing = false
        endMessages()
    }

    /// Sends `rate` messages a second, over the connections in turn, whether or not the server answers in time. A latency
    /// counts from when its message was due, so that a server which stalls cannot keep those from being sent that would
    /// have waited (coordinated omission).
    func echo(rate: Double, for duration: Duration) throws(TalkingFailure) {
        let open = clients.filter { $0.state == .open }
        guard !open.isEmpty else { return }
        let pacer: Pacer
        do throws(SystemError) { pacer = try Pacer(loop) } catch { throw .local("\(error)") }
        beginMessages(for: duration)
        let started = Instant.now()
        var sent = 0
        let total = max(1, Int(rate * duration.inSeconds))
        func due(_ number: Int) -> Instant { started + .nanoseconds(Int64(Double(number) / rate * 1e9)) }
        try run(
            done: { Double(sent) / Double(total) },
            while: {
                let now = Instant.now()
                while sent < total, due(sent) <= now {
                    open[sent % open.count].send(at: due(sent))
                    sent += 1
                }
                if sent < total { pacer.wake(at: due(sent)) }
                return sent < total
            })
        // What is under way gets its time.
        try hold(for: Self.patience)
        endMessages()
    }

    /// Holds the connections without a word, and then asks each for one echo.
    func idle(for duration: Duration) throws(TalkingFailure) -> Int {
        try hold(for: duration)
        beginMessages(for: .seconds(2))
        for client in clients { client.send(at: Instant.now()) }
        let deadline = Instant.now() + .seconds(2)
        try run(
            done: { 1 },
            while: { Instant.now() < deadline && self.counts.received < self.counts.sent })
        endMessages()
        return counts.received
    }

    func closeAll() {
        // From the end, where each is found at once when it has ended.
        for client in clients.reversed() { client.close() }
        clients = []
        ended = []
    }

    private func beginMessages(for duration: Duration) {
        counts.sent = 0
        counts.received = 0
        counts.lost = 0
        counts.bytesReceived = 0
        let slice = max(Duration.milliseconds(50), .nanoseconds(duration.nanoseconds / 200))
        latencies = LatencyRecord(started: .now(), sliceLength: slice)
        isMeasuringMessages = true
    }

    private func endMessages() {
        isMeasuringMessages = false
        window = 0
    }

    private func hold(for duration: Duration) throws(TalkingFailure) {
        let started = Instant.now()
        let end = started + duration
        try run(
            done: { min(1, (Instant.now() - started).inSeconds / max(duration.inSeconds, 0.001)) },
            while: {
                Instant.now() < end
            })
    }

    /// Turns the loop as long as `goesOn` says so, which is asked before each turn.
    private func run(done: () -> Double, while goesOn: () -> Bool) throws(TalkingFailure) {
        while goesOn(), !isCancelled() {
            do throws(SystemError) { try loop.poll(timeout: .milliseconds(1)) } catch { throw .local("\(error)") }
            ended.removeAll(keepingCapacity: true)
            let now = loop.now
            latencies.advance(to: now)
            if now >= nextCheck {
                nextCheck = now + Self.checkInterval
                if isMeasuringMessages {
                    let lost = now - Self.patience
                    for client in clients { client.giveUpLost(before: lost) }
                }
            }
            if now >= nextProgress {
                nextProgress = now + Self.progressInterval
                progress?(done(), self)
            }
        }
        latencies.endSlice()
    }

    // MARK: Clients

    private func startClient(ring: Int) {
        let client = LoadClient(self, ring: ring, started: Instant.now())
        loop.renewTime()
        counts.started += 1
        halfOpen += 1
        clients.append(client)
        do {
            try client.begin(from: sourceAddress(of: counts.started - 1))
        } catch {
            guard client.state == .handshaking else { return }
            halfOpen -= 1
            counts.failed += 1
            note(failure: "\(error)")
            clients.removeAll { $0 === client }
        }
    }

    private func sourceAddress(of number: Int) -> SocketAddress? {
        guard peer.family == .ipv4, peer.host.hasPrefix("127.") else { return nil }
        let block = 1 + number / Self.clientsPerAddress
        return SocketAddress(host: "127.0.\(block >> 8 & 255).\(max(1, block & 255))", port: 0)
    }

    func established(_ client: LoadClient, _ connection: Connection) {
        halfOpen -= 1
        counts.opened += 1
        if connection.session.isResumed { counts.resumed += 1 }
        if !isMeasuringMessages { latencies.record(Instant.now() - client.started) }
        if closesWhenOpen { connection.close() }
    }

    func ended(_ client: LoadClient, _ ending: Connection.Ending, former: LoadClient.State) {
        ended.append(client)
        if former == .handshaking {
            halfOpen -= 1
            counts.failed += 1
            note(failure: "\(ending)")
        } else if ending != .closedHere {
            counts.broken += 1
            note(failure: "\(ending)")
        }
        // The newest is near the end, in a load of handshakes.
        if let index = clients.lastIndex(where: { $0 === client }) { clients.remove(at: index) }
    }

    /// Counts a reason; all but the first hundred kinds are one.
    func note(failure reason: String) {
        let reason = failures[reason] != nil || failures.count < 100 ? reason : "other reasons"
        failures[reason, default: 0] += 1
    }
}

/// Wakes a loop up at a time that is finer than epoll's milliseconds.
private final class Pacer: EventHandler {
    private let descriptor: FileDescriptor
    private let loop: EventLoop
    private var registration: EventLoop.Registration?

    init(_ loop: EventLoop) throws(SystemError) {
        self.loop = loop
        let raw = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_NONBLOCK) | Int32(TFD_CLOEXEC))
        guard raw >= 0 else { throw SystemError("timerfd_create", errno: errno) }
        descriptor = FileDescriptor(owning: raw)
        registration = try loop.add(descriptor, .readable, self)
    }

    func ready(_ events: EventLoop.Events) {
        var count: UInt64 = 0
        _ = read(descriptor.rawValue, &count, 8)
    }

    func wake(at time: Instant) {
        var setting = itimerspec()
        setting.it_value.tv_sec = time_t(time.nanoseconds / 1_000_000_000)
        setting.it_value.tv_nsec = Int(time.nanoseconds % 1_000_000_000)
        timerfd_settime(descriptor.rawValue, Int32(TFD_TIMER_ABSTIME), &setting, nil)
    }
}
