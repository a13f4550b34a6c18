import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// The main process' role: it owns the configuration, the listeners and the workers' lives, talks to the service
/// manager, and does the cookie exchange. It never does a handshake, and never waits.
final class Acceptor: EventHandler {
    /// Where it is in its life. Signals and results are taken according to it.
    private enum Phase: Equatable {
        /// The first configuration is being read.
        case loading
        /// The workers have been started, and have not all said that they are ready.
        case starting
        case serving
        /// A new configuration is being read, or given to the workers (`isTaking`).
        case reloading
        case stopping
    }

    /// A configuration that all workers have served, with what was opened for it.
    private struct Former {
        let configuration: Configuration
        let provision: WorkerSetup
        let watcher: FileWatcher?
    }

    let loop: EventLoop
    private let configurationFile: String
    private let logger = Logger(label: "dtlsd")
    private let reception: ConnectionDispatcher
    private var manager: ServiceManager
    private let signals: SignalSource
    private let environment: [String: String]
    private let descriptorLimit: Int
    private let randomSecret: [UInt8]
    private var phase = Phase.loading
    /// A SIGHUP came while a configuration was being read already: perhaps before the change.
    private var isReloadWanted = false
    /// The workers are being given what a reload has brought.
    private var isTaking = false
    private var configuration: Configuration?
    /// What to go back to, until all workers have said that they serve what they were given after it.
    private var former: Former?
    private var loading: LoaderHandle?
    private var exitStatus: Int32 = 0
    private var statusLine = StatusLine()
    private var lastStatus = ""
    /// READY=1 that the service manager's full queue did not take: it waits for it, so it is told again.
    private var isReadyUntold = false

    // Set once, in `init`; they need `self` as their delegate.
    private var listeners: ListenerSet?
    private var pool: WorkerPool?
    private var ticketKeys: TicketKeyRotator?
    private var watchdogTimer: CallbackTimer?
    private var statusTimer: CallbackTimer?
    private var staples: StapleRefresher?
    private var stopTimer: CallbackTimer?

    private static let statusInterval = Duration.milliseconds(2_000)

    /// Runs the role until the daemon ends.
    /// - Returns: the exit status.
    static func run(configurationFile: String) throws -> Int32 {
        let manager = try ServiceManager()
        LogBootstrap.start(role: "main", level: .info)
        let acceptor = try Acceptor(configurationFile: configurationFile, manager: manager)
        try acceptor.start()
        try acceptor.loop.run()
        return acceptor.exitStatus
    }

    private init(configurationFile: String, manager: consuming ServiceManager) throws {
        self.configurationFile = configurationFile
        self.manager = manager
        descriptorLimit = OpenFileLimit.raise()
        loop = try EventLoop()
        reception = ConnectionDispatcher(loop: loop)
        signals = try SignalSource([SIGHUP, SIGTERM, SIGINT, SIGCHLD])
        randomSecret = try RandomBytes.make(32)
        var environment = ChildProcess.environment()
        // Swift's backtracer prints the memory that registers point to, keys among it.
        environment["SWIFT_BACKTRACE"] = "enable=no"
        // OpenSSL takes and gives two record buffers of 17 KiB a handshake. With these in malloc's fast bins, and its
        // heap not trimmed each time, a handshake costs about 3 % less, and an idle connection no more memory.
        if environment["GLIBC_TUNABLES"] == nil {
            environment["GLIBC_TUNABLES"] =
                "glibc.malloc.tcache_max=32768:glibc.malloc.tcache_count=64:"
                + "glibc.malloc.trim_threshold=8388608:glibc.malloc.top_pad=1048576"
        }
        self.environment = environment
        let cookies = try CookieAuthority(secret: randomSecret)
        listeners = ListenerSet(
            inherited: try self.manager.takeSockets(), cookies: cookies, loop: loop, delegate: reception)
        pool = WorkerPool(environment: environment, loop: loop, logger: logger, delegate: self)
        reception.connect(listeners, pool)
        statusTimer = CallbackTimer { [weak self] in self?.tellStatus(now: $0) }
        watchdogTimer = CallbackTimer { [weak self] in self?.pingWatchdog(now: $0) }
        stopTimer = CallbackTimer { [weak self] _ in self?.pool?.killAll() }
        staples = StapleRefresher(environment: environment, loop: loop, logger: logger, delegate: self)
    }

    private func start() throws {
        _ = try loop.add(signals.descriptor, .readable, self)
        ticketKeys = TicketKeyRotator(memory: manager.takeStored(), loop: loop) { [weak self] in
            self?.pool?.replaceTicketKeys($0)
        }
        logger.log(.started, "dtlsd starts with \(configurationFile)", ["PID": "\(getpid())"])
        pingWatchdog(now: loop.now)
        load()
    }

    // MARK: Signals

    /// Signals only say that something is to be done; it is done here, in the loop.
    func ready(_ events: EventLoop.Events) {
        while let signal = try? signals.next() {
            switch signal {
            case SIGHUP: reload()
            case SIGCHLD: reap()
            default: stop(because: "signal \(signal) (\(String(cString: strsignal(signal))))")
            }
        }
    }

    private func reap() {
        while let (pid, ending) = ChildProcess.reap() {
            pool?.childEnded(pid, ending)
            loading?.childEnded(pid, ending)
            staples?.childEnded(pid, ending)
        }
    }

    // MARK: Configuration

    private func reload() {
        guard phase != .stopping else { return }
        // Workers that are still taking up the configuration before do not keep the next one from being read: it may be
        // the one that helps them.
        guard loading == nil else {
            isReloadWanted = true
            return
        }
        isReloadWanted = false
        if phase == .serving {
            phase = .reloading
            manager.notify(.reloading, .status("reloading \(configurationFile)"))
        }
        load()
    }

    private func load() {
        do throws(SystemError) {
            loading = try LoaderHandle(
                file: configurationFile, purpose: .serving, environment: environment, loop: loop
            ) { [weak self] in self?.loaded($0) }
        } catch {
            refuse(["the loader process cannot be started: \(error)"], .system)
        }
    }

    private func loaded(_ result: LoaderHandle.Result) {
        let keyLog = loading?.takeKeyLog() ?? FileDescriptor(owning: -1)
        loading = nil
        if phase == .stopping { return }
        if case .loaded(let configuration, let watcher) = result {
            apply(configuration, watcher, keyLog)
        } else {
            refuse(result.problems ?? [], result.isTransient ? .configurationForNow : .configuration)
        }
        if isReloadWanted { reload() }
    }

    /// A configuration that is not taken: at the start that is the end, later all stays as it was.
    private func refuse(_ reasons: [String], _ obstacle: StartupFailure) {
        for reason in reasons { logger.log(.configurationInvalid, reason) }
        guard phase != .loading else { return end(because: obstacle) }
        statusLine.failedReload = reasons.first
        logger.log(.reloadFailed, "reload failed: the configuration and the certificates stay as they were")
        if phase == .reloading, !isTaking { finishReload() }
    }

    private func apply(_ new: Configuration, _ watcher: FileWatcher?, _ keyLog: consuming FileDescriptor) {
        guard let ticketKeys else { return }
        // The first one has not been proven before all workers serve it.
        let before = phase == .reloading ? inForce : nil
        do {
            let provision = WorkerSetup(
                snapshot: try makeSnapshot(new), keyLog: keyLog, ticketKeys: try ticketKeys.keys(for: new.tickets))
            try enforce(new, provision, watcher)
        } catch let errors as ListenerErrors {
            return refuse(
                errors.problems.map { "\(configurationFile): \($0)" },
                errors.cause == .configuration ? .configuration : .sockets)
        } catch {
            return refuse(["the workers cannot be given the configuration: \(error)"], .system)
        }
        former = former ?? before
        for warning in new.warnings { logger.log(.configurationWarning, "\(warning)") }
        warnOfKeyLog()
        if phase == .loading { phase = .starting }
        if phase == .reloading { isTaking = true }
    }

    private var inForce: Former? {
        guard let configuration, let provision = pool?.provision else { return nil }
        return Former(configuration: configuration, provision: provision, watcher: staples?.watcher)
    }

    /// Puts a configuration in force, and gives it to the workers. When this throws, all is as before.
    private func enforce(_ new: Configuration, _ provision: WorkerSetup, _ watcher: FileWatcher?) throws {
        guard let listeners, let pool else { return }
        let cookies = try CookieAuthority(secret: new.cookieSecret ?? randomSecret)
        let plan = try listeners.prepare(new)
        // Nothing above has changed anything; nothing below is expected to fail.
        try pool.configure(workers: new.workers, provision)
        ticketKeys?.use(new.tickets)
        if new.cookieSecret != configuration?.cookieSecret { listeners.cookies = cookies }
        configuration = new
        reception.apply(new)
        staples?.watch(new, with: watcher)
        LogBootstrap.setLevel(new.logLevel)
        commit(plan)
    }

    /// A worker cannot use what it was given last, though the loader could, and so can perhaps the other workers: all
    /// are given again what they had before. Until then it serves its connections, and no newcomers.
    private func goBack(to former: Former, because reason: String) {
        self.former = nil
        let isReload = isTaking
        isTaking = false
        if isReload { statusLine.failedReload = reason }
        let event = isReload ? LogEvent.reloadFailed : .internalError
        do {
            former.provision.ticketKeys =
                try ticketKeys?.keys(for: former.configuration.tickets) ?? former.provision.ticketKeys
            try enforce(former.configuration, former.provision, former.watcher)
            logger.log(
                event,
                "\(isReload ? "reload failed" : "changed OCSP responses cannot be used"): \(reason); the"
                    + " configuration and the certificates stay as they were")
        } catch {
            logger.log(event, "\(reason); and the configuration of before cannot be put in force again: \(error)")
        }
        if isReload, loading == nil { finishReload() }
    }

    /// The workers have the new configuration already, so a listener that epoll does not take (out of memory) is a
    /// listener lost, not a reload refused.
    private func commit(_ plan: ListenerSet.Plan) {
        do throws(SystemError) {
            try listeners?.commit(plan)
        } catch {
            logger.log(.listenerFailed, "a new listener cannot be watched: \(error)")
        }
    }

    private func makeSnapshot(_ configuration: Configuration) throws(SystemError) -> FileDescriptor {
        let snapshot = Snapshot(
            configuration: configuration, cookieSecret: configuration.cookieSecret ?? randomSecret)
        return try MemoryFile.make(BinaryCoding.encode(snapshot), name: "dtlsd-snapshot")
    }

    private func warnOfKeyLog() {
        guard let file = configuration?.keyLogFile else { return }
        logger.log(
            .keysLogged,
            "the secrets of all connections are written to \(file) (key_log_file): whoever reads it can decrypt them",
            ["FILE": "\(file)"])
    }

    private func finishReload() {
        phase = .serving
        tellReady()
    }

    // MARK: Life

    private func openListeners() {
        guard let listeners else { return }
        do throws(SystemError) {
            try listeners.openAll()
        } catch {
            logger.log(.listenerFailed, "the listeners cannot be opened: \(error)")
            return end(because: .sockets)
        }
        // A reload that was asked for meanwhile goes on.
        phase = loading == nil ? .serving : .reloading
        tellReady()
        let addresses = listeners.addresses.map(\.description).joined(separator: ", ")
        logger.log(
            .ready,
            "ready: \(configuration?.workers ?? 0) workers listen on \(addresses); each process may open"
                + " \(descriptorLimit) files, and a worker serves as many connections as that allows",
            ["LISTENERS": "\(addresses)", "OPEN_FILES_LIMIT": "\(descriptorLimit)"])
        tellStatus(now: loop.now)
    }

    private func end(because obstacle: StartupFailure) {
        exitStatus = obstacle.exitStatus
        stop(because: obstacle.rawValue)
    }

    private func stop(because reason: String) {
        guard phase != .stopping else {
            // Asked twice: at once.
            pool?.killAll()
            return
        }
        phase = .stopping
        logger.log(.stopping, "stopping: \(reason)")
        manager.notify(.stopping, .status("stopping"))
        listeners?.closeAll()
        if let stopTimer {
            loop.timers.arm(stopTimer, at: loop.now + (configuration?.stopTimeout ?? .seconds(5)))
        }
        pool?.stop()
    }

    private func pingWatchdog(now: Instant) {
        guard let interval = manager.watchdogInterval, let watchdogTimer else { return }
        manager.notify(.watchdog)
        loop.timers.arm(watchdogTimer, at: now + interval)
    }

    private func tellReady() {
        lastStatus = status
        isReadyUntold = !manager.notify(.ready, .status(lastStatus))
    }

    private func tellStatus(now: Instant) {
        ticketKeys?.store(with: manager)
        reception.flushLog(now: now)
        if isReadyUntold, phase == .serving {
            tellReady()
        } else if phase == .serving, status != lastStatus {
            lastStatus = status
            manager.notify(.status(lastStatus))
        }
        if let statusTimer { loop.timers.arm(statusTimer, at: now + Self.statusInterval) }
    }

    private var status: String {
        guard let pool, let listeners else { return "" }
        return statusLine.text(
            pool.totals, connections: pool.load, handshakes: reception.handshakes, listeners.counters,
            listeners: listeners.count, keyLogFile: configuration?.keyLogFile)
    }
}

extension Acceptor: StapleRefresherDelegate {
    var refreshable: (file: String, configuration: Configuration)? {
        guard phase == .serving, let configuration else { return nil }
        return (configurationFile, configuration)
    }

    func take(refreshed: Configuration) throws {
        let before = inForce
        // Its listeners and its number of workers are those in force; the workers take the rest for new handshakes.
        try pool?.configure(workers: refreshed.workers, newSnapshot: makeSnapshot(refreshed))
        former = former ?? before
        configuration = refreshed
    }
}

extension Acceptor: WorkerPoolDelegate {
    func poolIsReady(_ pool: WorkerPool) {
        former = nil
        if phase == .starting { return openListeners() }
        // While the configuration is still being read, what the workers are ready with is OCSP responses that were
        // taken up just before.
        guard phase == .reloading, isTaking else { return }
        isTaking = false
        statusLine.failedReload = nil
        logger.log(.reloaded, "configuration and certificates reloaded from \(configurationFile)")
        if loading == nil { finishReload() }
    }

    func pool(_ pool: WorkerPool, rejectedBy worker: Int, _ reason: String) -> Bool {
        if phase == .starting {
            logger.log(.configurationInvalid, "worker \(worker) cannot use the configuration: \(reason)")
            end(because: .configuration)
            return true
        }
        guard let former else { return false }
        goBack(to: former, because: "worker \(worker): \(reason)")
        return true
    }

    func pool(_ pool: WorkerPool, worker: Int, refused: Tally<Refusal>) { reception.log(refused, by: worker) }

    func pool(_ pool: WorkerPool, gaveBack datagram: UnsafeRawBufferPointer, key: FlowKey) {
        listeners?.reinject(datagram, key)
    }

    func poolHasEnded(_ pool: WorkerPool) {
        reception.finishLog()
        logger.log(.stopped, "stopped: \(status)")
        loop.stop()
    }
}
