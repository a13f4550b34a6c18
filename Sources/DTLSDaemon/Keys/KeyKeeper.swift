import DTLSEngine
import Glibc
import LinuxSystem
import Logging
import Primitives

/// The private keys of a configuration, as long as workers may be given that: a memory file, which the loader has made and
/// the main process hands on to key processes without reading it.
final class KeySet {
    let number: UInt32
    fileprivate let file: FileDescriptor
    fileprivate var onEnd: (UInt32) -> Void = { _ in }

    fileprivate init(_ number: UInt32, _ file: consuming FileDescriptor) {
        self.number = number
        self.file = file
    }

    deinit { onEnd(number) }
}

/// The main process' side of the key process: starts it as long as a configuration has private keys, again when it has
/// ended, and gives each worker a channel to it.
final class KeyKeeper: TimerTarget {
    /// What became of ``prepare(_:_:)``.
    enum Outcome {
        case ready(KeySet?)
        /// Why the keys cannot be used, as the end of a sentence.
        case failed(String)
    }

    private let process: AuxiliaryProcess
    private let loop: EventLoop
    private let logger: Logger
    private let allowances: KeyAllowances
    /// The user that the process becomes; `nil`: it stays what this process is.
    private var user: UserAccount?

    private var sets: [UInt32: Weak] = [:]
    private struct Weak { weak var set: KeySet? }
    private var nextSet: UInt32 = 1
    /// The keys that the key process has not said anything of yet, who waits for that, and until when.
    private var waiting: (set: KeySet, end: Instant, completion: (Outcome) -> Void)?

    /// The number of each worker's channel, by its process ID.
    private var channels: [pid_t: UInt32] = [:]
    private var nextChannel: UInt32 = 1
    /// The workers' places in ``KeyAllowances``.
    private var places: [pid_t: Int] = [:]
    private var freePlaces: [Int] = Array((0..<KeyAllowances.places).reversed())
    /// The workers that have lost their channel, and when they get another one.
    private var lost: Set<pid_t> = []
    private var nextChannels = Instant.distantFuture

    private var nextPing = Instant.distantPast
    private var unansweredPings = 0
    private var hasToldOfWalls = false
    private var isStopped = false
    private var limiter = LogLimiter(burst: 5, perSecond: 1)

    /// Is called when workers can be given channels, which all have none.
    var onStarted: () -> Void = {}
    /// Is called with a worker that has lost its channel, and can be given another one.
    var onChannelWanted: (pid_t) -> Void = { _ in }
    /// Is called with a worker that has asked for what no worker asks for; the text says what for.
    var onViolation: (pid_t, String) -> Void = { _, _ in }

    private static let pingInterval = Duration.seconds(2)
    /// It is killed when it has left so many unanswered.
    private static let maximumUnansweredPings = 3
    /// How long a new configuration waits for the key process.
    private static let patience = Duration.seconds(10)
    private static let pauseOfChannels = Duration.seconds(1)

    init(environment: [String: String], loop: EventLoop, logger: Logger) throws(SystemError) {
        self.loop = loop
        self.logger = logger
        allowances = try KeyAllowances()
        // Its first end costs handshakes as long as there is no other one.
        process = AuxiliaryProcess(
            .keys, environment: environment, loop: loop,
            backoff: Backoff(from: .milliseconds(1), to: .seconds(10)))
        super.init()
        process.onMessage = { [unowned self] in receive($0) }
        process.onLost = { [unowned self] in processEnded(because: $0, pause: $1) }
    }

    // MARK: Configurations

    /// Gives the key process the keys of a configuration, and calls `completion` once it has them: at once where there are
    /// none.
    /// - Parameters:
    ///   - keys: a memory file with `KeyMaterial`; not open where the configuration has no keys.
    ///   - user: whom the configuration has all processes be.
    func prepare(_ keys: consuming FileDescriptor, user: UserAccount?, _ completion: @escaping (Outcome) -> Void) {
        guard keys.isOpen else { return completion(.ready(nil)) }
        let set = KeySet(nextSet, keys)
        nextSet &+= 1
        set.onEnd = { [weak self] in self?.forget($0) }
        sets[set.number] = Weak(set: set)
        waiting = (set, loop.now + Self.patience, completion)
        self.user = user
        if process.isRunning { give(set) }
        update()
    }

    private func forget(_ number: UInt32) {
        sets[number] = nil
        send(.forget(set: number))
        if sets.isEmpty {
            process.end()
            channels = [:]
        }
    }

    private func give(_ set: KeySet) {
        do throws(SystemError) {
            send(.keys(set: set.number), try set.file.duplicate())
        } catch {
            finish(set.number, .failed("\(error)"))
        }
    }

    private func finish(_ number: UInt32, _ outcome: @autoclosure () -> Outcome) {
        guard let waiting, waiting.set.number == number else { return }
        self.waiting = nil
        waiting.completion(outcome())
    }

    // MARK: Workers

    /// Makes a channel between a worker and the key process.
    /// - Returns: the worker's end; `nil` where it has one, or there is no key process at the moment.
    func connect(_ worker: pid_t) -> FileDescriptor? {
        guard process.isRunning, channels[worker] == nil, let ends = try? UnixChannel.pair() else { return nil }
        let place = places[worker] ?? freePlaces.popLast() ?? KeyAllowances.places - 1
        places[worker] = place
        let number = nextChannel
        nextChannel &+= 1
        channels[worker] = number
        send(.worker(number: number, place: UInt32(truncatingIfNeeded: place)), ends.other)
        return ends.one
    }

    /// A client was handed over to a worker, which has so many connections now.
    func noteHandOver(to worker: pid_t, connections: Int) {
        if let place = places[worker] { allowances.noteHandOver(place, connections: connections) }
    }

    func noteConnections(_ connections: Int, of worker: pid_t) {
        if let place = places[worker] { allowances.setConnections(place, connections) }
    }

    /// The key process has left a worker without an answer.
    func channelLost(by worker: pid_t) {
        guard channels.removeValue(forKey: worker) != nil else { return }
        lost.insert(worker)
        nextChannels = min(nextChannels, loop.now + Self.pauseOfChannels)
        update()
    }

    // MARK: The process

    override func timerFired(now: Instant) { update() }

    private func update() {
        guard !isStopped else { return }
        if !sets.isEmpty, !process.isRunning {
            process.start()
            if process.isRunning { begin() }
        }
        if let waiting, loop.now >= waiting.end {
            finish(waiting.set.number, .failed("the key process does not answer"))
        }
        if loop.now >= nextChannels {
            nextChannels = .distantFuture
            let all = lost
            lost = []
            for worker in all { onChannelWanted(worker) }
        }
        if process.isRunning, loop.now >= nextPing { ping() }
        let next = process.isRunning ? nextPing : sets.isEmpty ? .distantFuture : process.nextStart
        loop.timers.disarm(self)
        loop.timers.arm(self, at: min(next, nextChannels, waiting?.end ?? .distantFuture))
    }

    private func begin() {
        unansweredPings = 0
        nextPing = loop.now + Self.pingInterval
        guard let memory = try? allowances.descriptor() else { return process.kill() }
        send(.begin(user: user), memory)
        for set in sets.values.compactMap(\.set) { give(set) }
        onStarted()
    }

    private func ping() {
        nextPing = loop.now + Self.pingInterval
        guard unansweredPings < Self.maximumUnansweredPings else {
            unansweredPings = 0
            log("the key process does not answer, and is killed")
            return process.kill()
        }
        unansweredPings += 1
        send(.ping)
    }

    private func send(
        _ message: MessageToKeyProcess, _ descriptor: consuming FileDescriptor = FileDescriptor(owning: -1)
    ) {
        process.send(BinaryCoding.encode(message), descriptor: descriptor)
    }

    private func processEnded(because reason: String, pause: Duration) {
        channels = [:]
        lost = []
        log(
            "the key process has ended (\(reason)): handshakes that need a private or pre-shared key fail until there is another one, in"
                + " \(pause.milliseconds) ms; connections go on")
    }

    private func log(_ message: String) {
        limiter.log(.keyProcessFailed, to: logger, now: loop.now, message)
    }

    private func receive(_ message: UnsafeRawBufferPointer) -> Bool {
        guard let decoded: MessageFromKeyProcess = try? BinaryCoding.decode(from: message) else { return false }
        switch decoded {
        case .pong:
            unansweredPings = 0
            process.resetPause()
        case .ready(let number):
            if let set = waiting?.set { finish(number, .ready(set)) }
            update()
        case .unusable(let number, let reason):
            finish(number, .failed("the key process cannot use the keys: \(reason)"))
            update()
        case .wallsMissing(let failures):
            guard !hasToldOfWalls else { break }
            hasToldOfWalls = true
            logger.log(
                .wallsMissing,
                "the kernel does not keep the key process from all that it does not need: "
                    + failures.joined(separator: "; ") + "; it serves without that (docs/security.md)")
        case .violation(let number, let reason):
            guard let worker = worker(number) else { break }
            channels[worker] = nil
            onViolation(worker, reason)
        case .tooMany(let number):
            guard let worker = worker(number) else { break }
            limiter.log(
                .keyUseRefused, to: logger, now: loop.now,
                "a worker (process \(worker)) has asked for more uses of keys than its handshakes explain, and gets no more"
                    + " than these do: it is defective or controlled by somebody else, or many clients come back at once",
                ["WORKER_PID": "\(worker)"])
        }
        return true
    }

    private func worker(_ number: UInt32) -> pid_t? { channels.first { $0.value == number }?.key }

    /// Records how a child ended; the main process reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        channels[pid] = nil
        lost.remove(pid)
        if let place = places.removeValue(forKey: pid), place < KeyAllowances.places - 1 { freePlaces.append(place) }
        if process.childEnded(pid, ending) { update() }
    }

    /// Reports what has been held back of the log.
    func flushLog() { limiter.flush(now: loop.now, to: logger) }

    /// Ends the process.
    func stop() {
        isStopped = true
        waiting = nil
        loop.timers.disarm(self)
        process.end()
    }
}
