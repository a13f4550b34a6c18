import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// The role of the main process: it owns the configuration, the listeners and the workers, talks to the service
/// manager, and does the cookie exchange. It never does a handshake, and never blocks.
///
/// ``Lifecycle`` decides what is done when. This class performs its actions and tells it the outcomes.
final class Acceptor: TimerTarget, EventHandler {
    let configurationFile: String
    private let logger = Logger(label: "dtlsd")
    let loop: EventLoop
    private let signals: SignalSource
    private let environment = Acceptor.childEnvironment()
    /// Where the program is that a successor runs; `nil` where this process does not know.
    private let programPath = ChildProcess.programPath()
    private let descriptors: DescriptorBudget
    /// The cookie secret of configurations that have none.
    private let randomSecret: StoredSecret
    /// What connection IDs are made with by configurations that have no keys.
    private let connectionIDKey: StoredSecret
    private var manager: ServiceManager
    private(set) var lifecycle: Lifecycle<ActiveConfiguration>
    /// The process that reads a configuration, while there is one.
    private var loader: LoaderHandle?
    /// The main process whose place this one is to take, until it has.
    private var predecessor: Predecessor?
    /// The process that is to take this one's place, while there is one.
    private var successor: Successor?

    let counters: CounterRegistry
    let workers: WorkerSupervisor
    let dispatcher: ConnectionDispatcher
    let listeners: ListenerSet
    private let ticketKeys: TicketKeyRotator
    private let sessions: StoredSessions
    private let staples: StapleRefresher
    private let credentials: CredentialWatch
    /// Looks host names up.
    let names: NameResolver
    /// Checks backends.
    let checker: BackendChecker
    /// Has the private keys held.
    private let keys: KeyKeeper
    private let checkLog: CheckLog
    private let nameLog: NameLog
    /// Warns of certificates, revocation lists and OCSP responses that expire.
    let expiries: ExpiryWatch
    private(set) lazy var control = Control(self)
    /// The secret of the cookies that the listeners make.
    private var cookieSecret: [UInt8]

    /// Counts what this process uses.
    private var resources: ProcessMeter?
    private var nextStatus = Instant.distantFuture
    private var nextWatchdogNotification = Instant.distantFuture
    /// When the workers are killed that have not ended.
    private var stopDeadline = Instant.distantFuture
    /// What ends when no handshake is under way any more; `nil` while nobody waits for that.
    private var handshakeWait: CallbackTimer?
    /// When the step of an upgrade has taken too long.
    private var upgradeDeadline = Instant.distantFuture
    private var lastStatus = ""
    /// Files of an earlier process with connections that this one cannot go on with.
    private var filesSetAside: [StoredItem: PassedDescriptor] = [:]
    /// READY=1 was not sent, because the queue of the service manager was full. The manager waits for it, so it is sent
    /// again later.
    private var isReadyPending = false

    private static let statusInterval = Duration.seconds(2)

    /// How often a notification that must arrive is sent while the manager's queue is full: for 5 s.
    private static let maximumTries = 500
    /// Runs the role until the daemon ends.
    /// - Returns: the exit status.
    static func run(configurationFile: String) throws -> Int32 {
        let manager = try ServiceManager()
        LogBootstrap.start(role: "main", level: .info)
        return try Acceptor(configurationFile: configurationFile, manager: manager).run()
    }

    /// Runs the role in a process that a main process has started to take its place.
    /// - Returns: the exit status.
    static func succeed(configurationFile: String) throws -> Int32 {
        var offer = try Predecessor.receiveOffer()
        let channel = try offer.channel.duplicate()
        let acceptor: Acceptor
        do {
            let manager = try ServiceManager(passed: offer.passed)
            LogBootstrap.start(role: "main", level: .info)
            acceptor = try Acceptor(
                configurationFile: configurationFile, manager: manager, channel: offer.channel.take())
        } catch {
            Predecessor.refuse("\(error)", over: channel)
            throw error
        }
        _ = consume channel
        return try acceptor.run()
    }

    private func run() throws -> Int32 {
        try start()
        try loop.run()
        return lifecycle.exitStatus
    }

    /// - Parameter channel: to the main process that this one succeeds; `nil` when there is none.
    private init(
        configurationFile: String, manager: consuming ServiceManager, channel: consuming FileDescriptor? = nil
    ) throws {
        self.configurationFile = configurationFile
        self.manager = manager
        descriptors = DescriptorBudget(limit: OpenFileLimit.raise())
        loop = try EventLoop()
        signals = try SignalSource([SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGCHLD])
        randomSecret = try StoredSecret(
            length: 32, stored: self.manager.takeStored(.cookieSecret), name: StoredItem.cookieSecret.name)
        connectionIDKey = try StoredSecret(
            length: ConnectionIDConfiguration.keyLength, stored: self.manager.takeStored(.connectionIDKey),
            name: StoredItem.connectionIDKey.name)
        cookieSecret = randomSecret.bytes
        lifecycle = Lifecycle(configurationFile: configurationFile)
        let workers = WorkerSupervisor(loop: loop, logger: logger) {
            [environment] number, channel throws(SystemError) in
            try ChildProcess.spawn(
                arguments: Role.worker(number: number).arguments, environment: environment, channel: channel)
        }
        workers.tablesOutliveDaemon = self.manager.isPresent
        counters = try CounterRegistry()
        workers.counters = counters
        self.workers = workers
        dispatcher = ConnectionDispatcher(workers: workers, loop: loop)
        listeners = ListenerSet(
            inherited: try self.manager.takeSockets(), stored: self.manager.takeStoredListeners(),
            cookies: try CookieAuthority(secret: cookieSecret), loop: loop, delegate: dispatcher)
        ticketKeys = TicketKeyRotator(memory: self.manager.takeStored(.ticketKeys), loop: loop) {
            workers.tickets.keys = $0
        }
        sessions = StoredSessions(stored: self.manager.takeStored(.sessions))
        if sessions.active == nil { self.manager.discard(.sessions) }
        staples = StapleRefresher(file: configurationFile, environment: environment, loop: loop, logger: logger)
        credentials = CredentialWatch(loop: loop, logger: logger)
        expiries = ExpiryWatch(loop: loop, logger: logger)
        names = NameResolver(memory: self.manager.takeStored(.names), environment: environment, loop: loop)
        nameLog = NameLog(logger, loop: loop)
        checker = BackendChecker(environment: environment, loop: loop)
        checkLog = CheckLog(logger, loop: loop)
        keys = try KeyKeeper(environment: environment, loop: loop, logger: logger)
        workers.keys = keys
        if let channel {
            predecessor = try Predecessor(channel, loop: loop)
            workers.isAwaitingTables = true
        }
        super.init()
        if let socket = self.manager.takeControlSocket() {
            control.server.adopt(socket.passed.descriptor.take(), at: socket.path)
        }
        workers.onEvent = { [unowned self] in handle($0) }
        workers.connections.onTableRemoved = { [unowned self] in self.manager.discard(.connections(table: $0)) }
        workers.onMisdelivered = { [listeners] in listeners.reinject($0, $1) }
        workers.onDatagrams = { [listeners] in listeners.send($0) }
        for (host, addresses) in names.table.known { workers.publish(addresses, of: host) }
        workers.onHostRefused = { [names] in names.noteRefusal(of: $0) }
        names.onAction = { [unowned self] action in
            if case .publish(let host, let addresses) = action {
                workers.publish(addresses, of: host)
                checker.addressesChanged(names.table)
            }
            nameLog.log(action, names.table)
        }
        names.onEnded = { [nameLog] in nameLog.logEnd(because: $0, pause: $1) }
        checker.onAction = { [unowned self] in perform($0) }
        checker.onHostDown = { [names] in names.noteRefusal(of: $0) }
        checker.onEnded = { [checkLog] in checkLog.logEnd(because: $0, pause: $1) }
        dispatcher.findListeners { [listeners] in listeners.listener(of: $0) }
        staples.currentConfiguration = { [unowned self] in
            lifecycle.isServing ? lifecycle.active?.configuration : nil
        }
        credentials.onChange = { [unowned self] in handle(.reloadRequested) }
        staples.onRefreshed = { [unowned self] in try activateStaples(of: $0) }
        predecessor?.onTakeOver = { [unowned self] in takeOver($0) }
        predecessor?.onBecomeMain = { [unowned self] in becomeMain(isReloadRequested: $0) }
        predecessor?.onLost = { [unowned self] in predecessorLost() }
    }

    private func start() throws {
        adopt(manager.takeStoredConnections())
        _ = try loop.add(signals.descriptor, .readable, self)
        resources = ProcessMeter(counters.main.process, limit: descriptors.limit, loop: loop, isMainProcess: true)
        logger.log(.started, "dtlsd starts with \(configurationFile)", ["PID": "\(getpid())"])
        nextWatchdogNotification = loop.now
        timerFired(now: loop.now)
        perform(.startLoader)
    }

    /// The environment of the processes that this one starts.
    private static func childEnvironment() -> [String: String] {
        var environment = ChildProcess.environment()
        // Swift's backtracer prints the memory that registers point to, keys among it.
        environment["SWIFT_BACKTRACE"] = "enable=no"
        // OpenSSL allocates and frees two record buffers of 17 KiB in each handshake. With these in malloc's fast bins,
        // and its heap not trimmed each time, a handshake costs about 3 % less, and an idle connection no more memory.
        if environment["GLIBC_TUNABLES"] == nil {
            environment["GLIBC_TUNABLES"] =
                "glibc.malloc.tcache_max=32768:glibc.malloc.tcache_count=64:"
                + "glibc.malloc.trim_threshold=8388608:glibc.malloc.top_pad=1048576"
        }
        return environment
    }

    // MARK: Events

    /// Signals arrive as events of the loop, so that nothing has to be safe in a signal handler.
    func ready(_ events: EventLoop.Events) {
        while let signal = try? signals.next() {
            switch signal {
            case SIGHUP: handle(.reloadRequested)
            case SIGUSR2: handle(.upgradeRequested)
            case SIGCHLD: reapChildren()
            default: requestStop(signal)
            }
        }
    }

    private func perform(_ action: CheckTable.Action) {
        switch action {
        case .publish(let target, let isDown): workers.publish(target, isDown: isDown)
        case .count(let service, let hasPassed):
            counters.counters(of: SlotTarget.service(service)).block.add(to: .backendChecks, hasPassed ? 0 : 1)
        case .check, .logDown, .logUp, .logImpossible: break
        }
        checkLog.log(action)
    }

    private func requestStop(_ signal: Int32) {
        var reason = "signal \(signal) (\(String(cString: strsignal(signal))))"
        let isToKeep = signal == SIGUSR1
        if isToKeep {
            reason +=
                manager.isPresent
                ? "; connections are kept for the next start"
                : "; connections are closed, since only systemd can keep them (NOTIFY_SOCKET is not set)"
        }
        handle(.stopRequested(StopRequest(reason: reason, keepingConnections: isToKeep && manager.isPresent)))
    }

    private func reapChildren() {
        while let (pid, ending) = ChildProcess.reap() {
            workers.childEnded(pid, ending)
            loader?.childEnded(pid, ending)
            staples.childEnded(pid, ending)
            names.childEnded(pid, ending)
            checker.childEnded(pid, ending)
            keys.childEnded(pid, ending)
        }
    }

    private func handle(_ event: WorkerPool.Event) {
        switch event {
        case .ready: handle(.workersReady)
        case .rejected(let worker, let reason): handle(.workerRejected(worker: worker, reason: reason))
        case .refused(let worker, let refusals): dispatcher.log(refusals, by: worker)
        case .tookOver(let table): dispatcher.workerTookOver(table: table)
        case .orphaned: break
        case .ended: handle(.workersEnded)
        }
    }

    func handle(_ event: Lifecycle<ActiveConfiguration>.Event) {
        for action in lifecycle.handle(event) { perform(action) }
        // The names of the configuration that was refused are nobody's.
        if case .refused = event, let active = lifecycle.active { names.activate(active.configuration) }
        if !lifecycle.isUpgrading { upgradeDeadline = .distantFuture }
        control.lifecycleChanged()
    }

    private func perform(_ action: Lifecycle<ActiveConfiguration>.Action) {
        switch action {
        case .startLoader: startLoader()
        case .activate(let loaded): activate(loaded)
        case .openListeners: openListeners()
        case .rollBack(let failed, let previous): rollBack(from: failed, to: previous)
        case .replaceWorker(let worker, let reason): workers.replace(worker, reason: reason)
        case .notifyReloading: manager.notify(.reloading, .status("reloading \(configurationFile)"))
        case .notifyReady: notifyReady()
        case .log(let event, let message):
            counters.count(event)
            log(event, message)
        case .shutDown(let keepingConnections): shutDown(keepingConnections: keepingConnections)
        case .upgrade(let action): perform(action)
        case .killWorkers:
            // They are not replaced.
            if handshakeWait != nil { leaveConnections(within: .zero) }
            workers.killAll()
        case .end: end()
        }
    }

    // MARK: Configuration

    private func startLoader() {
        do throws(SystemError) {
            loader = try LoaderHandle(
                file: configurationFile, purpose: .serving, environment: environment, loop: loop
            ) { [unowned self] in loaderEnded($0) }
        } catch {
            handle(
                .refused(
                    problems: ["the loader process cannot be started: \(error)\(ChildProcess.hint(error))"], .system))
        }
    }

    private func loaderEnded(_ result: LoaderHandle.Result) {
        let finished = loader
        loader = nil
        guard case .loaded(let configuration, let watcher) = result else {
            // What was half-written is read again with its next change.
            if let watcher = finished?.credentialWatcher { credentials.watch(with: watcher) }
            return handle(
                .refused(
                    problems: result.problems ?? [], result.isTransient ? .temporaryProblem : .configuration))
        }
        credentials.watch(with: finished?.credentialWatcher)
        // A client that comes right after the start, or the reload, finds backends where a name server answers.
        names.prepare(configuration) { [unowned self] in
            // Before workers get the configuration that names them.
            keys.prepare(finished?.takeKeys() ?? FileDescriptor(owning: -1), user: configuration.user) { outcome in
                switch outcome {
                case .ready(let set): self.use(configuration, watcher, finished, set)
                case .failed(let reason):
                    self.handle(
                        .refused(problems: ["the workers cannot be given the configuration: \(reason)"], .system))
                }
            }
        }
    }

    private func use(
        _ configuration: Configuration, _ watcher: FileWatcher?, _ loader: LoaderHandle?, _ keys: KeySet?
    ) {
        do {
            let setup = WorkerSetup(
                snapshot: try makeSnapshot(configuration),
                keyLog: loader?.takeKeyLog() ?? FileDescriptor(owning: -1),
                sessions: try sessions.memory(mebibytes: configuration.sessionCache), keys: keys,
                needs: WorkerNeeds(configuration))
            handle(.loaded(ActiveConfiguration(configuration, setup, watcher: watcher)))
        } catch {
            refuse(error)
        }
    }

    private func refuse(_ error: any Error) {
        let hint = (error as? SystemError).map(ChildProcess.hint) ?? ""
        handle(.refused(problems: ["the workers cannot be given the configuration: \(error)\(hint)"], .system))
    }

    private func makeSnapshot(_ configuration: Configuration) throws(SystemError) -> FileDescriptor {
        let snapshot = Snapshot(
            configuration: configuration, cookieSecret: configuration.cookieSecret ?? randomSecret.bytes)
        return try MemoryFile.make(BinaryCoding.encode(snapshot), name: "dtlsd-snapshot")
    }

    private func activate(_ loaded: ActiveConfiguration) {
        lifecycle.active?.watcher = staples.watcher
        do {
            try distribute(loaded)
        } catch let errors as ListenerErrors {
            return handle(
                .refused(
                    problems: errors.problems.map { "\(configurationFile): \($0)" },
                    errors.cause == .configuration ? .configuration : .sockets))
        } catch let error as TooFewDescriptors {
            return handle(.refused(problems: ["\(error)"], .system))
        } catch let error as WrongUser {
            return handle(.refused(problems: ["\(configurationFile): user: \(error)"], .configuration))
        } catch let error as ControlSocketError {
            return handle(.refused(problems: ["\(configurationFile): \(error)"], .sockets))
        } catch {
            return refuse(error)
        }
        for warning in loaded.configuration.warnings { logger.log(.configurationWarning, "\(warning)") }
        if let file = loaded.configuration.keyLogFile {
            logger.log(
                .keysLogged,
                "the secrets of all connections are written to \(file) (key_log_file): anyone who can read it can decrypt"
                    + " them",
                ["FILE": "\(file)"])
        }
        handle(.activated(loaded))
    }

    /// Makes a configuration active in this process, and gives it to the workers. When this throws, everything is as it
    /// was.
    private func distribute(_ new: ActiveConfiguration) throws {
        let configuration = new.configuration
        if let shortage = descriptors.shortage(for: configuration, listeners: listeners.count(for: configuration)) {
            throw TooFewDescriptors(description: shortage)
        }
        let secret = configuration.cookieSecret ?? randomSecret.bytes
        let cookies = try CookieAuthority(secret: secret)
        guard
            let connectionIDs = ConnectionIDAuthority(configuration.connectionIDs, ownKey: connectionIDKey.bytes)
        else { throw SystemError("the keys of connection IDs", errno: ENOMEM) }
        let ticketKeys = try self.ticketKeys.keys(for: configuration.tickets)
        let change = UserChange(
            to: configuration.user, from: UserAccount.current, isFirst: lifecycle.active == nil && predecessor == nil)
        if case .refused(let reason) = change { throw WrongUser(description: reason) }
        let plan = try listeners.prepare(configuration)
        if case .become(let account) = change { try become(account, plan, configuration) }
        let controlPlan = try control.prepare(configuration)
        // Nothing above has changed anything, and only the next call but one can fail.
        workers.connections.allowConnections(configuration.limits.connections)
        do {
            try workers.configure(workers: configuration.workers, new.setup)
        } catch {
            control.server.discard(controlPlan)
            throw error
        }
        workers.recycleWorkers(after: configuration.recycle == .zero ? nil : configuration.recycle)
        workers.tickets.keys = ticketKeys
        self.ticketKeys.activate(configuration.tickets)
        if sessions.activate(new.setup.sessions) { manager.discard(.sessions) }
        if secret != cookieSecret { listeners.cookies = cookies }
        cookieSecret = secret
        workers.connections.connectionIDs = connectionIDs
        commit(plan)
        dispatcher.activate(configuration, targets: listeners.targets)
        counters.activate(configuration)
        staples.watch(configuration, with: new.watcher)
        names.activate(configuration)
        workers.keepAddresses(of: names.table.names)
        checker.activate(configuration, names.table)
        expiries.watch(configuration.expiring)
        control.activate(configuration, controlPlan)
        LogBootstrap.setFormat(configuration.logFormat)
        storeDescriptors()
    }

    /// Gives up being root for good, once the listeners are bound and before a worker is started.
    private func become(
        _ account: UserAccount, _ plan: ListenerSet.Plan, _ configuration: Configuration
    ) throws {
        let keepsLowPorts = configuration.needsLowPorts
        do throws(SystemError) {
            try listeners.give(plan, to: account.user)
            try account.become(keepsLowPorts: keepsLowPorts)
        } catch {
            throw WrongUser(description: "dtlsd cannot become \"\(account.name)\": \(error)")
        }
        // It was started for the first names while this was root, and reads what name servers send.
        names.restartProcess()
        if !keepsLowPorts { listeners.userWithoutLowPorts = account.name }
        logger.log(
            .userChanged,
            "dtlsd runs as the user \"\(account.name)\" from now on"
                + (keepsLowPorts ? ", and may bind ports below 1024 (CAP_NET_BIND_SERVICE)" : ""))
    }

    /// The workers have the new configuration already, so a listener that epoll does not take (out of memory) is lost,
    /// and the reload goes on.
    private func commit(_ plan: ListenerSet.Plan) {
        do throws(SystemError) {
            try listeners.commit(plan)
        } catch {
            logger.log(.listenerFailed, "a new listener cannot be watched: \(error)")
        }
    }

    private func rollBack(from failed: ActiveConfiguration, to previous: ActiveConfiguration) {
        do {
            try distribute(previous)
        } catch {
            handle(.rollBackFailed(active: failed, reason: "\(error)"))
        }
    }

    /// Gives the workers the active configuration with other OCSP responses, for new handshakes. Its listeners and its
    /// number of workers are the same.
    private func activateStaples(of refreshed: Configuration) throws {
        guard let active = lifecycle.active else { return }
        active.watcher = staples.watcher
        let setup = try active.setup.copy(snapshot: try makeSnapshot(refreshed))
        try workers.configure(workers: refreshed.workers, setup)
        expiries.watch(refreshed.expiring)
        handle(.staplesActivated(ActiveConfiguration(refreshed, setup, watcher: staples.watcher)))
    }

    private func openListeners() {
        if let predecessor, !predecessor.hasHandedOver { return predecessor.send(.prepared) }
        do throws(SystemError) {
            try listeners.openAll()
        } catch {
            return handle(.listenersFailed(reason: "\(error)"))
        }
        handle(.listenersOpened)
        predecessor?.send(.serving)
        if predecessor == nil { control.server.open() }
        let addresses = listeners.addresses.map(\.description).joined(separator: ", ")
        let configuration = lifecycle.active?.configuration
        let connections = configuration.map(descriptors.connections) ?? 0
        logger.log(
            .ready,
            "ready: \(counted(configuration?.workers ?? 0, "worker listens", "workers listen")) on \(addresses); each process may open"
                + " \(counted(descriptors.limit, "file")), with which a worker serves up to \(counted(connections, "connection"))",
            ["LISTENERS": "\(addresses)", "OPEN_FILES_LIMIT": "\(descriptors.limit)"])
        updateStatus(now: loop.now)
        schedule()
    }

    // MARK: Upgrade

    private func perform(_ action: Upgrade.Action) {
        switch action {
        case .startSuccessor: startSuccessor()
        case .killSuccessor:
            successor?.kill()
            successor?.close()
            successor = nil
        case .setDeadline(let time):
            upgradeDeadline = loop.now + time
            schedule()
        case .pauseListeners:
            listeners.pauseAll()
            ticketKeys.pause()
            waitForHandshakes { [unowned self] in handle(.upgrade(.handshakesEnded)) }
        case .resumeListeners: resumeListeners()
        case .empty:
            handshakeWait = nil
            workers.stop(keepingConnections: true)
        case .killWorkers: workers.killAll()
        case .handOver: handOver()
        case .takeBack: takeBack()
        case .retire(let isReloadRequested, let stop): retire(isReloadRequested: isReloadRequested, stop)
        }
    }

    /// The successor gets what the service manager would pass to it, and what it would have kept of this process.
    private func startSuccessor() {
        do {
            guard let programPath else { throw NoUpgrade(description: "the path of the program is not known") }
            // The end of process 1 is that of its container, or of its machine.
            guard getpid() != 1 else { throw NoUpgrade(description: "this process is process 1, which may not end") }
            let environment = ChildProcess.environment().merging(manager.variables) { $1 }
            let successor = try Successor(
                path: programPath, configurationFile: configurationFile, environment: environment, loop: loop
            ) { [unowned self] in handle(.upgrade($0)) }
            self.successor = successor
            for socket in listeners.inherited { try successor.send(socket.descriptor.rawValue, name: socket.name) }
            for (item, descriptor) in ownDescriptors { try successor.send(descriptor, name: item.name) }
            if let socket = control.server.descriptor {
                try successor.send(socket.number, name: StoredItem.control(path: socket.path).name)
            }
            successor.send(.prepare)
        } catch {
            perform(.killSuccessor)
            let hint = (error as? SystemError).map(ChildProcess.hint) ?? ""
            handle(.upgrade(.startFailed(reason: "\(error)\(hint)")))
        }
    }

    private func handOver() {
        do throws(SystemError) {
            for (table, descriptor) in workers.slotFiles {
                try successor?.send(descriptor, name: StoredItem.connections(table: table).name)
            }
        } catch {
            return handle(.upgrade(.refused(reason: "\(error)")))
        }
        successor?.send(.takeOver)
        workers.letGo()
    }

    private func takeBack() {
        workers.startAgain()
        resumeListeners()
    }

    private func resumeListeners() {
        handshakeWait = nil
        if let tickets = lifecycle.active?.configuration.tickets { ticketKeys.activate(tickets) }
        do throws(SystemError) { try listeners.openAll() } catch {
            logger.log(.listenerFailed, "the listeners cannot be opened: \(error)")
        }
    }

    private func retire(isReloadRequested: Bool, _ stop: StopRequest?) {
        guard let successor else { return }
        // This process serves no more, so it can wait. Without this notification the manager would take its end for that
        // of the service.
        var tries = 0
        while !manager.notify(.mainProcess(successor.processID)), tries < Self.maximumTries {
            usleep(10_000)
            tries += 1
        }
        successor.send(.becomeMain(isReloadRequested: isReloadRequested))
        control.upgraded(to: successor.processID)
        if let stop { kill(successor.processID, stop.keepingConnections ? SIGUSR1 : SIGTERM) }
    }

    /// Goes on with the connections of the main process, which serves no more.
    private func takeOver(_ files: [PassedDescriptor]) {
        guard adopt(files) else {
            // The process before this one takes them back.
            return handle(.listenersFailed(reason: "the connections cannot be taken up"))
        }
        if ticketKeys.readAgain(), let active = lifecycle.active?.configuration,
            let keys = try? ticketKeys.keys(for: active.tickets)
        {
            workers.tickets.keys = keys
        }
        do throws(SystemError) { try workers.giveTables() } catch {
            return handle(.listenersFailed(reason: "the workers cannot be given the connections: \(error)"))
        }
        openListeners()
    }

    private func becomeMain(isReloadRequested: Bool) {
        predecessor = nil
        manager.becomeMain()
        control.server.open()
        manager.notify(.watchdog)
        notifyReady()
        storeDescriptors()
        if isReloadRequested { handle(.reloadRequested) }
    }

    private func predecessorLost() {
        handle(
            .stopRequested(
                StopRequest(reason: "the main process has ended during an upgrade", keepingConnections: true)))
    }

    /// What the successor of this process logs before it serves is for its main process to say.
    private func log(_ event: LogEvent, _ message: String) {
        guard let predecessor, !predecessor.hasHandedOver else { return logger.log(event, message) }
        if event.level >= .error { predecessor.note(message) }
    }

    /// All that was counted.
    var counterSnapshot: CounterSnapshot {
        counters.snapshot(CounterRegistry.Sources(listeners, workers, dispatcher))
    }

    /// Whether another process is the main process still.
    var isSuccessor: Bool { predecessor != nil }

    // MARK: What outlives this process

    /// Everything that the next main process is to have, whether it is started by the service manager or by this one.
    private var ownDescriptors: [StoredItem: Int32] {
        var descriptors = listeners.ownSockets
        if ticketKeys.memory.isOpen { descriptors[.ticketKeys] = ticketKeys.memory.rawValue }
        if let memory = sessions.active { descriptors[.sessions] = memory.descriptor.rawValue }
        descriptors[.cookieSecret] = randomSecret.memory.rawValue
        descriptors[.connectionIDKey] = connectionIDKey.memory.rawValue
        if names.memory.isOpen { descriptors[.names] = names.memory.rawValue }
        return descriptors
    }

    /// Has the service manager keep what is to outlive this process, and nothing else.
    private func storeDescriptors() {
        guard manager.isPresent else { return }
        var descriptors = ownDescriptors
        for (table, file) in workers.slotFiles { descriptors[.connections(table: table)] = file }
        for (item, file) in filesSetAside { descriptors[item] = file.descriptor.rawValue }
        manager.keep(descriptors)
    }

    /// Takes up the connections in these files, which no process serves.
    /// - Returns: false where a file could not be used.
    @discardableResult
    private func adopt(_ files: [PassedDescriptor]) -> Bool {
        var count = 0
        var areAllUsable = true
        for file in files {
            guard let item = file.storedItem, case .connections(let table) = item else { continue }
            manager.doubt(item)
            // It is closed where it cannot be used.
            let copy = PassedDescriptor(
                file.name, (try? file.descriptor.duplicate()) ?? FileDescriptor(owning: -1))
            do {
                count += try workers.adopt(file.descriptor.take(), table: table)
            } catch UnusableSlotFile.foreign {
                areAllUsable = false
                manager.discard(item)
                logger.log(
                    .connectionsLost,
                    "a memory file of an earlier process does not hold connections, and is given up: \(file.name)")
            } catch {
                areAllUsable = false
                setAside(copy, table, because: error)
            }
        }
        guard count > 0 else { return areAllUsable }
        logger.log(
            .connectionsKept,
            counted(
                count, "connection that an earlier process has left is kept",
                "connections that an earlier process has left are kept"),
            ["CONNECTIONS_KEPT": "\(count)"])
        return areAllUsable
    }

    /// Keeps a file whose connections this process cannot take up, for the next one: it may know their version, or have the
    /// memory.
    private func setAside(_ file: PassedDescriptor, _ table: Int, because error: any Error) {
        let name = file.name
        // The process before this one has it, and goes on with it.
        if let predecessor { return predecessor.note("\(name): \(error)") }
        guard file.descriptor.isOpen else {
            manager.discard(.connections(table: table))
            return logger.log(
                .connectionsLost, "connections of an earlier process are lost, and so is \(name): \(error)")
        }
        filesSetAside[.connections(table: table)] = file
        workers.connections.reserve(table)
        logger.log(
            .connectionsLost,
            "connections of an earlier process cannot be taken up: \(error). Their clients are not served, and begin new"
                + " connections when they find that out. \(name) is kept for the next start: a restart with the version of"
                + " dtlsd that has written it, or with more memory, goes on with these connections")
    }

    // MARK: Shutdown

    private func shutDown(keepingConnections: Bool) {
        manager.notify(.stopping, .status("stopping"))
        control.stopping()
        names.stop()
        checker.stop()
        predecessor?.refuse("it was told to end")
        guard keepingConnections else {
            stopDeadline = loop.now + (lifecycle.active?.configuration.stopTimeout ?? .seconds(5))
            schedule()
            workers.stop()
            // The close_notify of connections without sockets leaves from the listeners, which are closed at the end.
            return listeners.pauseAll()
        }
        storeDescriptors()
        listeners.closeAll()
        // Connections are served until no handshake is under way, and are all silent from then on.
        stopDeadline = loop.now + Upgrade.settlingTime
        schedule()
        waitForHandshakes { [unowned self] in leaveConnections(within: Upgrade.emptyingTime) }
    }

    /// Tells the workers to leave their connections in the slots and to end, and kills those that have not within this
    /// time.
    private func leaveConnections(within time: Duration) {
        handshakeWait = nil
        stopDeadline = loop.now + time
        schedule()
        workers.stop(keepingConnections: true)
    }

    /// Calls `work` once no handshake is under way, at the end of this turn at the earliest, unless ``handshakeWait`` is
    /// set again before. Workers report handshakes at most 10 ms late.
    private func waitForHandshakes(_ work: @escaping () -> Void) {
        let timer = CallbackTimer { [unowned self] _ in
            guard handshakeWait != nil else { return }
            guard dispatcher.handshakes > 0 else { return work() }
            waitForHandshakes(work)
        }
        let isFirst = handshakeWait == nil
        handshakeWait = timer
        loop.timers.arm(timer, at: isFirst ? loop.now : loop.now + .milliseconds(5))
    }

    private func end() {
        listeners.closeAll()
        keys.stop()
        dispatcher.finishLog()
        log(.stopped, "stopped: \(status)")
        control.server.close(keepsFile: successor != nil || predecessor != nil)
        guard let successor else { return loop.stop() }
        successor.whenAllIsSent { [loop] in loop.stop() }
    }

    // MARK: Timers

    override func timerFired(now: Instant) {
        if now >= nextWatchdogNotification, let interval = manager.watchdogInterval {
            manager.notify(.watchdog)
            nextWatchdogNotification = now + interval
        }
        if now >= nextStatus { updateStatus(now: now) }
        if now >= stopDeadline {
            stopDeadline = .distantFuture
            if handshakeWait != nil {
                leaveConnections(within: Upgrade.emptyingTimeWithHandshakes)
            } else {
                handle(.stopTimedOut)
            }
        }
        if now >= upgradeDeadline {
            upgradeDeadline = .distantFuture
            handle(.upgrade(.timedOut))
        }
        schedule()
    }

    private func schedule() {
        let watchdog = manager.watchdogInterval == nil ? Instant.distantFuture : nextWatchdogNotification
        loop.timers.arm(self, at: min(nextStatus, watchdog, stopDeadline, upgradeDeadline))
    }

    // MARK: Status

    private func notifyReady() {
        lastStatus = status
        let result: Int32 = lifecycle.reloadFailure == nil ? 0 : EINVAL
        isReadyPending = !manager.notify(.ready, .result(errno: result), .status(lastStatus))
    }

    private func updateStatus(now: Instant) {
        // Before the first configuration is active, while it hands over and once its listeners are closed, this process
        // has less than what is to be kept.
        if lifecycle.active != nil, !lifecycle.isUpgrading, !lifecycle.isStopping { storeDescriptors() }
        dispatcher.flushLog(now: now)
        nameLog.flush()
        checkLog.flush()
        keys.flushLog()
        if lifecycle.isServing {
            if isReadyPending {
                notifyReady()
            } else if status != lastStatus {
                lastStatus = status
                manager.notify(.status(lastStatus))
            }
        }
        nextStatus = now + Self.statusInterval
    }
}

/// Why this process cannot have a successor.
private struct NoUpgrade: Error, CustomStringConvertible {
    let description: String
}

/// The limit of open files is too low for a configuration.
private struct TooFewDescriptors: Error, CustomStringConvertible {
    let description: String
}
